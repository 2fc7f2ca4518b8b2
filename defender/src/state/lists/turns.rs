//! Many changes, a few at a time: who else needs the write lock gets it in between.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use defender_common::abi;

use crate::{
    dataplane::{maps::Maps, pins::PinRoot},
    model::{
        lists::{
            entry::List,
            plan::{self, Addition, Change, LoadSummary},
        },
        prefix::Cidr,
    },
    state::{
        directory::StateDirectory,
        lists::{Lists, entries, in_order, look_up},
        lock::WriteLock,
    },
};

/// So many changes are made at a time: some ten milliseconds.
const SLICE: usize = 4096;
/// How long the lock is left to others then.
const PAUSE: Duration = Duration::from_millis(4);

/// The lists of what is attached, for who changes many prefixes.
pub struct Turns {
    root: PinRoot,
    directory: StateDirectory,
    maps: Maps,
}

impl Turns {
    /// Those below `root`.
    pub fn of(root: &PinRoot) -> Result<Self> {
        root.require_attached()?;
        let maps = Maps::open(root).context("cannot change the lists of the running datapath")?;
        Ok(Self { root: root.clone(), directory: StateDirectory::of(root), maps })
    }

    /// Puts prefixes on a list, by hand.
    pub fn add(&mut self, list: List, prefixes: &[Cidr]) -> Result<Addition> {
        let addition = plan::add(list, &look_up(&self.maps, prefixes)?);
        self.apply(&addition.changes)?;
        Ok(addition)
    }

    /// Replaces what came from the configuration file by what is in it now.
    pub fn load(&mut self, allow: &[Cidr], deny: &[Cidr]) -> Result<LoadSummary> {
        let (changes, summary) = plan::load(&entries(&self.maps)?, allow, deny)?;
        self.apply(&changes)?;
        Ok(summary)
    }

    /// Makes all changes, or none, but for prefixes that somebody else changes meanwhile.
    fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let before = self.turn(|lists| lists.counts())?;
        let (after, most) = (before.after(changes).total(), u64::from(abi::MOST_PREFIXES));
        if after > most {
            bail!("the lists hold at most {most} prefixes, and this would make {after}; nothing was changed");
        }
        let changes = in_order(changes, before);
        for (number, slice) in changes.chunks(SLICE).enumerate() {
            if let Err(error) = self.turn(|lists| lists.apply_to_unchanged(slice)) {
                for slice in changes[..number * SLICE].chunks(SLICE).rev() {
                    let back: Vec<Change> = slice.iter().rev().map(Change::undone).collect();
                    self.turn(|lists| lists.apply_to_unchanged(&back))?;
                }
                return Err(error.context("nothing was changed"));
            }
        }
        Ok(())
    }

    /// Does something while nobody else may, and gives others a moment.
    fn turn<T>(&mut self, change: impl FnOnce(&mut Lists<'_>) -> Result<T>) -> Result<T> {
        self.root.require_attached()?;
        let write = WriteLock::take(&self.directory)?;
        // Who had the lock before may have detached.
        self.root.require_attached()?;
        let done = change(&mut Lists::of(&mut self.maps, &self.directory))?;
        drop(write);
        thread::sleep(PAUSE);
        Ok(done)
    }
}
