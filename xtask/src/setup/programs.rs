//! Programs that the tests and the demo run.

use std::path::Path;

use anyhow::{Result, ensure};
use defender_build::program;

use super::apt;

/// Each program with Debian's package that has it.
const PROGRAMS: [(&str, &str); 9] = [
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("ps", "procps"),
    ("sshd", "openssh-server"),
    ("tcpdump", "tcpdump"),
];

/// The programs that tests run; none of them is started as a service.
pub(crate) fn test_programs() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|(program, _)| !is_here(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (programs, packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
    ensure!(
        apt::is_here(),
        "programs that the tests run are missing; install them with this system's package manager: {}",
        programs.join(", ")
    );
    apt::install(&packages)
}

/// Servers and network tools lie where only root's PATH leads.
fn is_here(name: &str) -> bool {
    program::find(name).is_some()
        || ["/usr/sbin", "/sbin"].iter().any(|path| Path::new(path).join(name).exists())
}
