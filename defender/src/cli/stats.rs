//! `stats`.

use anyhow::Result;

use super::{
    StatsArguments,
    output::{Format, width},
};
use crate::{
    dataplane::pins::PinRoot,
    report::{json, snapshot::Snapshot, text},
};

pub(super) fn stats(root: &PinRoot, arguments: &StatsArguments) -> Result<()> {
    let format = arguments.output.format();
    let mut before: Option<Snapshot> = None;
    arguments.watch.run(format, || {
        let mut snapshot = Snapshot::take(root)?;
        if let Some(before) = &before {
            snapshot.measure_since(before);
        }
        let report = match format {
            Format::Json => json::stats(&snapshot, arguments.watch.repeats())? + "\n",
            Format::Text => text::stats(&snapshot, before.as_ref(), width()),
        };
        before = Some(snapshot);
        Ok(report)
    })
}
