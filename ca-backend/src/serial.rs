//! Serial numbers, which sort by time of issue.

use std::cmp::Ordering;
use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::{Rng, Time, random};
use crate::error::{Reason, Refusal};

/// Octets of a serial that this daemon makes (RFC 5280 section 4.1.2.2 allows 20).
pub(crate) const SERIAL_BYTES: usize = 20;

/// Octets of the longest serial that is understood. Some authorities write 20 octets of which the first has its top bit set, and
/// so 21 octets of content.
const SERIAL_BYTES_MAX: usize = 21;

/// Random octets at the end of every serial made here.
const RANDOM_BYTES: usize = 15;

/// A certificate's serial number: a positive integer of at most 21 octets, without leading zeros.
///
/// Serials made here are 20 octets: the bits `01`, 38 bits of Unix seconds, 120 random bits. So they need no padding, cannot be
/// guessed, and sort by time of issue. Serials order as the numbers that they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial {
    /// The number at the beginning, zeros behind it.
    octets: [u8; SERIAL_BYTES_MAX],
    length: u8,
}

impl Serial {
    /// A new serial.
    pub fn generate(now: Time, rng: &dyn Rng) -> Self {
        let mut octets = [0; SERIAL_BYTES_MAX];
        let random: [u8; RANDOM_BYTES] = random(rng);
        let serial = time_prefix(now).into_iter().chain(random);
        for (to, from) in octets.iter_mut().zip(serial) {
            *to = from;
        }
        Self { octets, length: 20 }
    }

    /// The serial of an INTEGER's content octets, as a certificate or an OCSP query carries it.
    ///
    /// # Errors
    /// Refuses no octets at all, a negative number, zero, and more than 21 octets.
    pub fn from_integer(content: &[u8]) -> Result<Self, Refusal> {
        if content.first().is_some_and(|first| first & 0x80 != 0) {
            return Err(malformed("the serial is negative"));
        }
        Self::from_magnitude(content)
    }

    /// The serial of a big-endian magnitude, leading zeros allowed.
    ///
    /// # Errors
    /// Refuses zero and numbers of more than 21 octets.
    pub fn from_magnitude(magnitude: &[u8]) -> Result<Self, Refusal> {
        let start = magnitude.iter().position(|octet| *octet != 0).ok_or_else(|| malformed("the serial is zero"))?;
        let minimal = magnitude.get(start..).unwrap_or_default();
        let mut octets = [0; SERIAL_BYTES_MAX];
        let length = match u8::try_from(minimal.len()) {
            Ok(length) if minimal.len() <= SERIAL_BYTES_MAX => length,
            Ok(_) | Err(_) => return Err(malformed("the serial has more than 21 octets")),
        };
        for (to, from) in octets.iter_mut().zip(minimal) {
            *to = *from;
        }
        Ok(Self { octets, length })
    }

    /// Reads hexadecimal text: any case, any number of leading zeros, with or without `0x` in front and colons or spaces between.
    ///
    /// # Errors
    /// Refuses anything else, zero, and more than 21 octets.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        const TEXT_BYTES_MAX: usize = 256;
        if text.len() > TEXT_BYTES_MAX {
            return Err(malformed("the serial's text is too long"));
        }
        let text = text.trim();
        let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        let mut digits: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
        if digits.len() % 2 == 1 {
            digits.insert(0, '0');
        }
        let magnitude = hex::decode(&digits).map_err(|_| {
            malformed("a serial is written in hexadecimal digits, such as 4f0a1b; this is something else")
        })?;
        Self::from_magnitude(&magnitude)
    }

    /// The number, big endian, without leading zeros.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.octets.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// When a serial of ours was made; meaningless for others.
    #[must_use]
    pub fn issued_at(&self) -> Time {
        let prefix = self.octets.iter().take(SERIAL_BYTES - RANDOM_BYTES);
        let number = prefix.fold(0, |number, octet| (number << 8) | u64::from(*octet));
        Time::from_unix(number & !(1 << 38))
    }

    /// The least serial made at or after `time`: where a scan over serials by time of issue begins.
    #[must_use]
    pub fn issued_floor(time: Time) -> [u8; SERIAL_BYTES] {
        let mut floor = [0; SERIAL_BYTES];
        for (to, from) in floor.iter_mut().zip(time_prefix(time)) {
            *to = from;
        }
        floor
    }
}

