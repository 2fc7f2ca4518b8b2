//! Aligned columns.

/// Lays out `rows` below `head`. Columns of numbers are aligned to the right.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let numbers: Vec<bool> =
        (0..head.len()).map(|column| rows.iter().all(|row| is_number(&row[column]))).collect();
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|cell| cell.to_uppercase()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::from(" ");
        for ((cell, width), number) in row.iter().zip(&widths).zip(&numbers) {
            line.push(' ');
            line.push_str(&if *number { format!("{cell:>width$}") } else { format!("{cell:<width$}") });
            line.push(' ');
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
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
}
