//! nftables and iptables rules that block connections which were challenged and handed over.
//!
//! The rules are read with the tools that manage them (`nft -j list ruleset`, `iptables-save` and similar),
//! run in the calling thread's network namespace. Rules that could not be read are reported, never treated
//! as absent.

mod evaluate;
mod finding;
mod iptables;
mod nft;
mod ports;
mod ruleset;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::tool::{Tool, list};
use crate::model::{
    finding::{Effect, Finding},
    sysctls::Sysctls,
};
use ports::PortSet;
use ruleset::Ruleset;

/// The firewall rules of this network namespace for connections to this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    rules: Ruleset,
    /// What could not be checked, and why, one sentence each.
    pub unchecked: Vec<String>,
    /// An installed tool failed. The next reading may succeed.
    pub failed: bool,
}

/// A service's destination as the firewall sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// Its address. An unspecified address means all of this host's addresses.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Accepts IPv4.
    pub v4: bool,
    /// Accepts IPv6.
    pub v6: bool,
}

/// How conntrack treats connections that are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracking {
    /// It picks up connections without having seen their SYN (`nf_conntrack_tcp_loose`).
    pub loose: bool,
    /// It classifies only one packet of a connection as new. Otherwise every packet is new until the server
    /// replies.
    pub one_new: bool,
}

impl Tracking {
    /// Derived from the kernel's settings and from whether eBPF can inform conntrack of handed-over
    /// connections. No rule consults conntrack if the kernel lacks it.
    pub fn new(sysctls: &Sysctls, one_new: bool) -> Self {
        Self { loose: sysctls.nf_conntrack_tcp_loose != Some(false), one_new }
    }
}

/// What the rules mean for a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Why SYNs to it may not be challenged.
    pub obstacle: Option<Finding>,
    /// Further findings that an operator should know.
    pub warnings: Vec<Finding>,
}

/// Connections to a service over one IP version and one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FirewallTarget {
    /// `None` means any.
    interface: Option<String>,
    address: IpAddr,
    port: u16,
    v6: bool,
}

impl Firewall {
    /// Reads the rules of the calling thread's network namespace. Kills tools that run longer than
    /// `patience`.
    pub fn read(patience: Duration) -> Self {
        let mut reading = Self::default();
        let deadline = Instant::now() + patience;
        // For rules that iptables keeps in nftables, its own listing has more detail: nft omits extensions
        // it does not know. So iptables' tables are read first, and nft's tables of the same names are
        // skipped.
        let ours = iptables::read(&mut reading, deadline);
        nft::read(&mut reading, &ours, deadline);
        reading
    }

    /// A firewall of which this could not be read.
    #[cfg(test)]
    pub(crate) fn unread(reason: &str, failed: bool) -> Self {
        Self { unchecked: vec![reason.to_owned()], failed, ..Self::default() }
    }

    fn could_not_run(&mut self, tool: &str, reason: &str) {
        self.unchecked.push(format!("{tool} failed: {reason}"));
        self.failed = true;
    }

    /// What the rules mean for a service whose clients arrive on `interfaces` (names at the IP layer). An
    /// empty list means any interface.
    pub fn judge(&self, interfaces: &[String], to: &Destination, tracking: Tracking) -> Judgement {
        let targets = to.targets(interfaces);
        let all: Vec<_> =
            targets.iter().map(|target| finding::findings(&self.rules, target, tracking)).collect();
        let is_closed = |found: &Vec<Finding>| found.iter().any(|it| it.effect == Effect::Closed);
        let closed = all.iter().all(is_closed);
        let mut judgement = Judgement::default();
        for finding in all.into_iter().flatten() {
            let is_obstacle = if finding.effect == Effect::Closed { closed } else { finding.is_obstacle() };
            if is_obstacle {
                judgement.obstacle.get_or_insert(finding);
            } else if !judgement.warnings.contains(&finding) {
                judgement.warnings.push(finding);
            }
        }
        judgement
    }
}

impl Destination {
    fn targets(&self, interfaces: &[String]) -> Vec<FirewallTarget> {
        let interfaces: Vec<_> = match interfaces {
            [] => vec![None],
            some => some.iter().cloned().map(Some).collect(),
        };
        let versions = [(self.v4, false), (self.v6, true)];
        let versions = versions.into_iter().filter_map(|(takes, v6)| takes.then_some(v6));
        versions
            .flat_map(|v6| interfaces.iter().map(move |interface| self.target(interface.clone(), v6)))
            .collect()
    }

    fn target(&self, interface: Option<String>, v6: bool) -> FirewallTarget {
        let address = match self.address {
            address if !address.is_unspecified() => address,
            _ if v6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        FirewallTarget { interface, address, port: self.port, v6 }
    }
}

/// A prefix in the tools' notation: `a.b.c.d`, `a.b.c.d/n`, or the same for IPv6.
fn parse_prefix(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| address.into()))
}
