//! Which services there are: from listeners to entries of the maps. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use defender_common::abi;

use crate::host::sockets::Listener;

/// How long the id of a service that has ended is not given to another: twice the life of a key, so that nothing
/// made for the one can be taken for the other's.
pub const ID_REST: Duration = Duration::from_secs(120);

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
    fn of(listener: &Listener) -> Self {
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

    fn has(&self, family: u32) -> bool {
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
    /// The device that all are bound to; 0: not all to one.
    pub device: u32,
    /// Some socket listens for Multipath TCP.
    pub mptcp: bool,
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
            device: listener.device,
            mptcp: listener.mptcp,
            queues: [(listener.device, Queues { listeners: 1, backlog: listener.backlog })].into(),
        }
    }

    fn add(&mut self, listener: &Listener) {
        self.inodes.insert(listener.inode);
        self.receive_buffer = self.receive_buffer.min(listener.receive_buffer);
        self.device = if self.device == listener.device { self.device } else { 0 };
        self.mptcp |= listener.mptcp;
        self.queues
            .entry(listener.device)
            .and_modify(|queues| {
                queues.listeners += 1;
                queues.backlog = queues.backlog.min(listener.backlog);
            })
            .or_insert(Queues { listeners: 1, backlog: listener.backlog });
    }

    /// The queues that a flood would fill first: those of the device whose listeners take the fewest.
    pub fn queues(&self) -> Queues {
        self.queues.values().copied().min_by_key(Queues::total).unwrap_or_default()
    }
}

/// What clients can reach from outside, restricted to `ports` unless that is empty.
pub fn endpoints(listeners: &[Listener], ports: &[u16]) -> BTreeMap<Endpoint, Listening> {
    let mut endpoints: BTreeMap<Endpoint, Listening> = BTreeMap::new();
    let wanted = |listener: &&Listener| ports.is_empty() || ports.contains(&listener.port);
    for listener in listeners.iter().filter(wanted).filter(|listener| !listener.address.is_loopback()) {
        endpoints
            .entry(Endpoint::of(listener))
            .and_modify(|listening| listening.add(listener))
            .or_insert_with(|| Listening::new(listener));
    }
    endpoints
}

/// A service that has an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What clients connect to.
    pub endpoint: Endpoint,
    /// The sockets behind it.
    pub listening: Listening,
}

/// Which service has which id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The services, by id.
    pub services: BTreeMap<u32, Service>,
    /// Ids of services that have ended, and since when.
    resting: BTreeMap<u32, (Endpoint, Instant)>,
    /// How many endpoints found no free id.
    pub without_id: usize,
}

impl Table {
    /// The table that the slots of `SERVICES` were filled from.
    pub fn from_abi(slots: impl IntoIterator<Item = (u32, abi::Service)>, now: Instant) -> Self {
        let mut table = Self::default();
        for (id, slot) in slots.into_iter().filter(|(id, slot)| *id != 0 && slot.port != 0) {
            let endpoint = Endpoint::from_abi(&slot);
            if slot.flags & abi::SERVICE_IN_USE != 0 {
                table.services.insert(id, Service { endpoint, listening: Listening::default() });
            } else {
                table.resting.insert(id, (endpoint, now));
            }
        }
        table
    }

    /// The table for `endpoints`. An endpoint keeps its id, also when it comes back soon after it ended.
    pub fn next(&self, endpoints: &BTreeMap<Endpoint, Listening>, now: Instant) -> Self {
        let mut next = Self { resting: self.resting_at(endpoints, now), ..Self::default() };
        let mut known: BTreeMap<Endpoint, u32> =
            self.resting.iter().map(|(id, (endpoint, _))| (*endpoint, *id)).collect();
        known.extend(self.services.iter().map(|(id, service)| (service.endpoint, *id)));
        let mut new = Vec::new();
        for (endpoint, listening) in endpoints {
            match known.get(endpoint) {
                Some(id) => next.insert(*id, *endpoint, listening),
                None => new.push((endpoint, listening)),
            }
        }
        for (endpoint, listening) in new {
            match next.free_id() {
                Some(id) => next.insert(id, *endpoint, listening),
                None => next.without_id += 1,
            }
        }
        next
    }

