//! Text in lines of a given width. Colours take no room. Pure.

use console::measure_text_width;

/// The words of a text in lines of at most `width` columns. A word that is longer has a line to itself.
pub fn lines(text: &str, width: usize) -> Vec<String> {
    if measure_text_width(text) <= width {
        return vec![text.to_owned()];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if measure_text_width(line) + 1 + measure_text_width(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A paragraph, with the lines after the first indented. It ends with a newline.
pub fn paragraph(text: &str, indent: usize, width: usize) -> String {
    let mut lines = lines(text, width).into_iter();
    let first = lines.next().unwrap_or_default();
    let rest = lines.collect::<Vec<_>>().join(" ");
    let mut paragraph = first + "\n";
    if !rest.is_empty() {
        for line in self::lines(&rest, width.saturating_sub(indent)) {
            paragraph.push_str(&format!("{:indent$}{line}\n", ""));
        }
    }
    paragraph
}

/// The columns of the longest word.
pub fn longest_word(text: &str) -> usize {
    text.split(' ').map(measure_text_width).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::paint;

    #[test]
    fn words_stay_whole() {
        assert_eq!(lines("one two three", 80), ["one two three"]);
        assert_eq!(lines("one two three", 7), ["one two", "three"]);
        assert_eq!(lines("one incomprehensibilities two", 5), ["one", "incomprehensibilities", "two"]);
        assert_eq!(lines("", 0), [""]);
        assert_eq!(lines(&paint::bad("one two"), 7), [paint::bad("one two")]);
        assert_eq!(paragraph("! one two three four", 2, 9), "! one two\n  three\n  four\n");
        assert_eq!(paragraph("one two", 2, usize::MAX), "one two\n");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_lines_fit(words in proptest::collection::vec("[a-z]{1,9}", 1..40), width in 9_usize..50) {
            let text = words.join(" ");
            let lines = lines(&text, width);
            prop_assert!(lines.iter().all(|line| line.len() <= width), "{lines:?}");
            prop_assert_eq!(lines.join(" "), text);
        }
    }
}
