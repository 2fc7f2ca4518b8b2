//! Aligned columns, in as many columns of a terminal as there are.

use std::ops::Range;

use console::{measure_text_width, strip_ansi_codes};

use crate::model::prose;

/// Placeholder for a missing value.
pub const NONE: &str = "-";

/// Columns before the first cell of a row.
const MARGIN: usize = 2;
/// Columns before the first cell of a row's further lines.
const INDENT: usize = 4;
/// Columns between two cells.
const GAP: usize = 2;
/// Sentences are wrapped to no fewer columns.
const LEAST_PROSE: usize = 20;

/// Lays out `rows` below `head`. Numeric columns are right-aligned. A head may have several lines.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    fit(head, rows, usize::MAX)
}

/// The same in at most `width` columns: sentences are wrapped, and if that is not enough, each row takes several lines.
pub fn fit(head: &[&str], rows: &[Vec<String>], width: usize) -> String {
    let mut columns = columns(head, rows);
    wrap_prose(&mut columns, width);
    let lines = fold(&columns, width);
    let head: Vec<String> = head.iter().map(|cell| cell.to_uppercase()).collect();
    let mut text = String::new();
    for line in &lines {
        let height = head[line.clone()].iter().map(|cell| cell.lines().count()).max().unwrap_or(1);
        // The last lines of all heads stand on one line.
        let padded = |cell: &String| "\n".repeat(height - cell.lines().count()) + cell;
        let cells =
            head[line.clone()].iter().map(|cell| padded(cell).split('\n').map(str::to_owned).collect());
        write_line(&mut text, &columns, line, &cells.collect::<Vec<_>>());
    }
    for row in rows {
        for line in &lines {
            let cells = line.clone().map(|column| prose::lines(&row[column], columns[column].width));
            write_line(&mut text, &columns, line, &cells.collect::<Vec<_>>());
        }
    }
    text
}

/// Whether a table needs neither wrapping nor further lines.
pub fn fits(head: &[&str], rows: &[Vec<String>], width: usize) -> bool {
    taken(&columns(head, rows), MARGIN) <= width
}

struct Column {
    width: usize,
    is_number: bool,
    /// How narrow it can be made: sentences can, other cells are as wide as they are.
    least: usize,
}

fn columns(head: &[&str], rows: &[Vec<String>]) -> Vec<Column> {
    let column = |(index, head): (usize, &&str)| {
        let cells = || rows.iter().map(|row| row[index].as_str());
        let head = head.lines().map(measure_text_width).max().unwrap_or(0);
        let width = cells().map(measure_text_width).max().unwrap_or(0).max(head);
        let longest_word = cells().map(prose::longest_word).max().unwrap_or(0);
        let least = longest_word.max(head).max(LEAST_PROSE).min(width);
        Column { width, is_number: are_numbers(cells()), least }
    };
    head.iter().enumerate().map(column).collect()
}

/// Makes the widest sentences narrower, as far as it takes.
fn wrap_prose(columns: &mut [Column], width: usize) {
    let mut excess = taken(columns, MARGIN).saturating_sub(width);
    while excess > 0 {
        let wrappable = columns.iter_mut().filter(|column| column.width > column.least);
        let Some(widest) = wrappable.max_by_key(|column| column.width) else { return };
        widest.width -= 1;
        excess -= 1;
    }
}

/// Which columns share a line: as few lines as there can be, of about the same length.
fn fold(columns: &[Column], width: usize) -> Vec<Range<usize>> {
    let fewest = filled(columns, width).len();
    let longest =
        (0..width.min(taken(columns, MARGIN))).find(|width| filled(columns, *width).len() == fewest);
    filled(columns, longest.unwrap_or(width))
}

/// Which columns share a line if each line is filled before the next.
fn filled(columns: &[Column], width: usize) -> Vec<Range<usize>> {
    let mut lines: Vec<Range<usize>> = Vec::new();
    for column in 0..columns.len() {
        let margin = if lines.len() == 1 { MARGIN } else { INDENT };
        match lines.last_mut() {
            Some(line) if taken(&columns[line.start..=column], margin) <= width => line.end = column + 1,
            _ => lines.push(column..column + 1),
        }
    }
    lines
}

