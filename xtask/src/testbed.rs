//! `cargo xtask demo`, `bench`, `soak` and `recording`: commands of the testbed's program.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{
    build,
    cargo::{self, workspace},
    cleanup::CleanupGuard,
    privilege, process, setup,
};

/// Builds the release programs and runs the testbed's command with them.
pub(crate) fn run(subcommand: &str, arguments: &[OsString]) -> Result<ExitCode> {
    setup::compiler()?;
    setup::test_programs()?;
    build::packages(&["defender", "defender-testbed"], true)?;

    let _guard = CleanupGuard::new()?;
    let mut testbed = privilege::as_root(cargo::built("defender-testbed", true)?)?;
    testbed.args([subcommand, "--defender"]).arg(cargo::built("defender", true)?).args(arguments);
    process::exit_code(&mut testbed)
}

/// Draws the picture that the documents show.
pub(crate) fn recording(arguments: &[OsString]) -> Result<ExitCode> {
    let picture = workspace().join("docs/top.svg");
    run("recording", &[&["--to".into(), picture.into()], arguments].concat())
}
