//! What clients connect to, and the listeners behind it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use defender_common::abi::{self, ListenerOptions};

use crate::model::listener::Listener;

/// What clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The port.
    pub port: u16,
    /// The address; unspecified for a wildcard.
    pub address: IpAddr,
    /// `SERVICE_FAMILY_*` bits.
    pub families: u32,
}

impl Endpoint {
    /// The endpoint of a listener.
    pub fn of(listener: &Listener) -> Self {
        let v4 = if listener.accepts_v4() { abi::SERVICE_FAMILY_V4 } else { 0 };
        let v6 = if listener.accepts_v6() { abi::SERVICE_FAMILY_V6 } else { 0 };
        Self { port: listener.port, address: listener.address, families: v4 | v6 }
    }

    /// The endpoint that a slot of `SERVICES` describes.
    pub fn from_abi(service: &abi::Service) -> Self {
        let v6 = Ipv6Addr::from(service.address);
        let address = match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None if v6.is_unspecified() && service.families == abi::SERVICE_FAMILY_V4 => {
                Ipv4Addr::UNSPECIFIED.into()
            }
            None => v6.into(),
        };
        Self { port: service.port, address, families: service.families }
    }

    /// The address as the maps hold it.
    pub fn address_bytes(&self) -> [u8; 16] {
        match self.address {
            address if address.is_unspecified() => [0; 16],
            IpAddr::V4(v4) => abi::mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        }
    }

    /// Whether clients of an IP version reach it.
    pub fn has(&self, family: u32) -> bool {
        self.families & family != 0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(v4) => write!(f, "{v4}:{}", self.port),
            IpAddr::V6(v6) => write!(f, "[{v6}]:{}", self.port),
        }
    }
}

/// What is known of the sockets behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// The sockets: several with `SO_REUSEPORT`.
    pub inodes: BTreeSet<u32>,
    /// The smallest receive buffer among them, in bytes.
    pub receive_buffer: u32,
    /// The options of one of them, always the same; none: not known yet.
    pub options: Option<ListenerOptions>,
    /// The kernel's number of that one.
    pub cookie: u64,
    /// The device that all are bound to; 0: not all to one.
    pub device: u32,
    /// Some socket listens for Multipath TCP.
    pub mptcp: bool,
    /// Whose sockets these are; root's if one of them is.
    pub owner: u32,
    /// By device (0: any), the listeners bound to it that share connections, and the smallest backlog among them.
    pub queues: BTreeMap<u32, Queues>,
}

/// Listeners that share connections, each with a queue of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// How many there are.
    pub listeners: u32,
    /// How many half-open connections each takes, at the least.
    pub backlog: u32,
}

impl Queues {
    /// How many half-open connections they take together.
    pub fn total(&self) -> u32 {
        self.backlog.saturating_mul(self.listeners)
    }
}

impl Listening {
    fn new(listener: &Listener) -> Self {
        Self {
            inodes: [listener.inode].into(),
            receive_buffer: listener.receive_buffer,
            options: None,
            cookie: listener.cookie,
            device: listener.device,
            mptcp: listener.mptcp,
            owner: listener.uid,
            queues: [(listener.device, Queues { listeners: 1, backlog: listener.backlog })].into(),
        }
    }

    fn add(&mut self, listener: &Listener) {
        self.inodes.insert(listener.inode);
        self.receive_buffer = self.receive_buffer.min(listener.receive_buffer);
        self.cookie = self.cookie.min(listener.cookie);
        self.device = if self.device == listener.device { self.device } else { 0 };
        self.mptcp |= listener.mptcp;
        self.owner = self.owner.min(listener.uid);
        self.queues
            .entry(listener.device)
            .and_modify(|queues| {
                queues.listeners += 1;
                queues.backlog = queues.backlog.min(listener.backlog);
            })
            .or_insert(Queues { listeners: 1, backlog: listener.backlog });
    }

    /// Takes in the listeners' options, by their cookies.
    pub fn set_options(&mut self, options: &BTreeMap<u64, ListenerOptions>) {
        self.options = options.get(&self.cookie).copied();
    }

    /// The queues that a flood would fill first: those of the device whose listeners take the fewest.
    pub fn queues(&self) -> Queues {
        self.queues.values().copied().min_by_key(Queues::total).unwrap_or_default()
    }
}

/// What clients can reach from outside by one of `devices`, restricted to `ports` unless that is empty.
///
/// A listener bound to another device gets none of what is defended, and may be anybody's.
pub fn endpoints(
    listeners: &[Listener],
    ports: &[u16],
    devices: &BTreeSet<u32>,
) -> BTreeMap<Endpoint, Listening> {
    let mut endpoints: BTreeMap<Endpoint, Listening> = BTreeMap::new();
    let is_wanted = |listener: &&Listener| ports.is_empty() || ports.contains(&listener.port);
    let is_reached = |listener: &&Listener| listener.device == 0 || devices.contains(&listener.device);
    let outside = listeners.iter().filter(|listener| !listener.address.is_loopback());
    for listener in outside.filter(is_wanted).filter(is_reached) {
        endpoints
            .entry(Endpoint::of(listener))
            .and_modify(|listening| listening.add(listener))
            .or_insert_with(|| Listening::new(listener));
    }
    endpoints
}
