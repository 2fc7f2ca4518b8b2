//! Finds and asks other programs.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

/// Finds a program where `rustup run` will let the compiler look: in Cargo's own directory, then in PATH.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = cargo_bin().into_iter().chain(env::split_paths(&path));
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// A command for this program, with its whole path if it is found.
#[must_use]
pub fn command(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| name.into()))
}

/// What a run of this command prints, if it succeeds.
pub fn stdout(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where Cargo puts the programs it installs.
fn cargo_bin() -> Option<PathBuf> {
    let directory = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cargo = directory("CARGO_HOME").or_else(|| Some(directory("HOME")?.join(".cargo")))?;
    Some(cargo.join("bin"))
}
