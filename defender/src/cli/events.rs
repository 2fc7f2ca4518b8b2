//! `events`.

use std::time::Duration;

use anyhow::Result;

use super::{
    EventsArguments,
    output::{painted, pause, show, show_text, width},
};
use crate::{
    dataplane::pins::PinRoot,
    host::wall_clock,
    model::timestamp::{Moment, rfc3339},
    problem::Problem,
    report::event::{self, StoredEvent},
    state::journal::Journal,
};

/// Polling interval of `--follow`.
const POLL: Duration = Duration::from_millis(100);
/// How many events are shown unless a number or a time is given.
const USUAL: usize = 50;

pub(super) fn events(root: &PinRoot, arguments: &EventsArguments) -> Result<()> {
    let wanted = Wanted::of(arguments)?;
    let journal = Journal::of(root);
    if arguments.follow { follow(&journal, arguments, &wanted) } else { list(&journal, arguments, &wanted) }
}

fn list(journal: &Journal, arguments: &EventsArguments, wanted: &Wanted<'_>) -> Result<()> {
    let kept = wanted.among(journal.lines()?);
    let usual = if wanted.since.is_none() && wanted.until.is_none() { USUAL } else { usize::MAX };
    let limit = arguments.limit.map_or(usual, |limit| limit as usize);
    let last = &kept[kept.len().saturating_sub(limit)..];
    if arguments.output.is_json() {
        show(&lines(last))
    } else {
        show_text(&event::text(last.iter().map(|kept| &kept.record), width()))
    }
}

fn follow(journal: &Journal, arguments: &EventsArguments, wanted: &Wanted<'_>) -> Result<()> {
    let (past, mut follower) = journal.follow_on()?;
    let mut next = if wanted.since.is_some() { past } else { Vec::new() };
    loop {
        let kept = wanted.among(next);
        if !kept.is_empty() && arguments.output.is_json() {
            show(&lines(&kept))?;
        } else if !kept.is_empty() {
            show(&painted(&kept.iter().map(|kept| event::line(&kept.record)).collect::<String>()))?;
        }
        pause(POLL, None);
        next = follower.read_on()?;
    }
}

/// Which events are shown.
struct Wanted<'a> {
    ports: &'a [u16],
    /// As events have their time; it sorts as text.
    since: Option<String>,
    until: Option<String>,
}

impl<'a> Wanted<'a> {
    fn of(arguments: &'a EventsArguments) -> Result<Self, Problem> {
        let now = wall_clock::now();
        let time = |moment: Moment| rfc3339(moment.before(now));
        let (since, until) = (arguments.since.map(time), arguments.until.map(time));
        if let (Some(since), Some(until)) = (&since, &until)
            && since > until
        {
            return Err(Problem::Usage(format!("--since {since} is later than --until {until}")));
        }
        Ok(Self { ports: &arguments.port, since, until })
    }

    fn among(&self, lines: Vec<String>) -> Vec<StoredEvent> {
        lines.into_iter().filter_map(StoredEvent::read).filter(|kept| self.wants(kept)).collect()
    }

    fn wants(&self, kept: &StoredEvent) -> bool {
        let time = &kept.record.time;
        (self.ports.is_empty() || self.ports.contains(&kept.record.port))
            && self.since.as_ref().is_none_or(|since| since <= time)
            && self.until.as_ref().is_none_or(|until| time <= until)
    }
}

fn lines(kept: &[StoredEvent]) -> String {
    kept.iter().map(|kept| kept.line.clone() + "\n").collect()
}
