//! Everything known about one peer, read once from the maps and the socket table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use anyhow::Result;
use defender_common::{
    abi,
    budget::{self, BudgetSlot, Kind},
    clock::age,
    shared::Shared,
    trace::{self, TraceSlot},
    validated_sources,
    verdict::Reason,
    wire::address::{Address, V4, V6},
};

use crate::{
    dataplane::{
        clock,
        maps::{Maps, Prefix},
        pins::PinRoot,
    },
    host::{links, sockets},
    model::{
        endpoint::{self, Endpoint, Listening},
        prefix,
    },
    problem::Problem,
    report::{
        connection_list::{self, Connection},
        namespace::require_its_own,
        next_syn::{NextSyn, Sender, SynTarget},
        snapshot,
    },
    state::{self, findings::Findings},
};

/// The peer in question: an address, or one port of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address.
    pub address: IpAddr,
    /// The port, or `None` for all of them.
    pub port: Option<u16>,
}

impl Peer {
    fn is(&self, remote: SocketAddr) -> bool {
        remote.ip() == self.address && self.port.is_none_or(|port| port == remote.port())
    }
}

impl FromStr for Peer {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        parse(text).ok_or_else(|| {
            let examples = "expected an address with or without a port, such as 192.0.2.7, 192.0.2.7:5000, \
             2001:db8::7 or \
                            [2001:db8::7]:5000";
            Problem::Usage(format!("invalid peer `{text}`; {examples}"))
        })
    }
}

fn parse(text: &str) -> Option<Peer> {
    if let Ok(end) = text.parse::<SocketAddr>() {
        return (end.port() != 0).then(|| Peer { address: end.ip().to_canonical(), port: Some(end.port()) });
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    Some(Peer { address: bare.parse::<IpAddr>().ok()?.to_canonical(), port: None })
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port)),
            None => write!(f, "{}", self.address),
        }
    }
}

/// Everything known about a peer.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    /// The peer.
    pub peer: Peer,
    /// The port of this host in question, or `None` for all.
    pub port: Option<u16>,
    /// Its connections.
    pub connections: Vec<Connection>,
    /// The last verdicts on packets from its address, whatever the port, latest first.
    pub verdicts: Vec<LastVerdict>,
    /// The verdict on its next SYN, by service.
    pub next_syn: Vec<NextSyn>,
}

/// A verdict from the datapath's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastVerdict {
    /// The reason for the verdict.
    pub reason: Reason,
    /// The service's port.
    pub port: u16,
    /// Number of packets without a pause of a minute.
    pub count: u32,
    /// Time since the last of them.
    pub ago: Duration,
}

impl PeerFacts {
    /// Reads what is pinned below `root`. Considers only this host's `port`, if given.
    pub fn gather(root: &PinRoot, peer: Peer, port: Option<u16>) -> Result<Self> {
        root.require_attached()?;
        let maps = Maps::open(root)?;
        let config = maps.config.get(0)?;
        require_its_own(root, &config)?;
        let now = clock::now()?.ms;
        let wanted = |of: u16| port.is_none_or(|port| port == of);
        let mut connections = connection_list::read(root)?;
        connections.retain(|connection| peer.is(connection.remote) && wanted(connection.local.port()));
        let on_wire = OnWire::of(peer.address, &config);
        let mut verdicts = verdicts(&maps.trace.get(on_wire.place.line)?, on_wire.place, now);
        verdicts.retain(|verdict| wanted(verdict.port));
        let sender = sender(&maps, peer, &on_wire, &config)?;
        let next_syn = next_syns(root, &maps, &config, &sender, port, &connections)?;
        Ok(Self { peer, port, connections, verdicts, next_syn })
    }
}

/// An address as the datapath represents it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OnWire {
    place: TraceSlot,
    budget: BudgetSlot,
    /// The position of its bytes in `VALID_SOURCES`.
    known: [u32; 2],
    unicast: bool,
    octets: [u8; 16],
}

impl OnWire {
    fn of(address: IpAddr, config: &abi::Config) -> Self {
        match address {
            IpAddr::V4(v4) => Self::of_family(V4::from(v4), config),
            IpAddr::V6(v6) => Self::of_family(V6::from(v6), config),
        }
    }

    fn of_family<A: Address>(address: A, config: &abi::Config) -> Self {
        Self {
            place: trace::slot(address, &config.table_keys),
            budget: budget::slot(address.budget_prefix(), Kind::Reply, config.secret),
            known: validated_sources::places(address, &config.table_keys),
            unicast: address.is_answerable(),
            octets: address.octets(),
        }
    }
}

