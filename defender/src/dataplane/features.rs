//! Kernel features that the datapath needs. Checked before anything is changed.

use std::fs;

use anyhow::{Context as _, Result};
use aya::Btf;

use crate::{
    dataplane::{engine::Engine, kfunc},
    problem::Problem,
};

/// The lockdown mode in force, in brackets (`security/lockdown/lockdown.c`).
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// A kernel function that exists where tcx does (`kernel/bpf/tcx.c`).
const TCX: &str = "tcx_link_attach";

/// What the loader needs to know about this kernel.
pub struct Kernel {
    /// Its type information.
    pub btf: Btf,
    /// The engine it supports.
    pub engine: Engine,
}

impl Kernel {
    /// Probes the running kernel. Fails if it cannot run the datapath. Features count, not the version.
    pub fn probe() -> Result<Self, Problem> {
        let release = release();
        let btf = Btf::from_sys_fs().map_err(|error| {
            Problem::Unsupported(format!(
                "the type information of kernel {release} cannot be read ({error}): a container needs the host's /sys, \
                 and the kernel CONFIG_DEBUG_INFO_BTF=y"
            ))
        })?;
        let engine = Engine::probe(&btf, &release)?;
        if !has_tcx(&btf) {
            return Err(Problem::Unsupported(format!(
                "kernel {release} has no tcx: it came with 6.6, and needs CONFIG_NET_XGRESS=y"
            )));
        }
        Ok(Self { btf, engine })
    }
}

/// Whether lockdown forbids programs to read kernel memory.
pub(super) fn is_locked_down() -> bool {
    fs::read_to_string(LOCKDOWN).is_ok_and(|levels| levels.contains("[confidentiality]"))
}

pub(super) fn has_tcx(btf: &Btf) -> bool {
    kfunc::id(btf, TCX).is_some()
}

/// The kernel's release.
pub(super) fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

/// Major and minor version.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Fails if this process may not load and attach eBPF programs.
pub fn require_privilege() -> Result<()> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read this process's capabilities")?;
    let effective = effective_capabilities(&status).context("cannot read this process's capabilities")?;
    if may_load(effective) {
        return Ok(());
    }
    Err(Problem::Privilege(
        "this needs root (or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN): try again with sudo".to_owned(),
    )
    .into())
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

fn may_load(effective: u64) -> bool {
    let has = |wanted: u64| effective & wanted == wanted;
    has(CAP_NET_ADMIN) && (has(CAP_SYS_ADMIN) || has(CAP_BPF | CAP_PERFMON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_release() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("6.9-rc1"), Some((6, 9)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n";
        assert_eq!(effective_capabilities(status), Some(0x1ff_ffff_ffff));
        assert!(may_load(0x1ff_ffff_ffff));
        assert!(may_load(CAP_NET_ADMIN | CAP_BPF | CAP_PERFMON));
        assert!(!may_load(CAP_NET_ADMIN | CAP_BPF));
        assert!(!may_load(CAP_SYS_ADMIN));
        assert!(!may_load(0));
    }
}
