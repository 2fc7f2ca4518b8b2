//! Undoing what was done: on drop, on panic, on SIGINT and SIGTERM; and sweeping up after processes that were killed.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

use crate::signal;

/// Prefix of everything the testbed names: `dfnd-<pid>-…`.
pub const PREFIX: &str = "dfnd-";

/// Where named network namespaces live.
pub const NETNS_DIR: &str = "/run/netns";

/// Where BPF objects are pinned.
pub const BPF_DIR: &str = "/sys/fs/bpf";

type Action = Box<dyn FnOnce() + Send>;

/// What is still to be undone, in the order in which it was done.
static PENDING: Mutex<BTreeMap<u64, Action>> = Mutex::new(BTreeMap::new());

/// Undoes something when dropped, or when the process is told to end.
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

/// Once per process: removes what dead processes left, and gets ready for signals.
pub fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        sweep();
        if let Err(error) = signal::undo_all_on_signal() {
            eprintln!("cannot handle signals, SIGINT may leave namespaces behind: {error}");
        }
    });
}

/// Removes namespaces, pins and what defenders kept, named after processes that no longer exist.
fn sweep() {
    for path in leftovers(NETNS_DIR) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            delete_netns(name);
        }
    }
    for path in leftovers(BPF_DIR) {
        remove_pins(&path);
    }
    for path in env::temp_dir().to_str().map(leftovers).unwrap_or_default() {
        let _ = fs::remove_dir_all(path);
    }
}

/// Deletes the named network namespace; what lives in it goes with it.
pub(crate) fn delete_netns(name: &str) {
    let result = Command::new("ip").args(["netns", "delete", name]).output();
    match result {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            eprintln!(
                "cannot delete the namespace {name}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Err(error) => eprintln!("cannot delete the namespace {name}: {error}"),
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

fn leftovers(directory: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_leftover))
        .collect()
}

/// True for the name of something whose process is gone.
fn is_leftover(name: &str) -> bool {
    owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The process id in a name made by the testbed.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn pending() -> MutexGuard<'static, BTreeMap<u64, Action>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{is_leftover, owner};

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(owner("dfnd-1234-0-client"), Some(1234));
        assert_eq!(owner("dfnd-1234"), Some(1234));
        assert_eq!(owner("dfnd-x-0-client"), None);
        assert_eq!(owner("mine-1234-0-client"), None);
    }

    #[test]
    fn only_names_of_dead_processes_are_leftovers() {
        assert!(!is_leftover(&format!("dfnd-{}-0-client", std::process::id())));
        assert!(!is_leftover("other"));
        // Above the highest process id there can be.
        assert!(is_leftover("dfnd-4194305-0-client"));
    }
}
