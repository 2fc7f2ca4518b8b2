//! The list of the program's components, in CycloneDX's format.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::release::{NAME, Release};
use crate::{
    cargo::{self, workspace},
    process,
};

/// Writes it. cargo-cyclonedx puts one into the directory of every member of the workspace; only the program's is kept.
pub(super) fn write(release: &Release) -> Result<()> {
    // The tool adds the extension.
    let name = format!("{NAME}.cdx");
    let mut list = cargo::cargo("cyclonedx");
    list.args(["--quiet", "--quiet", "--format", "json", "--spec-version", "1.5", "--no-build-deps"]);
    list.args(["--target", "all", "--override-filename", &name]);
    let made = process::must(&mut list);
    let program = workspace().join("defender").join(format!("{name}.json"));
    let kept = made.and_then(|()| {
        fs::rename(&program, release.sbom()).context("cargo-cyclonedx wrote no list for defender")
    });
    for member in members() {
        // Members that have none are fine.
        let _ = fs::remove_file(member.join(format!("{name}.json")));
    }
    kept
}

/// Directories that may be members of the workspace.
fn members() -> Vec<PathBuf> {
    let directories = |of: &Path| {
        let entries = fs::read_dir(of).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).filter(|path| path.join("Cargo.toml").exists()).collect::<Vec<_>>()
    };
    let outer = directories(workspace());
    let inner: Vec<_> = outer.iter().flat_map(|path| directories(path)).collect();
    outer.into_iter().chain(inner).collect()
}
