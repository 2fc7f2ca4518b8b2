//! What a command does first where pins are missing that somebody has removed: a process in control pins again what it has
//! open, and maps are found by the programs that use them.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    dataplane::{detach, pins::PinRoot, restore},
    problem::Problem,
    state::{directory::StateDirectory, lock::ControllerLock},
};

/// How long a process in control is given: it looks every second.
const PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);

/// Brings back what can be. Fails where something is attached that cannot be reached, and says what to do.
pub fn recover(root: &PinRoot) -> Result<()> {
    if root.interfaces()?.is_empty() {
        wait_for_controller(root)?;
    }
    for name in restore::maps(root, &[])? {
        log::warn!("{}: removed by another process; restored", root.map(name).display());
    }
    Ok(())
}

/// Waits until the process in control, if one is, has pinned again what was removed.
fn wait_for_controller(root: &PinRoot) -> Result<()> {
    let Some(pid) = ControllerLock::holder(&StateDirectory::of(root)) else { return Ok(()) };
    if detach::links_of(pid).is_empty() {
        // It is about to attach, or has just detached.
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    while root.interfaces()?.is_empty() {
        if Instant::now() > deadline || !root.is_on_bpffs() {
            return Err(unreachable(root, pid).into());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn unreachable(root: &PinRoot, pid: u32) -> Problem {
    let path = root.path().display();
    let remedy = if root.is_on_bpffs() {
        format!("it cannot restore them: continue it (`kill -CONT {pid}`) or end it")
    } else {
        format!("mount the BPF file system there (`mount -t bpf bpf DIR`), and process {pid} pins them again")
    };
    Problem::InUse(format!(
        "process {pid} defends this host, but its pins below {path} are gone: {remedy}; `defender detach` detaches"
    ))
}
