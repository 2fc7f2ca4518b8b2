//! Which services there are: from listeners to entries of the maps. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Instant,
};

use defender_common::{abi, lifetimes};

use crate::model::{
    endpoint::{Endpoint, Listening},
    finding::Finding,
    guard::Loss,
    places::{self, Claim, PLACES, SHARE, Standing},
};

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
pub struct ServiceTable {
    /// The services, by id.
    pub services: BTreeMap<u32, Service>,
    /// How they use their places.
    uses: BTreeMap<u32, Use>,
    /// Ids of services that have ended or made room.
    resting: BTreeMap<u32, Rest>,
    /// Services without an id, and since when.
    waiting: BTreeMap<Endpoint, (u32, Instant)>,
}

/// How a service uses its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    /// When it got it.
    since: Instant,
    /// How many SYNs had come when last looked.
    syns: u64,
    /// When there were more than before.
    used: Option<Instant>,
}

/// An id that is nobody's for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rest {
    /// Whose it was, and may be again.
    endpoint: Endpoint,
    /// The user.
    owner: u32,
    since: Instant,
}

impl ServiceTable {
    /// The table that the slots of `SERVICES` were filled from.
    pub fn from_abi(slots: impl IntoIterator<Item = (u32, abi::Service)>, now: Instant) -> Self {
        let mut table = Self::default();
        for (id, slot) in slots.into_iter().filter(|(id, slot)| *id != 0 && slot.port != 0) {
            let endpoint = Endpoint::from_abi(&slot);
            if slot.flags & abi::SERVICE_IN_USE != 0 {
                table.services.insert(id, Service { endpoint, listening: Listening::default() });
            } else {
                table.resting.insert(id, Rest { endpoint, owner: 0, since: now });
            }
        }
        table
    }

    /// The table for `endpoints`. An endpoint keeps its id, also when it comes back soon after it ended. Where there are more
    /// than places, `syns`, which came to an id so far, has a say in who gets one.
    pub fn next(
        &self,
        endpoints: &BTreeMap<Endpoint, Listening>,
        syns: impl Fn(u32) -> u64,
        now: Instant,
    ) -> Self {
        let is_crowded = endpoints.len() > PLACES;
        let uses = if is_crowded { self.uses_at(syns, now) } else { self.uses.clone() };
        let chosen: Vec<Endpoint> = if is_crowded {
            places::choose(&self.claims(endpoints, &uses, now), self.resting.len(), now)
        } else {
            endpoints.keys().copied().collect()
        };
        let mut next = Self { resting: self.resting_at(&chosen, now), ..Self::default() };
        let known = self.ids();
        for (endpoint, id) in chosen.iter().filter_map(|endpoint| Some((endpoint, known.get(endpoint)?))) {
            next.insert(*id, *endpoint, &endpoints[endpoint]);
            let new = Use { since: now, syns: 0, used: None };
            next.uses.insert(*id, uses.get(id).copied().unwrap_or(new));
        }
        for endpoint in chosen.iter().filter(|endpoint| !known.contains_key(endpoint)) {
            let Some(id) = next.free_id(endpoints[endpoint].owner, now) else { continue };
            next.resting.remove(&id);
            next.insert(id, *endpoint, &endpoints[endpoint]);
            next.uses.insert(id, Use { since: now, syns: 0, used: None });
        }
        next.waiting = self.waiting_at(endpoints, &next, now);
        next
    }

    /// The ids of services that have or had one.
    fn ids(&self) -> BTreeMap<Endpoint, u32> {
        let resting = self.resting.iter().map(|(id, rest)| (rest.endpoint, *id));
        let in_use = self.services.iter().map(|(id, service)| (service.endpoint, *id));
        resting.chain(in_use).collect()
    }

    fn uses_at(&self, syns: impl Fn(u32) -> u64, now: Instant) -> BTreeMap<u32, Use> {
        let look = |(id, before): (&u32, &Use)| {
            let syns = syns(*id);
            let used = if syns > before.syns { Some(now) } else { before.used };
            (*id, Use { syns, used, ..*before })
        };
        self.uses.iter().map(look).collect()
    }

    fn claims(
        &self,
        endpoints: &BTreeMap<Endpoint, Listening>,
        uses: &BTreeMap<u32, Use>,
        now: Instant,
    ) -> BTreeMap<Endpoint, Claim> {
        let in_use: BTreeMap<Endpoint, u32> =
            self.services.iter().map(|(id, service)| (service.endpoint, *id)).collect();
        let claim = |(endpoint, listening): (&Endpoint, &Listening)| {
            let standing = match in_use.get(endpoint) {
                Some(id) => uses.get(id).map_or(Standing::Placed { since: now, used: None }, |it| {
                    Standing::Placed { since: it.since, used: it.used }
                }),
                None => Standing::Waiting(self.waiting.get(endpoint).map_or(now, |(_, since)| *since)),
            };
            (*endpoint, Claim { owner: listening.owner, standing })
        };
        endpoints.iter().map(claim).collect()
    }

