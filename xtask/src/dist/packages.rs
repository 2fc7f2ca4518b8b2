//! The packages for Debian and for RPM. What is in them is listed in `defender/Cargo.toml`.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::{architecture::Architecture, release::Release};
use crate::{
    cargo::{self, workspace},
    process,
};

/// Builds both.
pub(super) fn build(release: &Release, architecture: Architecture) -> Result<()> {
    process::must(&mut deb(release, architecture)?)?;
    process::must(&mut rpm(release, architecture, &release.rpm(architecture))?)
}

/// Builds the .rpm again, as version 99.
pub(super) fn build_later_rpm(release: &Release, architecture: Architecture, output: &Path) -> Result<()> {
    process::must(rpm(release, architecture, output)?.args(["--set-metadata", "version = \"99\""]))
}

fn deb(release: &Release, architecture: Architecture) -> Result<Command> {
    let mut deb = subcommand("deb", release)?;
    deb.args(["--quiet", "--no-build", "--no-strip", "--compress-system", "--locked"]);
    deb.args(["--package", "defender"]);
    deb.args(["--target", architecture.target(), "--output"]).arg(release.deb(architecture));
    Ok(deb)
}

fn rpm(release: &Release, architecture: Architecture, output: &Path) -> Result<Command> {
    let mut rpm = subcommand("generate-rpm", release)?;
    rpm.args(["--package", "defender", "--auto-req", "disabled", "--payload-compress", "zstd"]);
    rpm.args(["--source-date", &release.date().to_string()]);
    rpm.args(["--target", architecture.target(), "--output"]).arg(output);
    Ok(rpm)
}

/// A program of Cargo's that takes paths from the workspace's directory.
fn subcommand(name: &str, release: &Release) -> Result<Command> {
    let mut command = cargo::plain(name);
    command.current_dir(workspace());
    command.env("CARGO_TARGET_DIR", cargo::target_directory()?);
    command.env("SOURCE_DATE_EPOCH", release.date().to_string());
    Ok(command)
}
