//! A container whose first process is systemd, on the real kernel.

use std::{
    collections::BTreeSet,
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::debian::{Debian, ENVIRONMENT, OTHERS};
use crate::{privilege, process};

const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(100);

/// The container's first process. systemd sets sysctls of the whole machine as it starts, so they are read-only before.
const BOOT: &str = "mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
exec /lib/systemd/systemd";

/// A container whose first process is systemd.
pub(super) struct Container {
    nspawn: Child,
    /// The pid of its first process, seen from here.
    first: String,
}

impl Container {
    /// Boots a tree.
    pub(super) fn boot(debian: &Debian) -> Result<Self> {
        let mut nspawn = privilege::as_root("env")?;
        nspawn.args(["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=1"]);
        // It ends with this program, however that ends.
        nspawn.args(["setpriv", "--pdeathsig=KILL"]);
        nspawn.args(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network"]);
        nspawn.args(["--console=pipe", "--capability=CAP_BPF,CAP_PERFMON"]);
        nspawn.args(["--system-call-filter=bpf perf_event_open", "--directory"]).arg(debian.root());
        nspawn.args(["/bin/sh", "-e", "-c", BOOT]);
        nspawn.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nspawn = nspawn.spawn().context("cannot run systemd-nspawn")?;
        let mut system = Self { nspawn, first: String::new() };
        system.first = system.find_first_process()?;
        system.wait_for("systemctl is-system-running --wait")?;
        // systemd mounts it on a real machine.
        system.shell("mkdir -p /sys/fs/bpf; mount -t bpf bpf /sys/fs/bpf")?;
        Ok(system)
    }

    /// Its pid, once it is systemd. sudo may be in between.
    fn find_first_process(&self) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(first) = systemd_below(&self.nspawn.id().to_string()) {
                return Ok(first);
            }
            thread::sleep(POLL);
        }
        bail!("systemd-nspawn has started no systemd")
    }

    /// A program in it.
    pub(super) fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = privilege::as_root("nsenter")?;
        command.args(["--target", &self.first, "--all", "--", "env", "-i"]).args(ENVIRONMENT).args(words);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a line of shell that must succeed, and returns what it prints.
    pub(super) fn shell(&self, line: &str) -> Result<String> {
        process::quietly(&mut self.command(&["sh", "-e", "-c", line])?)
    }

    /// Runs a line of shell again and again until it succeeds.
    pub(super) fn wait_for(&self, line: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.shell(line) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(self.with_journal(error)),
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    /// The pid of its first process, seen from here.
    pub(super) fn first_process(&self) -> &str {
        &self.first
    }

    /// Every path of its file systems in memory and on disk, except what others write whatever is installed.
    pub(super) fn paths(&self) -> Result<BTreeSet<String>> {
        let all = self.shell("find / /run /tmp /dev/shm /sys/fs/bpf -xdev")?;
        let kept = all.lines().filter(|path| !OTHERS.iter().any(|own| path.starts_with(own)));
        Ok(kept.map(str::to_owned).collect())
    }

    /// What the service has said may tell why.
    pub(super) fn with_journal(&self, error: anyhow::Error) -> anyhow::Error {
        let journal =
            self.shell("journalctl --no-pager --unit defender.service --lines 30").unwrap_or_default();
        error.context(format!("the service's journal:\n{journal}"))
    }
}

/// The first systemd below a process.
fn systemd_below(pid: &str) -> Option<String> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    if read("comm").trim() == "systemd" {
        return Some(pid.to_owned());
    }
    let children = read(&format!("task/{pid}/children"));
    children.split_whitespace().find_map(systemd_below)
}

impl Drop for Container {
    /// Killing its first process ends all others.
    fn drop(&mut self) {
        if let Ok(mut kill) = privilege::as_root("kill") {
            // It may have ended by itself.
            let _ = process::quietly(kill.args(["-KILL", &self.first]));
        }
        let _ = self.nspawn.wait();
    }
}