    /// Ids that rest from now on or still, except those whose endpoint is chosen again.
    fn resting_at(&self, chosen: &[Endpoint], now: Instant) -> BTreeMap<u32, Rest> {
        let chosen: BTreeSet<&Endpoint> = chosen.iter().collect();
        let still = self
            .resting
            .iter()
            .filter(|(_, rest)| now.duration_since(rest.since) < lifetimes::SERVICE_ID_REST);
        let ended = self.services.iter().map(|(id, service)| {
            (*id, Rest { endpoint: service.endpoint, owner: service.listening.owner, since: now })
        });
        still
            .map(|(id, rest)| (*id, *rest))
            .chain(ended)
            .filter(|(_, rest)| !chosen.contains(&rest.endpoint))
            .collect()
    }

    fn waiting_at(
        &self,
        endpoints: &BTreeMap<Endpoint, Listening>,
        next: &Self,
        now: Instant,
    ) -> BTreeMap<Endpoint, (u32, Instant)> {
        let placed: BTreeSet<Endpoint> = next.services.values().map(|service| service.endpoint).collect();
        let since = |endpoint| self.waiting.get(endpoint).map_or(now, |(_, since)| *since);
        endpoints
            .iter()
            .filter(|(endpoint, _)| !placed.contains(endpoint))
            .map(|(endpoint, listening)| (*endpoint, (listening.owner, since(endpoint))))
            .collect()
    }

    /// Services that find no place, and whose they are.
    pub fn left_out(&self) -> BTreeMap<Endpoint, u32> {
        self.waiting.iter().map(|(endpoint, (owner, _))| (*endpoint, *owner)).collect()
    }

    /// Restarts the rest of ids that events still refer to, although nothing listens there.
    pub fn let_rest(&mut self, is_told_of: impl Fn(u32) -> bool, now: Instant) {
        for (_, rest) in self.resting.iter_mut().filter(|(id, _)| is_told_of(**id)) {
            rest.since = now;
        }
    }

    /// The service has ended, and its endpoint gets the id again if it comes back.
    pub fn is_resting(&self, id: u32) -> bool {
        self.resting.contains_key(&id)
    }

    /// The service has ended, or made room, and was this one.
    pub fn rests_for(&self, id: u32, endpoint: &Endpoint) -> bool {
        self.resting.get(&id).is_some_and(|rest| rest.endpoint == *endpoint)
    }

    fn insert(&mut self, id: u32, endpoint: Endpoint, listening: &Listening) {
        self.services.insert(id, Service { endpoint, listening: listening.clone() });
    }

    /// An id for a service of `owner`: one that nobody had lately, or else the one that has rested longest. Who has, or had
    /// lately, a share of all already gets none of the last ones.
    fn free_id(&self, owner: u32, now: Instant) -> Option<u32> {
        let is_free = |id: &u32| !self.services.contains_key(id) && !self.resting.contains_key(id);
        let mut rested: Vec<(Instant, u32)> = self
            .resting
            .iter()
            .filter(|(_, rest)| now.duration_since(rest.since) >= lifetimes::LEAST_SERVICE_ID_REST)
            .map(|(id, rest)| (rest.since, *id))
            .collect();
        rested.sort_unstable();
        let mut free =
            (1..abi::SERVICE_SLOTS).filter(is_free).chain(rested.into_iter().map(|(_, id)| id)).peekable();
        free.peek()?;
        if owner != 0 && self.held_by(owner) >= SHARE {
            // Those that are left are for others.
            return free.next().filter(|_| free.count() >= SHARE);
        }
        free.next()
    }

