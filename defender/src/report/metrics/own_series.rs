//! Which services have series of their own, and which are summed under `other`. Pure.
//!
//! A service that has series keeps them as long as it is there, so that no counter jumps because another service came. What
//! services of `other` have counted stays counted when they end.

use std::collections::{BTreeMap, BTreeSet};

use defender_common::abi::ServiceCounters;

use super::service::ServiceReading;

/// So many services have series of their own.
pub(super) const MOST: usize = 256;
/// The label of all others together.
pub(super) const OTHER: &str = "other";

/// Who has series, and what others have counted.
#[derive(Debug, Default)]
pub(super) struct OwnSeries {
    own: BTreeSet<String>,
    /// What each of the others had counted at the last reading.
    others: BTreeMap<String, ServiceCounters>,
    /// What those others had counted that have ended or begun anew since.
    ended: ServiceCounters,
}

impl OwnSeries {
    /// The services by label: at most [`MOST`], and one for all others if there are or were any.
    pub(super) fn assign(
        &mut self,
        services: BTreeMap<String, ServiceReading>,
    ) -> BTreeMap<String, ServiceReading> {
        self.own.retain(|label| services.contains_key(label));
        let mut assigned = BTreeMap::new();
        let mut other = ServiceReading::default();
        let mut others = BTreeMap::new();
        for (label, service) in services {
            // Who was summed up once stays there: its counts cannot be taken out again.
            let is_own = self.own.contains(&label)
                || self.own.len() < MOST
                    && !self.others.contains_key(&label)
                    && self.own.insert(label.clone());
            if is_own {
                assigned.insert(label, service);
            } else {
                other.add(&service);
                others.insert(label, service.counters);
            }
        }
        self.keep_ended(others);
        if !self.others.is_empty() || self.ended != ServiceCounters::default() {
            other.counters.add(&self.ended);
            assigned.insert(OTHER.to_owned(), other);
        }
        assigned
    }

    fn keep_ended(&mut self, now: BTreeMap<String, ServiceCounters>) {
        for (label, before) in &self.others {
            let began_anew = |now: &ServiceCounters| {
                now.values().iter().zip(before.values()).any(|(now, before)| *now < before)
            };
            if now.get(label).is_none_or(began_anew) {
                self.ended.add(before);
            }
        }
        self.others = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(labels: impl IntoIterator<Item = usize>, syns: u64) -> BTreeMap<String, ServiceReading> {
        let service = |label| {
            let counters = ServiceCounters { syn_received: syns, ..ServiceCounters::default() };
            (format!("{label:05}"), ServiceReading { counters, half_open: 1, ..ServiceReading::default() })
        };
        labels.into_iter().map(service).collect()
    }

    fn other(assigned: &BTreeMap<String, ServiceReading>) -> (u64, u64) {
        let other = &assigned[OTHER];
        (other.counters.syn_received, other.half_open)
    }

    #[test]
    fn few_services_all_have_series() {
        let assigned = OwnSeries::default().assign(services(0..MOST, 1));
        assert_eq!(assigned.len(), MOST);
        assert!(!assigned.contains_key(OTHER));
    }

    #[test]
    fn thousands_are_bounded_and_nothing_is_lost() {
        let assigned = OwnSeries::default().assign(services(0..5000, 2));
        assert_eq!(assigned.len(), MOST + 1);
        let sum: u64 = assigned.values().map(|service| service.counters.syn_received).sum();
        assert_eq!(sum, 10_000);
        assert_eq!(other(&assigned), (2 * (5000 - MOST as u64), 5000 - MOST as u64));
    }

    #[test]
    fn a_service_keeps_its_series_when_one_comes_before_it() {
        let mut own = OwnSeries::default();
        let before = own.assign(services(1..=MOST, 1));
        let after = own.assign(services(0..=MOST, 1));
        assert!(before.keys().all(|label| after.contains_key(label)));
        assert_eq!(other(&after), (1, 1));
        assert!(!after.contains_key("00000"));
    }

    #[test]
    fn the_sum_of_others_never_falls() {
        let mut own = OwnSeries::default();
        own.assign(services(0..MOST + 2, 5));
        assert_eq!(other(&own.assign(services(0..MOST + 1, 6))), (6 + 5, 1), "one has ended");
        assert_eq!(other(&own.assign(services(0..MOST, 7))), (6 + 5, 0), "so has the other");
        assert_eq!(other(&own.assign(services(0..MOST + 1, 1))), (6 + 5 + 1, 1), "one begins anew");
    }

    #[test]
    fn who_was_summed_up_stays_so() {
        let mut own = OwnSeries::default();
        own.assign(services(0..=MOST, 5));
        let assigned = own.assign(services(1..=MOST, 5));
        assert_eq!((assigned.len(), other(&assigned)), (MOST, (5, 1)));
    }
}
