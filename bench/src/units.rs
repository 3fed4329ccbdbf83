//! Sizes on the command line.

/// A number of bytes, with an optional binary suffix: `200`, `64k`, `10m`, `4g`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let shift_by_suffix = [('k', 10), ('m', 20), ('g', 30)];
    let lower = text.to_ascii_lowercase();
    let suffixed = shift_by_suffix
        .iter()
        .find_map(|(suffix, shift)| Some((lower.strip_suffix(*suffix)?, *shift)));
    let (digits, shift) = suffixed.unwrap_or((&lower, 0));
    let number: u64 = digits
        .parse()
        .map_err(|_| "expected a number of bytes such as 200, 64k or 10m".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too many bytes".to_owned())
}

/// As [`bytes`], for what has to fit in a Kafka message.
pub fn message_bytes(text: &str) -> Result<usize, String> {
    const MESSAGE_BYTES_MAX: u64 = 100 << 20;
    match bytes(text)? {
        0 => Err("must not be 0".to_owned()),
        number if number > MESSAGE_BYTES_MAX => Err("at most 100m".to_owned()),
        number => Ok(number as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_binary() {
        assert_eq!(bytes("200"), Ok(200));
        assert_eq!(bytes("64k"), Ok(65_536));
        assert_eq!(bytes("3M"), Ok(3 << 20));
        assert_eq!(bytes("2g"), Ok(2 << 30));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "k", "-1", "1.5k", "12kb", "99999999999999999g"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(message_bytes("0").is_err());
        assert!(message_bytes("1g").is_err());
    }
}
