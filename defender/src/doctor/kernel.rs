//! The kernel, and what this process may do.

use std::fs;

use super::{Check, Features};

/// The first kernel with everything that is needed.
const OLDEST: (u32, u32) = (6, 9);
/// From this kernel on, eBPF memory counts towards the control group, not as locked memory
/// (`kernel/bpf/memalloc.c`, "bpf: Eliminate rlimit-based memory accounting").
const NO_MEMLOCK: (u32, u32) = (5, 11);

pub(super) fn checks(features: &Features) -> Vec<Check> {
    vec![
        kernel(features),
        function("btf", features.btf, "type information", "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y"),
        function(
            "hand-off",
            features.assign_reqsk,
            "bpf_sk_assign_tcp_reqsk, which hands proven connections over",
            "boot kernel 6.9 or newer, built with CONFIG_SYN_COOKIES=y",
        ),
        function("tcx", features.tcx, "tcx", "boot a kernel built with CONFIG_NET_XGRESS=y (6.6 or newer)"),
        bpffs(features.bpffs),
        privilege(features.privileged),
        memlock(features.kernel, &fs::read_to_string("/proc/self/limits").unwrap_or_default()),
    ]
}

fn kernel(features: &Features) -> Check {
    let (major, minor) = features.kernel;
    let version = format!("{major}.{minor}");
    if features.kernel >= OLDEST {
        Check::ok("kernel", version)
    } else {
        let (major, minor) = OLDEST;
        Check::fail(
            "kernel",
            format!("{version} is too old"),
            format!("boot kernel {major}.{minor} or newer"),
        )
    }
}

fn function(name: &'static str, there: bool, what: &str, advice: &str) -> Check {
    if there {
        Check::ok(name, format!("the kernel has {what}"))
    } else {
        Check::fail(name, format!("the kernel lacks {what}"), advice)
    }
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

/// The soft limit, as `/proc/PID/limits` has it.
fn memlock_limit(limits: &str) -> Option<&str> {
    limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn statuses(features: &Features) -> Vec<(&'static str, Status)> {
        checks(features).iter().map(|check| (check.name, check.status)).collect()
    }

    #[test]
    fn a_fit_kernel_passes() {
        let features = Features {
            kernel: (6, 9),
            btf: true,
            assign_reqsk: true,
            tcx: true,
            bpffs: false,
            privileged: true,
            ..Features::default()
        };
        assert!(statuses(&features).iter().all(|(_, status)| *status == Status::Ok));
    }

    #[test]
    fn what_is_missing_fails() {
        let features = Features { kernel: (6, 8), bpffs: true, ..Features::default() };
        let failed: Vec<_> =
            statuses(&features).into_iter().filter(|(_, status)| *status == Status::Fail).collect();
        assert_eq!(
            failed,
            ["kernel", "btf", "hand-off", "tcx", "privilege"].map(|name| (name, Status::Fail))
        );
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
