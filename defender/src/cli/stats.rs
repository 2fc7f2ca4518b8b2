//! `stats`.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::Result;

use super::{
    StatsArguments,
    output::{pause, show},
};
use crate::{
    dataplane::pins::PinRoot,
    report::{json, snapshot::Snapshot, text},
};

/// Moves the cursor home and clears the screen below it.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) fn stats(root: &PinRoot, arguments: &StatsArguments) -> Result<()> {
    loop {
        let snapshot = Snapshot::take(root)?;
        let clear = arguments.watch.is_some() && !arguments.output.is_json() && io::stdout().is_terminal();
        if clear {
            show(CLEAR)?;
        }
        show(&if arguments.output.is_json() {
            json::stats(&snapshot, arguments.watch.is_some())? + "\n"
        } else {
            text::stats(&snapshot)
        })?;
        let Some(seconds) = arguments.watch else { return Ok(()) };
        pause(Duration::from_secs(seconds.into()));
    }
}
