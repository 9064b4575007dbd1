//! A bound on how deep untrusted DER may nest, checked before any decoder descends into it.

use der::{Decode, Header, Length, Reader, SliceReader};

/// How deep untrusted DER may nest. The deepest request in use stays below 20.
pub const NESTING_MAX: usize = 32;

/// Walks every constructed value of `der`, which must be one DER value and nothing after it.
///
/// # Errors
/// Text that reads after "the request is not well-formed:" if a value does not end where it says, or nests deeper than [`NESTING_MAX`].
pub fn check_nesting(der: &[u8]) -> Result<(), String> {
    let mut reader = SliceReader::new(der).map_err(|error| error.to_string())?;
    walk(&mut reader, Length::try_from(der.len()).map_err(|error| error.to_string())?, 1)?;
    if reader.is_finished() { Ok(()) } else { Err("octets follow its end".to_owned()) }
}

/// Walks values until `end`, which is an offset in the reader's own count; `depth` is that of the values.
fn walk_all(reader: &mut SliceReader<'_>, end: Length, depth: usize) -> Result<(), String> {
    while reader.position() < end {
        walk(reader, end, depth)?;
    }
    Ok(())
}

fn walk(reader: &mut SliceReader<'_>, end: Length, depth: usize) -> Result<(), String> {
    if depth > NESTING_MAX {
        return Err(format!("it nests deeper than {NESTING_MAX} levels"));
    }
    let header = Header::decode(reader).map_err(|error| error.to_string())?;
    let value_end = (reader.position() + header.length()).map_err(|error| error.to_string())?;
    if value_end > end {
        return Err("a value is longer than what holds it".to_owned());
    }
    if header.tag().is_constructed() {
        walk_all(reader, value_end, depth + 1)
    } else {
        reader.drain(header.length()).map_err(|error| error.to_string())
    }
}
