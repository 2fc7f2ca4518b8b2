//! `status`.

use std::process::ExitCode;

use anyhow::Result;

use super::{StatusArguments, output::show};
use crate::{
    dataplane::pins::PinRoot,
    problem::FAILED,
    report::{json, snapshot::Snapshot, text},
};

/// Succeeds if there are no faults.
pub(super) fn status(root: &PinRoot, arguments: &StatusArguments) -> Result<ExitCode> {
    let snapshot = Snapshot::take(root)?;
    show(&if arguments.output.is_json() {
        json::status(&snapshot)? + "\n"
    } else {
        text::status(&snapshot)
    })?;
    Ok(if snapshot.faults().is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
