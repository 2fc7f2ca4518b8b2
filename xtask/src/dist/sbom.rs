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

/// Members of the workspace that are in the released program, each with its part of the name of its list.
const SHIPPED: [(&str, &str); 2] = [("defender", ""), ("defender-ebpf", "-ebpf")];

/// Writes one for the controller and one for the eBPF programs. cargo-cyclonedx puts a list into the directory of every member
/// of the workspace.
pub(super) fn write(release: &Release) -> Result<()> {
    // The tool adds the extension.
    let name = format!("{NAME}.cdx");
    let mut list = cargo::cargo("cyclonedx");
    list.args(["--quiet", "--quiet", "--format", "json", "--spec-version", "1.5", "--no-build-deps"]);
    list.args(["--target", "all", "--override-filename", &name]);
    list.env("SOURCE_DATE_EPOCH", release.date().to_string());
    let name = format!("{name}.json");
    let kept = process::must(&mut list).and_then(|()| keep(release, &name));
    for member in members() {
        // Members that have none are fine.
        let _ = fs::remove_file(member.join(&name));
    }
    kept
}

/// Takes those of what is shipped. They name no directory of this machine.
fn keep(release: &Release, name: &str) -> Result<()> {
    for (member, part) in SHIPPED {
        let list = fs::read_to_string(workspace().join(member).join(name))
            .with_context(|| format!("cargo-cyclonedx wrote no list for {member}"))?;
        let list = list.replace(&format!("file://{}", workspace().display()), &format!("file:///{NAME}"));
        fs::write(release.sbom(part), list)?;
    }
    Ok(())
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