/// The first five octets of every serial made at `time`. Seconds up to the year 9999 fit into 38 bits.
fn time_prefix(time: Time) -> [u8; SERIAL_BYTES - RANDOM_BYTES] {
    let [_, _, _, prefix @ ..] = ((1 << 38) | time.unix()).to_be_bytes();
    prefix
}

fn malformed(why: &str) -> Refusal {
    Refusal::new(Reason::Malformed, why)
}

/// Lower-case hexadecimal digits, two to the octet.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Ord for Serial {
    fn cmp(&self, other: &Self) -> Ordering {
        self.length.cmp(&other.length).then_with(|| self.octets.cmp(&other.octets))
    }
}

impl PartialOrd for Serial {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Hexadecimal text in formats for people (serials exceed what JSON numbers hold), bytes in CBOR.
impl Serialize for Serial {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(self.as_bytes())
        }
    }
}

impl<'de> Deserialize<'de> for Serial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(SerialVisitor)
        } else {
            deserializer.deserialize_bytes(SerialVisitor)
        }
    }
}

struct SerialVisitor;

impl Visitor<'_> for SerialVisitor {
    type Value = Serial;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a serial number")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Serial, E> {
        Serial::parse(text).map_err(|refusal| E::custom(refusal.public()))
    }

    fn visit_bytes<E: serde::de::Error>(self, magnitude: &[u8]) -> Result<Serial, E> {
        Serial::from_magnitude(magnitude).map_err(|refusal| E::custom(refusal.public()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRng;

    #[test]
    fn s30_serials_are_twenty_positive_octets_of_which_fifteen_are_random() {
        let now = Time::from_unix(1_767_830_400);
        let (one, two) = (Serial::generate(now, &SystemRng), Serial::generate(now, &SystemRng));
        assert_eq!(one.as_bytes().len(), 20);
        assert_eq!(one.as_bytes()[0] & 0b1100_0000, 0b0100_0000);
        assert_eq!(one.as_bytes()[..5], two.as_bytes()[..5]);
        assert_ne!(one.as_bytes()[5..], two.as_bytes()[5..]);
        let last = Serial::generate(Time::from_unix(u64::MAX), &SystemRng);
        assert_eq!(last.as_bytes()[0] & 0b1100_0000, 0b0100_0000);
    }

    #[test]
    fn serials_sort_by_time_of_issue_and_the_floor_bounds_them() {
        let (early, late) = (Time::from_unix(1_767_830_400), Time::from_unix(1_767_830_401));
        let (first, second) = (Serial::generate(early, &SystemRng), Serial::generate(late, &SystemRng));
        assert!(first < second && first.as_bytes() < second.as_bytes());
        assert!(Serial::issued_floor(early).as_slice() <= first.as_bytes());
        assert!(first.as_bytes() < Serial::issued_floor(late).as_slice());
    }

    #[test]
    fn one_serial_is_read_in_any_case_and_padding() {
        let serial = Serial::parse("4f0a").unwrap();
        for text in ["4F0A", "0x004f0a", "4F:0A", "00:00:4f:0a", " 4f 0a ", "04f0a"] {
            assert_eq!(Serial::parse(text).unwrap(), serial, "{text}");
        }
        assert_eq!(serial.to_string(), "4f0a");
        assert_eq!(Serial::from_integer(&[0, 0x4f, 0x0a]).unwrap(), serial);
        assert!(Serial::parse("ff").unwrap() < serial);
    }

    #[test]
    fn what_is_no_serial_is_refused() {
        for text in ["", "0", "0x", "xyz", "-1", &"11".repeat(22), &"0".repeat(300), "4f0ä"] {
            assert!(Serial::parse(text).is_err(), "{text}");
        }
        assert!(Serial::from_integer(&[]).is_err());
        assert!(Serial::from_integer(&[0x80]).is_err());
        assert!(Serial::from_magnitude(&[0xff; 21]).is_ok());
    }

    #[test]
    fn serials_are_text_in_toml_and_bytes_in_cbor() {
        let serial = Serial::parse("4f0a").unwrap();
        let mut cbor = Vec::new();
        ciborium::into_writer(&serial, &mut cbor).unwrap();
        assert_eq!(cbor, [0x42, 0x4f, 0x0a]);
        assert_eq!(ciborium::from_reader::<Serial, _>(cbor.as_slice()).unwrap(), serial);
        #[derive(Serialize)]
        struct Holder {
            serial: Serial,
        }
        assert_eq!(toml::to_string(&Holder { serial }).unwrap(), "serial = \"4f0a\"\n");
    }
}
