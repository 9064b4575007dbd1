//! BER becomes DER, as far as clients need it: indefinite lengths, long forms of lengths, strings in pieces (X.690 section 8).

use std::borrow::Cow;

use crate::error::Error;

/// How deep a message may nest. A signed message with certificates stays below 16.
pub const DEPTH_MAX: usize = 32;

/// The greatest length of a message, in octets.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

const CONSTRUCTED: u8 = 0x20;
const HIGH_TAG_NUMBER: u8 = 0x1f;
const INDEFINITE: u8 = 0x80;
const OCTET_STRING: u8 = 0x04;
const END_OF_CONTENTS: [u8; 2] = [0, 0];

/// A BER value as DER; what is DER already is not copied. Nothing may follow the value.
///
/// Lengths become definite and short, and OCTET STRINGs in pieces whole. The order within sets is left as it is, and so are
/// implicitly tagged strings in pieces, whose type only the reader of the field knows.
///
/// # Errors
/// [`Error::Malformed`], also for what exceeds [`DEPTH_MAX`] or [`MESSAGE_BYTES_MAX`].
pub fn der_of(message: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Error::malformed(format!("more than {MESSAGE_BYTES_MAX} octets")));
    }
    let (value, rest) = Value::read(message, 1)?;
    if !rest.is_empty() {
        return Err(Error::malformed("octets follow the end of the message"));
    }
    Ok(match value.content {
        Content::AsIs(_) => Cow::Borrowed(message),
        Content::Rewritten(_) => Cow::Owned(value.to_der()?),
    })
}

/// One value, its content in DER.
struct Value<'a> {
    tag: u8,
    content: Content<'a>,
}

enum Content<'a> {
    /// The whole value is DER already, header included.
    AsIs(&'a [u8]),
    /// The content, without a header.
    Rewritten(Vec<u8>),
}

impl<'a> Value<'a> {
    /// Reads one value and returns what follows it.
    fn read(input: &'a [u8], depth: usize) -> Result<(Self, &'a [u8]), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::malformed(format!("nests deeper than {DEPTH_MAX} levels")));
        }
        let (tag, length, content) = header(input)?;
        match length {
            Some((length, shortest)) => {
                let (content, rest) =
                    content.split_at_checked(length).ok_or_else(|| Error::malformed("a value ends too early"))?;
                let whole = input.get(..input.len() - rest.len()).unwrap_or_default();
                if tag & CONSTRUCTED == 0 {
                    let content = if shortest { Content::AsIs(whole) } else { Content::Rewritten(content.to_vec()) };
                    return Ok((Self { tag, content }, rest));
                }
                let (children, after) = Self::read_all(content, depth, false)?;
                debug_assert!(after.is_empty(), "a definite content is read to its end");
                let unchanged = shortest && tag != OCTET_STRING | CONSTRUCTED && children.iter().all(Self::is_as_is);
                let value = if unchanged {
                    Self { tag, content: Content::AsIs(whole) }
                } else {
                    Self::of_children(tag, &children)?
                };
                Ok((value, rest))
            }
            None => {
                let (children, rest) = Self::read_all(content, depth, true)?;
                Ok((Self::of_children(tag, &children)?, rest))
            }
        }
    }

    /// Reads values to the end of the input, or to the end-of-contents octets, which are taken too.
    fn read_all(
        mut input: &'a [u8],
        depth: usize,
        until_end_of_contents: bool,
    ) -> Result<(Vec<Self>, &'a [u8]), Error> {
        let mut values = Vec::new();
        loop {
            if until_end_of_contents && let Some(rest) = input.strip_prefix(&END_OF_CONTENTS) {
                return Ok((values, rest));
            }
            if input.is_empty() {
                return if until_end_of_contents {
                    Err(Error::malformed("a value of indefinite length does not end"))
                } else {
                    Ok((values, input))
                };
            }
            let (value, rest) = Self::read(input, depth + 1)?;
            values.push(value);
            input = rest;
        }
    }

    /// A constructed value; an OCTET STRING in pieces becomes a whole one.
    fn of_children(tag: u8, children: &[Self]) -> Result<Self, Error> {
        let mut content = Vec::new();
        if tag == OCTET_STRING | CONSTRUCTED {
            for piece in children {
                if piece.tag != OCTET_STRING {
                    return Err(Error::malformed("an OCTET STRING has a piece of another type"));
                }
                content.extend_from_slice(piece.content()?);
            }
            return Ok(Self { tag: OCTET_STRING, content: Content::Rewritten(content) });
        }
        for child in children {
            child.write(&mut content)?;
        }
        Ok(Self { tag, content: Content::Rewritten(content) })
    }

    fn is_as_is(&self) -> bool {
        matches!(self.content, Content::AsIs(_))
    }

    fn content(&self) -> Result<&[u8], Error> {
        match &self.content {
            Content::AsIs(whole) => Ok(header(whole)?.2),
            Content::Rewritten(content) => Ok(content),
        }
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        match &self.content {
            Content::AsIs(whole) => out.extend_from_slice(whole),
            Content::Rewritten(content) => {
                let length = der::Length::try_from(content.len())?;
                out.push(self.tag);
                der::Encode::encode_to_vec(&length, out)?;
                out.extend_from_slice(content);
            }
        }
        Ok(())
    }

    fn to_der(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        self.write(&mut out)?;
        Ok(out)
    }
}

