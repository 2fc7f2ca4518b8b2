//! The network namespace.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::{Context as _, Result};

const PATH: &str = "/proc/thread-self/ns/net";

/// The number of the calling thread's network namespace (`ns_common.inum`, include/linux/ns_common.h).
pub fn number() -> Result<u32> {
    let inode = fs::metadata(PATH).with_context(|| format!("cannot look at {PATH}"))?.ino();
    u32::try_from(inode).with_context(|| format!("{PATH} has the number {inode}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_namespace;
    use super::*;

    #[test]
    fn namespaces_have_numbers_of_their_own() {
        let ours = number().expect("a number");
        assert_eq!(number().expect("a number"), ours);
        in_namespace(|| assert_ne!(number().expect("a number"), 0));
    }
}
