//! Kernel versions in the names of Debian's packages.

use std::fmt;

/// A kernel version, ordered numerically.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    numbers: Vec<u32>,
    release: String,
}

impl Version {
    /// Parses the output of `uname -r`: `6.12.118+deb13-amd64`.
    pub(crate) fn new(release: &str) -> Self {
        // The architecture's name contains digits, too.
        let version = release.rsplit_once('-').map_or(release, |(version, _)| version);
        let numbers = version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
        Self { numbers: numbers.collect(), release: release.to_owned() }
    }

    /// The output of `uname -r`.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.release)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let versions = [
            "6.1.0-56-amd64",
            "6.12.9+deb13-amd64",
            "6.12.90+deb13-amd64",
            "6.12.90+deb13.1-amd64",
            "7.3.4-amd64",
        ];
        let versions = versions.map(Version::new);
        assert!(versions.is_sorted(), "{versions:?}");
    }
}
