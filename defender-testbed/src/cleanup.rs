//! Undoes what was done, on drop, panic, SIGINT and SIGTERM; and removes what killed processes left behind.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

use crate::{leftovers, signal};

pub use leftovers::{BPF_DIR, NETNS_DIR, PREFIX};

type Action = Box<dyn FnOnce() + Send>;

/// What is still to be undone, in the order in which it was done.
static PENDING: Mutex<BTreeMap<u64, Action>> = Mutex::new(BTreeMap::new());

/// Undoes something when dropped, or on SIGINT or SIGTERM.
#[must_use = "dropping it undoes the thing at once"]
#[derive(Debug)]
pub struct Guard(u64);

impl Guard {
    /// Remembers `undo` and calls it once: on drop, or when SIGINT or SIGTERM arrives.
    pub fn new(undo: impl FnOnce() + Send + 'static) -> Self {
        prepare();
        let mut pending = pending();
        let key = pending.last_key_value().map_or(0, |(last, _)| last + 1);
        pending.insert(key, Box::new(undo));
        Self(key)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let undo = pending().remove(&self.0);
        if let Some(undo) = undo {
            undo();
        }
    }
}

/// Undoes everything that is still to be undone, the latest first.
pub(crate) fn undo_all() {
    loop {
        let last = pending().pop_last();
        let Some((_, undo)) = last else { return };
        undo();
    }
}

/// Once per process: removes what dead processes left behind, and handles signals.
pub fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = leftovers::remove() {
            eprintln!("cannot remove what a test has left behind: {error:#}");
        }
        if let Err(error) = signal::undo_all_on_signal() {
            eprintln!("cannot handle signals, SIGINT may leave namespaces behind: {error}");
        }
    });
}

/// Deletes the named network namespace; what lives in it goes with it.
pub(crate) fn delete_netns(name: &str) {
    if let Err(error) = leftovers::delete_namespace(name) {
        eprintln!("cannot delete the namespace {name}: {error:#}");
    }
}

/// Removes a directory of pinned BPF objects; that nothing is there is fine.
pub(crate) fn remove_pins(path: &Path) {
    if path.exists()
        && let Err(error) = fs::remove_dir_all(path)
    {
        eprintln!("cannot remove {}: {error}", path.display());
    }
}

fn pending() -> MutexGuard<'static, BTreeMap<u64, Action>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}