    /// Ids that rest from now on or still, except those whose endpoint is back.
    fn resting_at(
        &self,
        endpoints: &BTreeMap<Endpoint, Listening>,
        now: Instant,
    ) -> BTreeMap<u32, (Endpoint, Instant)> {
        let still = self.resting.iter().filter(|(_, (_, since))| now.duration_since(*since) < ID_REST);
        let ended = self.services.iter().map(|(id, service)| (*id, (service.endpoint, now)));
        still
            .map(|(id, rest)| (*id, *rest))
            .chain(ended)
            .filter(|(_, (endpoint, _))| !endpoints.contains_key(endpoint))
            .collect()
    }

    /// Ids that something is still told of, although nothing listens there: their time begins anew.
    pub fn let_rest(&mut self, is_told_of: impl Fn(u32) -> bool, now: Instant) {
        for (_, (_, since)) in self.resting.iter_mut().filter(|(id, _)| is_told_of(**id)) {
            *since = now;
        }
    }

    fn insert(&mut self, id: u32, endpoint: Endpoint, listening: &Listening) {
        self.services.insert(id, Service { endpoint, listening: listening.clone() });
    }

    fn free_id(&self) -> Option<u32> {
        (1..abi::SERVICE_SLOTS).find(|id| !self.services.contains_key(id) && !self.resting.contains_key(id))
    }

    /// How packets find these services.
    pub fn routes(&self) -> Routes {
        let mut routes = Routes::default();
        // Ids are below SERVICE_SLOTS, so they fit.
        for (id, service) in self.services.iter().map(|(id, service)| (*id as u16, service)) {
            routes.add(id, &service.endpoint);
        }
        // Where both a dual-stack and an IPv4 wildcard listen, the kernel prefers the socket of the packet's family.
        for (id, service) in self.services.iter().map(|(id, service)| (*id as u16, service)) {
            let Endpoint { port, address, .. } = service.endpoint;
            if address.is_ipv4() && address.is_unspecified() {
                routes.ports.entry(port).or_default().wildcard4 = id;
            }
        }
        routes
    }
}

/// Entries of `PORTS` and `ADDRESSES`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Entries of `PORTS` that are not empty.
    pub ports: BTreeMap<u16, abi::Port>,
    /// Entries of `ADDRESSES`, by address and port.
    pub addresses: BTreeMap<([u8; 16], u16), u32>,
}

impl Routes {
    fn add(&mut self, id: u16, endpoint: &Endpoint) {
        let port = self.ports.entry(endpoint.port).or_default();
        if !endpoint.address.is_unspecified() {
            port.bound += 1;
            (port.bound_id, port.bound_address) = (id, abi::words(endpoint.address_bytes()));
            self.addresses.insert((endpoint.address_bytes(), endpoint.port), u32::from(id));
            return;
        }
        if endpoint.has(abi::SERVICE_FAMILY_V4) {
            port.wildcard4 = id;
        }
        if endpoint.has(abi::SERVICE_FAMILY_V6) {
            port.wildcard6 = id;
        }
    }
}

/// Why the kernel cannot take hand-offs for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unprotectable {
    /// Its listener uses Multipath TCP.
    Mptcp,
    /// A firewall rule sends its connections elsewhere.
    Redirected {
        /// Which rule.
        rule: String,
        /// Where to.
        to: String,
    },
    /// The firewall answers its SYNs with cookies of its own.
    Synproxy {
        /// Which rule.
        rule: String,
    },
    /// The kernel has refused every hand-off.
    Refused(String),
}

