//! Who gets a place in the maps when there are fewer than services. Pure.
//!
//! A place is the id of a service. In this order they go to: services of root and on well-known ports; what clients use;
//! who has a place; who has waited longest. No user but root keeps more than a [`SHARE`] of them while others wait, and the last
//! ones are for those who have had less.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use defender_common::abi;

use crate::model::endpoint::Endpoint;

/// How many places there are.
pub const PLACES: usize = abi::SERVICE_SLOTS as usize - 1;
/// How many of them a user other than root may have while others wait, and how many are kept for who has fewer.
pub const SHARE: usize = PLACES / 4;
/// A service that no client has sent a SYN for so long makes room for one that waits, which may be in use.
pub const TRIAL: Duration = Duration::from_secs(600);
/// So many make room at a time: their places are nobody's for a while.
const AT_ONCE: usize = 32;
/// Only root listens on ports below, unless it has allowed others to.
const WELL_KNOWN: u16 = 1024;
/// How often the warning about those left out is renewed.
const REPORT_PERIOD: Duration = Duration::from_secs(10);
/// So many ranges of ports are named.
const NAMED: usize = 8;

/// What a service that wants a place has to show for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose it is.
    pub owner: u32,
    /// What became of it so far.
    pub standing: Standing,
}

/// How a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has a place since this time.
    Placed {
        /// When it got it.
        since: Instant,
        /// When clients' SYNs were last seen to have come.
        used: Option<Instant>,
    },
    /// It has none since this time.
    Waiting(Instant),
}

impl Claim {
    fn is_used(&self, now: Instant) -> bool {
        let Standing::Placed { used: Some(used), .. } = self.standing else { return false };
        now.duration_since(used) < TRIAL
    }

    /// Since when nobody has sent it a SYN, if that is long enough.
    fn idle_since(&self, now: Instant) -> Option<Instant> {
        let Standing::Placed { since, used } = self.standing else { return None };
        let idle = used.unwrap_or(since).max(since);
        (now.duration_since(idle) >= TRIAL).then_some(idle)
    }
}

/// Those who are to have a place, the first of them first. `resting` places are nobody's as yet.
pub fn choose(claims: &BTreeMap<Endpoint, Claim>, resting: usize, now: Instant) -> Vec<Endpoint> {
    let rank = ranks(claims, resting, now);
    let mut order: Vec<(bool, Rank)> = Vec::new();
    let mut held: BTreeMap<u32, usize> = BTreeMap::new();
    for rank in rank {
        let owner = claims[&rank.endpoint].owner;
        let of_owner = held.entry(owner).or_default();
        *of_owner += 1;
        order.push((owner != 0 && *of_owner > SHARE, rank));
    }
    order.sort();
    order.into_iter().take(PLACES).map(|(_, rank)| rank.endpoint).collect()
}

/// What decides between two services of users who have no more than their share: the lesser one goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Neither root's nor on a well-known port.
    common: bool,
    /// Neither in use nor on a well-known port.
    unused: bool,
    /// How it stands, and since when: who has a place, who waits, who is idle.
    standing: (u8, Option<Instant>, Option<Reverse<Instant>>),
    endpoint: Endpoint,
}

fn ranks(claims: &BTreeMap<Endpoint, Claim>, resting: usize, now: Instant) -> Vec<Rank> {
    let mut idle: Vec<(Instant, Endpoint)> =
        claims.iter().filter_map(|(endpoint, claim)| Some((claim.idle_since(now)?, *endpoint))).collect();
    idle.sort_unstable();
    idle.truncate(AT_ONCE.saturating_sub(resting));
    let idle: BTreeMap<Endpoint, Instant> =
        idle.into_iter().map(|(since, endpoint)| (endpoint, since)).collect();
    let rank = |(endpoint, claim): (&Endpoint, &Claim)| {
        let well_known = endpoint.port < WELL_KNOWN;
        let standing = match (claim.standing, idle.get(endpoint)) {
            (_, Some(since)) => (2, None, Some(Reverse(*since))),
            (Standing::Waiting(since), None) => (1, Some(since), None),
            (Standing::Placed { .. }, None) => (0, None, None),
        };
        Rank {
            common: claim.owner != 0 && !well_known,
            unused: !claim.is_used(now) && !well_known,
            standing,
            endpoint: *endpoint,
        }
    };
    let mut ranks: Vec<Rank> = claims.iter().map(rank).collect();
    ranks.sort_unstable();
    ranks
}

