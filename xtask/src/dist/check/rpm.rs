//! The .rpm installs, runs, is upgraded and goes, in a system whose package manager is RPM as far as the package can tell.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};

use super::{
    debian::Debian,
    life::{CONFIGURATION, ENABLED, configure, kept},
};
use crate::{
    dist::{
        architecture::Architecture,
        packages,
        release::{NAME, Release, trial_directory},
    },
    privilege, process,
};

/// Where Debian's RPM has its database.
const DATABASE: &str = "/root/.rpmdb";

/// Directories that packages share, and that the package `filesystem` has in systems of RPM's. Debian has no such package.
const SHARED: [&str; 3] =
    ["/usr/share/licenses", "/usr/share/fish/vendor_completions.d", "/usr/share/zsh/site-functions"];

/// Installs, upgrades and removes it, with its scripts.
pub(super) fn check(release: &Release, architecture: Architecture) -> Result<()> {
    fresh(release, architecture)?;
    upgrade(release, architecture)
}

/// Installed and erased, it leaves nothing.
fn fresh(release: &Release, architecture: Architecture) -> Result<()> {
    let system = Debian::copy("rpm")?;
    let before = system.paths()?;
    install(&system, &release.rpm(architecture))?;
    ensure!(system.has(ENABLED), "installed, and the service is not enabled");
    system.run(&["defender", "config", "check", CONFIGURATION])?;
    rpm(system.root(), |rpm| rpm.args(["--verify", "--nodeps", NAME]))?;
    erase(&system)?;
    let after = system.paths()?;
    let is_others = |path: &str| path.starts_with(DATABASE) || SHARED.contains(&path);
    let left: Vec<_> =
        after.difference(&before).map(String::as_str).filter(|path| !is_others(path)).collect();
    ensure!(left.is_empty(), "erased, and still there:\n{}", left.join("\n"));
    Ok(())
}

/// An upgrade keeps what the administrator changed, and a service that was disabled stays so.
fn upgrade(release: &Release, architecture: Architecture) -> Result<()> {
    let later = trial_directory().join("later.rpm");
    packages::build_later_rpm(release, architecture, &later)?;
    let system = Debian::copy("rpm")?;
    install(&system, &release.rpm(architecture))?;
    configure(&system)?;
    system.run(&["systemctl", "disable", "defender.service"])?;

    rpm(system.root(), |rpm| rpm.args(["--upgrade", "--nodeps"]).arg(&later))?;
    let version = rpm(system.root(), |rpm| rpm.args(["--query", "--queryformat", "%{VERSION} ", NAME]))?;
    ensure!(version.trim() == "99", "upgraded, and installed are {version}");
    ensure!(system.has("/usr/sbin/defender"), "the upgrade has removed the program");
    kept(&system)?;
    ensure!(!system.has(ENABLED), "the upgrade enabled a disabled service");

    erase(&system)?;
    ensure!(system.has(&format!("{CONFIGURATION}.rpmsave")), "erased, and the changed configuration is lost");
    Ok(())
}

/// RPM enters the directory to run the scripts; the package of the shell is not in its database.
fn install(system: &Debian, package: &Path) -> Result<()> {
    rpm(system.root(), |rpm| rpm.args(["--install", "--nodeps"]).arg(package)).map(drop)
}

fn erase(system: &Debian) -> Result<()> {
    rpm(system.root(), |rpm| rpm.args(["--erase", NAME]))?;
    for path in ["/usr/sbin/defender", CONFIGURATION, ENABLED] {
        ensure!(!system.has(path), "erased, and {path} is still there");
    }
    Ok(())
}

/// rpm for this root, in a network namespace of its own.
fn rpm(root: &Path, with: impl FnOnce(&mut Command) -> &mut Command) -> Result<String> {
    let mut command = privilege::as_root("unshare")?;
    command.args(["--net", "--", "rpm", "--root"]).arg(root);
    with(&mut command);
    process::quietly(&mut command)
}
