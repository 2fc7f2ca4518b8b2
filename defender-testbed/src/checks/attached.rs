//! The defender starts.

use anyhow::{Context as _, Result, ensure};
use defender_testbed::topology::{SERVER_INTERFACE, Topology};
use serde_json::Value;

use super::{
    CheckMachine, CheckOutcome,
    scene::{CheckScene, eventually, services, xdp_mode},
};

/// `doctor` reports no failure.
pub(crate) fn doctor(machine: &CheckMachine) -> Result<CheckOutcome> {
    let scene = CheckScene::new(Topology::new()?)?;
    let mut doctor = scene.bed.server.command(&machine.defender)?;
    let output = doctor.args(["doctor", "--json", "--iface", SERVER_INTERFACE]).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("doctor wrote no report ({}): {}", output.status, complaint.trim()))?;
    let checks = report["checks"].as_array().context("no checks in the report")?;
    let bad = checks.iter().filter(|check| ["fail", "unknown"].iter().any(|bad| check["status"] == *bad));
    let bad: Vec<_> = bad.map(|check| format!("{}: {}", check["name"], check["found"])).collect();
    ensure!(bad.is_empty(), "{}", bad.join(", "));
    ensure!(output.status.success(), "doctor ended with {}", output.status);
    Ok(CheckOutcome::Fine)
}

/// It attaches natively to a veth, and finds the listeners.
pub(crate) fn run(machine: &CheckMachine) -> Result<CheckOutcome> {
    let scene = CheckScene::new(Topology::new()?)?;
    let defender = scene.defend(machine, &["--mode", "always"])?;
    eventually("both services are challenged", || {
        Ok(services(&defender)?.iter().all(|service| service["active"] == true))
    })?;
    let mode = xdp_mode(&defender)?;
    ensure!(mode == "native", "it is attached to a veth in mode {mode}");
    Ok(CheckOutcome::In(mode))
}
