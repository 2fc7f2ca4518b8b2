//! Checks whether the defender works on a kernel. Each is small and quick, and covers one aspect in which
//! kernels differ: the verifier, functions, drivers.

mod attached;
mod connections;
mod environment;
pub(crate) mod guest;
mod refused;
mod scene;
mod takeover;

use std::{
    io::Write,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
};

use anyhow::{Result, anyhow, bail};

pub(crate) use self::scene::eventually;

/// The environment of the checks.
pub(crate) struct CheckMachine {
    /// The defender.
    pub(crate) defender: PathBuf,
    /// Whether network devices may be used: only on a machine of our own.
    pub(crate) may_take_devices: bool,
}

/// Result of a check that did not fail.
pub(crate) enum CheckOutcome {
    /// As expected.
    Fine,
    /// As expected, with this detail.
    In(String),
    /// Does not apply to this machine, with the reason.
    NotApplicable(&'static str),
}

struct KernelCheck {
    name: &'static str,
    run: fn(&CheckMachine) -> Result<CheckOutcome>,
}

/// Checks for supported kernels.
const CHECKS: [KernelCheck; 13] = [
    KernelCheck { name: "doctor", run: attached::doctor },
    KernelCheck { name: "run", run: attached::run },
    KernelCheck { name: "ipv4", run: connections::ipv4 },
    KernelCheck { name: "ipv6", run: connections::ipv6 },
    KernelCheck { name: "flood", run: connections::flood },
    KernelCheck { name: "takeover", run: takeover::takeover },
    KernelCheck { name: "detach", run: takeover::detach },
    KernelCheck { name: "few-queues", run: environment::few_queues },
    KernelCheck { name: "bridge", run: environment::bridge },
    KernelCheck { name: "macvlan", run: environment::macvlan },
    KernelCheck { name: "virtio-net", run: environment::virtio_net },
    KernelCheck { name: "e1000", run: environment::e1000 },
    KernelCheck { name: "conntrack", run: environment::conntrack },
];

/// For unsupported kernels, only on request.
const REFUSED: KernelCheck = KernelCheck { name: "refused", run: refused::refused };

/// Runs all checks, or those named, and writes a line for each. Returns the number of failures.
pub(crate) fn run(machine: &CheckMachine, only: &[String], out: &mut impl Write) -> Result<usize> {
    let checks = select(only)?;
    let names: Vec<_> = checks.iter().map(|check| check.name).collect();
    writeln!(out, "plan {}", names.join(" "))?;
    let mut failed = 0;
    for check in checks {
        let name = check.name;
        // A check that panics has failed. The others continue.
        let result = panic::catch_unwind(AssertUnwindSafe(|| (check.run)(machine)));
        match result.unwrap_or_else(|_| Err(anyhow!("it panicked; see the log"))) {
            Ok(CheckOutcome::Fine) => writeln!(out, "{name} ok")?,
            Ok(CheckOutcome::In(way)) => writeln!(out, "{name} ok {way}")?,
            Ok(CheckOutcome::NotApplicable(why)) => writeln!(out, "{name} n/a {why}")?,
            Err(error) => {
                failed += 1;
                writeln!(out, "{name} FAIL {}", one_line(&format!("{error:#}")))?;
            }
        }
    }
    Ok(failed)
}

fn select(only: &[String]) -> Result<Vec<&'static KernelCheck>> {
    let all = || CHECKS.iter().chain([&REFUSED]);
    for name in only {
        if !all().any(|check| check.name == name) {
            let names: Vec<_> = all().map(|check| check.name).collect();
            bail!("unknown check '{name}'; expected one of {}", names.join(", "));
        }
    }
    if only.is_empty() {
        return Ok(CHECKS.iter().collect());
    }
    Ok(all().filter(|check| only.iter().any(|name| name == check.name)).collect())
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
