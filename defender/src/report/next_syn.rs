//! What would become of a peer's next SYN, and which rule decides. Pure.
//!
//! The rules are the datapath's own ([`decide`]); here its questions are answered from what was read of the maps and the
//! socket table. What only the packet itself shows is taken to be as it is in a well-formed SYN ([`ASSUMED`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use defender_common::{
    abi,
    classify::Class,
    decide::{Policy, Socket, Surroundings, decide},
    ladder::Step,
    load,
    verdict::Reason,
};

use crate::{
    control::{
        lists::entry::{Entry, Origin},
        services::Endpoint,
        settings::Mode,
        sysctls,
    },
    report::connections::Connection,
};

/// What is taken for granted.
pub const ASSUMED: [&str; 4] = [
    "unless a port of the peer was named, the SYN comes from one that has no connection (else pass.syn_known)",
    "it is whole, its checksum is right, and it is no fragment",
    "it carries no TCP-MD5 or TCP-AO signature: one that does would pass (pass.syn_signed)",
    "it comes to an address and a MAC address of this host, by a defended interface, without VLAN tags",
];

/// Who would send it.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The address.
    pub address: IpAddr,
    /// The port; none: one that it has no connection from.
    pub port: Option<u16>,
    /// It may be answered: unicast, not loopback.
    pub unicast: bool,
    /// It is this host's own.
    pub local: bool,
    /// The time, in milliseconds of the datapath's clock.
    pub now: u32,
    /// `PREFIX_*`: whether it is on a list, as the map has it for the longest prefix that covers it; 0: on none.
    pub listed: u32,
    /// It has completed a handshake not long ago.
    pub known: bool,
    /// SYN-ACKs that its network would have been sent in this second, one for this SYN included.
    pub replies: u32,
}

/// A service that it would be sent to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its slot of `SERVICES`.
    pub slot: &'a abi::Service,
    /// How much it has to bear at this moment.
    pub load: &'a abi::Load,
    /// Something listens there.
    pub listens: bool,
    /// The connection that the kernel has from the sender's address and port.
    pub connection: Option<&'a Connection>,
    /// Why it cannot be protected, where that is known.
    pub unprotectable: Option<&'a str>,
}

/// What would become of a SYN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextSyn {
    /// The port it would be sent to.
    pub port: u16,
    /// The address of the service; none: there is no service.
    pub address: Option<IpAddr>,
    /// Under what it would be counted.
    pub reason: Reason,
    /// Why, in words.
    pub because: String,
}

impl NextSyn {
    /// Asks the datapath's rules.
    pub fn of(sender: &Sender, target: &Target, config: &abi::Config) -> Self {
        let reason = decide(Class::Syn, &mut Around { sender, target, config });
        let endpoint = Endpoint::from_abi(target.slot);
        Self {
            port: endpoint.port,
            address: Some(endpoint.address),
            reason,
            because: because(reason, sender, target, config),
        }
    }

    /// Where no service listens.
    pub fn unprotected(port: u16, peer: IpAddr) -> Self {
        let family = if peer.is_ipv4() { "IPv4" } else { "IPv6" };
        let because = format!("no known service listens on port {port} for {family}");
        Self { port, address: None, reason: Reason::Unprotected, because }
    }
}

/// Answers to what a decision asks.
struct Around<'a> {
    sender: &'a Sender,
    target: &'a Target<'a>,
    config: &'a abi::Config,
}

