//! Numbers as a person reads them.

/// Three digits at least, and thousands apart.
pub(super) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    thousands_apart(&format!("{value:.decimals$}"))
}

/// No more digits than it has, and thousands apart.
pub(super) fn round_number(value: f64) -> String {
    let rounded = format!("{value:.3}");
    thousands_apart(rounded.trim_end_matches('0').trim_end_matches('.'))
}

fn thousands_apart(text: &str) -> String {
    let whole = text.find('.').unwrap_or(text.len());
    let mut apart = String::new();
    for (place, letter) in text.chars().enumerate() {
        let follows_a_digit = place > 0 && !apart.ends_with('-');
        if place < whole && follows_a_digit && (whole - place).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(letter);
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_their_thousands_apart() {
        for (value, text) in [
            (0.0, "0.000"),
            (0.0456, "0.046"),
            (1.234, "1.23"),
            (45.67, "45.7"),
            (731.4, "731"),
            (1234.0, "1,234"),
            (-123456.7, "-123,457"),
            (9876543.0, "9,876,543"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn round_numbers_have_no_digits_that_say_nothing() {
        for (value, text) in [
            (0.0, "0"),
            (0.005, "0.005"),
            (0.5, "0.5"),
            (25000.0, "25,000"),
        ] {
            assert_eq!(round_number(value), text);
        }
    }
}
