//! Runs programs as root.

use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Result, bail};
use defender_build::program;

use crate::process;

/// What defender and the test runner are told through the environment.
const KEEP: &str = "--preserve-env=DEFENDER_PIN_ROOT,RUST_BACKTRACE,RUST_LOG,PATH";

/// Whether this process may do what root may.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// The words to put in front of a command that needs root: none for root itself, else sudo.
pub(crate) fn prefix() -> Result<Vec<String>> {
    if is_root() {
        return Ok(Vec::new());
    }
    match program::find("sudo") {
        Some(sudo) => Ok(vec![sudo.display().to_string(), KEEP.to_owned()]),
        None => bail!("this needs root, for it loads BPF programs; run it as root, or install sudo"),
    }
}

/// This program, run as root; sudo may ask for a password.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    Ok(command(prefix()?, program))
}

/// This program, run as root in the background, where nobody can be asked for a password: that is done here, before.
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
