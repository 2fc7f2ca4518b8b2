//! What `top` reads: a snapshot over a time, and the events that came since the last one.

use std::time::Duration;

use anyhow::Result;

use crate::{
    dataplane::{maps::Maps, pins::PinRoot},
    host::wall_clock,
    model::event::Record,
    report::{event::StoredEvent, open_maps::OpenMaps, snapshot::Snapshot},
    state::journal::{Follower, Journal},
};

/// One reading.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When, in milliseconds since the epoch.
    pub time: u64,
    /// What was found, or why nothing was.
    pub found: Result<Snapshot, String>,
    /// Events since the last reading; at first, all that are kept.
    pub events: Vec<Record>,
}

/// Reads one reading after the other.
pub struct Reader {
    root: PinRoot,
    maps: OpenMaps<Maps>,
    events: Follower,
    past: Vec<String>,
}

impl Reader {
    /// Begins with the events so far.
    pub fn new(root: &PinRoot) -> Result<Self> {
        let journal = Journal::of(root);
        let mut events = journal.follow()?;
        let mut past = journal.lines()?;
        // What was added between the two is in both, or in the second alone.
        let added: Vec<String> = events.read_on()?.into_iter().filter(|line| !past.contains(line)).collect();
        past.extend(added);
        Ok(Self { root: root.clone(), maps: OpenMaps::default(), events, past })
    }

    /// Reads for `time`. A failure is part of the reading: the next one may succeed.
    pub fn read(&mut self, time: Duration) -> Reading {
        let found = self.snapshot(time).map_err(|error| format!("{error:#}"));
        let mut lines = std::mem::take(&mut self.past);
        // Events are a help, not what the view is for.
        lines.extend(self.events.read_on().unwrap_or_default());
        let events = lines.into_iter().filter_map(StoredEvent::read).map(|stored| stored.record).collect();
        Reading { time: wall_clock::now(), found, events }
    }

    fn snapshot(&mut self, time: Duration) -> Result<Snapshot> {
        self.root.require_attached()?;
        Snapshot::over(&self.root, self.maps.of(&self.root, Maps::open)?, time)
    }
}
