//! Text that fits: cut, padded, numbers that are short, and numbers that are drawn.

use crate::report::top::look::Look;

/// Eighths of a line's height, from the lowest.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same in ASCII.
const ASCII_HEIGHTS: [char; 8] = ['.', '.', ':', ':', '-', '=', '+', '#'];

/// Cut to a width; where something is missing it says so.
pub(super) fn cut(text: &str, width: usize, look: Look) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(std::iter::once(look.ellipsis())).take(width).collect()
}

/// The same, filled up on the right.
pub(super) fn left(text: &str, width: usize, look: Look) -> String {
    format!("{:<width$}", cut(text, width, look))
}

/// The same, filled up on the left.
pub(super) fn right(text: &str, width: usize, look: Look) -> String {
    format!("{:>width$}", cut(text, width, look))
}

/// Four digits at the most: 9999, 41k, 1.2M.
pub(super) fn short(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{}k", number / 1000),
        1_000_000..10_000_000 => format!("{}.{}M", number / 1_000_000, number / 100_000 % 10),
        10_000_000..1_000_000_000 => format!("{}M", number / 1_000_000),
        _ => format!("{}G", number / 1_000_000_000),
    }
}

/// What is less than this is drawn low, however little else there is.
const LOW: u64 = 100;

/// The last numbers as a line of heights; the highest is as high as the line, unless all are low. Nothing stands for 0.
pub(super) fn sparkline(numbers: impl DoubleEndedIterator<Item = u64>, width: usize, look: Look) -> String {
    let mut last: Vec<u64> = numbers.rev().take(width).collect();
    last.reverse();
    let most = last.iter().copied().max().unwrap_or(0).max(LOW);
    let heights = if look.unicode { HEIGHTS } else { ASCII_HEIGHTS };
    let height = |number: u64| match number {
        0 => ' ',
        number => heights[(number as f64 / most as f64 * 8.0).ceil().clamp(1.0, 8.0) as usize - 1],
    };
    format!("{:>width$}", last.into_iter().map(height).collect::<String>())
}

/// A share as a bar.
pub(super) fn bar(share: f64, width: usize, look: Look) -> String {
    let (full, empty) = if look.unicode { ('█', '░') } else { ('#', '-') };
    let filled = (share.clamp(0.0, 1.0) * width as f64).ceil() as usize;
    (0..width).map(|place| if place < filled { full } else { empty }).collect()
}

/// Words in lines of a width; a longer word is cut.
pub(super) fn wrap(text: &str, width: usize, look: Look) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            *line = cut(word, width, look);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(cut(word, width, look));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNICODE: Look = Look { colour: true, unicode: true };
    const ASCII: Look = Look { colour: true, unicode: false };

    #[test]
    fn text_is_cut_and_padded() {
        assert_eq!(cut("defender", 8, UNICODE), "defender");
        assert_eq!(cut("defender", 5, UNICODE), "defe…");
        assert_eq!(cut("defender", 5, ASCII), "defe~");
        assert_eq!(cut("defender", 0, UNICODE), "");
        assert_eq!((left("a", 3, UNICODE), right("a", 3, UNICODE)), ("a  ".into(), "  a".into()));
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0, "0"),
            (9999, "9999"),
            (10_000, "10k"),
            (999_999, "999k"),
            (1_250_000, "1.2M"),
            (33_000_000, "33M"),
            (u64::MAX, "18446744073G"),
        ] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn rates_are_drawn_by_the_highest() {
        assert_eq!(sparkline([0, 100, 400, 800].into_iter(), 6, UNICODE), "   ▁▄█");
        assert_eq!(sparkline([900, 900, 0, 800].into_iter(), 2, UNICODE), " █");
        assert_eq!(sparkline([100, 800].into_iter(), 2, ASCII), ".#");
        assert_eq!(sparkline([1, 12, 13].into_iter(), 3, UNICODE), "▁▁▂");
        assert_eq!(sparkline([u64::MAX].into_iter(), 1, UNICODE), "█");
        assert_eq!(sparkline([].into_iter(), 0, UNICODE), "");
    }

    #[test]
    fn shares_are_drawn_and_a_little_is_something() {
        assert_eq!(bar(0.0, 4, UNICODE), "░░░░");
        assert_eq!(bar(0.01, 4, UNICODE), "█░░░");
        assert_eq!(bar(7.0, 4, ASCII), "####");
        assert_eq!(bar(f64::NAN, 0, UNICODE), "");
    }

    #[test]
    fn words_are_wrapped() {
        assert_eq!(wrap("one two three", 7, UNICODE), ["one two", "three"]);
        assert_eq!(wrap("encyclopaedia a", 4, UNICODE), ["enc…", "a"]);
        assert_eq!(wrap("", 4, UNICODE), [""]);
    }
}
