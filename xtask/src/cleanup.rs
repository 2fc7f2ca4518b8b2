//! `cargo xtask cleanup`: removes what tests left behind.
//!
//! Whatever a test makes outside its own process is named `dfnd-<process id>-…`: network namespaces, and directories
//! of pinned BPF objects. Nothing else is touched, and nothing of a process that still lives: another test run may go
//! on beside this one.

use std::{
    env, fs,
    io::Read as _,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{privilege, process};

const PREFIX: &str = "dfnd-";
const NAMESPACES: &str = "/run/netns";
const PINS: &str = "/sys/fs/bpf";
/// Where a controller keeps its state, in directories named after its pins with `/` and `-` escaped.
const STATE: &str = "/run/defender";
const STATE_PREFIX: &str = "sys-fs-bpf-dfnd%2d";

/// How often, and for how long, the aftermath of a killed test run is looked for.
const AFTERMATH_STEP: Duration = Duration::from_millis(500);
const AFTERMATH_STEPS: usize = 20;

/// Removes namespaces and pins whose processes are gone.
pub(crate) fn run() -> Result<()> {
    if privilege::is_root() {
        return remove_leftovers();
    }
    process::must(privilege::as_root(env::current_exe()?)?.args(["cleanup", "--as-root"]))
}

/// The part that needs root.
pub(crate) fn remove_leftovers() -> Result<()> {
    for namespace in leftovers(NAMESPACES, PREFIX) {
        gone(&namespace, remove_namespace(&namespace))?;
    }
    for directory in leftovers(PINS, PREFIX).into_iter().chain(leftovers(STATE, STATE_PREFIX)) {
        gone(&directory, fs::remove_dir_all(&directory).map_err(Into::into))?;
    }
    Ok(())
}

/// Another clean-up may have been faster; only what is still there has not been removed.
fn gone(path: &Path, result: Result<()>) -> Result<()> {
    if path.exists() { result.with_context(|| format!("cannot remove {}", path.display())) } else { Ok(()) }
}

/// Cleans up when a test run ends, even if it is killed.
///
/// A second process outlives this one: it is out of reach of Ctrl-C, waits for this one's end and cleans up if that
/// comes without a farewell.
pub(crate) struct Guard(Child);

impl Guard {
    pub(crate) fn new() -> Result<Self> {
        let watcher = privilege::as_root_unasked(env::current_exe()?)?
            .args(["cleanup", "--as-root", "--after-parent"])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start the process that cleans up after tests")?;
        Ok(Self(watcher))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = run() {
            eprintln!("warning: cleaning up after the tests: {error:#}");
        }
        // The watcher has nothing left to do.
        let _ = self.0.stdin.take().map(|mut farewell| std::io::Write::write_all(&mut farewell, b"bye"));
        let _ = self.0.wait();
    }
}

/// What the second process does: cleans up if the first one is gone without a farewell.
pub(crate) fn after_parent() -> Result<()> {
    let mut farewell = Vec::new();
    std::io::stdin().read_to_end(&mut farewell)?;
    if farewell.is_empty() {
        // The tests got the same signal; they may still be about to end.
        for _ in 0..AFTERMATH_STEPS {
            remove_leftovers()?;
            thread::sleep(AFTERMATH_STEP);
        }
    }
    Ok(())
}

/// What lies in this directory, has a test's name and belongs to no process any more.
fn leftovers(directory: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    paths.filter(|path| name(path).is_some_and(|name| is_leftover(&name, prefix))).collect()
}

fn is_leftover(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| !owner(rest).is_some_and(is_alive))
}

/// The process id in a name whose prefix was taken off.
fn owner(rest: &str) -> Option<u32> {
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A zombie has no program any more; where nobody collects them they stay for ever.
fn is_alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).join("exe").read_link().is_ok()
}

/// Ends what still runs in the namespace, servers of a test mostly, and deletes it.
fn remove_namespace(namespace: &Path) -> Result<()> {
    for process in inhabitants(namespace) {
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-KILL", &process]).stderr(Stdio::null()).status();
    }
    let name = namespace.file_name().unwrap_or_default();
    process::must(Command::new("ip").args(["netns", "delete"]).arg(name).stderr(Stdio::null()))
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
    use super::*;

    #[test]
    fn only_what_no_process_owns_is_left_over() {
        assert!(!is_leftover(&format!("dfnd-{}-server", std::process::id()), PREFIX));
        assert!(!is_leftover(&format!("dfnd-{}", std::process::id()), PREFIX));
        // Above the highest process id there can be.
        assert!(is_leftover("dfnd-4194305-server", PREFIX));
        assert!(is_leftover("dfnd-4194305", PREFIX));
        assert!(is_leftover("dfnd-server", PREFIX));
        assert!(is_leftover("sys-fs-bpf-dfnd%2d4194305%2d0", STATE_PREFIX));
    }

    #[test]
    fn other_names_are_left_alone() {
        assert!(!is_leftover("defender", PREFIX));
        assert!(!is_leftover("mine-dfnd-4194305", PREFIX));
        assert!(!is_leftover("dfnd", PREFIX));
        assert!(!is_leftover("sys-fs-bpf-defender", STATE_PREFIX));
    }
}
