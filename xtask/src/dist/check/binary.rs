//! The program runs and says what it should. One for another processor runs in emulation.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use defender_build::program;

use crate::{
    cargo::workspace,
    dist::{architecture::Architecture, release::Release},
    process,
};

/// Commands that need no kernel with eBPF: emulation has none.
const COMMANDS: [&[&str]; 4] =
    [&["--version"], &["--help"], &["completions", "bash"], &["config", "check", "packaging/config.toml"]];

/// Runs it.
pub(super) fn check(release: &Release, architecture: Architecture) -> Result<()> {
    for arguments in COMMANDS {
        let mut command = command(release, architecture)?;
        process::quietly(command.args(arguments).current_dir(workspace()))?;
    }
    let version = process::quietly(command(release, architecture)?.arg("--version"))?;
    ensure!(version.trim() == format!("defender {}", release.version()), "the version is {version:?}");
    Ok(())
}

fn command(release: &Release, architecture: Architecture) -> Result<Command> {
    let binary = release.binary(architecture);
    if architecture.is_native() {
        return Ok(Command::new(binary));
    }
    let mut emulated = Command::new(emulator(architecture)?);
    emulated.arg(binary);
    Ok(emulated)
}

fn emulator(architecture: Architecture) -> Result<PathBuf> {
    let name = format!("qemu-{}-static", architecture.machine());
    program::find(&name).with_context(|| format!("{name} is not here; Debian has it in qemu-user-static"))
}