/// How wide a line of these columns is.
fn taken(columns: &[Column], margin: usize) -> usize {
    let cells: usize = columns.iter().map(|column| column.width + GAP).sum();
    (margin + cells).saturating_sub(GAP)
}

/// Writes the cells of a line; each may have several lines of its own.
fn write_line(text: &mut String, columns: &[Column], line: &Range<usize>, cells: &[Vec<String>]) {
    let margin = if line.start == 0 { MARGIN } else { INDENT };
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    for at in 0..height {
        let mut written = " ".repeat(margin);
        for (cell, column) in cells.iter().zip(&columns[line.clone()]) {
            let cell = cell.get(at).map_or("", String::as_str);
            let padding = " ".repeat(column.width.saturating_sub(measure_text_width(cell)));
            let parts = if column.is_number { [padding.as_str(), cell] } else { [cell, padding.as_str()] };
            parts.into_iter().for_each(|part| written.push_str(part));
            written.push_str("  ");
        }
        text.push_str(written.trim_end_matches(' '));
        text.push('\n');
    }
}

/// Whether all present values are numbers.
fn are_numbers<'a>(cells: impl Iterator<Item = &'a str>) -> bool {
    let mut given = cells.filter(|cell| *cell != NONE).peekable();
    given.peek().is_some() && given.all(is_number)
}

fn is_number(cell: &str) -> bool {
    !cell.is_empty() && strip_ansi_codes(cell).chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::model::paint;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [row(&["a", "7"]), row(&["long", "1234"])];
        assert_eq!(render(&["name", "n"], &rows), "  NAME     N\n  a        7\n  long  1234\n");
    }

    #[test]
    fn missing_values_do_not_change_the_alignment_of_numbers() {
        let rows = [row(&["-", "-"]), row(&["1234", "-"])];
        assert_eq!(render(&["n", "none"], &rows), "     N  NONE\n     -  -\n  1234  -\n");
    }

    #[test]
    fn heads_of_several_lines_stand_on_one() {
        let rows = [row(&["80", "5", "x"])];
        assert_eq!(
            render(&["port", "half-\nopen", "name"], &rows),
            "        HALF-\n  PORT   OPEN  NAME\n    80      5  x\n"
        );
    }

    #[test]
    fn colours_take_no_room() {
        let rows = [row(&[&paint::bad("off"), "1"]), row(&["other", "2"])];
        let text = render(&["state", "n"], &rows);
        assert_eq!(strip_ansi_codes(&text), "  STATE  N\n  off    1\n  other  2\n");
        assert!(text.contains("\x1b["), "{text}");
    }

    #[test]
    fn sentences_are_wrapped() {
        let rows = [row(&["a", "so it is, and so it will be for ever"]), row(&["b", "short"])];
        assert_eq!(
            fit(&["name", "because"], &rows, 30),
            "  NAME  BECAUSE\n  a     so it is, and so it\n        will be for ever\n  b     short\n"
        );
        assert!(!fits(&["name", "because"], &rows, 30));
        assert!(fits(&["name", "because"], &rows, 80));
    }

    #[test]
    fn rows_that_are_too_long_take_several_lines() {
        let peer = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        let rows = [row(&["ESTABLISHED", peer, peer, "12345", "99999"])];
        let expected = format!(
            "  STATE        PEER\n    LOCAL                                             AGE  PACKETS\n  ESTABLISHED  {peer}\n    \
             {peer}  12345    99999\n"
        );
        assert_eq!(fit(&["state", "peer", "local", "age", "packets"], &rows, 80), expected);
    }

    proptest! {
        #[test]
        fn no_line_is_too_long(
            rows in vec(vec("[a-z]{1,12}( [a-z]{1,12}){0,9}", 4..=4), 1..5),
            width in 24_usize..120,
        ) {
            let text = fit(&["one", "two", "three", "four"], &rows, width);
            prop_assert!(text.lines().all(|line| line.len() <= width), "{text}");
            for word in rows.iter().flatten().flat_map(|cell| cell.split(' ')) {
                prop_assert!(text.contains(word), "{word} is missing: {text}");
            }
        }
    }
}