impl OnWire {
    /// Whether the address has completed a handshake recently.
    fn is_known(&self, maps: &Maps) -> Result<bool> {
        let second = clock::now()?.second;
        for place in self.known {
            if !validated_sources::is_known(maps.known.get(place)?, second) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn verdicts(line: &abi::TraceLine, place: TraceSlot, now: u32) -> Vec<LastVerdict> {
    let last = |entry: &abi::TraceEntry| {
        Some(LastVerdict {
            reason: Reason::from_index(entry.reason)?,
            port: entry.port,
            count: entry.count,
            ago: Duration::from_millis(age(entry.at, now).into()),
        })
    };
    let mut verdicts: Vec<_> = trace::of_peer(line, place).filter_map(last).collect();
    verdicts.sort_by_key(|verdict| verdict.ago);
    verdicts
}

fn sender(maps: &Maps, peer: Peer, on_wire: &OnWire, config: &abi::Config) -> Result<Sender> {
    let now = clock::now()?.ms;
    let mut counted = maps.budget.get(on_wire.budget.line)?;
    Ok(Sender {
        address: peer.address,
        port: peer.port,
        unicast: on_wire.unicast,
        local: is_covered(&maps.local.all()?, on_wire.octets),
        broadcast: is_broadcast(&maps.interfaces.get(0)?, on_wire.octets),
        now,
        listed: listed(maps, on_wire, config)?,
        known: on_wire.is_known(maps)?,
        // One more is charged to a copy.
        replies: budget::charge_line(Shared::from_mut(&mut counted), on_wire.budget, now),
    })
}

/// The list bits that the datapath would find.
fn listed(maps: &Maps, on_wire: &OnWire, config: &abi::Config) -> Result<u32> {
    if config.flags & abi::CONFIG_PREFIXES == 0 {
        return Ok(0);
    }
    Ok(maps.prefixes.longest(on_wire.octets)?.unwrap_or(0))
}

/// Whether it is among an interface's broadcast addresses that the datapath compares with.
fn is_broadcast(interfaces: &abi::Interfaces, address: [u8; 16]) -> bool {
    let mut known = interfaces.iter().flat_map(|interface| interface.broadcast4);
    known.any(|broadcast| broadcast.0 != 0 && broadcast.octets() == address)
}

fn is_covered(prefixes: &[Prefix], address: [u8; 16]) -> bool {
    prefixes.iter().any(|prefix| prefix::covers(*prefix, address))
}

fn next_syns(
    root: &PinRoot,
    maps: &Maps,
    config: &abi::Config,
    sender: &Sender,
    port: Option<u16>,
    connections: &[Connection],
) -> Result<Vec<NextSyn>> {
    let findings = state::in_force(root, Findings::read)?;
    let listening = endpoint::endpoints(&sockets::listeners()?, &[], &defended_devices(root)?);
    let slots = snapshot::slots(maps)?;
    let loads = snapshot::loads(maps, &slots, config)?;
    let reached = slots.iter().filter(|(_, slot)| is_reached(slot, sender.address, port));
    let mut next: Vec<NextSyn> = reached
        .map(|(id, slot)| {
            NextSyn::of(
                sender,
                &target(*id, (slot, &loads[id]), sender, connections, &listening, &findings),
                config,
            )
        })
        .collect();
    next.sort_by_key(|next| (next.port, next.address));
    if let (true, Some(port)) = (next.is_empty(), port) {
        next.push(NextSyn::unprotected(port, sender.address));
    }
    Ok(next)
}

/// The devices through which listeners are reached.
fn defended_devices(root: &PinRoot) -> Result<BTreeSet<u32>> {
    let there = links::names()?;
    let attached = root.interfaces()?.into_iter().filter(|name| there.contains(name));
    let links = attached.map(|name| links::interface(&name)).collect::<Result<Vec<_>>>()?;
    Ok(links::devices(&links))
}

/// Whether a peer's SYN, to this port if given, may reach a service.
fn is_reached(slot: &abi::Service, peer: IpAddr, port: Option<u16>) -> bool {
    let family = if peer.is_ipv4() { abi::SERVICE_FAMILY_V4 } else { abi::SERVICE_FAMILY_V6 };
    slot.families & family != 0 && port.is_none_or(|port| port == slot.port)
}

fn target<'a>(
    id: u32,
    (slot, load): (&'a abi::Service, &'a abi::Load),
    sender: &Sender,
    connections: &'a [Connection],
    listening: &BTreeMap<Endpoint, Listening>,
    findings: &'a Findings,
) -> SynTarget<'a> {
    // Without a port there is no connection to find.
    let known = |connection: &&Connection| connection.service == id && sender.port.is_some();
    SynTarget {
        slot,
        load,
        listens: listening.contains_key(&Endpoint::from_abi(slot)),
        connection: connections.iter().find(known),
        unprotectable: findings.unprotectable.get(&id).map(String::as_str),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn peer(text: &str) -> Option<(String, Option<u16>)> {
        text.parse::<Peer>().ok().map(|peer| (peer.address.to_string(), peer.port))
    }

    #[test]
    fn peers_are_addresses_with_a_port_or_without() {
        let of = |address: &str, port| Some((address.to_owned(), port));
        for (text, expected) in [
            ("192.0.2.7", of("192.0.2.7", None)),
            ("192.0.2.7:5", of("192.0.2.7", Some(5))),
            ("2001:db8::7", of("2001:db8::7", None)),
            ("[2001:db8::7]", of("2001:db8::7", None)),
            ("[2001:db8::7]:5", of("2001:db8::7", Some(5))),
            ("::ffff:192.0.2.7", of("192.0.2.7", None)),
            ("192.0.2.7:0", None),
            ("192.0.2.7:x", None),
            ("192.0.2.0/24", None),
            ("host", None),
            ("", None),
        ] {
            assert_eq!(peer(text), expected, "{text}");
        }
        let shown =
            ["192.0.2.7", "[2001:db8::7]:5"].map(|text| text.parse::<Peer>().expect(text).to_string());
        assert_eq!(shown, ["192.0.2.7", "[2001:db8::7]:5"]);
    }

    #[test]
    fn a_peer_without_a_port_is_all_of_its_ports() {
        let remote = "192.0.2.7:5".parse().expect("an address");
        for (text, is) in
            [("192.0.2.7", true), ("192.0.2.7:5", true), ("192.0.2.7:6", false), ("192.0.2.8", false)]
        {
            assert_eq!(text.parse::<Peer>().expect(text).is(remote), is, "{text}");
        }
    }

    #[test]
    fn addresses_are_as_the_datapath_has_them() {
        for text in ["::ffff:192.0.2.7", "2001:db8:1:2:3:4:5:6"] {
            let v6: Ipv6Addr = text.parse().expect("an address");
            assert_eq!(OnWire::of(v6.to_canonical(), &abi::Config::default()).octets, v6.octets());
        }
        assert!(!OnWire::of(Ipv4Addr::LOCALHOST.into(), &abi::Config::default()).unicast);
    }

    #[test]
    fn verdicts_are_found_where_the_datapath_notes_them() {
        let address: IpAddr = "192.0.2.7".parse().expect("an address");
        let config = abi::Config { table_keys: [0x9e37_79b9_7f4a_7c15; 9], ..abi::Config::default() };
        let place = OnWire::of(address, &config).place;
        let mut line = abi::TraceLine::default();
        let verdict = trace::TracedVerdict::of;
        trace::note(Shared::from_mut(&mut line), place, verdict(Reason::Cookie, 80), 1_000);
        trace::note(Shared::from_mut(&mut line), place, verdict(Reason::SynChallenged, 443), 3_000);
        trace::note(
            Shared::from_mut(&mut line),
            OnWire::of(Ipv4Addr::BROADCAST.into(), &config).place,
            verdict(Reason::SynSigned, 80),
            2_000,
        );
        let verdict =
            |reason, port, seconds| LastVerdict { reason, port, count: 1, ago: Duration::from_secs(seconds) };
        let expected = [verdict(Reason::SynChallenged, 443, 2), verdict(Reason::Cookie, 80, 4)];
        assert_eq!(verdicts(&line, place, 5_000), expected);
    }

    #[test]
    fn local_prefixes_cover() {
        let prefixes = [(abi::mapped([10, 0, 0, 1]), 128), (abi::mapped([127, 0, 0, 0]), 104)];
        let covered = |last| is_covered(&prefixes, abi::mapped(last));
        assert!(covered([10, 0, 0, 1]) && covered([127, 9, 9, 9]) && !covered([10, 0, 0, 2]));
    }

    #[test]
    fn services_are_reached_by_family_and_port() {
        let slot = abi::Service { families: abi::SERVICE_FAMILY_V4, port: 80, ..abi::Service::default() };
        let [v4, v6]: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        assert!(is_reached(&slot, v4, None) && is_reached(&slot, v4, Some(80)));
        assert!(!is_reached(&slot, v4, Some(81)) && !is_reached(&slot, v6, None));
    }
}
