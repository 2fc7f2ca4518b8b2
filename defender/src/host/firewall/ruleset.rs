//! Rules of any firewall, reduced to what matters for connections that are handed over, and the search for those that
//! are in the way.
//!
//! A connection that was challenged comes to the firewall with its ACK, which conntrack calls new (or invalid, where it
//! does not take up connections midway). So two packets are followed through the rules: a SYN, and such an ACK.
//! Conditions that are not understood are taken to hold.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::ports::Ports;
use super::{Finding, Problem};

/// How deep chains may call each other (`NFT_JUMP_STACK_SIZE`).
const MAX_DEPTH: usize = 16;

/// The chains of a host.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    pub chains: BTreeMap<ChainId, Chain>,
}

/// Which chain: its table (with the family), and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChainId {
    pub table: String,
    pub name: String,
}

/// The rules of a chain, in order.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// Packets that arrive for this host begin here.
    pub entry: bool,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// How to find it again.
    pub place: String,
    pub conditions: Conditions,
    pub action: Action,
}

/// What a rule does to packets that meet its conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing that matters here.
    None,
    Accept,
    /// Dropped or refused, perhaps above some rate only.
    Drop,
    /// Sent elsewhere: DNAT, redirect or tproxy.
    Redirect {
        to: String,
    },
    /// Answered with SYN cookies by the firewall.
    Synproxy,
    /// On to another chain of the same table.
    Call(String),
}

/// Which packets a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conditions {
    /// TCP is not excluded.
    pub tcp: bool,
    /// Destination ports.
    pub ports: Ports,
    /// Some condition on ports could not be read: `ports` is too much.
    pub vague: bool,
    /// Destination addresses, if they are one prefix.
    pub destination: Option<(IpAddr, u8)>,
    /// The interface it must arrive by; a trailing `*` stands for anything.
    pub interface: Option<String>,
    /// A SYN has the right flags.
    pub syn: bool,
    /// An ACK has the right flags.
    pub ack: bool,
    /// New connections are meant.
    pub new: bool,
    /// Packets that conntrack can make nothing of are meant.
    pub invalid: bool,
}

impl Conditions {
    /// None at all.
    pub(super) fn any() -> Self {
        Self {
            tcp: true,
            ports: Ports::all(),
            vague: false,
            destination: None,
            interface: None,
            syn: true,
            ack: true,
            new: true,
            invalid: true,
        }
    }

    /// Both these and those.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self {
            tcp: self.tcp && other.tcp,
            ports: self.ports.intersection(&other.ports),
            vague: self.vague || other.vague,
            destination: other.destination.or(self.destination),
            interface: other.interface.clone().or_else(|| self.interface.clone()),
            syn: self.syn && other.syn,
            ack: self.ack && other.ack,
            new: self.new && other.new,
            invalid: self.invalid && other.invalid,
        }
    }

    /// Narrows the flags to those of packets whose flags pass `test`.
    pub(super) fn test_flags(&mut self, test: impl Fn(u8) -> bool) {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        self.syn &= test(SYN);
        self.ack &= test(ACK);
    }

    fn possible(&self) -> bool {
        self.tcp && !self.ports.is_empty()
    }
}

/// Everything in the way, in the order of the chains.
pub(super) fn findings(ruleset: &Ruleset) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (id, chain) in ruleset.chains.iter().filter(|(_, chain)| chain.entry) {
        walk(ruleset, id, chain, &Conditions::any(), MAX_DEPTH, &mut findings);
    }
    findings
}

fn walk(
    ruleset: &Ruleset,
    id: &ChainId,
    chain: &Chain,
    came: &Conditions,
    depth: usize,
    findings: &mut Vec<Finding>,
) {
    for rule in &chain.rules {
        let conditions = came.and(&rule.conditions);
        if !conditions.possible() {
            continue;
        }
        if let Action::Call(name) = &rule.action {
            let id = ChainId { table: id.table.clone(), name: name.clone() };
            if let (Some(chain), Some(depth)) = (ruleset.chains.get(&id), depth.checked_sub(1)) {
                walk(ruleset, &id, chain, &conditions, depth, findings);
            }
        } else if let Some(problem) = problem(&conditions, &rule.action) {
            let finding = Finding {
                problem,
                ports: conditions.ports,
                vague: conditions.vague,
                destination: conditions.destination,
                interface: conditions.interface,
                rule: rule.place.clone(),
            };
            // A chain that is called from two places is one rule to change all the same.
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
}

fn problem(conditions: &Conditions, action: &Action) -> Option<Problem> {
    let Conditions { syn, ack, new, invalid, .. } = *conditions;
    match action {
        Action::Redirect { to } if syn && new => Some(Problem::Redirected { to: to.clone() }),
        Action::Synproxy => Some(Problem::Synproxy),
        Action::Drop if syn && new && !ack => Some(Problem::SynsDropped),
        Action::Drop if ack && new && !syn => Some(Problem::OthersDropped),
        Action::Drop if ack && invalid && !new => Some(Problem::InvalidDropped),
        Action::Accept if syn && new && !ack => Some(Problem::SynsAccepted),
        _ => None,
    }
}
