//! `SHA256SUMS`, of every other file of the release.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use defender_build::program;

use super::release::Release;

/// Writes it, as `sha256sum --check` reads it.
pub(super) fn write(release: &Release) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(release.directory())? {
        names.push(entry?.file_name());
    }
    names.sort();
    let mut sums = Command::new("sha256sum");
    sums.arg("--").args(names).current_dir(release.directory());
    let text = program::stdout(&mut sums).context("cannot run sha256sum")?;
    Ok(fs::write(release.checksums(), text)?)
}
