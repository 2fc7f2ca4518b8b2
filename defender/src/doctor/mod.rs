//! What this kernel, driver and configuration can and cannot do, and what to change.
//!
//! [`run`] looks and judges; it changes nothing. What cannot be looked at is said to be unknown.

mod interface;
mod kernel;
mod report;
mod services;
mod settings;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::host::firewall::Firewall;
use crate::host::links::{self, Link};
use crate::host::sockets::{self, Listener};
use crate::host::sysctl::Sysctls;

pub use report::{Check, Report, Status};

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The interfaces; none stands for every piece of hardware that is switched on.
    pub interfaces: Vec<String>,
    /// The ports to be protected; none stands for all that something listens on.
    pub ports: BTreeSet<u16>,
}

/// What the kernel offers to eBPF, as the loader finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The kernel's version, major and minor.
    pub kernel: (u32, u32),
    /// It has type information (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// It has `bpf_sk_assign_tcp_reqsk`, by which proven connections are handed over.
    pub assign_reqsk: bool,
    /// It has tcx.
    pub tcx: bool,
    /// The BPF file system is mounted where programs are to be pinned.
    pub bpffs: bool,
    /// This process may load and attach programs.
    pub privileged: bool,
    /// Names of the loaded programs, by id; empty if they may not be listed.
    pub programs: BTreeMap<u32, String>,
}

/// Examines the host, in the network namespace of the calling thread.
pub fn run(options: &Options, features: &Features) -> Result<Report> {
    let sysctls = Sysctls::read()?;
    let firewall = Firewall::read();
    let mut listeners = sockets::listeners()?;
    listeners.sort_by_key(|listener| (listener.port, listener.address));

    let mut checks = kernel::checks(features);
    checks.extend(settings::checks(&sysctls, &firewall));
    for name in interfaces(options)? {
        checks.extend(match link(&name) {
            Ok(link) => interface::checks(&link, features),
            Err(check) => vec![*check],
        });
    }
    checks.extend(services::checks(&relevant(options, listeners), &firewall, options));
    Ok(Report::new(checks))
}

/// The interfaces asked for, or else hardware that is switched on.
fn interfaces(options: &Options) -> Result<Vec<String>> {
    if !options.interfaces.is_empty() {
        return Ok(options.interfaces.clone());
    }
    let is_up_hardware = |name: &String| {
        links::interface(name).is_ok_and(|link| link.up && link.kind.is_none() && link.mac.is_some())
    };
    Ok(links::names()?.into_iter().filter(is_up_hardware).collect())
}

fn link(name: &str) -> Result<Link, Box<Check>> {
    links::interface(name).map_err(|error| {
        let advice = "name an interface that `ip link` lists";
        Box::new(Check::fail("interface", format!("{error:#}"), advice).about(name))
    })
}

/// The listeners that clients elsewhere can reach, on the ports asked for.
fn relevant(options: &Options, listeners: Vec<Listener>) -> Vec<Listener> {
    let is_wanted = |port: u16| options.ports.is_empty() || options.ports.contains(&port);
    listeners.into_iter().filter(|it| is_wanted(it.port) && !it.address.is_loopback()).collect()
}