impl fmt::Display for Unprotectable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mptcp => f.write_str(
                "the listener uses Multipath TCP, and the kernel takes no hand-offs for that: SYNs pass. \
                 Make it listen for plain TCP (a Go program: start it with GODEBUG=multipathtcp=0)",
            ),
            Self::Redirected { rule, to } => write!(
                f,
                "a firewall rule sends its connections to {to} before the listener sees them: SYNs pass. \
                 Defend the place they are sent to, or remove the rule ({rule})"
            ),
            Self::Synproxy { rule } => write!(
                f,
                "a firewall rule answers SYNs with cookies of its own: SYNs pass. \
                 Remove the rule to have them answered at the NIC ({rule})"
            ),
            Self::Refused(error) => {
                write!(f, "the kernel refused every hand-off to its listener ({error}): SYNs pass")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::host::sockets::Family;

    fn listener(address: &str, port: u16, v6only: bool) -> Listener {
        let address: IpAddr = address.parse().expect("an address");
        Listener {
            family: if address.is_ipv4() { Family::V4 } else { Family::V6 },
            address,
            port,
            v6only,
            device: 0,
            receive_buffer: 131_072,
            backlog: 128,
            accept_queue: 0,
            mptcp: false,
            inode: u32::from(port),
        }
    }

    fn table(listeners: &[Listener]) -> Table {
        Table::default().next(&endpoints(listeners, &[]), Instant::now())
    }

    #[test]
    fn a_dual_stack_wildcard_serves_both_families() {
        let routes = table(&[listener("::", 80, false)]).routes();
        let port = routes.ports[&80];
        assert_eq!((port.wildcard4, port.wildcard6, port.bound), (1, 1, 0));
        let routes = table(&[listener("::", 80, true)]).routes();
        assert_eq!((routes.ports[&80].wildcard4, routes.ports[&80].wildcard6), (0, 1));
    }

    #[test]
    fn the_ipv4_wildcard_wins_over_a_dual_stack_one() {
        let table = table(&[listener("0.0.0.0", 80, false), listener("::", 80, false)]);
        let port = table.routes().ports[&80];
        assert_ne!(port.wildcard4, port.wildcard6);
        assert!(table.services[&u32::from(port.wildcard4)].endpoint.address.is_ipv4());
    }

    #[test]
    fn bound_services_are_found_by_address() {
        let routes = table(&[listener("192.0.2.1", 80, false), listener("2001:db8::1", 80, true)]).routes();
        assert_eq!(routes.ports[&80].bound, 2);
        let alone = table(&[listener("192.0.2.1", 80, false)]).routes().ports[&80];
        let address = abi::words(abi::mapped([192, 0, 2, 1]));
        assert_eq!((alone.bound, alone.bound_id, alone.bound_address), (1, 1, address));
        assert!(routes.addresses.contains_key(&(abi::mapped([192, 0, 2, 1]), 80)));
        assert_eq!(routes.addresses.len(), 2);
    }

    #[test]
    fn loopback_and_other_ports_are_left_out() {
        let listeners =
            [listener("127.0.0.1", 80, false), listener("::1", 80, true), listener("0.0.0.0", 22, false)];
        assert!(endpoints(&listeners, &[80]).is_empty());
        assert_eq!(endpoints(&listeners, &[]).len(), 1);
    }

    #[test]
    fn sockets_of_one_endpoint_are_one_service() {
        let mut second = listener("0.0.0.0", 80, false);
        second.inode = 4711;
        second.mptcp = true;
        second.receive_buffer = 4096;
        let endpoints = endpoints(&[listener("0.0.0.0", 80, false), second], &[]);
        let listening = endpoints.values().next().expect("a service");
        assert_eq!((endpoints.len(), listening.inodes.len()), (1, 2));
        assert!(listening.mptcp && listening.receive_buffer == 4096);
    }

    #[test]
    fn a_restarted_listener_gets_its_id_back_and_nobody_else_gets_it_soon() {
        let start = Instant::now();
        let web = endpoints(&[listener("0.0.0.0", 80, false)], &[]);
        let mail = endpoints(&[listener("0.0.0.0", 25, false)], &[]);
        let first = Table::default().next(&web, start);
        let ended = first.next(&BTreeMap::new(), start + Duration::from_secs(1));
        let other = ended.next(&mail, start + Duration::from_secs(2));
        assert_eq!(other.services.keys().copied().collect::<Vec<_>>(), [2]);
        let back = ended.next(&web, start + Duration::from_secs(60));
        assert_eq!(back.services, first.services);
        let late = ended.next(&mail, start + Duration::from_secs(1) + ID_REST);
        assert_eq!(late.services.keys().copied().collect::<Vec<_>>(), [1]);
        let mut attacked = ended;
        attacked.let_rest(|id| [1, 7].contains(&id), start + Duration::from_secs(100));
        let late = attacked.next(&mail, start + Duration::from_secs(1) + ID_REST);
        assert_eq!(late.services.keys().copied().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_table_survives_its_slots() {
        let before = table(&[
            listener("0.0.0.0", 80, false),
            listener("::", 443, false),
            listener("::", 8443, true),
            listener("192.0.2.1", 25, false),
            listener("2001:db8::1", 25, true),
        ]);
        let slots = before.services.iter().map(|(id, service)| {
            let slot = abi::Service {
                flags: abi::SERVICE_IN_USE,
                port: service.endpoint.port,
                address: service.endpoint.address_bytes(),
                families: service.endpoint.families,
                ..abi::Service::default()
            };
            (*id, slot)
        });
        let after = Table::from_abi(slots, Instant::now());
        assert_eq!(after.routes(), before.routes());
    }

    fn any_listener() -> impl Strategy<Value = Listener> {
        let address = select(vec!["0.0.0.0", "::", "192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        (address, 1_u16..6, any::<bool>()).prop_map(|(address, port, v6only)| listener(address, port, v6only))
    }

    proptest! {
        #[test]
        fn ids_are_stable_unique_and_rest(steps in vec((vec(any_listener(), 0..8), 0_u64..200), 1..12)) {
            let mut now = Instant::now();
            let mut table = Table::default();
            let mut last_owner: BTreeMap<u32, (Endpoint, Instant)> = BTreeMap::new();
            for (listeners, seconds) in steps {
                now += Duration::from_secs(seconds);
                let endpoints = endpoints(&listeners, &[]);
                let next = table.next(&endpoints, now);
                prop_assert_eq!(next.services.len(), endpoints.len());
                prop_assert_eq!(next.without_id, 0);
                for (id, service) in &next.services {
                    prop_assert!((1..abi::SERVICE_SLOTS).contains(id));
                    if let Some(before) = table.services.iter().find(|(_, it)| it.endpoint == service.endpoint) {
                        prop_assert_eq!(before.0, id);
                    }
                    if let Some((endpoint, ended)) = last_owner.get(id) {
                        prop_assert!(*endpoint == service.endpoint || now.duration_since(*ended) >= ID_REST);
                    }
                }
                // An id's owner of a step may have ended at any time up to the next step, at the latest then.
                for (id, service) in &table.services {
                    if !next.services.contains_key(id) {
                        last_owner.insert(*id, (service.endpoint, now));
                    }
                }
                for id in next.services.keys() {
                    last_owner.remove(id);
                }
                table = next;
            }
        }

        #[test]
        fn every_listener_is_found_and_no_route_leads_nowhere(listeners in vec(any_listener(), 0..12)) {
            let table = table(&listeners);
            let routes = table.routes();
            for listener in &listeners {
                let port = routes.ports[&listener.port];
                if !listener.address.is_unspecified() {
                    prop_assert!(port.bound != 0);
                    let key = (Endpoint::of(listener).address_bytes(), listener.port);
                    prop_assert!(table.services.contains_key(&routes.addresses[&key]));
                } else {
                    prop_assert!(!listener.accepts_v4() || table.services.contains_key(&u32::from(port.wildcard4)));
                    prop_assert!(!listener.accepts_v6() || table.services.contains_key(&u32::from(port.wildcard6)));
                }
            }
            for port in routes.ports.values() {
                for id in [port.wildcard4, port.wildcard6] {
                    prop_assert!(id == 0 || table.services.contains_key(&u32::from(id)));
                }
            }
        }
    }
}
