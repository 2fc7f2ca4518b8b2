//! Numbers and text for people.

/// Width of running text, in characters.
pub(crate) const WIDTH: usize = 110;

/// A share, 0 to 1, in percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A number with the thousands set apart, rounded to a thousand where it is that large.
pub(crate) fn thousands(number: f64) -> String {
    thousands_exact(if number >= 100_000.0 { (number / 1000.0).round() * 1000.0 } else { number.round() })
}

/// All digits of a number, with the thousands set apart.
pub(crate) fn thousands_exact(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// A time given in microseconds.
pub(crate) fn duration(micros: f64) -> String {
    if micros < 1000.0 { format!("{micros:.0} us") } else { format!("{:.1} ms", micros / 1000.0) }
}

/// Breaks text into lines between words.
pub(crate) fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

/// Columns side by side: the first `words` of them to the left, numbers to the right. All lines are of one length.
pub(crate) fn aligned(lines: &[Vec<String>], words: usize) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            column if column < words => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::{duration, percent, thousands, thousands_exact, wrapped};

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(0.0), "0");
        assert_eq!(thousands(999.4), "999");
        assert_eq!(thousands(12_345.0), "12,345");
        assert_eq!(thousands(4_123_456.0), "4,123,000");
        assert_eq!(thousands_exact(4_123_456.0), "4,123,456");
        assert_eq!(percent(0.994), "99.4 %");
        assert_eq!(duration(85.4), "85 us");
        assert_eq!(duration(1234.0), "1.2 ms");
    }

    #[test]
    fn text_is_broken_between_words() {
        let text = wrapped(&"word ".repeat(50));
        assert!(
            text.lines()
                .all(|line| line.len() <= super::WIDTH && line.starts_with("word") && line.ends_with("word"))
        );
        assert_eq!(text.split_whitespace().count(), 50);
    }
}
