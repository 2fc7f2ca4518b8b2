//! `status`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    StatusArguments,
    output::{Format, width},
};
use crate::{
    dataplane::pins::PinRoot,
    problem::FAILED,
    report::{json, snapshot::Snapshot, text},
};

/// Succeeds if there are no faults; if it is repeated, at the end.
pub(super) fn status(root: &PinRoot, arguments: &StatusArguments) -> Result<ExitCode> {
    let format = arguments.output.format();
    let mut is_well = true;
    arguments.watch.run(format, || {
        let snapshot = Snapshot::take(root)?;
        is_well = snapshot.faults().is_empty();
        match format {
            Format::Json => Ok(json::status(&snapshot, arguments.watch.repeats())? + "\n"),
            Format::Text => Ok(text::status(&snapshot, width())),
        }
    })?;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
