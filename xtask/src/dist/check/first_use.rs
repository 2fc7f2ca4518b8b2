//! The .deb as a new user meets it: installed by apt, configured, attacked, watched and purged, without a trace in the end. The
//! testbed is the user, and makes the attack.

use anyhow::{Result, ensure};

use super::{container::Container, debian::Debian};
use crate::{
    build, cargo,
    cleanup::CleanupGuard,
    dist::{architecture::Architecture, release::Release},
    privilege, process,
};

/// Units that systemd knows, loaded or not.
const UNITS: &str = "systemctl list-unit-files --no-legend 'defender*' || true; \
                     systemctl list-units --all --plain --no-legend 'defender*'; systemctl --failed --plain --no-legend";

/// Boots a system, and lets the testbed use it.
pub(super) fn check(release: &Release, architecture: Architecture) -> Result<()> {
    build::packages(&["defender-testbed"], false)?;
    let _guard = CleanupGuard::new()?;
    let debian = Debian::copy("first-use")?;
    let package = debian.add(&release.deb(architecture))?;
    let system = Container::boot(&debian)?;
    let before = system.paths()?;

    let mut user = privilege::as_root(cargo::built("defender-testbed", false)?)?;
    user.args(["first-use", "--container", system.first_process(), "--package", &package]);
    user.arg("--root").arg(debian.root());
    process::quietly(&mut user).map_err(|error| system.with_journal(error))?;

    let left: Vec<_> = system.paths()?.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "purged, and still there:\n{}", left.join("\n"));
    let units = system.shell(UNITS)?;
    ensure!(units.trim().is_empty(), "purged, and systemd still knows:\n{units}");
    let processes = system.shell("pgrep --list-full defender || true")?;
    ensure!(processes.is_empty(), "purged, and still running:\n{processes}");
    Ok(())
}
