//! Aligned columns.

use std::fmt::Write as _;

/// Placeholder for a missing value.
pub const NONE: &str = "-";

/// Lays out `rows` below `head`. Numeric columns are right-aligned.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..head.len()).map(|column| width(head[column], rows, column)).collect();
    let numbers: Vec<bool> =
        (0..head.len()).map(|column| are_numbers(rows.iter().map(|row| row[column].as_str()))).collect();
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|cell| cell.to_uppercase()).collect();
    for row in std::iter::once(&head).chain(rows) {
        text.push(' ');
        for ((cell, width), number) in row.iter().zip(&widths).zip(&numbers) {
            let _ = if *number { write!(text, " {cell:>width$} ") } else { write!(text, " {cell:<width$} ") };
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// How wide a column is, without the space beside it.
pub fn width(head: &str, rows: &[Vec<String>], column: usize) -> usize {
    let cells = rows.iter().map(|row| row[column].chars().count());
    cells.chain([head.chars().count()]).max().unwrap_or(0)
}

/// Whether all present values are numbers.
fn are_numbers<'a>(cells: impl Iterator<Item = &'a str>) -> bool {
    let mut given = cells.filter(|cell| *cell != NONE).peekable();
    given.peek().is_some() && given.all(is_number)
}

fn is_number(cell: &str) -> bool {
    !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "7".to_owned()], vec!["long".to_owned(), "1234".to_owned()]];
        assert_eq!(render(&["name", "n"], &rows), "  NAME     N\n  a        7\n  long  1234\n");
    }

    #[test]
    fn missing_values_do_not_change_the_alignment_of_numbers() {
        let rows = [vec!["-".to_owned(), "-".to_owned()], vec!["1234".to_owned(), "-".to_owned()]];
        assert_eq!(render(&["n", "none"], &rows), "     N  NONE\n     -  -\n  1234  -\n");
    }
}