/// Who is left without a place, for a warning.
#[derive(Debug, Default)]
pub struct LeftOut {
    text: Option<String>,
    reported: Option<Instant>,
}

impl LeftOut {
    /// The warning. It says what was so a moment ago: services may come and go faster than people read.
    pub fn warning(&mut self, waiting: &BTreeMap<Endpoint, u32>, now: Instant) -> Option<String> {
        if waiting.is_empty() {
            *self = Self::default();
        } else if self.reported.is_none_or(|reported| now.duration_since(reported) >= REPORT_PERIOD) {
            *self = Self { text: Some(describe(waiting)), reported: Some(now) };
        }
        self.text.clone()
    }
}

fn describe(waiting: &BTreeMap<Endpoint, u32>) -> String {
    let mut by_owner: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for (endpoint, owner) in waiting {
        by_owner.entry(*owner).or_default().insert(endpoint.port);
        *counts.entry(*owner).or_default() += 1;
    }
    let users: Vec<String> = by_owner
        .iter()
        .map(|(owner, ports)| format!("{} of uid {owner}, on ports {}", counts[owner], Ports(ports)))
        .collect();
    format!(
        "{} services are beyond the {PLACES} that fit, so SYNs to them pass: {}. Services of root, on well-known \
         ports and in use come first; choose with --port",
        waiting.len(),
        users.join("; ")
    )
}

/// Ports as ranges, the first few.
struct Ports<'a>(&'a BTreeSet<u16>);

