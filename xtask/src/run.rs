//! `cargo xtask run`

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{build, cargo, privilege, setup};

/// Builds defender and replaces this process by it, so that signals and exit status are its own.
pub(crate) fn run(release: bool, arguments: &[OsString]) -> Result<ExitCode> {
    setup::compiler()?;
    build::packages(&["defender"], release)?;
    let program = cargo::built("defender", release)?;
    let error = privilege::as_root(&program)?.args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
