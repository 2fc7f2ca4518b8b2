//! Evidence of an attack: who sends SYNs to a service, and how many handshakes they complete.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use defender_common::{
    abi::{ServiceCounters, Sources},
    sources,
};
use serde::{Deserialize, Serialize};

use crate::model::prefix::address_of;

/// A network shows if it has at least this share of the SYNs.
const LEAST_SHARE: f64 = 0.05;
/// How many networks show.
const MOST_NETWORKS: usize = 3;
/// The standard error of the number of sources.
pub const ERROR: f64 = 0.046;

/// What SYNs to a service look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evidence {
    /// How many sources sent SYNs in the last eight seconds: an estimate.
    pub sources: u64,
    /// The estimate's standard error, as a share.
    pub sources_error: f64,
    /// The share of handshakes that were completed, of those begun while the rates were measured; none if there were none.
    pub completed: Option<f64>,
    /// SYNs a second that are challenged and not answered by a valid cookie: an estimate.
    pub unanswered_rate: u64,
    /// Networks that send the most: a /24 or /64 and its share of the sampled SYNs.
    pub networks: Vec<Network>,
}

/// A service's counters at the beginning and the end of a short time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// At the beginning.
    pub before: ServiceCounters,
    /// At the end.
    pub after: ServiceCounters,
    /// How long it was.
    pub elapsed: Duration,
}

impl Sample {
    /// SYNs a second.
    pub fn syn_rate(&self) -> u64 {
        self.per_second(self.after.syn_received.saturating_sub(self.before.syn_received))
    }

    fn per_second(&self, more: u64) -> u64 {
        per_second(more, self.elapsed)
    }
}

/// What so many in a time are in a second.
pub fn per_second(more: u64, elapsed: Duration) -> u64 {
    (more as f64 / elapsed.as_secs_f64().max(f64::EPSILON)).round() as u64
}

/// A network that sends SYNs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The network, as `192.0.2.0/24`.
    pub prefix: String,
    /// Its share of the sampled SYNs.
    pub share: f64,
}

impl Evidence {
    /// Reads it from the sketch, at `now` (ms of the datapath's clock), and from the counters of a short time.
    pub fn of(seen: &Sources, now: u32, sample: &Sample) -> Self {
        let Sample { before, after, .. } = sample;
        let more = |field: fn(&ServiceCounters) -> u64| field(after).saturating_sub(field(before));
        let (syns, completed) = (more(|all| all.syn_received), more(|all| all.established));
        let (challenged, accepted) = (more(|all| all.syn_challenged), more(|all| all.ack_accepted));
        Self {
            sources: sources::distinct(seen, now).count.min(after.syn_received),
            sources_error: ERROR,
            completed: (syns > 0).then(|| (completed as f64 / syns as f64).min(1.0)),
            unanswered_rate: sample.per_second(challenged.saturating_sub(accepted)),
            networks: networks(sources::recent_samples(seen, now).map(|sample| address_of(sample.address))),
        }
    }
}

fn networks(samples: impl Iterator<Item = IpAddr>) -> Vec<Network> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut all = 0_u32;
    for address in samples {
        *counts.entry(network_of(address)).or_default() += 1;
        all += 1;
    }
    let share = |count: u32| f64::from(count) / f64::from(all.max(1));
    let mut networks: Vec<_> = counts
        .into_iter()
        // One sample says nothing.
        .filter(|(_, count)| *count > 1 && share(*count) >= LEAST_SHARE)
        .map(|(prefix, count)| Network { prefix, share: share(count) })
        .collect();
    networks.sort_by(|a, b| b.share.total_cmp(&a.share));
    networks.truncate(MOST_NETWORKS);
    networks
}

fn network_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{}/24", Ipv4Addr::from(u32::from(address) & 0xffff_ff00)),
        IpAddr::V6(address) => format!("{}/64", Ipv6Addr::from(u128::from(address) & u128::MAX << 64)),
    }
}

#[cfg(test)]
mod tests {
    use defender_common::{
        abi::TableKeys,
        shared::Shared,
        sources::note,
        wire::address::{V4, V6},
    };

    use super::*;

    const KEYS: TableKeys = [0x9e37_79b9_7f4a_7c15; 9];

    fn sample(before: ServiceCounters, after: ServiceCounters) -> Sample {
        Sample { before, after, elapsed: Duration::from_millis(200) }
    }

    #[test]
    fn what_is_challenged_and_not_answered_is_a_rate() {
        let before = ServiceCounters { syn_challenged: 10, ack_accepted: 5, ..ServiceCounters::default() };
        let after = ServiceCounters { syn_challenged: 110, ack_accepted: 15, ..before };
        assert_eq!(Evidence::of(&Sources::default(), 5, &sample(before, after)).unanswered_rate, 450);
    }

    #[test]
    fn a_crowd_and_a_network_that_stands_out() {
        let mut seen = Sources::default();
        let mut now = 100_000;
        for number in 0..2000_u32 {
            now += 2;
            note(
                Shared::from_mut(&mut seen),
                V4((0xc612_0000 | number.wrapping_mul(977) & 0x1_ffff).to_be()),
                &KEYS,
                now,
            );
            note(Shared::from_mut(&mut seen), V4((0xc000_0200 | number & 0xff).to_be()), &KEYS, now + 1);
        }
        let before = ServiceCounters::default();
        let after = ServiceCounters { syn_received: 4000, established: 20, ..before };
        let evidence = Evidence::of(&seen, now, &sample(before, after));
        assert!((1900..2700).contains(&evidence.sources), "{evidence:?}");
        assert_eq!(evidence.completed, Some(0.005));
        assert_eq!(evidence.networks.first().map(|network| network.prefix.as_str()), Some("192.0.2.0/24"));
        assert!(evidence.networks[0].share > 0.25, "{evidence:?}");
    }

    #[test]
    fn calm_is_empty() {
        let counters = ServiceCounters { syn_received: 7, ..ServiceCounters::default() };
        let evidence = Evidence::of(&Sources::default(), 5, &sample(counters, counters));
        assert_eq!(evidence, Evidence { sources_error: ERROR, ..Evidence::default() });
    }

    #[test]
    fn ipv6_networks_are_64s() {
        let mut seen = Sources::default();
        for number in 0..64_u32 {
            let address = [0x2001_0db8_u32.to_be(), 7_u32.to_be(), 0, number];
            note(Shared::from_mut(&mut seen), V6(address), &KEYS, 100_000 + number);
        }
        let counters = ServiceCounters { syn_received: 64, ..ServiceCounters::default() };
        let evidence = Evidence::of(&seen, 100_070, &sample(counters, counters));
        assert_eq!(evidence.networks, [Network { prefix: "2001:db8:0:7::/64".into(), share: 1.0 }]);
    }
}
