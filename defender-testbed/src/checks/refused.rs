//! A kernel that cannot run the defender.

use std::fs;

use anyhow::{Result, ensure};
use defender_testbed::{
    controller::{STATE_DIRECTORY, fresh_pin_root, state_directory},
    topology::{Options, SERVER_INTERFACE, Topology},
};

use super::{CheckMachine, CheckOutcome};

/// `run` exits with one line that names the kernel, and leaves nothing behind.
pub(crate) fn refused(machine: &CheckMachine) -> Result<CheckOutcome> {
    let bed = Topology::with(&Options { client_end: None, ..Options::default() })?;
    let pins = fresh_pin_root();
    let mut run = bed.server.command(&machine.defender)?;
    run.env(STATE_DIRECTORY, state_directory(&pins));
    let output = run.args(["run", "--iface", SERVER_INTERFACE, "--pin-root"]).arg(&pins).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(!output.status.success(), "it runs");
    ensure!(lines.len() == 1, "it says this in {} lines: {text}", lines.len());
    ensure!(text.contains(release.trim()), "it does not name the kernel: {text}");
    ensure!(!pins.exists(), "it left {}", pins.display());
    Ok(CheckOutcome::In(format!("refused: {}", text.trim())))
}
