//! The rules of nftables and iptables that are in the way of connections which are challenged and handed over.
//!
//! They are read with the tools that made them (`nft -j list ruleset`, `iptables-save` and kin), run in the network
//! namespace of the calling thread. What could not be read is told, never taken for nothing.

mod iptables;
mod nft;
mod ports;
mod ruleset;

use std::io;
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

pub use ports::Ports;
use ruleset::Ruleset;

/// What the firewall of this network namespace has for connections to this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Rules in the way.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why; a sentence each.
    pub unchecked: Vec<String>,
}

/// A rule in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it does.
    pub problem: Problem,
    /// For which destination ports.
    pub ports: Ports,
    /// Not all of its conditions on ports could be read: it may be for fewer.
    pub vague: bool,
    /// For which destination addresses, if it is for one prefix; address and length.
    pub destination: Option<(IpAddr, u8)>,
    /// For packets that arrive by this interface only; a trailing `*` stands for anything.
    pub interface: Option<String>,
    /// How to find it: `nft` family, table, chain and handle, or the line that `iptables-save` prints.
    pub rule: String,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Connections go elsewhere (DNAT, redirect, tproxy): the kernel takes no hand-off for them, so that the service
    /// behind the port cannot be protected.
    Redirected {
        /// Where to, as far as the rule says.
        to: String,
    },
    /// The firewall answers SYNs with cookies of its own, and takes no one else's ACKs.
    Synproxy,
    /// SYNs alone are dropped, limited or refused: what the rule is for never sees a challenged connection.
    SynsDropped,
    /// SYNs alone are let in: a challenged connection, whose ACK comes first, is not.
    SynsAccepted,
    /// New connections that do not begin with a SYN are dropped: so are challenged ones.
    OthersDropped,
    /// What conntrack calls invalid is dropped: so are challenged connections where `nf_conntrack_tcp_loose` is 0.
    InvalidDropped,
}

impl Firewall {
    /// Reads the rules of the calling thread's network namespace.
    pub fn read() -> Self {
        let mut unchecked = Vec::new();
        let mut rules = Ruleset::default();
        // iptables' own listing of rules that it keeps in nftables says more than nft's, which leaves out what it does
        // not know: its tables come first, and nft's of the same name are left out.
        let ours = iptables::read(&mut rules, &mut unchecked);
        nft::read(&mut rules, &ours, &mut unchecked);
        Self { findings: ruleset::findings(&rules), unchecked }
    }

    /// The rule, if any, that takes connections for this address and port, which arrive by one of `interfaces`, away
    /// from their listener. An unspecified address stands for all of this host's. Rules whose ports could not be read
    /// are not considered.
    pub fn obstacle(&self, interfaces: &[String], address: IpAddr, port: u16) -> Option<&Finding> {
        self.findings.iter().find(|finding| {
            matches!(finding.problem, Problem::Redirected { .. } | Problem::Synproxy)
                && !finding.vague
                && interfaces.iter().any(|interface| finding.applies(interface, address, port))
        })
    }
}

impl Finding {
    /// Whether it is for connections that arrive by `interface` for this address and port.
    pub fn applies(&self, interface: &str, address: IpAddr, port: u16) -> bool {
        self.is_on(interface) && self.is_for(address, port)
    }

    /// Whether it is for connections that arrive by `interface`.
    pub fn is_on(&self, interface: &str) -> bool {
        self.interface.as_ref().is_none_or(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => interface.starts_with(prefix),
            None => interface == pattern,
        })
    }

    /// Whether it is for connections to this address and port; an unspecified address stands for all of this host's.
    pub fn is_for(&self, address: IpAddr, port: u16) -> bool {
        let is_in = |(prefix, length)| is_within(address, prefix, length);
        self.ports.contains(port) && (address.is_unspecified() || self.destination.is_none_or(is_in))
    }
}

fn is_within(address: IpAddr, prefix: IpAddr, length: u8) -> bool {
    let differ = match (address, prefix) {
        (IpAddr::V4(one), IpAddr::V4(two)) => u128::from(one.to_bits() ^ two.to_bits()) << 96,
        (IpAddr::V6(one), IpAddr::V6(two)) => one.to_bits() ^ two.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= u32::from(length)
}

/// A prefix as the tools print it: `a.b.c.d` or `a.b.c.d/n`, and likewise for IPv6.
fn parse_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    Some((address, length.unwrap_or(if address.is_ipv4() { 32 } else { 128 })))
}

/// What running a tool came to.
enum Tool {
    /// It printed this.
    Printed(String),
    Missing,
    /// It failed, for this reason.
    Failed(String),
}

/// Where administrators' tools are even if the search path leaves them out.
const PLACES: [&str; 3] = ["", "/usr/sbin/", "/sbin/"];

/// Runs a tool that only lists.
fn list(tool: &str, arguments: &[&str]) -> Tool {
    for place in PLACES {
        match Command::new(format!("{place}{tool}")).args(arguments).stdin(Stdio::null()).output() {
            Ok(output) => return outcome(&output),
            // A directory of the search path that may not be read says nothing of the tool.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            Err(error) => return Tool::Failed(error.to_string()),
        }
    }
    Tool::Missing
}

fn outcome(output: &Output) -> Tool {
    if output.status.success() {
        return Tool::Printed(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Tool::Failed(errors.lines().next().unwrap_or("it failed without a word").trim().to_owned())
}