    /// How many ids a user's services have, or had lately.
    fn held_by(&self, owner: u32) -> usize {
        let in_use = self.services.values().filter(|service| service.listening.owner == owner).count();
        in_use + self.resting.values().filter(|rest| rest.owner == owner).count()
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

/// Why a service's SYNs may not be challenged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unprotectable {
    /// Its listener uses Multipath TCP.
    Mptcp,
    /// A firewall rule is in the way.
    Firewall(Finding),
    /// It was tried, and went wrong.
    GivenUp(Loss),
}

impl fmt::Display for Unprotectable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mptcp => f.write_str(
                "the listener uses Multipath TCP, for which the kernel takes no hand-offs, so SYNs pass. Make it \
                 listen for plain TCP (Go: GODEBUG=multipathtcp=0)",
            ),
            Self::Firewall(finding) => {
                write!(
                    f,
                    "{finding}, so SYNs pass. Rule: {}. Fix: {}",
                    finding.rule,
                    finding.advice()
                )
            }
            Self::GivenUp(loss) => loss.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, slice, time::Duration};

    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::model::{
        endpoint::endpoints,
        listener::{Family, Listener},
    };

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
            uid: 0,
            inode: u32::from(port),
            cookie: u64::from(port),
        }
    }

    fn table(listeners: &[Listener]) -> ServiceTable {
        ServiceTable::default().next(&endpoints(listeners, &[], &BTreeSet::new()), |_| 0, Instant::now())
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
        assert!(endpoints(&listeners, &[80], &BTreeSet::new()).is_empty());
        assert_eq!(endpoints(&listeners, &[], &BTreeSet::new()).len(), 1);
    }

    #[test]
    fn sockets_of_one_endpoint_are_one_service() {
        let mut second = listener("0.0.0.0", 80, false);
        second.inode = 4711;
        second.mptcp = true;
        second.receive_buffer = 4096;
        let endpoints = endpoints(&[listener("0.0.0.0", 80, false), second], &[], &BTreeSet::new());
        let listening = endpoints.values().next().expect("a service");
        assert_eq!((endpoints.len(), listening.inodes.len()), (1, 2));
        assert!(listening.mptcp && listening.receive_buffer == 4096);
    }

    #[test]
    fn a_restarted_listener_gets_its_id_back_and_nobody_else_gets_it_soon() {
        let start = Instant::now();
        let web = endpoints(&[listener("0.0.0.0", 80, false)], &[], &BTreeSet::new());
        let mail = endpoints(&[listener("0.0.0.0", 25, false)], &[], &BTreeSet::new());
        let first = ServiceTable::default().next(&web, |_| 0, start);
        let ended = first.next(&BTreeMap::new(), |_| 0, start + Duration::from_secs(1));
        let other = ended.next(&mail, |_| 0, start + Duration::from_secs(2));
        assert_eq!(other.services.keys().copied().collect::<Vec<_>>(), [2]);
        let back = ended.next(&web, |_| 0, start + Duration::from_secs(60));
        assert_eq!(back.services, first.services);
        let late = ended.next(&mail, |_| 0, start + Duration::from_secs(1) + lifetimes::SERVICE_ID_REST);
        assert_eq!(late.services.keys().copied().collect::<Vec<_>>(), [1]);
        let mut attacked = ended;
        attacked.let_rest(|id| [1, 7].contains(&id), start + Duration::from_secs(100));
        let late = attacked.next(&mail, |_| 0, start + Duration::from_secs(1) + lifetimes::SERVICE_ID_REST);
        assert_eq!(late.services.keys().copied().collect::<Vec<_>>(), [2]);
    }

    /// So many listeners of a user, on ports from this one on.
    fn many(first: u16, count: u16, uid: u32) -> Vec<Listener> {
        (first..first + count).map(|port| Listener { uid, ..listener("0.0.0.0", port, false) }).collect()
    }

    fn all(listeners: &[&[Listener]]) -> BTreeMap<Endpoint, Listening> {
        endpoints(&listeners.concat(), &[], &BTreeSet::new())
    }

    fn ports(table: &ServiceTable) -> BTreeSet<u16> {
        table.services.values().map(|service| service.endpoint.port).collect()
    }

    #[test]
    fn listeners_of_undefended_devices_are_nobodys() {
        let on = |device, mptcp, uid| Listener {
            device,
            mptcp,
            uid,
            backlog: if device == 2 { 1000 } else { 1 },
            inode: device,
            ..listener("0.0.0.0", 8080, false)
        };
        let services = on(2, false, 0);
        let alone = endpoints(slice::from_ref(&services), &[], &[2, 3].into());
        assert_eq!(alone.len(), 1);
        for device in [1, 4] {
            let others = endpoints(&[services.clone(), on(device, true, 1000)], &[], &[2, 3].into());
            assert_eq!(others, alone, "device {device}");
            assert!(endpoints(&[on(device, true, 1000)], &[], &[2, 3].into()).is_empty());
        }
        let both = endpoints(&[services, on(3, true, 1000)], &[], &[2, 3].into());
        let listening = both.values().next().expect("a service");
        assert!(listening.mptcp && listening.owner == 0 && listening.device == 0);
    }

    #[test]
    fn a_user_who_opens_and_closes_listeners_uses_up_no_ids_of_others() {
        let mut now = Instant::now();
        let mut table = ServiceTable::default();
        let mut next = |table: &ServiceTable, listeners: &[&[Listener]], seconds| {
            now += Duration::from_secs(seconds);
            table.next(&all(listeners), |_| 0, now)
        };
        // Other ports each second: without a share, all ids would rest after two.
        for second in 0..20_u16 {
            table = next(&table, &[&many(2000 + second * 700, 700, 1000)], 1);
            assert!(table.services.len() <= 700);
        }
        let web = next(&table, &[&many(2000, 700, 1000), &many(80, 1, 0), &many(60_000, 200, 33)], 1);
        assert!(ports(&web).contains(&80));
        assert_eq!(ports(&web).iter().filter(|port| **port >= 60_000).count(), 200);
    }

    #[test]
    fn the_id_that_rested_longest_is_used_again_where_there_is_no_other() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let count = PLACES as u16;
        let first = ServiceTable::default().next(&all(&[&many(2000, count, 0)]), |_| 0, start);
        assert_eq!(first.services.len(), PLACES);
        // Two end, one after the other.
        let one = first.next(&all(&[&many(2000, count - 1, 0)]), |_| 0, at(1));
        let two = one.next(&all(&[&many(2000, count - 2, 0)]), |_| 0, at(5));
        let wanted = all(&[&many(2000, count - 2, 0), &many(80, 1, 0)]);
        let least = lifetimes::LEAST_SERVICE_ID_REST.as_secs();
        let early = two.next(&wanted, |_| 0, at(least));
        assert!(!ports(&early).contains(&80));
        assert_eq!(early.left_out().keys().map(|endpoint| endpoint.port).collect::<Vec<_>>(), [80]);
        let late = early.next(&wanted, |_| 0, at(least + 1));
        let ended = first.services.iter().find(|(_, service)| service.endpoint.port == 2000 + count - 1);
        let ended = *ended.expect("it was there").0;
        assert_eq!(late.services[&ended].endpoint.port, 80);
        assert!(late.left_out().is_empty() && !late.is_resting(ended));
        assert!(two.rests_for(ended, &first.services[&ended].endpoint));
    }

    #[test]
    fn places_go_from_who_has_too_many_to_who_waits() {
        let start = Instant::now();
        // One user leaves a share to others; many together need not.
        let one = ServiceTable::default().next(&all(&[&many(2000, 2000, 1000)]), |_| 7, start);
        assert_eq!(one.services.len(), PLACES - SHARE);
        let users: Vec<Listener> =
            (0..5_u16).flat_map(|user| many(2000 + user * 500, 500, 1000 + u32::from(user))).collect();
        let full = ServiceTable::default().next(&all(&[&users]), |_| 7, start);
        assert_eq!((full.services.len(), full.left_out().len()), (PLACES, 2500 - PLACES));
        let wanted = all(&[&users, &many(80, 1, 0), &many(5000, 100, 0)]);
        let room = full.next(&wanted, |_| 7, start + Duration::from_secs(1));
        assert_eq!(room.services.len(), PLACES - 101);
        // Those who made room have not ended, and get no place back before those who wait have theirs.
        let wait = Duration::from_secs(1) + lifetimes::LEAST_SERVICE_ID_REST;
        let half = room.next(&wanted, |_| 7, start + wait / 2);
        assert_eq!(ports(&half), ports(&room));
        let late = half.next(&wanted, |_| 7, start + wait);
        assert!(ports(&late).contains(&80) && late.services.len() == PLACES);
        assert_eq!(ports(&late).iter().filter(|port| (5000..5100).contains(*port)).count(), 100);
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
        let after = ServiceTable::from_abi(slots, Instant::now());
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
            let mut table = ServiceTable::default();
            let mut last_owner: BTreeMap<u32, (Endpoint, Instant)> = BTreeMap::new();
            for (listeners, seconds) in steps {
                now += Duration::from_secs(seconds);
                let endpoints = endpoints(&listeners, &[], &BTreeSet::new());
                let next = table.next(&endpoints, |_| 0, now);
                prop_assert_eq!(next.services.len(), endpoints.len());
                prop_assert!(next.left_out().is_empty());
                for (id, service) in &next.services {
                    prop_assert!((1..abi::SERVICE_SLOTS).contains(id));
                    if let Some(before) = table.services.iter().find(|(_, it)| it.endpoint == service.endpoint) {
                        prop_assert_eq!(before.0, id);
                    }
                    if let Some((endpoint, ended)) = last_owner.get(id) {
                        prop_assert!(*endpoint == service.endpoint || now.duration_since(*ended) >= lifetimes::SERVICE_ID_REST);
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
