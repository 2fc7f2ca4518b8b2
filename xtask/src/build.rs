//! `cargo xtask build`

use std::process::ExitCode;

use anyhow::Result;

use crate::{cargo, process, setup};

/// Builds everything that runs on the host. Build scripts build the embedded eBPF objects.
pub(crate) fn run(release: bool) -> Result<ExitCode> {
    setup::compiler()?;
    let mut build = cargo::cargo("build");
    if release {
        build.arg("--release");
    }
    process::exit_code(&mut build)
}

/// Builds these packages in the requested profile.
pub(crate) fn packages(names: &[&str], release: bool) -> Result<()> {
    let mut build = cargo::cargo("build");
    for name in names {
        build.args(["--package", name]);
    }
    if release {
        build.arg("--release");
    }
    process::must(&mut build)
}
