//! `cargo xtask docs`

use std::process::ExitCode;

use anyhow::Result;

use crate::{cargo, process, setup};

/// Regenerates the reference and the man pages.
pub(crate) fn run() -> Result<ExitCode> {
    setup::compiler()?;
    process::must(cargo::cargo("run").args(["--quiet", "--package", "defender-docs"]))?;
    Ok(ExitCode::SUCCESS)
}
