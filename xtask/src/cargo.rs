//! The workspace, and Cargo for it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// The workspace's directory.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// `cargo SUBCOMMAND` for the workspace.
///
/// It keeps the current directory, since `CARGO_TARGET_DIR` may be relative to that.
pub(crate) fn cargo(subcommand: &str) -> Command {
    cargo_at(subcommand, workspace())
}

/// `cargo SUBCOMMAND` for the package in this directory.
pub(crate) fn cargo_at(subcommand: &str, directory: &Path) -> Command {
    let mut command = plain(subcommand);
    command.arg("--manifest-path").arg(directory.join("Cargo.toml"));
    command
}

/// `cargo SUBCOMMAND`, for subcommands that find the workspace by the current directory.
pub(crate) fn plain(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand);
    command
}

/// The path of a program of the workspace: beside this one, or in the release profile's directory.
pub(crate) fn built(program: &str, release: bool) -> Result<PathBuf> {
    Ok(target_directory()?.join(if release { "release" } else { "debug" }).join(program))
}

/// Cargo's target directory. This program is in a profile's directory below it.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find this program's own file")?;
    Ok(own.ancestors().nth(2).context("this program is not in a target directory")?.to_owned())
}
