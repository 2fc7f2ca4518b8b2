//! What this kernel, driver and configuration support, and what to change.
//!
//! [`run`] inspects and judges, but changes nothing. It reports as unknown whatever it cannot inspect.

mod interface;
mod kernel;
mod report;
mod services;
mod settings;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

use crate::{
    dataplane::survey::Features,
    host::{
        addresses,
        firewall::{Firewall, Tracking},
        links::{self, Link},
        sockets, sysctl, vips,
    },
    model::listener::Listener,
};

use services::FirewallRules;

pub use report::{Check, Report, Status};

/// Time limit for tools that list firewall rules.
const FIREWALL_PATIENCE: Duration = Duration::from_secs(5);

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The interfaces. Empty means every hardware interface that is up.
    pub interfaces: Vec<String>,
    /// The ports to protect. Empty means all ports with a listener.
    pub ports: BTreeSet<u16>,
}

/// A service that a running defender cannot protect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnprotectableService {
    /// Its port.
    pub port: u16,
    /// Why.
    pub reason: String,
}

/// Checks the host, in the network namespace of the calling thread.
pub fn run(options: &Scope, features: &Features, unprotectable: &[UnprotectableService]) -> Result<Report> {
    let sysctls = sysctl::read_all()?;
    let firewall = Firewall::read(FIREWALL_PATIENCE);
    let mut checks = kernel::checks(features);
    checks.extend(kernel::conntrack(features, &sysctls));
    checks.extend(settings::checks(&sysctls));
    let interfaces = interfaces(options)?;
    let mut arrive_by = Vec::new();
    for name in &interfaces {
        checks.extend(match link(name) {
            Ok(link) => {
                arrive_by.extend(link.names_at_ip());
                interface::checks(&link, features)
            }
            Err(check) => vec![*check],
        });
    }
    checks.extend(addresses(&interfaces));
    let rules = FirewallRules { firewall, arrive_by, tracking: Tracking::new(&sysctls, features.conntrack) };
    checks.extend(services::checks(sockets::listeners(), &rules, options));
    let is_wanted = |it: &&UnprotectableService| options.ports.is_empty() || options.ports.contains(&it.port);
    checks.extend(unprotectable.iter().filter(is_wanted).map(services::unprotectable));
    Ok(Report::new(checks))
}

/// Addresses whose SYNs may arrive through a balancer.
fn addresses(interfaces: &[String]) -> Vec<Check> {
    const NAME: &str = "direct return";
    const ADVICE: &str = "ask who runs the balancer or the routers in front of this host";
    let found = addresses::local_prefixes().and_then(|local| vips::vips(&local, interfaces));
    match found {
        Ok(vips) if vips.is_empty() => vec![Check::ok(NAME, "no address that a balancer may be in front of")],
        Ok(vips) => vips::warnings(&vips).into_iter().map(|it| Check::warn(NAME, it, ADVICE)).collect(),
        Err(error) => vec![Check::unknown(NAME, format!("{error:#}"), "check with: ip addr show dev lo")],
    }
}

/// The requested interfaces, or else all hardware interfaces that are up.
fn interfaces(options: &Scope) -> Result<Vec<String>> {
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

/// Sorted listeners on the requested ports that external clients can reach.
fn relevant(options: &Scope, mut listeners: Vec<Listener>) -> Vec<Listener> {
    let is_wanted = |port: u16| options.ports.is_empty() || options.ports.contains(&port);
    listeners.retain(|it| is_wanted(it.port) && !it.address.is_loopback());
    listeners.sort_by_key(|listener| (listener.port, listener.address));
    listeners
}
