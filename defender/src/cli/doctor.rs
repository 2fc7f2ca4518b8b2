//! `doctor`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::{DoctorArguments, output::show};
use crate::{
    dataplane::{pins::PinRoot, survey},
    doctor::{self, Scope, UnprotectableService},
    problem,
    report::snapshot::Snapshot,
};

pub(super) fn doctor(root: &PinRoot, arguments: &DoctorArguments) -> Result<ExitCode> {
    let options =
        Scope { interfaces: arguments.iface.clone(), ports: arguments.port.iter().copied().collect() };
    let report = doctor::run(&options, &survey::survey(root), &unprotectable(root))?;
    let text = if arguments.output.is_json() {
        serde_json::to_string_pretty(&report).context("cannot write JSON")?
    } else {
        report.to_string()
    };
    show(&(text + "\n"))?;
    Ok(if report.failed() { ExitCode::from(problem::FAILED) } else { ExitCode::SUCCESS })
}

/// Services that a running instance cannot protect. Empty if none runs or its maps are not readable.
fn unprotectable(root: &PinRoot) -> Vec<UnprotectableService> {
    let Ok(snapshot) = Snapshot::take(root) else { return Vec::new() };
    let services = snapshot.services.into_iter();
    services
        .filter_map(|service| {
            Some(UnprotectableService { port: service.endpoint.port, reason: service.unprotectable? })
        })
        .collect()
}
