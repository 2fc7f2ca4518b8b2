//! The file of what is noted about entries of the lists.
//!
//! A note counts if the map says that its entry has one. So notes are written before their entries and removed after them, and
//! whoever is stopped in between leaves nothing wrong.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use defender_common::abi::MOST_PREFIXES;

use crate::{
    files,
    model::{
        lists::note::{LONGEST_COMMENT, Note, Notes},
        prefix::Cidr,
    },
    state::directory::StateDirectory,
};

/// The file has no more bytes than the longest notes of as many prefixes as there may be.
const MOST_BYTES: u64 = MOST_PREFIXES as u64 * (128 + 4 * LONGEST_COMMENT as u64);

/// What tells a file from the one that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

/// What was noted before, to be put back if something fails.
pub(super) type Before = Vec<(Cidr, Option<Note>)>;

/// The file there is; none: there is none.
pub(super) fn identity(directory: &StateDirectory) -> Option<Identity> {
    let found = directory.notes().symlink_metadata().ok()?;
    Some(Identity { inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()), size: found.size() })
}

/// All notes. A damaged file is set aside, with a warning.
pub(super) fn read(directory: &StateDirectory) -> Result<Notes> {
    let parse = |text: &str| serde_json::from_str(text).map_err(|error| error.to_string());
    Ok(files::read_up_to(&directory.notes(), MOST_BYTES, parse)?.unwrap_or_default())
}

/// Adds notes, in place of those that the same prefixes have. Returns what these were.
pub(super) fn add(directory: &StateDirectory, new: Notes) -> Result<Before> {
    if new.is_empty() {
        return Ok(Before::default());
    }
    let mut notes = read(directory)?;
    let before = new.prefixes().map(|prefix| (*prefix, notes.get(prefix).cloned())).collect();
    notes.extend(new);
    write(directory, &notes)?;
    Ok(before)
}

/// Puts back what was there before.
pub(super) fn restore(directory: &StateDirectory, before: Before) -> Result<()> {
    if before.is_empty() {
        return Ok(());
    }
    let mut notes = read(directory)?;
    before.into_iter().for_each(|(prefix, note)| notes.insert(prefix, note.unwrap_or_default()));
    write(directory, &notes)
}

/// Removes notes.
pub(super) fn forget(directory: &StateDirectory, prefixes: &[Cidr]) -> Result<()> {
    if prefixes.is_empty() {
        return Ok(());
    }
    let mut notes = read(directory)?;
    let removed = prefixes.iter().filter(|prefix| notes.remove(prefix).is_some()).count();
    if removed == 0 { Ok(()) } else { write(directory, &notes) }
}

fn write(directory: &StateDirectory, notes: &Notes) -> Result<()> {
    let path = directory.notes();
    if notes.is_empty() {
        return files::remove(&path);
    }
    files::write(&path, &serde_json::to_string(notes).context("cannot write JSON")?)
}

/// Reads the notes once, and again only after they have changed.
#[derive(Debug, Default)]
pub(super) struct Reader {
    seen: Option<Identity>,
    notes: Notes,
}

impl Reader {
    /// What is noted now.
    pub(super) fn read(&mut self, directory: &StateDirectory) -> Result<&Notes> {
        let there = identity(directory);
        if there != self.seen {
            self.notes = read(directory)?;
            self.seen = there;
        }
        Ok(&self.notes)
    }

    /// Removes those of `due` that still are. Who holds the write lock need not wait for them to be read again.
    pub(super) fn forget_due(&mut self, directory: &StateDirectory, due: &[Cidr], now: u64) -> Result<()> {
        self.read(directory)?;
        for prefix in due {
            if self.notes.get(prefix).is_some_and(|note| note.is_due(now)) {
                self.notes.remove(prefix);
            }
        }
        write(directory, &self.notes)?;
        self.seen = identity(directory);
        Ok(())
    }

    /// The file that they were read from.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.seen
    }
}
