//! What the datapath needs of the kernel, checked before anything is touched.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use aya::{Btf, programs::loaded_programs};
use aya_obj::btf::BtfKind;

use crate::{
    dataplane::{kfunc, pins::PinRoot},
    doctor,
    problem::Problem,
};

/// The first kernel that takes hand-offs; tcx came with 6.6.
const OLDEST: (u32, u32) = (6, 9);
/// A function of the kernel's that is there where tcx is (`kernel/bpf/tcx.c`).
const TCX: &str = "tcx_link_attach";

/// What the loader needs to know about this kernel.
pub struct Kernel {
    /// Its type information.
    pub btf: Btf,
    /// BTF id of the function that hands connections over.
    pub assign_reqsk: u32,
}

impl Kernel {
    /// Looks at the running kernel; fails where it cannot run the datapath.
    pub fn probe() -> Result<Self, Problem> {
        let release = release();
        if version(&release).is_some_and(|version| version < OLDEST) {
            return Err(Problem::Unsupported(format!(
                "kernel {release} is too old: 6.9 or newer is needed (tcx, and handing connections over)"
            )));
        }
        let btf = Btf::from_sys_fs().map_err(|error| {
            Problem::Unsupported(format!(
                "kernel {release} has no type information ({error}): one built with CONFIG_DEBUG_INFO_BTF=y is needed"
            ))
        })?;
        let assign_reqsk = kfunc::assign_reqsk_id(&btf)?;
        if !has_tcx(&btf) {
            return Err(Problem::Unsupported(format!(
                "kernel {release} has no tcx: one built with CONFIG_NET_XGRESS=y is needed"
            )));
        }
        Ok(Self { btf, assign_reqsk })
    }
}

/// What `defender doctor` is told. Nothing fails here: what is missing is missing.
pub fn survey(root: &PinRoot) -> doctor::Features {
    let btf = Btf::from_sys_fs().ok();
    let programs = loaded_programs().flatten();
    let programs = programs.filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())));
    doctor::Features {
        kernel: version(&release()).unwrap_or_default(),
        btf: btf.is_some(),
        assign_reqsk: btf.as_ref().is_some_and(|btf| kfunc::assign_reqsk_id(btf).is_ok()),
        tcx: btf.as_ref().is_some_and(has_tcx),
        bpffs: root.is_on_bpffs(),
        privileged: require_privilege().is_ok(),
        programs: programs.collect::<BTreeMap<_, _>>(),
    }
}

fn has_tcx(btf: &Btf) -> bool {
    btf.id_by_type_name_kind(TCX, BtfKind::Func).is_ok()
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

/// Major and minor version.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
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
    fn versions_are_read_from_the_release() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("6.9-rc1"), Some((6, 9)));
        assert_eq!(version("unknown"), None);
        assert!(version("6.1.0-18-amd64") < Some(OLDEST));
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
