//! The verdict on a peer's next SYN, and the rule behind it. Pure.
//!
//! The rules are the datapath's own ([`decide`]). Its lookups are answered from the maps and the socket
//! table as read before. For whatever only the packet would show, a well-formed SYN is assumed
//! ([`ASSUMED`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use defender_common::{
    abi,
    classify::Class,
    decide::{Lookups, Policy, Socket, beyond_limits, decide},
    load,
    mitigation::Level,
    queue::{Accept, Queue},
    verdict::Reason,
};

use crate::{
    model::{
        endpoint::Endpoint,
        lists::entry::{Entry, Origin},
        mode::Mode,
        sysctls,
    },
    report::connection_list::Connection,
};

/// Assumptions about the SYN.
pub const ASSUMED: [&str; 4] = [
    "unless a port of the peer was named, the SYN comes from one that has no connection (else pass.syn_known)",
    "it is whole, its checksums are right, its TTL is not 0, and it is no fragment",
    "it carries no TCP-MD5 or TCP-AO signature: one that does would pass (pass.syn_signed)",
    "it comes to an address and a MAC address of this host, by a defended interface, without VLAN tags",
];

/// The sender of the SYN.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The address.
    pub address: IpAddr,
    /// The port, or `None` for one that it has no connection from.
    pub port: Option<u16>,
    /// It may be answered: unicast, not loopback.
    pub unicast: bool,
    /// It is this host's own.
    pub local: bool,
    /// It is a broadcast address of one of this host's subnets.
    pub broadcast: bool,
    /// The time in milliseconds of the datapath's clock.
    pub now: u32,
    /// `PREFIX_*` bits of the longest listed prefix that covers the address, or 0 if none does.
    pub listed: u32,
    /// It has completed a handshake recently.
    pub known: bool,
    /// SYN-ACKs sent to its network in this second, including one for this SYN.
    pub replies: u32,
}

/// A service that the SYN would go to.
#[derive(Clone, Copy, Debug)]
pub struct SynTarget<'a> {
    /// Its slot of `SERVICES`.
    pub slot: &'a abi::Service,
    /// Its present load.
    pub load: &'a abi::Load,
    /// It has a listener.
    pub listens: bool,
    /// The kernel's connection from the sender's address and port.
    pub connection: Option<&'a Connection>,
    /// Why it cannot be protected, if known.
    pub unprotectable: Option<&'a str>,
}

/// The verdict on a SYN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextSyn {
    /// The port it would be sent to.
    pub port: u16,
    /// The address of the service, or `None` if there is no service.
    pub address: Option<IpAddr>,
    /// The reason it would be counted under.
    pub reason: Reason,
    /// The reason in words.
    pub explanation: String,
}

impl NextSyn {
    /// Applies the datapath's rules.
    pub fn of(sender: &Sender, target: &SynTarget, config: &abi::Config) -> Self {
        let reason = decide(Class::Syn, &mut RecordedLookups { sender, target, config });
        let endpoint = Endpoint::from_abi(target.slot);
        Self {
            port: endpoint.port,
            address: Some(endpoint.address),
            reason,
            explanation: explanation(reason, sender, target, config),
        }
    }

    /// The verdict where no service listens.
    pub fn unprotected(port: u16, peer: IpAddr) -> Self {
        let family = if peer.is_ipv4() { "IPv4" } else { "IPv6" };
        let explanation = format!("no known service listens on port {port} for {family}");
        Self { port, address: None, reason: Reason::Unprotected, explanation }
    }
}

/// Answers the lookups of a decision.
struct RecordedLookups<'a> {
    sender: &'a Sender,
    target: &'a SynTarget<'a>,
    config: &'a abi::Config,
}

impl RecordedLookups<'_> {
    /// As last read.
    fn queue(&self) -> Queue {
        Queue::unpack(self.target.load.queue)
    }
}

