//! Runs programs as root.

use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Result, bail};
use defender_build::program;

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

/// This program, run as root.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let prefix = prefix()?;
    let Some((sudo, options)) = prefix.split_first() else { return Ok(Command::new(program)) };
    let mut command = Command::new(sudo);
    command.args(options).arg(program);
    Ok(command)
}
