//! The table: a row per kernel, a column per check.

use std::fmt;

use super::verdict::{CheckResult, GuestReport};

/// A kernel that was tried, and its result.
pub(crate) struct Tried {
    pub(crate) name: &'static str,
    pub(crate) release: String,
    pub(crate) report: GuestReport,
}

impl Tried {
    fn cells(&self, columns: &[&str]) -> Vec<&str> {
        let checks = columns.iter().map(|check| self.report.verdict(check).map_or("-", CheckResult::short));
        [self.name, &self.release].into_iter().chain(checks).collect()
    }
}

/// Prints as Markdown, to be copied into documents.
pub(crate) struct KernelTable<'a>(pub(crate) &'a [Tried]);

impl KernelTable<'_> {
    fn columns(&self) -> Vec<&str> {
        let mut columns = Vec::new();
        for name in self.0.iter().flat_map(|tried| tried.report.names()) {
            if !columns.contains(&name) {
                columns.push(name);
            }
        }
        columns
    }

    /// Header and rows.
    fn cells(&self) -> Vec<Vec<&str>> {
        let columns = self.columns();
        let mut cells = vec![["kernel", "release"].into_iter().chain(columns.iter().copied()).collect()];
        cells.extend(self.0.iter().map(|tried| tried.cells(&columns)));
        cells
    }
}

impl fmt::Display for KernelTable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = self.cells();
        let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..cells[0].len()).map(width).collect();
        for (number, row) in cells.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                write!(formatter, "| {cell:width$} ")?;
            }
            writeln!(formatter, "|")?;
            if number == 0 {
                widths.iter().try_for_each(|width| write!(formatter, "|{:-<1$}", "", width + 2))?;
                writeln!(formatter, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(name: &'static str, lines: &[&str]) -> Tried {
        let mut report = GuestReport::default();
        lines.iter().for_each(|line| report.read(line));
        Tried { name, release: "1.2".to_owned(), report }
    }

    #[test]
    fn every_check_has_a_column() {
        let all =
            [tried("old", &["plan refused", "refused ok"]), tried("new", &["plan a b", "a ok", "b FAIL x"])];
        let expected = "| kernel | release | refused | a  | b    |\n\
                        |--------|---------|---------|----|------|\n\
                        | old    | 1.2     | ok      | -  | -    |\n\
                        | new    | 1.2     | -       | ok | FAIL |\n";
        assert_eq!(KernelTable(&all).to_string(), expected);
    }
}
