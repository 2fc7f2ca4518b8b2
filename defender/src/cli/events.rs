//! `events`.

use std::time::Duration;

use anyhow::Result;

use super::{
    EventsArguments,
    output::{pause, show},
};
use crate::{
    dataplane::pins::PinRoot,
    report::event::{self, StoredEvent},
    state::journal::Journal,
};

/// Polling interval of `--follow`.
const POLL: Duration = Duration::from_millis(100);

pub(super) fn events(root: &PinRoot, arguments: &EventsArguments) -> Result<()> {
    let journal = Journal::of(root);
    if arguments.follow {
        return follow(&journal, arguments);
    }
    let kept = wanted(journal.lines()?, arguments);
    let last = &kept[kept.len().saturating_sub(arguments.limit as usize)..];
    show(&if arguments.output.is_json() {
        lines(last)
    } else {
        event::text(last.iter().map(|kept| &kept.record))
    })
}

fn follow(journal: &Journal, arguments: &EventsArguments) -> Result<()> {
    let mut follower = journal.follow()?;
    loop {
        let kept = wanted(follower.read_on()?, arguments);
        if !kept.is_empty() {
            show(&if arguments.text {
                kept.iter().map(|kept| event::line(&kept.record)).collect::<String>()
            } else {
                lines(&kept)
            })?;
        }
        pause(POLL);
    }
}

fn wanted(lines: Vec<String>, arguments: &EventsArguments) -> Vec<StoredEvent> {
    let wants = |kept: &StoredEvent| arguments.port.is_empty() || arguments.port.contains(&kept.record.port);
    lines.into_iter().filter_map(StoredEvent::read).filter(wants).collect()
}

fn lines(kept: &[StoredEvent]) -> String {
    kept.iter().map(|kept| kept.line.clone() + "\n").collect()
}
