//! Programs that the tests and the demo run.

use std::path::Path;

use anyhow::{Result, ensure};
use defender_build::program;

use super::apt;

/// Programs that tests run, each with its Debian package.
const TEST_PROGRAMS: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("faketime", "faketime"),
    ("fish", "fish"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("iptables-restore", "iptables"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("prometheus", "prometheus"),
    ("ps", "procps"),
    ("python3", "python3"),
    ("sshd", "openssh-server"),
    ("strace", "strace"),
    ("systemd-analyze", "systemd"),
    ("tcpdump", "tcpdump"),
    ("tmux", "tmux"),
    ("zsh", "zsh"),
];

/// Programs that unpack other kernels, or run in the guest.
const KERNEL_PROGRAMS: &[(&str, &str)] = &[
    ("depmod", "kmod"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("xz", "xz-utils"),
];

/// Programs that build a release.
const DISTRIBUTION_PROGRAMS: &[(&str, &str)] = &[
    ("git", "git"),
    ("gzip", "gzip"),
    ("readelf", "binutils"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("xz", "xz-utils"),
];

/// Programs that check a release: they lint, install into a Debian of its own, and run what is for other processors.
const DISTRIBUTION_CHECK_PROGRAMS: &[(&str, &str)] = &[
    ("bwrap", "bubblewrap"),
    ("debootstrap", "debootstrap"),
    ("dpkg-deb", "dpkg"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("lintian", "lintian"),
    ("prometheus", "prometheus"),
    ("qemu-aarch64-static", "qemu-user-static"),
    ("rpm", "rpm"),
    ("rpmlint", "rpmlint"),
    ("systemd-nspawn", "systemd-container"),
    ("tmux", "tmux"),
];

/// Installs the programs that tests run. None is started as a service.
pub(crate) fn test_programs() -> Result<()> {
    install_missing(TEST_PROGRAMS)
}

/// Installs the programs needed to try other kernels.
pub(crate) fn kernel_programs() -> Result<()> {
    install_missing(KERNEL_PROGRAMS)
}

/// Installs the programs that build a release.
pub(super) fn distribution_programs() -> Result<()> {
    install_missing(DISTRIBUTION_PROGRAMS)
}

/// Installs the programs that check a release.
pub(super) fn distribution_check_programs() -> Result<()> {
    install_missing(DISTRIBUTION_CHECK_PROGRAMS)
}

fn install_missing(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = programs.iter().copied().filter(|(program, _)| !is_here(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (programs, packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
    ensure!(
        apt::is_here(),
        "programs are missing; install them with this system's package manager: {}",
        programs.join(", ")
    );
    apt::install(&packages)
}

/// Servers and network tools are in directories that only root's PATH contains.
fn is_here(name: &str) -> bool {
    program::find(name).is_some()
        || ["/usr/sbin", "/sbin"].iter().any(|path| Path::new(path).join(name).exists())
}
