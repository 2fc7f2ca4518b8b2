//! Numbers as people read them. Pure.

/// To two digits: an estimate has no more.
pub fn rounded(number: u64) -> u64 {
    let unit = 10_u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    (number + unit / 2) / unit * unit
}

/// A number with a comma before every three digits.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of a thing: `1 source`, `38,000 sources`.
pub fn counted(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", thousands(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_rounded() {
        let rounds = [(0, 0), (7, 7), (99, 99), (104, 100), (105, 110), (38_321, 38_000)];
        for (number, expected) in rounds {
            assert_eq!(rounded(number), expected);
        }
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
