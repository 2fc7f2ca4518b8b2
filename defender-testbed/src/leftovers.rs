//! Finds what killed tests left behind, by its name, and removes it.
//!
//! Whatever a test makes outside its own process is named `dfnd-<process id>-…`: network namespaces, directories of
//! pinned BPF objects, and those in which controllers keep their state. Nothing else is touched, and nothing of a process
//! that still lives: another test run may go on beside this one.
//!
//! This file is compiled into xtask as well, which has to clean up where nothing else is built: it uses nothing of the
//! testbed.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Prefix of everything the testbed names: `dfnd-<pid>-…`.
pub const PREFIX: &str = "dfnd-";
/// Where named network namespaces live.
pub const NETNS_DIR: &str = "/run/netns";
/// Where BPF objects are pinned.
pub const BPF_DIR: &str = "/sys/fs/bpf";

/// Where a controller keeps its state by default, in directories named after its pins with `/` and `-` escaped.
const STATE: &str = "/run/defender";
const STATE_PREFIX: &str = "sys-fs-bpf-dfnd%2d";

/// Removes all of it. What cannot be removed does not keep the rest.
pub(crate) fn remove() -> Result<()> {
    let namespaces = leftovers(Path::new(NETNS_DIR), PREFIX);
    let namespaces = namespaces.iter().map(|path| gone(path, remove_namespace(path)));
    let directories = directories();
    let directories = directories.iter().map(|path| gone(path, fs::remove_dir_all(path).map_err(Into::into)));
    let results: Vec<Result<()>> = namespaces.chain(directories).collect();
    results.into_iter().collect()
}

/// Deletes a named network namespace and every interface inside.
pub(crate) fn delete_namespace(name: &str) -> Result<()> {
    let output = Command::new("ip").args(["netns", "delete", name]).output().context("cannot run ip")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn directories() -> Vec<PathBuf> {
    let pins = leftovers(Path::new(BPF_DIR), PREFIX);
    let states = leftovers(&env::temp_dir(), PREFIX);
    let default_states = leftovers(Path::new(STATE), STATE_PREFIX);
    [pins, states, default_states].concat()
}

/// What lies in this directory, has a test's name and belongs to no process any more.
fn leftovers(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_left = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_leftover(name, prefix))
    };
    paths.filter(is_left).collect()
}

fn is_leftover(name: &str, prefix: &str) -> bool {
    owner(name, prefix).is_some_and(|process| !is_alive(process))
}

/// The process id in a name made by the testbed.
fn owner(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A zombie has no program any more; where nobody collects them they stay for ever.
fn is_alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).join("exe").read_link().is_ok()
}

/// Another clean-up may have been faster; only what is still there has not been removed.
fn gone(path: &Path, result: Result<()>) -> Result<()> {
    if path.exists() { result.with_context(|| format!("cannot remove {}", path.display())) } else { Ok(()) }
}

/// Ends what still runs in the namespace, servers of a test mostly, and deletes it.
fn remove_namespace(namespace: &Path) -> Result<()> {
    for process in inhabitants(namespace) {
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-KILL", &process]).stderr(Stdio::null()).status();
    }
    delete_namespace(&namespace.file_name().unwrap_or_default().to_string_lossy())
}

/// The ids of the processes that live in this network namespace.
fn inhabitants(namespace: &Path) -> Vec<String> {
    let Ok(wanted) = fs::metadata(namespace) else { return Vec::new() };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let paths = processes.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .filter(|process| {
            fs::metadata(process.join("ns/net"))
                .is_ok_and(|its| (its.dev(), its.ino()) == (wanted.dev(), wanted.ino()))
        })
        .filter_map(|process| Some(process.file_name()?.to_str()?.to_owned()))
        .filter(|name| name.parse::<u32>().is_ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(owner("dfnd-1234-0-client", PREFIX), Some(1234));
        assert_eq!(owner("dfnd-1234", PREFIX), Some(1234));
        assert_eq!(owner("sys-fs-bpf-dfnd%2d1234%2d0", STATE_PREFIX), Some(1234));
    }

    #[test]
    fn only_what_belonged_to_dead_processes_is_left_over() {
        assert!(!is_leftover(&format!("dfnd-{}-server", std::process::id()), PREFIX));
        assert!(!is_leftover(&format!("dfnd-{}", std::process::id()), PREFIX));
        // Above the highest process id there can be.
        assert!(is_leftover("dfnd-4194305-server", PREFIX));
        assert!(is_leftover("dfnd-4194305", PREFIX));
        assert!(is_leftover("sys-fs-bpf-dfnd%2d4194305%2d0", STATE_PREFIX));
    }

    #[test]
    fn a_zombie_owns_nothing() {
        let mut child = Command::new("true").spawn().expect("a process");
        let name = format!("dfnd-{}-server", child.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_leftover(&name, PREFIX) {
            assert!(Instant::now() < deadline, "{name} still counts as somebody's");
            thread::sleep(Duration::from_millis(10));
        }
        assert!(Path::new("/proc").join(child.id().to_string()).exists());
        child.wait().expect("it has ended");
    }

    #[test]
    fn other_names_are_left_alone() {
        assert!(!is_leftover("defender", PREFIX));
        assert!(!is_leftover("mine-dfnd-4194305", PREFIX));
        assert!(!is_leftover("dfnd", PREFIX));
        assert!(!is_leftover("dfnd-server", PREFIX));
        assert!(!is_leftover("dfnd-x-4194305", PREFIX));
        assert!(!is_leftover("sys-fs-bpf-defender", STATE_PREFIX));
    }
}