/// The length of a content, and whether it was written in its shortest form.
type DefiniteLength = (usize, bool);

/// Reads a tag and a length, `None` for an indefinite one, and returns what follows them.
fn header(input: &[u8]) -> Result<(u8, Option<DefiniteLength>, &[u8]), Error> {
    let ends = || Error::malformed("a value ends within its header");
    let (&tag, rest) = input.split_first().ok_or_else(ends)?;
    if tag & HIGH_TAG_NUMBER == HIGH_TAG_NUMBER {
        return Err(Error::malformed("a tag number above 30"));
    }
    let (&first, rest) = rest.split_first().ok_or_else(ends)?;
    if first < INDEFINITE {
        return Ok((tag, Some((usize::from(first), true)), rest));
    }
    if first == INDEFINITE {
        if tag & CONSTRUCTED == 0 {
            return Err(Error::malformed("a primitive value of indefinite length"));
        }
        return Ok((tag, None, rest));
    }
    let octets = usize::from(first & !INDEFINITE);
    let (octets, rest) = rest.split_at_checked(octets).ok_or_else(ends)?;
    let significant = octets.iter().position(|octet| *octet != 0).and_then(|at| octets.get(at..)).unwrap_or_default();
    if significant.len() > 4 {
        return Err(Error::malformed("a length of more than four octets"));
    }
    let length = significant.iter().fold(0_u64, |length, octet| length << 8 | u64::from(*octet));
    let shortest = significant.len() == octets.len() && length >= u64::from(INDEFINITE);
    let length = usize::try_from(length).map_err(|_| ends())?;
    Ok((tag, Some((length, shortest)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(ber: &str) -> Result<String, Error> {
        der_of(&hex::decode(ber.replace(' ', "")).unwrap()).map(|der| hex::encode(der.as_ref()))
    }

    #[test]
    fn what_is_der_is_not_copied() {
        let der = hex::decode("30060201050c0161").unwrap();
        assert!(matches!(der_of(&der).unwrap(), Cow::Borrowed(same) if same == der));
    }

    #[test]
    fn indefinite_lengths_become_definite_at_every_level() {
        assert_eq!(rewritten("3080 a080 020105 0000 0500 0000").unwrap(), "3007a003020105".to_owned() + "0500");
    }

    #[test]
    fn an_octet_string_in_pieces_becomes_whole_even_if_its_pieces_are_in_pieces() {
        assert_eq!(rewritten("2480 040161 2405 0403626364 0000").unwrap(), "040461626364");
        assert_eq!(rewritten("2400").unwrap(), "0400");
        assert!(rewritten("2403 0c0161").is_err());
    }

    #[test]
    fn long_forms_of_lengths_become_short() {
        assert_eq!(rewritten("3084 00000003 020105").unwrap(), "3003020105");
        assert_eq!(rewritten("3003 02 8101 05").ok(), None, "the content ends before its length");
        assert_eq!(rewritten("3004 02 8101 05").unwrap(), "3003020105");
    }

    #[test]
    fn what_is_cut_or_goes_on_or_nests_too_deep_is_refused() {
        for bad in
            ["", "30", "3005", "30800201", "308002010500", "0480 0000", "3000 00", "1f2001", "3085 0100000000 00"]
        {
            assert!(matches!(rewritten(bad), Err(Error::Malformed(_))), "{bad}");
        }
        let deep = |levels: usize| "3080".repeat(levels) + &"0000".repeat(levels);
        assert!(rewritten(&deep(DEPTH_MAX)).is_ok());
        assert!(rewritten(&deep(DEPTH_MAX + 1)).is_err());
        assert!(rewritten(&"3080".repeat(400_000)).is_err());
    }
}
