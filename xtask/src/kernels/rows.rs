//! The kernels to try: their suites in Debian's archive, and the expected results.

use anyhow::{Result, bail};

/// The expected result for a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpectedResult {
    /// Everything works.
    Works,
    /// `run` rejects it and says why in one line.
    Refused,
}

/// A kernel to try.
#[derive(Debug)]
pub(crate) struct KernelRow {
    /// Its name for `--only`.
    pub(crate) name: &'static str,
    /// Its suite. Security updates are included, if there are any.
    pub(crate) suite: &'static str,
    /// Which kernels of the suite: the newest whose version begins with this.
    pub(crate) series: &'static str,
    pub(crate) expected: ExpectedResult,
}

/// All of them. Suites move on, so each run looks up what they contain.
pub(crate) const ROWS: [KernelRow; 8] = [
    KernelRow { name: "bookworm", suite: "bookworm", series: "6.1.", expected: ExpectedResult::Refused },
    KernelRow {
        name: "bookworm-backports",
        suite: "bookworm-backports",
        series: "",
        expected: ExpectedResult::Works,
    },
    KernelRow { name: "trixie", suite: "trixie", series: "6.12.", expected: ExpectedResult::Works },
    KernelRow { name: "6.16", suite: "trixie-backports", series: "6.16.", expected: ExpectedResult::Works },
    KernelRow { name: "6.17", suite: "trixie-backports", series: "6.17.", expected: ExpectedResult::Works },
    KernelRow { name: "6.18", suite: "trixie-backports", series: "6.18.", expected: ExpectedResult::Works },
    KernelRow {
        name: "trixie-backports",
        suite: "trixie-backports",
        series: "",
        expected: ExpectedResult::Works,
    },
    KernelRow { name: "sid", suite: "sid", series: "", expected: ExpectedResult::Works },
];

/// The kernels that `--only` names, each once, in the order of the rows. `oldest` and `newest` select among
/// those expected to work.
pub(crate) fn select<'a, T>(
    all: &'a [(&'static KernelRow, T)],
    only: &[String],
) -> Result<Vec<&'a (&'static KernelRow, T)>>
where
    T: Ord,
{
    let working = || all.iter().filter(|(row, _)| row.expected == ExpectedResult::Works);
    let mut names = Vec::new();
    for name in only {
        let found = match name.as_str() {
            "oldest" => working().min_by_key(|(_, version)| version),
            "newest" => working().max_by_key(|(_, version)| version),
            name => all.iter().find(|(row, _)| row.name == name),
        };
        match found {
            Some((row, _)) => names.push(row.name),
            None => bail!("unknown kernel '{name}'; expected oldest, newest or one that --list shows"),
        }
    }
    Ok(all.iter().filter(|(row, _)| only.is_empty() || names.contains(&row.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str]) -> Result<Vec<&'static str>> {
        // One that is rejected, and four that work.
        let all: Vec<_> = ROWS[..5].iter().zip([0, 4, 2, 1, 3]).collect();
        let only: Vec<_> = only.iter().map(|&name| name.to_owned()).collect();
        Ok(select(&all, &only)?.into_iter().map(|(row, _)| row.name).collect())
    }

    #[test]
    fn the_oldest_and_the_newest_are_found_by_version() -> Result<()> {
        assert_eq!(names(&["newest", "oldest"])?, ["bookworm-backports", "6.16"]);
        assert_eq!(names(&["oldest", "6.16", "bookworm"])?, ["bookworm", "6.16"]);
        Ok(())
    }

    #[test]
    fn without_names_all_are_tried() -> Result<()> {
        assert_eq!(names(&[])?.len(), 5);
        assert!(names(&["buster"]).is_err());
        Ok(())
    }
}
