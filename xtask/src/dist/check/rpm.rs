//! The .rpm installs, runs and goes, in a system whose package manager is RPM as far as the package can tell.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};

use super::debian::Debian;
use crate::{
    dist::{
        architecture::Architecture,
        release::{NAME, Release},
    },
    privilege, process,
};

/// Installs and removes it, with its scripts.
pub(super) fn check(release: &Release, architecture: Architecture) -> Result<()> {
    let system = Debian::copy("rpm")?;
    // RPM enters the directory to run the scripts; the package of the shell is not in its database.
    rpm(system.root(), |rpm| rpm.args(["--install", "--nodeps"]).arg(release.rpm(architecture)))?;
    system.run(&["defender", "config", "check", "/etc/defender/config.toml"])?;
    rpm(system.root(), |rpm| rpm.args(["--verify", "--nodeps", NAME]))?;
    rpm(system.root(), |rpm| rpm.args(["--erase", NAME]))?;
    ensure!(!system.has("/usr/sbin/defender"), "erased, and the program is still there");
    ensure!(
        !system.has("/etc/defender/config.toml"),
        "erased, and the untouched configuration is still there"
    );
    Ok(())
}

/// rpm for this root, in a network namespace of its own.
fn rpm(root: &Path, with: impl FnOnce(&mut Command) -> &mut Command) -> Result<String> {
    let mut command = privilege::as_root("unshare")?;
    command.args(["--net", "--", "rpm", "--root"]).arg(root);
    with(&mut command);
    process::quietly(&mut command)
}
