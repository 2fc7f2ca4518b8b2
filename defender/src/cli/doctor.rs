//! `doctor`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::{
    DoctorArguments,
    output::{show, show_text, width},
    progress::Progress,
};
use crate::{
    dataplane::{pins::PinRoot, survey},
    doctor::{self, Scope, UnprotectableService},
    problem,
    report::snapshot::Snapshot,
};

pub(super) fn doctor(root: &PinRoot, arguments: &DoctorArguments) -> Result<ExitCode> {
    let options =
        Scope { interfaces: arguments.iface.clone(), ports: arguments.port.iter().copied().collect() };
    let progress = Progress::of("checking", 3, arguments.output.format());
    let features = survey::survey(root);
    progress.advance(1);
    let unprotectable = unprotectable(root);
    progress.advance(1);
    let report = doctor::run(&options, &features, &unprotectable)?;
    drop(progress);
    if arguments.output.is_json() {
        show(&(serde_json::to_string_pretty(&report).context("cannot write JSON")? + "\n"))?;
    } else {
        show_text(&report.text(width()))?;
    }
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
