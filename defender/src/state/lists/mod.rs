//! The lists of prefixes whose SYNs always pass or are always dropped.
//!
//! They are in the map [`PREFIXES`](defender_common::abi::map::PREFIXES) alone, and last until everything is detached; what is
//! noted about some of them is in a file. Who changes them holds the write lock.

mod notes;
pub mod turns;

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Result, bail};
use defender_common::abi;

use crate::{
    dataplane::maps::Maps,
    files,
    host::wall_clock,
    model::{
        lists::{
            entry::{Entry, List, Listing, Origin},
            file::FileLists,
            note::Notes,
            plan::{self, Change, ListCounts, LoadSummary},
        },
        prefix::Cidr,
    },
    state::{directory::StateDirectory, json},
};

pub use self::notes::Identity;

/// The lists, for who holds the write lock.
pub struct Lists<'a> {
    maps: &'a mut Maps,
    directory: &'a StateDirectory,
}

/// All that is on the lists, by prefix.
pub fn entries(maps: &Maps) -> Result<Vec<Entry>> {
    let entry =
        |(prefix, bits)| Entry { prefix: Cidr::from_mapped(prefix), listing: Listing::from_abi(bits) };
    let mut entries: Vec<Entry> = maps.prefixes.all()?.into_iter().map(entry).collect();
    // What is removed meanwhile makes the kernel begin anew.
    entries.sort_by_key(|entry| entry.prefix);
    entries.dedup_by_key(|entry| entry.prefix);
    Ok(entries)
}

/// What is noted about entries.
pub fn notes_of(entries: &[Entry], directory: &StateDirectory) -> Result<Notes> {
    if entries.iter().any(|entry| entry.listing.noted) {
        notes::read(directory)
    } else {
        Ok(Notes::default())
    }
}

/// Which file has the notes; it changes with them. None: there are none.
pub fn notes_identity(directory: &StateDirectory) -> Option<Identity> {
    notes::identity(directory)
}

/// How many there are, without counting them where that is known.
pub fn counts(maps: &Maps, directory: &StateDirectory) -> Result<ListCounts> {
    match json::read(&directory.lists())? {
        Some(counts) => Ok(counts),
        None => Ok(ListCounts::of(entries(maps)?.into_iter().map(|entry| entry.listing))),
    }
}

impl<'a> Lists<'a> {
    /// Those in `maps`.
    pub fn of(maps: &'a mut Maps, directory: &'a StateDirectory) -> Self {
        Self { maps, directory }
    }

    /// Replaces what came from the configuration file by what is in it now.
    pub fn load_from_file(&mut self, file: FileLists) -> Result<LoadSummary> {
        let load = plan::load(&entries(self.maps)?, file, wall_clock::now())?;
        self.note_if_possible(load.notes);
        self.apply(&load.changes)?;
        self.forget_notes(&load.changes);
        Ok(load.summary)
    }

    /// Where notes cannot be kept, the lists count nevertheless.
    fn note_if_possible(&self, notes: Notes) {
        if let Err(error) = notes::add(self.directory, notes) {
            log::warn!("{error:#}: comments and times of expiry of the configuration file are left out");
        }
    }

    /// Forgets what was noted about entries that have no note any more.
    fn forget_notes(&self, changes: &[Change]) {
        if let Err(error) = notes::forget(self.directory, &without_note(changes)) {
            log::warn!("{error:#}: notes of entries that are gone take up room there");
        }
    }

    /// Takes out those of `due` whose time has come. They may have changed since somebody read when.
    fn expire(&mut self, due: &[Cidr], reader: &mut notes::ExpiryReader) -> Result<Vec<Change>> {
        let expiries = reader.read(self.directory)?;
        let due: Vec<Cidr> = due.iter().filter(|prefix| expiries.is_due(prefix)).copied().collect();
        let gone = |(prefix, before): (Cidr, Option<Listing>)| {
            before.filter(|before| before.noted).map(|_| Change { prefix, before, after: None })
        };
        let changes: Vec<Change> = look_up(self.maps, &due)?.into_iter().filter_map(gone).collect();
        self.apply(&changes)?;
        Ok(changes)
    }

    /// Counts again where the count is missing: nobody is changing the lists, so someone has removed it.
    pub fn repair_counts(&mut self) -> Result<()> {
        if self.directory.lists().is_file() {
            return Ok(());
        }
        let entries = entries(self.maps)?;
        json::write(&self.directory.lists(), &ListCounts::of(entries.iter().map(|entry| entry.listing)))
    }

    /// Counts what a session before has left, and takes out whom it let in as administrators, but for `administrator`.
    pub fn adopt(&mut self, administrator: Option<IpAddr>) -> Result<()> {
        let entries = entries(self.maps)?;
        json::write(&self.directory.lists(), &ListCounts::of(entries.iter().map(|entry| entry.listing)))?;
        let stays = administrator.map(Cidr::from);
        let stale = entries
            .iter()
            .filter(|entry| entry.listing.origin == Origin::Session && Some(entry.prefix) != stays)
            .map(|entry| Change { prefix: entry.prefix, before: Some(entry.listing), after: None });
        self.apply(&stale.collect::<Vec<_>>())
    }

