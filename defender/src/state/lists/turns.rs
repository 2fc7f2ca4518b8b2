//! Many changes, a few at a time: who else needs the write lock gets it in between.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use defender_common::abi;

use crate::{
    dataplane::{maps::Maps, pins::PinRoot},
    host::wall_clock,
    model::{
        lists::{
            entry::List,
            file::FileLists,
            note::Notes,
            plan::{self, Addition, Change, ListCounts, LoadSummary, Removal},
        },
        prefix::Cidr,
    },
    state::{
        directory::StateDirectory,
        lists::{Identity, Lists, entries, in_order, look_up, notes, without_note},
        lock::WriteLock,
    },
};

/// So many changes are made at a time: some ten milliseconds.
const SLICE: usize = 4096;
/// How long the lock is left to others then.
const PAUSE: Duration = Duration::from_millis(4);

/// Called with how many changes are made, and of how many.
pub type Progress = dyn Fn(usize, usize) + Send;

/// The lists of what is attached, for who changes many prefixes.
pub struct Turns {
    root: PinRoot,
    directory: StateDirectory,
    maps: Maps,
    progress: Box<Progress>,
}

/// What has expired, and what is to come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// How much was taken out.
    pub counts: ListCounts,
    /// The first prefixes of that.
    pub first: Vec<Cidr>,
    /// When the next entry expires, in milliseconds since the epoch.
    pub next: Option<u64>,
    /// The notes that this was read from.
    pub notes: Option<Identity>,
}

impl Expired {
    fn add(&mut self, gone: &[Change]) {
        self.counts.add(ListCounts::of(gone.iter().filter_map(|change| change.before)));
        let room = plan::NAMED - self.first.len();
        self.first.extend(gone.iter().take(room).map(|change| change.prefix));
    }
}

impl Turns {
    /// Those below `root`.
    pub fn of(root: &PinRoot) -> Result<Self> {
        root.require_attached()?;
        let maps = Maps::open(root).context("cannot change the lists of the running datapath")?;
        Ok(Self {
            root: root.clone(),
            directory: StateDirectory::of(root),
            maps,
            progress: Box::new(|_, _| ()),
        })
    }

    /// Shows how far it is.
    pub fn showing(self, progress: Box<Progress>) -> Self {
        Self { progress, ..self }
    }

    /// Puts prefixes on a list, by hand.
    pub fn add(&mut self, list: List, prefixes: &[Cidr], notes: Notes) -> Result<Addition> {
        let addition = plan::add(list, &look_up(&self.maps, prefixes)?, &notes);
        let before = self.require_room(&addition.changes)?;
        let noted = match notes.is_empty() {
            true => notes::Before::default(),
            false => self.turn(|lists| notes::add(lists.directory, notes)).context("nothing was changed")?,
        };
        if let Err(error) = self.apply(&addition.changes, before) {
            self.turn(|lists| notes::restore(lists.directory, noted))?;
            return Err(error);
        }
        self.forget_notes(&addition.changes)?;
        Ok(addition)
    }

    /// Takes prefixes off a list.
    pub fn remove(&mut self, list: List, prefixes: &[Cidr]) -> Result<Removal> {
        let removal = plan::remove(list, &look_up(&self.maps, prefixes)?);
        self.remove_planned(removal)
    }

    /// Takes everything off a list that is there now.
    pub fn flush(&mut self, list: List) -> Result<Removal> {
        let removal = plan::flush(list, &entries(&self.maps)?);
        self.remove_planned(removal)
    }

    fn remove_planned(&mut self, removal: Removal) -> Result<Removal> {
        let before = self.require_room(&removal.changes)?;
        self.apply(&removal.changes, before)?;
        self.forget_notes(&removal.changes)?;
        Ok(removal)
    }

    /// Replaces what came from the configuration file by what is in it now.
    pub fn load(&mut self, file: FileLists) -> Result<LoadSummary> {
        let load = plan::load(&entries(&self.maps)?, file, wall_clock::now())?;
        let before = self.require_room(&load.changes)?;
        if !load.notes.is_empty() {
            self.turn(|lists| {
                lists.note_if_possible(load.notes);
                Ok(())
            })?;
        }
        self.apply(&load.changes, before)?;
        self.forget_notes(&load.changes)?;
        Ok(load.summary)
    }

    /// Takes out what has expired.
    pub fn expire(&mut self) -> Result<Expired> {
        let mut reader = notes::ExpiryReader::at(wall_clock::now());
        let expiries = reader.read(&self.directory)?;
        let mut expired = Expired::default();
        for slice in expiries.due.chunks(SLICE) {
            expired.add(&self.turn(|lists| lists.expire(slice, &mut reader))?);
        }
        if !expiries.due.is_empty() {
            self.turn(|lists| reader.forget(lists.directory, &expiries))?;
        }
        expired.next = reader.read(&self.directory)?.next;
        expired.notes = reader.identity();
        Ok(expired)
    }

    fn forget_notes(&mut self, changes: &[Change]) -> Result<()> {
        if without_note(changes).is_empty() {
            return Ok(());
        }
        self.turn(|lists| {
            lists.forget_notes(changes);
            Ok(())
        })
    }

    /// Fails where there is no room for all changes; returns how many prefixes there are.
    fn require_room(&mut self, changes: &[Change]) -> Result<ListCounts> {
        let before = self.turn(|lists| lists.counts())?;
        let (after, most) = (before.after(changes).total(), u64::from(abi::MOST_PREFIXES));
        if after > most {
            bail!("the lists hold at most {most} prefixes, and this would make {after}; nothing was changed");
        }
        Ok(before)
    }

    /// Makes all changes, or none, but for prefixes that somebody else changes meanwhile.
    fn apply(&mut self, changes: &[Change], before: ListCounts) -> Result<()> {
        let changes = in_order(changes, before);
        for (number, slice) in changes.chunks(SLICE).enumerate() {
            if let Err(error) = self.turn(|lists| lists.apply_to_unchanged(slice)) {
                for slice in changes[..number * SLICE].chunks(SLICE).rev() {
                    let back: Vec<Change> = slice.iter().rev().map(Change::undone).collect();
                    self.turn(|lists| lists.apply_to_unchanged(&back))?;
                }
                return Err(error.context("nothing was changed"));
            }
            (self.progress)(changes.len().min((number + 1) * SLICE), changes.len());
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
