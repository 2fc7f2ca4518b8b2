//! The life of the .deb in a Debian without a running systemd, as in an image that is being built: installed, used, upgraded,
//! removed, purged.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, ensure};

use super::debian::Debian;
use crate::{
    dist::{
        architecture::Architecture,
        release::{NAME, Release, trial_directory},
    },
    process,
};

pub(super) const CONFIGURATION: &str = "/etc/defender/config.toml";

/// The link that says that the service starts at boot.
pub(super) const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/defender.service";

/// What must be there once it is installed.
const FILES: [&str; 8] = [
    "/usr/sbin/defender",
    CONFIGURATION,
    "/usr/lib/systemd/system/defender.service",
    "/usr/lib/systemd/system/defender@.service",
    "/usr/share/man/man1/defender.1.gz",
    "/usr/share/bash-completion/completions/defender",
    "/usr/share/syn-defender/prometheus/defender.rules.yml",
    "/usr/share/syn-defender/grafana/defender.json",
];

/// What running and configuring it leaves behind.
const TRACES: &str = "mkdir -p /run/defender/x /var/lib/defender/x /sys/fs/bpf/defender; \
                      touch /run/defender/x/lock /var/lib/defender/x/events /etc/defender/allow.txt";

/// Installs and removes it.
pub(super) fn check(release: &Release, architecture: Architecture) -> Result<()> {
    let debian = Debian::copy("debian")?;
    debian.shell("mkdir -p /sys/fs/bpf")?;
    let before = debian.paths()?;
    install(&debian, release, architecture)?;
    upgrade(&debian, release, architecture)?;
    remove(&debian)?;
    let left: Vec<_> = debian.paths()?.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "purged, and still there:\n{}", left.join("\n"));
    Ok(())
}

fn install(debian: &Debian, release: &Release, architecture: Architecture) -> Result<()> {
    let package = debian.add(&release.deb(architecture))?;
    debian.run(&["dpkg", "--install", &package])?;
    for path in FILES.into_iter().chain([ENABLED]) {
        ensure!(debian.has(path), "installed, and {path} is missing");
    }
    let version = debian.run(&["defender", "--version"])?;
    ensure!(version.contains(release.version()), "the version is {version:?}");
    debian.run(&["defender", "config", "check", CONFIGURATION])?;
    debian.run(&["bash", "-n", "/usr/share/bash-completion/completions/defender"])?;
    let owned = debian.run(&["dpkg-query", "--show", "--showformat=${Conffiles}", NAME])?;
    ensure!(
        owned.trim().starts_with(CONFIGURATION) && owned.trim().lines().count() == 1,
        "conffiles: {owned}"
    );
    verify_units(debian)
}

/// systemd finds nothing to complain about.
fn verify_units(debian: &Debian) -> Result<()> {
    debian.run(&["systemd-analyze", "verify", "--man=no", "defender.service", "defender@eth0.service"])?;
    Ok(())
}

/// An upgrade keeps what the administrator changed, whether or not the new package has another file, and a service that was
/// disabled stays so.
fn upgrade(debian: &Debian, release: &Release, architecture: Architecture) -> Result<()> {
    configure(debian)?;
    let same = debian.add(&release.deb(architecture))?;
    debian.run(&["dpkg", "--install", &same])?;
    kept(debian)?;

    debian.run(&["systemctl", "disable", "defender.service"])?;
    let later = debian.add(&later_version(release, architecture)?)?;
    debian.run(&["dpkg", "--install", "--force-confold", &later])?;
    kept(debian)?;
    ensure!(debian.has(&format!("{CONFIGURATION}.dpkg-dist")), "the new file was not put beside the old one");
    ensure!(!debian.has(ENABLED), "the upgrade enabled a disabled service");
    Ok(())
}

/// Adds a line, as an administrator does.
pub(super) fn configure(debian: &Debian) -> Result<()> {
    debian.shell(&format!("echo 'mode = \"monitor\"' >> {CONFIGURATION}")).map(drop)
}

/// What the administrator has added is still there.
pub(super) fn kept(debian: &Debian) -> Result<()> {
    let text = debian.run(&["cat", CONFIGURATION])?;
    ensure!(text.ends_with("mode = \"monitor\"\n"), "the upgrade has overwritten {CONFIGURATION}");
    Ok(())
}

/// The same package as version 99, with another configuration file.
pub(super) fn later_version(release: &Release, architecture: Architecture) -> Result<PathBuf> {
    let directory = trial_directory().join("later");
    let later = trial_directory().join("later.deb");
    let package = release.deb(architecture);
    let script = r#"
        rm -rf "$2"
        dpkg-deb --raw-extract "$1" "$2"
        sed -i 's/^Version: .*/Version: 99-1/' "$2/DEBIAN/control"
        echo '# A new line.' >> "$2/etc/defender/config.toml"
        (cd "$2" && md5sum etc/defender/config.toml usr/sbin/defender > DEBIAN/md5sums)
        dpkg-deb --root-owner-group -Zgzip -z1 --build "$2" "$3"
    "#;
    let mut repack = Command::new("sh");
    process::quietly(repack.args(["-e", "-c", script, "sh"]).arg(package).arg(directory).arg(&later))?;
    Ok(later)
}

fn remove(debian: &Debian) -> Result<()> {
    debian.shell(TRACES)?;
    // The instance's pins are not real here, so there is nothing to detach from; the package must go all the same.
    debian.run(&["dpkg", "--remove", NAME])?;
    ensure!(!debian.has("/usr/sbin/defender"), "removed, and the program is still there");
    ensure!(debian.has(CONFIGURATION), "removing the package has removed its configuration");
    debian.run(&["dpkg", "--purge", NAME])?;
    debian.shell("rm -f /root/*.deb")?;
    Ok(())
}
