//! `status` and `stats`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{StatsArguments, StatusArguments};
use crate::{
    dataplane::pins::PinRoot,
    report::{json, snapshot::Snapshot, text},
};

/// Moves the cursor home and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) fn status(root: &PinRoot, arguments: &StatusArguments) -> Result<()> {
    let snapshot = Snapshot::take(root)?;
    show(&if arguments.json { json::status(&snapshot)? + "\n" } else { text::status(&snapshot) })
}

pub(super) fn stats(root: &PinRoot, arguments: &StatsArguments) -> Result<()> {
    loop {
        let snapshot = Snapshot::take(root)?;
        let clear = arguments.watch.is_some() && !arguments.json && io::stdout().is_terminal();
        if clear {
            show(CLEAR)?;
        }
        show(&if arguments.json {
            json::stats(&snapshot, arguments.watch.is_some())? + "\n"
        } else {
            text::stats(&snapshot)
        })?;
        let Some(seconds) = arguments.watch else { return Ok(()) };
        thread::sleep(Duration::from_secs(seconds.into()));
    }
}

/// Who stops reading, as `head` does, has seen enough.
pub(super) fn show(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("cannot write the report"),
    }
}
