//! `cargo xtask cleanup`: removes what tests left behind.

use std::{
    env,
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{leftovers, privilege, process};

/// How often, and for how long, to look for remains of a killed test run.
const AFTERMATH_STEP: Duration = Duration::from_millis(500);
const AFTERMATH_STEPS: usize = 20;

/// Removes namespaces and pins of processes that no longer exist.
pub(crate) fn run() -> Result<()> {
    if privilege::is_root() {
        return leftovers::remove();
    }
    process::must(privilege::as_root(env::current_exe()?)?.args(["cleanup", "--as-root"]))
}

/// Cleans up when a test run ends, even if it is killed.
///
/// A second process, out of reach of Ctrl-C, waits for this one's end. It cleans up if this one dies
/// without sending a message.
pub(crate) struct CleanupGuard(Child);

impl CleanupGuard {
    pub(crate) fn new() -> Result<Self> {
        let watcher = privilege::as_root_unasked(env::current_exe()?)?
            .args(["cleanup", "--as-root", "--after-parent"])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start the process that cleans up after tests")?;
        Ok(Self(watcher))
    }
}

impl Drop for CleanupGuard {
    fn drop(&mut self) {
        if let Err(error) = run() {
            eprintln!("warning: cleaning up after the tests: {error:#}");
        }
        // The watcher has nothing left to do.
        let _ = self.0.stdin.take().map(|mut message| std::io::Write::write_all(&mut message, b"bye"));
        let _ = self.0.wait();
    }
}

/// The second process: cleans up if the first one dies without sending a message.
pub(crate) fn after_parent() -> Result<()> {
    let mut message = Vec::new();
    std::io::stdin().read_to_end(&mut message)?;
    if message.is_empty() {
        // The tests received the same signal and may still be exiting.
        for _ in 0..AFTERMATH_STEPS {
            leftovers::remove()?;
            thread::sleep(AFTERMATH_STEP);
        }
    }
    Ok(())
}