impl fmt::Display for Ports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for port in self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *port - *last == 1 => *last = *port,
                _ => ranges.push((*port, *port)),
            }
        }
        for (index, (first, last)) in ranges.iter().take(NAMED).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        if ranges.len() > NAMED { f.write_str(", ...") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint { port, address: "0.0.0.0".parse().expect("an address"), families: 1 }
    }

    fn claims(ports: impl IntoIterator<Item = u16>, claim: Claim) -> BTreeMap<Endpoint, Claim> {
        ports.into_iter().map(|port| (endpoint(port), claim)).collect()
    }

    fn ports_of(chosen: &[Endpoint]) -> BTreeSet<u16> {
        chosen.iter().map(|endpoint| endpoint.port).collect()
    }

    #[test]
    fn a_user_with_thousands_of_listeners_keeps_nobody_out() {
        let now = Instant::now();
        let placed = Standing::Placed { since: now, used: Some(now) };
        let mut all = claims(2000..6000, Claim { owner: 1000, standing: placed });
        let waiting = |owner| Claim { owner, standing: Standing::Waiting(now) };
        all.extend(claims([80, 443, 60_000], waiting(0)));
        all.extend(claims(61_000..61_200, waiting(33)));
        let chosen = choose(&all, 0, now);
        let ports = ports_of(&chosen);
        assert_eq!(chosen.len(), PLACES);
        assert!([80, 443, 60_000].into_iter().chain(61_000..61_200).all(|port| ports.contains(&port)));
        // Nobody waits who has not had a share: the rest is the user's as well.
        assert_eq!(ports.iter().filter(|port| (2000..6000).contains(*port)).count(), PLACES - 203);
    }

    #[test]
    fn places_go_to_what_clients_use_and_to_well_known_ports() {
        let now = Instant::now();
        let since = now - TRIAL / 2;
        let unused = Claim { owner: 0, standing: Standing::Placed { since, used: None } };
        let used = Claim { owner: 0, standing: Standing::Placed { since, used: Some(now) } };
        let mut all = claims(10_000..12_000, unused);
        all.extend(claims(11_990..12_000, used));
        all.extend(claims([22, 80], Claim { owner: 0, standing: Standing::Waiting(now) }));
        let ports = ports_of(&choose(&all, 0, now));
        assert!((11_990..12_000).chain([22, 80]).all(|port| ports.contains(&port)), "{ports:?}");
    }

    #[test]
    fn who_is_idle_makes_room_for_who_waits_a_few_at_a_time() {
        let now = Instant::now() + 2 * TRIAL;
        let idle = Standing::Placed { since: now - 2 * TRIAL, used: None };
        let fresh = Standing::Placed { since: now - TRIAL / 2, used: None };
        let wait = |ago: u64| Standing::Waiting(now - Duration::from_secs(ago));
        let claim = |standing| Claim { owner: 0, standing };
        let mut all = claims(2000..2500, claim(idle));
        all.extend(claims(2500..3023, claim(fresh)));
        assert_eq!(all.len(), PLACES);
        assert_eq!(choose(&all, 0, now).len(), PLACES, "nobody waits");
        all.extend(claims(4000..4100, claim(wait(5))));
        all.extend(claims(5000..5005, claim(wait(50))));
        for (resting, expected) in [(0, AT_ONCE), (AT_ONCE - 7, 7), (AT_ONCE, 0), (500, 0)] {
            let ports = ports_of(&choose(&all, resting, now));
            assert_eq!(ports.iter().filter(|port| **port >= 4000).count(), expected);
            assert!((2500..3023).all(|port| ports.contains(&port)));
            // Who has waited longest is the first.
            assert_eq!(ports.iter().filter(|port| **port >= 5000).count(), expected.min(5));
        }
    }

    #[test]
    fn people_are_told_who_is_left_out_and_not_all_the_time() {
        let now = Instant::now();
        let mut waiting: BTreeMap<Endpoint, u32> = (8000..8100).map(|port| (endpoint(port), 1000)).collect();
        waiting.extend((9000..9040).step_by(2).map(|port| (endpoint(port), 33)));
        let mut left_out = LeftOut::default();
        let text = left_out.warning(&waiting, now).expect("a warning");
        assert!(text.starts_with("120 services are beyond the 1023 that fit"), "{text}");
        assert!(text.contains("20 of uid 33, on ports 9000, 9002,") && text.contains("9014, ...;"), "{text}");
        assert!(text.contains("100 of uid 1000, on ports 8000-8099."), "{text}");
        waiting.remove(&endpoint(8050));
        assert_eq!(left_out.warning(&waiting, now + REPORT_PERIOD / 2), Some(text));
        let text = left_out.warning(&waiting, now + REPORT_PERIOD).expect("a warning");
        assert!(text.contains("on ports 8000-8049, 8051-8099."), "{text}");
        assert_eq!(left_out.warning(&BTreeMap::new(), now + REPORT_PERIOD), None);
    }

    fn any_claim() -> impl Strategy<Value = (u16, u32, u8, u64)> {
        (1..=u16::MAX, 0_u32..4, 0_u8..3, 0_u64..2000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn shares_hold_and_no_place_is_wasted(all in vec(any_claim(), 0..3000), resting in 0_usize..64) {
            let now = Instant::now() + Duration::from_secs(4000);
            let claims: BTreeMap<Endpoint, Claim> = all
                .into_iter()
                .map(|(port, owner, kind, ago)| {
                    let then = now - Duration::from_secs(ago);
                    let standing = match kind {
                        0 => Standing::Waiting(then),
                        1 => Standing::Placed { since: then, used: None },
                        _ => Standing::Placed { since: then, used: Some(then) },
                    };
                    (endpoint(port), Claim { owner, standing })
                })
                .collect();
            let chosen = choose(&claims, resting, now);
            prop_assert_eq!(chosen.len(), claims.len().min(PLACES));
            let chosen: BTreeSet<Endpoint> = chosen.into_iter().collect();
            let count = |owner| chosen.iter().filter(|endpoint| claims[*endpoint].owner == owner).count();
            let left: BTreeSet<u32> =
                claims.iter().filter(|(endpoint, _)| !chosen.contains(endpoint)).map(|(_, it)| it.owner).collect();
            let over = (1..4).any(|owner| count(owner) > SHARE);
            // While one has more than a share, nobody waits who has not.
            prop_assert!(!over || left.iter().all(|owner| *owner != 0 && count(*owner) >= SHARE));
            let is_first = |endpoint: &Endpoint| claims[endpoint].owner == 0 || endpoint.port < WELL_KNOWN;
            let roots = claims.iter().filter(|(_, claim)| claim.owner == 0).count();
            prop_assert!(roots > PLACES / 2 || claims.keys().filter(|it| claims[*it].owner == 0 && is_first(it))
                .all(|it| chosen.contains(it)));
        }
    }
}