    /// Puts who administers this host on the allow list, unless a list has that address already.
    pub fn admit(&mut self, administrator: IpAddr) -> Result<Admission> {
        let prefix = Cidr::from(administrator);
        if let Some(bits) = self.maps.prefixes.longest(prefix.mapped().0)? {
            return Ok(Admission::Listed(Entry::found(administrator, bits)));
        }
        let after = Some(Listing::new(List::Allow, Origin::Session));
        self.apply(&[Change { prefix, before: None, after }])?;
        Ok(Admission::Done)
    }

    /// How many there are.
    fn counts(&self) -> Result<ListCounts> {
        counts(self.maps, self.directory)
    }

    /// Makes those changes whose prefixes are what they were when the changes were planned.
    fn apply_to_unchanged(&mut self, changes: &[Change]) -> Result<()> {
        let prefixes: Vec<Cidr> = changes.iter().map(|change| change.prefix).collect();
        let found = look_up(self.maps, &prefixes)?;
        let is_unchanged = |change: &&Change| found.get(&change.prefix) == Some(&change.before);
        self.apply(&changes.iter().filter(is_unchanged).copied().collect::<Vec<_>>())
    }

    /// Makes all changes, or none.
    fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let before = self.counts()?;
        let after = before.after(changes);
        let most = u64::from(abi::MOST_PREFIXES);
        if after.total() > most {
            bail!(
                "the lists hold at most {most} prefixes, and this would make {}; nothing was changed",
                after.total()
            );
        }
        // Who is stopped halfway leaves no count.
        files::remove(&self.directory.lists())?;
        let written = self.write(&in_order(changes, before));
        self.write_flag()?;
        json::write(&self.directory.lists(), if written.is_ok() { &after } else { &before })?;
        written
    }

    fn write(&mut self, changes: &[Change]) -> Result<()> {
        for (done, change) in changes.iter().enumerate() {
            if let Err(error) = self.set(change.prefix, change.after) {
                for change in changes[..done].iter().rev() {
                    self.set(change.prefix, change.before)?;
                }
                return Err(error.context("nothing was changed"));
            }
        }
        Ok(())
    }

    fn set(&mut self, prefix: Cidr, listing: Option<Listing>) -> Result<()> {
        match listing {
            Some(listing) => self.maps.prefixes.insert(prefix.mapped(), listing.to_abi()),
            None => self.maps.prefixes.remove(prefix.mapped()),
        }
    }

    /// The datapath looks at the lists only if there is something on them.
    fn write_flag(&mut self) -> Result<()> {
        let config = self.maps.config.get(0)?;
        let flag = if self.maps.prefixes.is_empty()? { 0 } else { abi::CONFIG_PREFIXES };
        let flags = config.flags & !abi::CONFIG_PREFIXES | flag;
        if flags == config.flags {
            return Ok(());
        }
        self.maps.config.set(0, abi::Config { flags, ..config })
    }
}

/// What the maps say about prefixes.
fn look_up(maps: &Maps, prefixes: &[Cidr]) -> Result<BTreeMap<Cidr, Option<Listing>>> {
    let look_up = |prefix: &Cidr| {
        let bits = maps.prefixes.get(prefix.mapped())?;
        Ok((*prefix, bits.map(Listing::from_abi)))
    };
    prefixes.iter().map(look_up).collect()
}

/// Prefixes whose entries have had a note, and have none any more.
fn without_note(changes: &[Change]) -> Vec<Cidr> {
    let has_note = |listing: Option<Listing>| listing.is_some_and(|listing| listing.noted);
    let lost = changes.iter().filter(|change| has_note(change.before) && !has_note(change.after));
    lost.map(|change| change.prefix).collect()
}

/// What became of who administers this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Is on the allow list now.
    Done,
    /// Was on a list already.
    Listed(Entry),
}

/// What is new comes first, so that there is no moment without protection; unless there is no room for both.
fn in_order(changes: &[Change], before: ListCounts) -> Vec<Change> {
    let new = changes.iter().filter(|change| change.before.is_none()).count() as u64;
    let new_first = before.total() + new <= abi::MOST_PREFIXES.into();
    let mut changes = changes.to_vec();
    changes.sort_by_key(|change| change.after.is_none() == new_first);
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_comes_first_if_there_is_room() {
        let change = |text: &str, new: bool| {
            let listing = Some(Listing::new(List::Deny, Origin::File));
            let (before, after) = if new { (None, listing) } else { (listing, None) };
            Change { prefix: text.parse().expect(text), before, after }
        };
        let [old, new] = [change("10.0.0.1", false), change("10.0.0.2", true)];
        assert_eq!(in_order(&[old, new], ListCounts { allowed: 0, denied: 1 }), [new, old]);
        assert_eq!(
            in_order(&[new, old], ListCounts { allowed: 0, denied: abi::MOST_PREFIXES.into() }),
            [old, new]
        );
    }
}
