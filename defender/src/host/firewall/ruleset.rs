//! A common model of firewall rules, reduced to what affects the first packets of a connection to this
//! host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{FirewallTarget, ports::PortSet};

/// The chains of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub chains: BTreeMap<ChainId, Chain>,
    pub nat: Vec<Nat>,
}

/// A table or chain does NAT. Its rules do not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nat {
    /// Applies to packets that meet these conditions.
    pub conditions: Vec<Condition>,
    /// Where it is, for reports.
    pub place: String,
}

impl Ruleset {
    /// The rule or chain that applies NAT to connections to `target`. Without one, nothing makes the kernel
    /// track connections.
    pub(super) fn nat(&self, target: &FirewallTarget) -> Option<&str> {
        let has_rules = self.chains.values().any(|chain| !chain.rules.is_empty());
        let fits = |it: &Condition| it.fits(ClientPacket::Syn, CtState::New, target) != Fit::No;
        let mut nat = self.nat.iter().filter(|nat| has_rules && nat.conditions.iter().all(fits));
        nat.next().map(|nat| nat.place.as_str())
    }
}

/// A chain, by table (with family) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChainId {
    pub table: String,
    pub name: String,
}

/// The rules of a chain, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Set if packets to this host enter the chain directly.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

/// Properties of a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub hook: NetfilterHook,
    /// Chains of a hook run in this order.
    pub priority: i64,
    /// Conntrack shows it only a connection's first packet.
    pub nat: bool,
    /// Packets that it applies to.
    pub conditions: Vec<Condition>,
    /// It drops packets that reach its end.
    pub drops: bool,
    /// Where its policy is, for reports.
    pub place: String,
}

/// Netfilter hooks for packets to this host, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NetfilterHook {
    Ingress,
    Prerouting,
    Input,
}

/// Priority of conntrack in prerouting (`NF_IP_PRI_CONNTRACK`).
pub(super) const CONNTRACK_PRIORITY: i64 = -200;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Where it is, for reports.
    pub place: String,
    /// Applies to packets that meet all of these.
    pub conditions: Vec<Condition>,
    /// Applies only while this limit allows.
    pub limit: Option<Limit>,
    pub action: RuleAction,
}

/// A limit on a rate or on a number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// The rule matches what exceeds the limit, not what is within it.
    pub beyond: bool,
    /// It counts conntrack entries, each once (`nf_conncount`), not packets.
    pub connections: bool,
}

impl Limit {
    /// A limit on packets.
    pub(super) const fn rate(beyond: bool) -> Self {
        Self { beyond, connections: false }
    }
}

/// A rule's action on packets that meet its conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RuleAction {
    /// No effect on the first packets of a connection.
    None,
    Accept,
    /// Dropped or refused.
    Drop,
    /// Back to the chain that called this one.
    Return,
    /// Excluded from conntrack.
    Notrack,
    /// Redirected: DNAT, redirect or tproxy.
    Redirect {
        to: String,
    },
    /// Answered with SYN cookies by the firewall.
    Synproxy,
    /// Continues in another chain of the same table. Returns unless it is a `goto`.
    Call {
        chain: String,
        goto: bool,
    },
}

/// A packet from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientPacket {
    /// The SYN.
    Syn,
    /// The ACK that completes the handshake. For a challenged connection, it is the first packet the
    /// firewall sees.
    Ack,
    /// A packet after conntrack has the connection.
    Later,
}

/// Conntrack's state of a packet, as a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CtState {
    New = 1,
    Established = 2,
    Related = 4,
    Invalid = 8,
    Untracked = 16,
}

impl CtState {
    /// The state of this name, in either case.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "new" => Self::New,
            "established" => Self::Established,
            "related" => Self::Related,
            "invalid" => Self::Invalid,
            "untracked" => Self::Untracked,
            _ => return None,
        })
    }
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// TCP packets to a listener never meet it.
    Never,
    /// The IP version.
    Version { v6: bool },
    /// The destination port.
    Port(PortSet),
    /// The destination address is in one of these prefixes, or, if negated, in none.
    Destination { prefixes: Vec<IpNet>, negated: bool },
    /// The ingress interface is one of these, or, if negated, none of these. A trailing `*` matches
    /// anything.
    Interface { names: Vec<String>, negated: bool },
    /// TCP flags: whether a SYN's and an ACK's flags match.
    Flags { syn: bool, ack: bool },
    /// Conntrack states: bits of [`CtState`].
    States(u8),
    /// An unexamined property that all packets of a connection share, such as their source.
    OfConnection,
    /// An unexamined property that differs between packets: whether a SYN and an ACK may meet it.
    OfPacket { syn: Fit, ack: Fit },
}

/// Whether a packet meets a condition. A rule's result is the minimum over its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    No,
    /// Perhaps, independently of the connection's other packets.
    Perhaps,
    /// Perhaps, and then all packets of the connection do.
    Together,
    Yes,
}

impl Condition {
    /// Flags that pass a test of the TCP header's flags.
    pub(super) fn flags(test: impl Fn(u8) -> bool) -> Self {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        Self::Flags { syn: test(SYN), ack: test(ACK) }
    }

    /// States with these names. Skips states that packets to a listener never have.
    pub(super) fn states<'n>(names: impl IntoIterator<Item = &'n str>, negated: bool) -> Self {
        let bits = names.into_iter().filter_map(CtState::named).fold(0, |all, state| all | state as u8);
        Self::States(if negated { !bits } else { bits })
    }

    /// Whether a packet to `target`, with conntrack state `state`, meets the condition.
    pub(super) fn fits(&self, packet: ClientPacket, state: CtState, target: &FirewallTarget) -> Fit {
        let surely = |holds: bool| if holds { Fit::Yes } else { Fit::No };
        let is_syn = packet == ClientPacket::Syn;
        match self {
            Self::Never => Fit::No,
            Self::Version { v6 } => surely(*v6 == target.v6),
            Self::Port(ports) => surely(ports.contains(target.port)),
            Self::Destination { prefixes, negated } => {
                destination(prefixes, target.address).map_or(Fit::Together, |is_in| surely(is_in != *negated))
            }
            Self::Interface { names, negated } => match &target.interface {
                Some(interface) => surely(names.iter().any(|name| is_called(interface, name)) != *negated),
                None => Fit::Together,
            },
            Self::Flags { syn, ack } => surely(if is_syn { *syn } else { *ack }),
            Self::States(bits) => surely(bits & state as u8 != 0),
            Self::OfConnection => Fit::Together,
            Self::OfPacket { syn, ack } => {
                if is_syn {
                    *syn
                } else {
                    *ack
                }
            }
        }
    }
}

/// Whether the address is in one of these prefixes. The unspecified address means all of this host's
/// addresses: `None` where some may be in them and others not.
fn destination(prefixes: &[IpNet], address: IpAddr) -> Option<bool> {
    if prefixes.iter().any(|prefix| prefix.prefix_len() == 0) {
        return Some(true);
    }
    (!address.is_unspecified()).then(|| prefixes.iter().any(|prefix| prefix.contains(&address)))
}

fn is_called(interface: &str, name: &str) -> bool {
    match name.strip_suffix('*') {
        Some(prefix) => interface.starts_with(prefix),
        None => interface == name,
    }
}