impl Lookups for RecordedLookups<'_> {
    fn is_off(&mut self) -> bool {
        Policy::is_off(self.target.slot, self.target.load)
    }

    fn policy(&mut self) -> Policy {
        Policy::of(self.target.slot, load::mitigation(self.target.load).level, self.config)
    }

    fn is_to_local(&mut self) -> bool {
        true
    }

    fn source_is_answerable(&mut self) -> bool {
        self.sender.unicast && !self.sender.local && !self.sender.broadcast
    }

    fn listed(&mut self) -> u32 {
        self.sender.listed
    }

    fn has_room(&mut self) -> bool {
        load::has_room(self.queue(), &self.target.slot.triggers)
    }

    fn has_room_for_many(&mut self) -> bool {
        self.has_room()
    }

    fn accept_queue(&mut self) -> Accept {
        self.queue().accept
    }

    fn is_fragment(&mut self) -> bool {
        false
    }

    fn is_nested(&mut self) -> bool {
        false
    }

    fn socket(&mut self) -> Socket {
        match (self.target.connection, self.target.listens) {
            (Some(_), _) => Socket::Connection,
            (None, true) => Socket::Listener,
            (None, false) => Socket::Nothing,
        }
    }

    fn is_signed(&mut self) -> bool {
        false
    }

    fn checksum_is_acceptable(&mut self) -> bool {
        true
    }

    fn beyond_limits(&mut self) -> Option<Reason> {
        let Self { sender, target, config } = self;
        let charge = || config.reply_budget == 0 || sender.replies <= config.reply_budget;
        beyond_limits(load::mitigation(target.load).level, target.load, &target.slot.triggers, charge, || {
            sender.known
        })
    }

    fn flaw(&mut self) -> Option<Reason> {
        None
    }

    fn charge_out_of_state(&mut self) -> bool {
        false
    }

    fn is_monitored(&mut self) -> bool {
        Policy::is_monitored(self.target.slot)
    }

    fn is_noted_established(&mut self) -> bool {
        false
    }

    fn accepts_cookies(&mut self) -> bool {
        false
    }

    fn proves_cookie(&mut self) -> bool {
        false
    }

    fn accepts_kernel_cookies(&mut self) -> bool {
        false
    }

    fn proves_kernel_cookie(&mut self) -> bool {
        false
    }

    fn proved_recently(&mut self) -> bool {
        false
    }
}

fn explanation(reason: Reason, sender: &Sender, target: &SynTarget, config: &abi::Config) -> String {
    let mode = Mode::from_abi(target.slot.mode).unwrap_or_default();
    match reason {
        Reason::ServiceOff => format!("mode {mode}: the service is ignored"),
        Reason::SynMonitorMode => format!("mode {mode}: SYNs are counted and pass"),
        Reason::SynNotMitigating => {
            let half_open = load::half_open(target.load, &target.slot.triggers);
            format!("mode {mode}: the service is not mitigating ({half_open} half-open): SYNs pass")
        }
        Reason::SynAllowed | Reason::SynDenied => listed(sender),
        Reason::SynUnprotectable => {
            format!("unprotectable: {}", target.unprotectable.unwrap_or("for an unknown reason"))
        }
        Reason::SynSuspended => sysctls::SUSPENDED.to_owned(),
        Reason::SynNoListener => "nothing listens there any more: the kernel answers".to_owned(),
        Reason::SynKnown => known(target),
        Reason::SynOddSource => odd(sender),
        Reason::SynOverBudget => over_budget(sender, config),
        Reason::SynChallenged => challenged(mode, sender, target, config),
        other => other.describe().to_owned(),
    }
}

fn listed(sender: &Sender) -> String {
    let Entry { prefix, listing } = Entry::found(sender.address, sender.listed);
    let explanation = match listing.origin {
        Origin::Hand => "added by hand",
        Origin::File => "by the configuration file",
        Origin::Session => "because this host is administered from there",
    };
    format!("{prefix} is on the {} list, {explanation}", listing.list.name())
}

fn known(target: &SynTarget) -> String {
    let Some(connection) = target.connection else { return Reason::SynKnown.describe().to_owned() };
    let Connection { remote, local, state, .. } = connection;
    format!("the kernel has a connection from {remote} to {local} in {}: the kernel decides", state.name())
}