impl Surroundings for Around<'_> {
    fn is_off(&mut self) -> bool {
        Policy::is_off(self.target.slot)
    }

    fn policy(&mut self) -> Policy {
        Policy::of(self.target.slot, self.target.load, self.config)
    }

    fn is_to_local(&mut self) -> bool {
        true
    }

    fn source_is_answerable(&mut self) -> bool {
        self.sender.unicast && !self.sender.local
    }

    fn listed(&mut self) -> u32 {
        self.sender.listed
    }

    fn source_is_known(&mut self) -> bool {
        self.sender.known
    }

    fn is_within_limit(&mut self) -> bool {
        load::is_within_limit(self.target.load, &self.target.slot.lines, 1)
    }

    fn has_room(&mut self) -> bool {
        load::has_room(self.target.load, &self.target.slot.lines)
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

    fn charge_budget(&mut self) -> bool {
        self.config.reply_budget == 0 || self.sender.replies <= self.config.reply_budget
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

fn because(reason: Reason, sender: &Sender, target: &Target, config: &abi::Config) -> String {
    let mode = Mode::from_abi(target.slot.mode).unwrap_or_default();
    match reason {
        Reason::ServiceOff => format!("mode {mode}: the service is left alone"),
        Reason::SynMonitored => format!("mode {mode}: SYNs are counted and pass"),
        Reason::SynCalm => {
            let half_open = load::half_open(target.load);
            format!("mode {mode}: the service is calm ({half_open} half open): SYNs pass")
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
    let because = match listing.origin {
        Origin::Hand => "put there by hand",
        Origin::File => "by the configuration file",
        Origin::Session => "because this host is administered from there",
    };
    format!("{prefix} is on the {} list, {because}", listing.list.name())
}

fn known(target: &Target) -> String {
    let Some(connection) = target.connection else { return Reason::SynKnown.describe().to_owned() };
    let Connection { remote, local, state, .. } = connection;
    format!("the kernel has a connection from {remote} to {local} in {}: the kernel decides", state.name())
}

fn odd(sender: &Sender) -> String {
    let address = sender.address;
    if sender.local {
        return format!("{address} is this host's own address: nobody else sends from it");
    }
    format!("{address} is no address of a single host (multicast, broadcast, loopback or unspecified)")
}

fn over_budget(sender: &Sender, config: &abi::Config) -> String {
    let (network, budget) = (network(sender.address), config.reply_budget);
    format!("{network} was sent as many SYN-ACKs in this second as reply_budget allows: {budget}")
}

fn challenged(mode: Mode, sender: &Sender, target: &Target, config: &abi::Config) -> String {
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
    let posture = load::posture(target.load);
    let attack = match (mode, posture.step) {
        (Mode::Auto, step) if step != Step::Pass => {
            format!(", under attack ({}): {}", posture.because.describe(), step.describe())
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
        now: 5,
        listed: 0,
        known: false,
        replies: 3,
    };

    fn slot(mode: u32, flags: u32) -> abi::Service {
        abi::Service { mode, flags, port: 80, families: abi::SERVICE_FAMILY_V4, ..abi::Service::default() }
    }

    fn target(slot: &abi::Service) -> Target<'_> {
        Target { slot, load: &abi::Load::EMPTY, listens: true, connection: None, unprotectable: None }
    }

    fn next(sender: &Sender, target: &Target, budget: u32) -> (Reason, String) {
        let config = abi::Config { reply_budget: budget, ..abi::Config::default() };
        let next = NextSyn::of(sender, target, &config);
        assert_eq!((next.port, next.address), (80, Some(Ipv4Addr::UNSPECIFIED.into())));
        (next.reason, next.because)
    }

    #[test]
    fn the_mode_decides_first() {
        let [off, monitor] = [abi::MODE_OFF, abi::MODE_MONITOR].map(|mode| slot(mode, 0));
        let (reason, because) = next(&SENDER, &target(&off), 10);
        assert_eq!((reason, because.starts_with("mode off")), (Reason::ServiceOff, true));
        let (reason, because) = next(&SENDER, &target(&monitor), 10);
        assert_eq!((reason, because.starts_with("mode monitor")), (Reason::SynMonitored, true));
        let unprotectable = slot(abi::MODE_ALWAYS, abi::SERVICE_UNPROTECTABLE);
        let target = Target { unprotectable: Some("it is MPTCP"), ..target(&unprotectable) };
        let (reason, because) = next(&SENDER, &target, 10);
        assert_eq!((reason, because.as_str()), (Reason::SynUnprotectable, "unprotectable: it is MPTCP"));
    }

    #[test]
    fn what_the_kernel_has_is_the_kernels() {
        let always = slot(abi::MODE_ALWAYS, 0);
        let known = connection(State::TimeWait, "192.0.2.7:5", "10.0.0.1:80", 7);
        let (reason, because) = next(&SENDER, &Target { connection: Some(&known), ..target(&always) }, 10);
        assert_eq!(reason, Reason::SynKnown);
        assert!(because.contains("from 192.0.2.7:5 to 10.0.0.1:80 in TIME_WAIT"), "{because}");
        let (reason, _) = next(&SENDER, &Target { listens: false, ..target(&always) }, 10);
        assert_eq!(reason, Reason::SynNoListener);
    }

    #[test]
    fn sources_that_nobody_has_are_dropped() {
        let always = slot(abi::MODE_ALWAYS, 0);
        let (reason, because) = next(&Sender { local: true, ..SENDER }, &target(&always), 10);
        assert_eq!((reason, because.contains("this host's own")), (Reason::SynOddSource, true));
        let (reason, because) = next(&Sender { unicast: false, ..SENDER }, &target(&always), 10);
        assert_eq!((reason, because.contains("multicast")), (Reason::SynOddSource, true));
    }

    #[test]
    fn lists_come_before_everything_but_connections() {
        let always = slot(abi::MODE_ALWAYS, 0);
        let listed = |bits| Sender { listed: bits | 120 << abi::PREFIX_LENGTH_SHIFT, ..SENDER };
        let (reason, because) = next(&listed(abi::PREFIX_ALLOW), &target(&always), 10);
        assert_eq!(
            (reason, because.as_str()),
            (Reason::SynAllowed, "192.0.2.0/24 is on the allow list, put there by hand")
        );
        let denied = listed(abi::PREFIX_DENY | abi::PREFIX_FROM_FILE);
        let (reason, because) = next(&denied, &target(&always), 10);
        assert_eq!(
            (reason, because.as_str()),
            (Reason::SynDenied, "192.0.2.0/24 is on the deny list, by the configuration file")
        );
        let known = connection(State::TimeWait, "192.0.2.7:5", "10.0.0.1:80", 7);
        let (reason, _) = next(&denied, &Target { connection: Some(&known), ..target(&always) }, 10);
        assert_eq!(reason, Reason::SynKnown);
        let monitor = slot(abi::MODE_MONITOR, 0);
        assert_eq!(next(&denied, &target(&monitor), 10).0, Reason::SynMonitored);
    }

    #[test]
    fn the_budget_is_that_of_the_network() {
        let always = slot(abi::MODE_ALWAYS, 0);
        let (reason, because) = next(&SENDER, &target(&always), 3);
        assert_eq!(reason, Reason::SynChallenged);
        assert!(
            because.contains("mode always") && because.contains("192.0.2.0/24 was sent 2 of 3"),
            "{because}"
        );
        let (reason, because) = next(&SENDER, &target(&always), 2);
        assert_eq!(
            (reason, because.starts_with("192.0.2.0/24 was sent") && because.ends_with(": 2")),
            (Reason::SynOverBudget, true)
        );
        let (reason, because) = next(&Sender { port: Some(5), ..SENDER }, &target(&always), 0);
        assert_eq!(reason, Reason::SynChallenged);
        assert!(because.ends_with("no connection from 192.0.2.7:5"), "{because}");
        assert_eq!(network("2001:db8:1:2:3::4".parse().expect("an address")), "2001:db8:1:2::/64");
    }

    #[test]
    fn what_no_service_takes_is_unprotected() {
        let next = NextSyn::unprotected(99, SENDER.address);
        assert_eq!((next.reason, next.address), (Reason::Unprotected, None));
        assert!(next.because.ends_with("port 99 for IPv4"), "{}", next.because);
    }
}
