//! The life of the .deb on a running system: the service starts, an upgrade never leaves the interface undefended, and removing
//! the package takes the defence off.

use std::process::Stdio;

use anyhow::{Result, ensure};

use super::{container::Container, debian::Debian, life};
use crate::dist::{
    architecture::Architecture,
    release::{NAME, Release},
};

/// Two interfaces, one with a default route, as a server has.
const NETWORK: &str = "for i in 0 1; do ip link add eth$i type veth peer name peer$i; ip address add 192.0.2.$((i * 128 + 1))/25 dev eth$i; \
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
    let system = Container::boot(&debian)?;
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
fn upgrade(system: &Container, later: &str) -> Result<()> {
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
