//! What the datapath needs of the kernel, checked before anything is touched.

use std::fs;

use anyhow::{Context as _, Result};
use aya::{Btf, util::KernelVersion};

use crate::{dataplane::kfunc, problem::Problem};

/// What the kernel calls itself, for messages.
fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

/// What the loader needs to know about this kernel.
pub struct Kernel {
    /// Its type information.
    pub btf: Btf,
    /// BTF id of the function that hands connections over.
    pub assign_reqsk: u32,
}

impl Kernel {
    /// Looks at the running kernel; fails where it cannot run the datapath.
    pub fn probe() -> Result<Self> {
        let current = KernelVersion::current().context("cannot read the kernel's version")?;
        if current < KernelVersion::new(6, 9, 0) {
            return Err(Problem::Unsupported(format!(
                "kernel {} is too old: 6.9 or newer is needed (tcx, and handing connections over)",
                release()
            ))
            .into());
        }
        let btf = Btf::from_sys_fs().map_err(|error| {
            Problem::Unsupported(format!(
                "kernel {} has no type information ({error}): one built with CONFIG_DEBUG_INFO_BTF=y is needed",
                release()
            ))
        })?;
        let assign_reqsk = kfunc::assign_reqsk_id(&btf)?;
        Ok(Self { btf, assign_reqsk })
    }
}

/// Fails unless this process may load and attach eBPF programs.
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
