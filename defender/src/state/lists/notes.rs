//! The file of what is noted about entries of the lists.
//!
//! A note counts if the map says that its entry has one. So notes are written before their entries and removed after them, and
//! whoever is stopped in between leaves nothing wrong.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write as _},
    os::unix::fs::MetadataExt as _,
    rc::Rc,
};

use anyhow::{Context as _, Result};
use defender_common::abi::MOST_PREFIXES;
use serde::{Serializer as _, ser::SerializeMap as _};

use crate::{
    files,
    model::{
        lists::note::{Expiries, LONGEST_COMMENT, Note, Notes, for_each},
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

/// Reads when entries expire, and again only after the notes have changed.
#[derive(Debug)]
pub(super) struct ExpiryReader {
    now: u64,
    seen: Option<Identity>,
    expiries: Rc<Expiries>,
}

impl ExpiryReader {
    /// What is due now, all the time.
    pub(super) fn at(now: u64) -> Self {
        Self { now, seen: None, expiries: Rc::default() }
    }

    /// What is due by the notes as they are.
    pub(super) fn read(&mut self, directory: &StateDirectory) -> Result<Rc<Expiries>> {
        let there = identity(directory);
        if there != self.seen {
            let read = |file: &File| sound(Expiries::read(BufReader::new(file), self.now));
            let found = files::read_stream(&directory.notes(), MOST_BYTES, read)?;
            self.expiries = Rc::new(found.unwrap_or_default());
            self.seen = there;
        }
        Ok(Rc::clone(&self.expiries))
    }

    /// Forgets the notes of what has gone and still is due, for who holds the write lock.
    pub(super) fn forget(&mut self, directory: &StateDirectory, gone: &Expiries) -> Result<()> {
        let path = directory.notes();
        let Some(old) = files::open_to_read(&path)? else { return Ok(()) };
        let mut left = Expiries::default();
        let mut kept = 0;
        files::write_stream(&path, |new| {
            kept = copy(&old, new, |prefix, note| {
                let stays = !(note.is_due(self.now) && gone.is_due(prefix));
                if stays {
                    left.add(*prefix, note, self.now);
                }
                stays
            })?;
            Ok(())
        })?;
        if kept == 0 {
            files::remove(&path)?;
        }
        (self.seen, self.expiries) = (identity(directory), Rc::new(left));
        Ok(())
    }

    /// The file that was read.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.seen
    }
}

/// Copies the notes that are to stay, one by one; returns how many.
fn copy(from: &File, to: &File, mut stays: impl FnMut(&Cidr, &Note) -> bool) -> io::Result<usize> {
    let mut to = BufWriter::new(to);
    let mut json = serde_json::Serializer::new(&mut to);
    let mut map = json.serialize_map(None)?;
    let (mut copied, mut written) = (0, Ok(()));
    for_each(BufReader::new(from), |prefix, note| {
        if written.is_ok() && stays(&prefix, &note) {
            written = map.serialize_entry(&prefix, &note);
            copied += 1;
        }
    })?;
    written?;
    map.end()?;
    to.flush()?;
    Ok(copied)
}

/// What is wrong with the file, apart from failures to read it.
fn sound<T>(parsed: serde_json::Result<T>) -> io::Result<Result<T, String>> {
    match parsed {
        Err(error) if error.is_io() => Err(error.into()),
        parsed => Ok(parsed.map_err(|error| error.to_string())),
    }
}
