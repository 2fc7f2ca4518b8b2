//! Runs programs as root.

use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Result, bail};
use defender_build::program;

use crate::process;

/// Variables that defender and the tests read.
const KEEP: &str = "--preserve-env=DEFENDER_PIN_ROOT,RUST_BACKTRACE,RUST_LOG,PATH";

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// The prefix for a command that needs root: empty for root itself, else sudo.
pub(crate) fn prefix() -> Result<Vec<String>> {
    if is_root() {
        return Ok(Vec::new());
    }
    match program::find("sudo") {
        Some(sudo) => Ok(vec![sudo.display().to_string(), KEEP.to_owned()]),
        None => bail!("root is needed to load BPF programs: run this as root, or install sudo"),
    }
}

/// This program, run as root. sudo may ask for a password.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    Ok(command(prefix()?, program))
}

/// This program, run as root in the background, where sudo cannot ask for a password. So this asks for it
/// first.
pub(crate) fn as_root_unasked(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut prefix = prefix()?;
    if let Some(sudo) = prefix.first() {
        process::must(Command::new(sudo).arg("--validate"))?;
        prefix.push("--non-interactive".to_owned());
    }
    Ok(command(prefix, program))
}

fn command(prefix: Vec<String>, program: impl AsRef<OsStr>) -> Command {
    let mut prefix = prefix.into_iter();
    let Some(sudo) = prefix.next() else { return Command::new(program) };
    let mut command = Command::new(sudo);
    command.args(prefix).arg(program);
    command
}