fn odd(sender: &Sender) -> String {
    let address = sender.address;
    if sender.local {
        return format!("{address} is this host's own address: nobody else sends from it");
    }
    if sender.broadcast {
        return format!("{address} is the broadcast address of a subnet of this host");
    }
    format!("{address} is no address of a single host (multicast, broadcast, loopback or unspecified)")
}

fn over_budget(sender: &Sender, config: &abi::Config) -> String {
    let (network, budget) = (network(sender.address), config.reply_budget);
    format!(
        "{network} was sent as many SYN-ACKs in this second as reply_budget allows ({budget}), and {} has not \
         completed a handshake lately",
        sender.address
    )
}

fn challenged(mode: Mode, sender: &Sender, target: &SynTarget, config: &abi::Config) -> String {
    let stranger = sender.port.map_or_else(String::new, |port| {
        format!(", and the kernel has no connection from {}", SocketAddr::new(sender.address, port))
    });
    let budget = match config.reply_budget {
        0 => String::new(),
        budget => {
            let sent = sender.replies.saturating_sub(1);
            format!("; {} was sent {sent} of {budget} SYN-ACKs in this second", network(sender.address))
        }
    };
    let mitigation = load::mitigation(target.load);
    let attack = match (mode, mitigation.level) {
        (Mode::Auto, level) if level != Level::Pass => {
            format!(", mitigating ({}): {}", mitigation.trigger.describe(), level.describe())
        }
        _ => String::new(),
    };
    format!("mode {mode}{attack}{stranger}{budget}")
}

