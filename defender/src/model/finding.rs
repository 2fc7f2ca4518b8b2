//! A firewall rule that is in the way of connections to a service, and what to change.

use std::fmt;

/// A rule in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it does.
    pub effect: Effect,
    /// How to find it: `nft` family, table, chain and handle, or the line that `iptables-save` prints.
    pub rule: String,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connections go elsewhere (DNAT, redirect, tproxy), and the kernel takes no hand-off for them.
    Redirected {
        /// Where to, as far as the rule says.
        to: String,
    },
    /// This host does NAT, whatever for: the kernel then takes the request that a challenged connection comes with for one
    /// whose port was changed (`nf_nat_inet_port_was_mangled`), drops it, and resets the client.
    Nat,
    /// The firewall answers SYNs with cookies of its own, and takes no one else's ACKs.
    Synproxy,
    /// It drops connections that do not begin with a SYN, as those that were challenged.
    SynRequired,
    /// It lets SYNs pass, and what follows by conntrack's word alone: a challenged connection, whose ACK comes first, does
    /// not get past another rule.
    OnlySynsAccepted {
        /// What drops the rest.
        dropped_by: String,
    },
    /// It drops what conntrack calls invalid, and that is the ACK of a challenged connection while
    /// `nf_conntrack_tcp_loose` is 0.
    InvalidDropped,
    /// It drops the SYNs of some clients and nothing else of theirs: challenged, they would get in.
    OnlySynsDropped,
    /// It drops all SYNs, so that nobody may connect.
    Closed,
    /// It limits SYNs, or picks some by what they say, and sees none of those that are challenged.
    SynsLimited,
    /// It limits new connections, and takes each packet of a challenged one for a new one until the server has spoken.
    NewLimited,
}

impl Finding {
    /// What `rule` does.
    pub fn new(effect: Effect, rule: &str) -> Self {
        Self { effect, rule: rule.to_owned() }
    }

    /// Whether clients that are challenged fare worse than others, or get in where they should not.
    pub fn is_obstacle(&self) -> bool {
        !matches!(self.effect, Effect::SynsLimited | Effect::NewLimited)
    }

    /// Whether some clients fare worse while they are challenged.
    pub fn hurts(&self) -> bool {
        self.effect != Effect::SynsLimited
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self.effect {
            Effect::Redirected { .. } => {
                "to protect it, listen on this host without DNAT (docker: --network host), or defend the place that \
                 connections are sent to"
            }
            Effect::Nat => "take NAT out of this network namespace: into another, or onto another host",
            Effect::Synproxy => "remove the rule to have SYNs answered at the NIC",
            Effect::SynRequired => "remove the rule: defender drops ACKs that no cookie vouches for",
            Effect::OnlySynsAccepted { .. } => {
                "match `ct state new` (iptables: -m conntrack --ctstate NEW) instead of TCP flags"
            }
            Effect::InvalidDropped => "sysctl -w net.netfilter.nf_conntrack_tcp_loose=1",
            Effect::OnlySynsDropped => "drop all packets of these clients, not SYNs alone",
            Effect::Closed => "let the port in, or stop the service",
            Effect::SynsLimited => {
                "nothing, if the rule is there against floods; to limit clients, match `ct state new` instead of TCP flags"
            }
            Effect::NewLimited => "allow twice as many connections there",
        }
    }
}

/// What the rule does to the service, as a sentence.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.effect {
            Effect::Redirected { to } => {
                write!(f, "a firewall rule sends its connections to {to} before the listener sees them")
            }
            Effect::Nat => f.write_str("this host does NAT, and its kernel resets challenged connections then"),
            Effect::Synproxy => f.write_str("a firewall rule answers its SYNs with cookies of its own"),
            Effect::SynRequired => {
                f.write_str("a firewall rule drops connections that do not begin with a SYN, as challenged ones")
            }
            Effect::OnlySynsAccepted { dropped_by } => write!(
                f,
                "a firewall rule lets its connections in by their SYN alone, and challenged ones, which begin with an \
                 ACK, are dropped (by {dropped_by})"
            ),
            Effect::InvalidDropped => f.write_str(
                "conntrack calls challenged connections invalid (net.netfilter.nf_conntrack_tcp_loose is 0), and the \
                 firewall drops them",
            ),
            Effect::OnlySynsDropped => f.write_str(
                "a firewall rule keeps clients out by dropping their SYNs alone: challenged, they would get in",
            ),
            Effect::Closed => f.write_str("the firewall lets nobody in, and a SYN-ACK would reveal the port"),
            Effect::SynsLimited => {
                f.write_str("a firewall rule limits or picks SYNs, and does not see those that are challenged")
            }
            Effect::NewLimited => f.write_str(
                "a firewall rule limits new connections, and counts a challenged one twice: its ACK and its first data",
            ),
        }
    }
}
