//! The kernel, and this process's privileges.

use std::fs;

use super::Check;
use crate::{
    dataplane::{
        conntrack,
        survey::{Features, Loading},
    },
    model::sysctls::Sysctls,
};

/// From this kernel on, eBPF memory counts towards the control group, not as locked memory
/// (`kernel/bpf/memalloc.c`, "bpf: Eliminate rlimit-based memory accounting").
const NO_MEMLOCK: (u32, u32) = (5, 11);

pub(super) fn checks(features: &Features) -> Vec<Check> {
    let btf = features.btf;
    vec![
        Check::ok("kernel", features.release.clone()),
        if btf { Check::ok("btf", "the kernel has type information") } else { no_btf() },
        function(
            "hand-off",
            features.assign_reqsk,
            "bpf_sk_assign_tcp_reqsk, which hands proven connections over",
            "boot a kernel that has it (6.9 or newer, CONFIG_SYN_COOKIES=y)",
        ),
        function("tcx", features.tcx, "tcx", "boot a kernel that has it (6.6 or newer, CONFIG_NET_XGRESS=y)"),
        programs(features),
        bpffs(features.bpffs),
        privilege(features.privileged),
        memlock(features.kernel, &fs::read_to_string("/proc/self/limits").unwrap_or_default()),
    ]
}

/// It may exist but be hidden, as in a container.
fn no_btf() -> Check {
    Check::unknown(
        "btf",
        "the kernel's type information cannot be read here (/sys/kernel/btf/vmlinux)",
        "give the container the host's /sys, or boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
    )
}

fn function(name: &'static str, there: Option<bool>, what: &str, advice: &str) -> Check {
    match there {
        Some(true) => Check::ok(name, format!("the kernel has {what}")),
        Some(false) => Check::fail(name, format!("the kernel lacks {what}"), advice),
        None => Check::unknown(
            name,
            format!("unknown whether the kernel has {what}: no type information"),
            "see btf",
        ),
    }
}

/// Loads the programs to find out whether the verifier accepts them.
fn programs(features: &Features) -> Check {
    const NAME: &str = "programs";
    match &features.loading {
        Loading::Loads(time) => Check::ok(
            NAME,
            format!("accepted by the verifier: loaded and unloaded in {:.1} s", time.as_secs_f64()),
        ),
        Loading::Refused { found, remedy } => Check::fail(NAME, found.clone(), remedy.clone()),
        Loading::Untried if features.privileged => {
            Check::unknown(NAME, "not tried: something that they need is missing", "see what failed above")
        }
        Loading::Untried => {
            Check::unknown(NAME, "not tried: loading them needs privilege", "run doctor as root (sudo)")
        }
    }
}

/// How eBPF supports challenged connections that conntrack tracks.
pub(super) fn conntrack(features: &Features, sysctls: &Sysctls) -> Option<Check> {
    sysctls.nf_conntrack_tcp_loose?;
    Some(if features.conntrack {
        Check::ok("conntrack-ebpf", "the kernel lets eBPF tell conntrack of challenged connections")
    } else {
        let advice = "boot a kernel built with CONFIG_DEBUG_INFO_BTF_MODULES=y, or take rules with `ct state` off protected ports";
        Check::warn("conntrack-ebpf", conntrack::MISSING, advice)
    })
}

fn bpffs(mounted: bool) -> Check {
    Check::ok("bpffs", if mounted { "mounted" } else { "not mounted yet: `defender run` mounts it" })
}

fn privilege(privileged: bool) -> Check {
    if privileged {
        Check::ok("privilege", "this process may load and attach programs")
    } else {
        let advice = "run as root (sudo), or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN";
        Check::fail("privilege", "this process may not load and attach programs", advice)
    }
}

fn memlock(kernel: (u32, u32), limits: &str) -> Check {
    if kernel >= NO_MEMLOCK {
        return Check::ok("memlock", "this kernel does not limit eBPF by locked memory");
    }
    let advice = "raise it: `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the systemd unit";
    match memlock_limit(limits) {
        Some("unlimited") => Check::ok("memlock", "unlimited"),
        Some(bytes) => {
            Check::warn("memlock", format!("eBPF maps are limited to {bytes} bytes of locked memory"), advice)
        }
        None => Check::unknown("memlock", "the limit on locked memory could not be read", advice),
    }
}

/// The soft limit, from the text of `/proc/PID/limits`.
fn memlock_limit(limits: &str) -> Option<&str> {
    limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Status;
    use super::*;

    fn statuses(features: &Features) -> Vec<(&'static str, Status)> {
        checks(features).iter().map(|check| (check.name, check.status)).collect()
    }

    fn fit() -> Features {
        Features {
            release: "5.14.0-503.el9".to_owned(),
            kernel: (5, 14),
            btf: true,
            assign_reqsk: Some(true),
            tcx: Some(true),
            loading: Loading::Loads(Duration::from_secs(2)),
            bpffs: false,
            privileged: true,
            ..Features::default()
        }
    }

    #[test]
    fn a_fit_kernel_passes_whatever_its_version() {
        assert!(statuses(&fit()).iter().all(|(_, status)| *status == Status::Ok));
    }

    fn complaints(features: &Features) -> Vec<(&'static str, Status)> {
        statuses(features).into_iter().filter(|(_, status)| *status != Status::Ok).collect()
    }

    #[test]
    fn missing_features_fail() {
        let features =
            Features { assign_reqsk: Some(false), tcx: Some(false), loading: Loading::Untried, ..fit() };
        let expected = [("hand-off", Status::Fail), ("tcx", Status::Fail), ("programs", Status::Unknown)];
        assert_eq!(complaints(&features), expected);
    }

    #[test]
    fn hidden_type_information_is_unknown_and_no_verdict_on_the_kernel() {
        let features =
            Features { btf: false, assign_reqsk: None, tcx: None, loading: Loading::Untried, ..fit() };
        let expected = ["btf", "hand-off", "tcx", "programs"].map(|name| (name, Status::Unknown));
        assert_eq!(complaints(&features), expected);
    }

    #[test]
    fn a_refusal_is_shown_with_its_remedy() {
        let (found, remedy) = ("kernel 6.12 refuses defender_xdp".to_owned(), "boot another".to_owned());
        let check = programs(&Features { loading: Loading::Refused { found, remedy }, ..fit() });
        assert_eq!((check.status, check.advice.as_deref()), (Status::Fail, Some("boot another")));
    }

    #[test]
    fn without_privilege_nothing_is_loaded() {
        let features = Features { privileged: false, loading: Loading::Untried, ..fit() };
        assert_eq!(complaints(&features), [("programs", Status::Unknown), ("privilege", Status::Fail)]);
        assert!(programs(&features).found.contains("needs privilege"));
    }

    #[test]
    fn locked_memory_counts_on_old_kernels_only() {
        const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
                              Max locked memory         8388608              8388608              bytes     \n";
        assert_eq!(memlock((5, 11), LIMITS).status, Status::Ok);
        assert_eq!(memlock((5, 10), LIMITS).status, Status::Warn);
        assert!(memlock((5, 10), LIMITS).found.contains("8388608"));
        assert_eq!(memlock((5, 10), &LIMITS.replace("8388608", "unlimited")).status, Status::Ok);
        assert_eq!(memlock((5, 10), "").status, Status::Unknown);
    }
}
