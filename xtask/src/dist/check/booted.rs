//! The life of the .deb on a running system: systemd is the first process of a container, and the kernel is real. The service
//! starts, an upgrade never leaves the interface undefended, and removing the package takes the defence off.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{debian::Debian, life};
use crate::{
    dist::{
        architecture::Architecture,
        release::{NAME, Release},
    },
    privilege, process,
};

const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(100);

/// Two interfaces, one with a default route, as a server has, and the file system for pins, which systemd mounts on a real
/// machine.
const NETWORK: &str = "mkdir -p /sys/fs/bpf; mount -t bpf bpf /sys/fs/bpf; \
     for i in 0 1; do ip link add eth$i type veth peer name peer$i; ip address add 192.0.2.$((i * 128 + 1))/25 dev eth$i; \
     ip link set eth$i up; ip link set peer$i up; done; ip route add default via 192.0.2.100";

/// Succeeds while both interfaces have an XDP program.
const ATTACHED: &str = "ip link show eth0 | grep -q xdp && ip link show eth1 | grep -q xdp";

/// Looks as often as it can, from before the upgrade until the file that stops it is there. Prints how often it looked.
const WATCH: &str = "looks=0; while [ ! -e /tmp/stop ]; do \
     for i in 0 1; do ip link show eth$i | grep -q xdp || { echo gap; exit 1; }; done; looks=$((looks + 1)); done; echo $looks";

/// What must be gone in the end.
const TRACES: [&str; 5] =
    ["/usr/sbin/defender", "/etc/defender", "/run/defender", "/var/lib/defender", "/sys/fs/bpf/defender*"];

/// Boots a system and installs, upgrades, removes and purges.
pub(super) fn check(release: &Release, architecture: Architecture) -> Result<()> {
    let debian = Debian::copy("booted")?;
    let system = Booted::start(&debian)?;
    system.shell(NETWORK)?;
    let package = debian.add(&release.deb(architecture))?;
    let later = debian.add(&life::later_version(release, architecture)?)?;

    // The service defends the interface with the default route, an instance of its template the other one.
    system.shell(&format!("dpkg --install {package}"))?;
    system.wait_for("systemctl --quiet is-active defender.service")?;
    system.shell("systemctl start defender@eth1.service")?;
    system.wait_for(ATTACHED)?;
    system.wait_for("defender status")?;

    upgrade(&system, &later)?;

    system.shell(&format!("dpkg --remove {NAME}"))?;
    let links = system.shell("ip link show")?;
    ensure!(!links.contains("xdp"), "the package was removed, and programs are still attached:\n{links}");
    system.shell(&format!("dpkg --purge {NAME}"))?;
    for path in TRACES {
        ensure!(system.shell(&format!("ls -d {path}")).is_err(), "purged, and {path} is still there");
    }
    system.shell("test -z \"$(systemctl --failed --no-legend --plain)\"")?;
    Ok(())
}

/// Another process defends afterwards, and there was no moment without.
fn upgrade(system: &Booted, later: &str) -> Result<()> {
    let pid = "systemctl show --property MainPID --value defender.service";
    let before = system.shell(pid)?;
    let watch = system.command(&["sh", "-c", WATCH])?.stdout(Stdio::piped()).spawn()?;
    system.shell(&format!("dpkg --install {later}"))?;
    system.wait_for("systemctl --quiet is-active defender.service")?;
    system.wait_for(&format!("test \"$({pid})\" != {}", before.trim()))?;
    system.wait_for("defender status")?;
    system.shell("touch /tmp/stop")?;
    let watched = watch.wait_with_output()?;
    let looks = String::from_utf8_lossy(&watched.stdout);
    ensure!(watched.status.success(), "the upgrade left the interface undefended for a moment");
    ensure!(looks.trim().parse::<u64>().is_ok_and(|looks| looks > 10), "nobody looked: {looks}");
    Ok(())
}

/// The container's first process. systemd sets sysctls of the whole machine as it starts, so they are read-only before.
const BOOT: &str = "mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
exec /lib/systemd/systemd";

/// A container whose first process is systemd.
struct Booted {
    nspawn: Child,
    /// The pid of its first process, seen from here.
    first: String,
}

impl Booted {
    fn start(debian: &Debian) -> Result<Self> {
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
        system.first = system.first_process()?;
        system.wait_for("systemctl is-system-running --wait")?;
        Ok(system)
    }

    /// Its pid, once it is systemd. sudo may be in between.
    fn first_process(&self) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(first) = systemd_below(&self.nspawn.id().to_string()) {
                return Ok(first);
            }
            thread::sleep(POLL);
        }
        bail!("systemd-nspawn has started no systemd")
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = privilege::as_root("nsenter")?;
        command
            .args(["--target", &self.first, "--all", "--", "env", "-i"])
            .args(super::debian::ENVIRONMENT)
            .args(words);
        command.stdin(Stdio::null());
        Ok(command)
    }

    fn shell(&self, line: &str) -> Result<String> {
        process::quietly(&mut self.command(&["sh", "-e", "-c", line])?)
    }

    fn wait_for(&self, line: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.shell(line) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(self.with_journal(error)),
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    /// What the service has said may tell why.
    fn with_journal(&self, error: anyhow::Error) -> anyhow::Error {
        let journal =
            self.shell("journalctl --no-pager --unit defender.service --lines 30").unwrap_or_default();
        error.context(format!("waited in vain; the service's journal:\n{journal}"))
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

impl Drop for Booted {
    /// Killing its first process ends all others.
    fn drop(&mut self) {
        if let Ok(mut kill) = privilege::as_root("kill") {
            // It may have ended by itself.
            let _ = process::quietly(kill.args(["-KILL", &self.first]));
        }
        let _ = self.nspawn.wait();
    }
}
