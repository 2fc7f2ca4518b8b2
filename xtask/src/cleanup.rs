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

/// How often, and for how long, the aftermath of a killed test run is looked for.
const AFTERMATH_STEP: Duration = Duration::from_millis(500);
const AFTERMATH_STEPS: usize = 20;

/// Removes namespaces and pins whose processes are gone.
pub(crate) fn run() -> Result<()> {
    if privilege::is_root() {
        return leftovers::remove();
    }
    process::must(privilege::as_root(env::current_exe()?)?.args(["cleanup", "--as-root"]))
}

/// Cleans up when a test run ends, even if it is killed.
///
/// A second process outlives this one: it is out of reach of Ctrl-C, waits for this one's end and cleans up if that
/// comes without a farewell.
pub(crate) struct Guard(Child);

impl Guard {
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

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = run() {
            eprintln!("warning: cleaning up after the tests: {error:#}");
        }
        // The watcher has nothing left to do.
        let _ = self.0.stdin.take().map(|mut farewell| std::io::Write::write_all(&mut farewell, b"bye"));
        let _ = self.0.wait();
    }
}

/// What the second process does: cleans up if the first one is gone without a farewell.
pub(crate) fn after_parent() -> Result<()> {
    let mut farewell = Vec::new();
    std::io::stdin().read_to_end(&mut farewell)?;
    if farewell.is_empty() {
        // The tests got the same signal; they may still be about to end.
        for _ in 0..AFTERMATH_STEPS {
            leftovers::remove()?;
            thread::sleep(AFTERMATH_STEP);
        }
    }
    Ok(())
}