/// The network that shares a reply budget with an address, see `Address::budget_prefix`.
fn network(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{}/24", Ipv4Addr::from_bits(v4.to_bits() & !0 << 8)),
        IpAddr::V6(v6) => format!("{}/64", Ipv6Addr::from_bits(v6.to_bits() & !0 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use defender_common::tcp_state::State;

    use super::*;
    use crate::report::conns::tests::connection;

    const SENDER: Sender = Sender {
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        port: None,
        unicast: true,
        local: false,
        broadcast: false,
        now: 5,
        listed: 0,
        known: false,
        replies: 3,
    };

    fn slot(mode: u32, flags: u32) -> abi::Service {
        abi::Service { mode, flags, port: 80, families: abi::SERVICE_FAMILY_V4, ..abi::Service::default() }
    }

    fn target(slot: &abi::Service) -> SynTarget<'_> {
        SynTarget { slot, load: &abi::Load::EMPTY, listens: true, connection: None, unprotectable: None }
    }

    fn next(sender: &Sender, target: &SynTarget, budget: u32) -> (Reason, String) {
        let config = abi::Config { reply_budget: budget, ..abi::Config::default() };
        let next = NextSyn::of(sender, target, &config);
        assert_eq!((next.port, next.address), (80, Some(Ipv4Addr::UNSPECIFIED.into())));
        (next.reason, next.explanation)
    }

    #[test]
    fn the_mode_decides_first() {
        let [off, monitor] = [abi::MODE_OFF, abi::MODE_MONITOR].map(|mode| slot(mode, 0));
        let (reason, explanation) = next(&SENDER, &target(&off), 10);
        assert_eq!((reason, explanation.starts_with("mode off")), (Reason::ServiceOff, true));
        let (reason, explanation) = next(&SENDER, &target(&monitor), 10);
        assert_eq!((reason, explanation.starts_with("mode monitor")), (Reason::SynMonitorMode, true));
        let unprotectable = slot(abi::MODE_ALWAYS, abi::SERVICE_UNPROTECTABLE);
        let target = SynTarget { unprotectable: Some("it is MPTCP"), ..target(&unprotectable) };
        let (reason, explanation) = next(&SENDER, &target, 10);
        assert_eq!((reason, explanation.as_str()), (Reason::SynUnprotectable, "unprotectable: it is MPTCP"));
    }

    #[test]
    fn syns_of_known_connections_are_left_to_the_kernel() {
        let always = slot(abi::MODE_ALWAYS, 0);
        let known = connection(State::TimeWait, "192.0.2.7:5", "10.0.0.1:80", 7);
        let (reason, explanation) =
            next(&SENDER, &SynTarget { connection: Some(&known), ..target(&always) }, 10);
        assert_eq!(reason, Reason::SynKnown);
        assert!(explanation.contains("from 192.0.2.7:5 to 10.0.0.1:80 in TIME_WAIT"), "{explanation}");
        let (reason, _) = next(&SENDER, &SynTarget { listens: false, ..target(&always) }, 10);
        assert_eq!(reason, Reason::SynNoListener);
    }

    #[test]
    fn sources_that_no_host_has_are_dropped() {
        let always = slot(abi::MODE_ALWAYS, 0);
        let (reason, explanation) = next(&Sender { local: true, ..SENDER }, &target(&always), 10);
        assert_eq!((reason, explanation.contains("this host's own")), (Reason::SynOddSource, true));
        let (reason, explanation) = next(&Sender { unicast: false, ..SENDER }, &target(&always), 10);
        assert_eq!((reason, explanation.contains("multicast")), (Reason::SynOddSource, true));
        let (reason, explanation) = next(&Sender { broadcast: true, ..SENDER }, &target(&always), 10);
        assert_eq!((reason, explanation.contains("of a subnet")), (Reason::SynOddSource, true));
    }

    #[test]
    fn lists_come_before_everything_but_connections() {
        let always = slot(abi::MODE_ALWAYS, 0);
        let listed = |bits| Sender { listed: bits | 120 << abi::PREFIX_LENGTH_SHIFT, ..SENDER };
        let (reason, explanation) = next(&listed(abi::PREFIX_ALLOW), &target(&always), 10);
        assert_eq!(
            (reason, explanation.as_str()),
            (Reason::SynAllowed, "192.0.2.0/24 is on the allow list, added by hand")
        );
        let denied = listed(abi::PREFIX_DENY | abi::PREFIX_FROM_FILE);
        let (reason, explanation) = next(&denied, &target(&always), 10);
        assert_eq!(
            (reason, explanation.as_str()),
            (Reason::SynDenied, "192.0.2.0/24 is on the deny list, by the configuration file")
        );
        let known = connection(State::TimeWait, "192.0.2.7:5", "10.0.0.1:80", 7);
        let (reason, _) = next(&denied, &SynTarget { connection: Some(&known), ..target(&always) }, 10);
        assert_eq!(reason, Reason::SynKnown);
        let monitor = slot(abi::MODE_MONITOR, 0);
        assert_eq!(next(&denied, &target(&monitor), 10).0, Reason::SynMonitorMode);
    }

    #[test]
    fn the_budget_is_that_of_the_network() {
        let always = slot(abi::MODE_ALWAYS, 0);
        let (reason, explanation) = next(&SENDER, &target(&always), 3);
        assert_eq!(reason, Reason::SynChallenged);
        assert!(
            explanation.contains("mode always") && explanation.contains("192.0.2.0/24 was sent 2 of 3"),
            "{explanation}"
        );
        let (reason, explanation) = next(&SENDER, &target(&always), 2);
        assert_eq!(
            (reason, explanation.starts_with("192.0.2.0/24 was sent") && explanation.contains("allows (2)")),
            (Reason::SynOverBudget, true)
        );
        let (reason, _) = next(&Sender { known: true, ..SENDER }, &target(&always), 2);
        assert_eq!(reason, Reason::SynChallenged);
        let (reason, explanation) = next(&Sender { port: Some(5), ..SENDER }, &target(&always), 0);
        assert_eq!(reason, Reason::SynChallenged);
        assert!(explanation.ends_with("no connection from 192.0.2.7:5"), "{explanation}");
        assert_eq!(network("2001:db8:1:2:3::4".parse().expect("an address")), "2001:db8:1:2::/64");
    }

    #[test]
    fn ports_without_a_service_are_unprotected() {
        let next = NextSyn::unprotected(99, SENDER.address);
        assert_eq!((next.reason, next.address), (Reason::Unprotected, None));
        assert!(next.explanation.ends_with("port 99 for IPv4"), "{}", next.explanation);
    }
}
