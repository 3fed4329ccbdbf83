//! Kafka's UUID, as topics and directories carry it.

use std::fmt;

/// Sixteen bytes in network order. Topic ids are such.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The absent id.
    pub const ZERO: Uuid = Uuid([0; 16]);
}

/// As Kafka's tools print it: URL-safe base64 without padding, 22 characters.
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        // 128 bits and four of padding make 22 digits of six bits.
        let bits = u128::from_be_bytes(self.0);
        for digit in 0..22_u32 {
            let index = match 126_u32.checked_sub(6 * digit + 4) {
                Some(shift) => (bits >> shift) & 63,
                None => (bits << 4) & 63,
            };
            write!(f, "{}", char::from(DIGITS[index as usize]))?;
        }
        Ok(())
    }
}

/// Hexadecimal groups, the usual form.
impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_printed_forms_are_the_usual_ones() {
        let id = Uuid([
            0xf4, 0x7a, 0xc1, 0x0b, 0x58, 0xcc, 0x43, 0x72, 0xa5, 0x67, 0x0e, 0x02, 0xb2, 0xc3,
            0xd4, 0x79,
        ]);
        assert_eq!(format!("{id:?}"), "f47ac10b-58cc-4372-a567-0e02b2c3d479");
        assert_eq!(id.to_string(), "9HrBC1jMQ3KlZw4CssPUeQ");
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(Uuid([0xff; 16]).to_string(), "_____________________w");
    }
}
