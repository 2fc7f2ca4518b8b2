//! How long a flag of a service's slot is kept after it was last needed. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use defender_common::abi;

use crate::model::map_values;

/// When the flag of each service ends.
#[derive(Clone, Debug)]
pub struct Grace {
    flag: u32,
    lifetime: Duration,
    until: BTreeMap<u32, Instant>,
}

impl Grace {
    /// Keeps `flag`, one of `SERVICE_*`, for `lifetime`.
    pub const fn new(flag: u32, lifetime: Duration) -> Self {
        Self { flag, lifetime, until: BTreeMap::new() }
    }

    /// The slot without the flag where its time is over. It does not run while the flag `is_needed`.
    pub fn end(&mut self, id: u32, slot: &abi::Service, is_needed: bool, now: Instant) -> abi::Service {
        if is_needed || slot.flags & self.flag == 0 {
            self.until.remove(&id);
            return *slot;
        }
        let until = *self.until.entry(id).or_insert(now + self.lifetime);
        map_values::with_flag(slot, self.flag, now < until)
    }

    /// Forgets services that have ended.
    pub fn retain(&mut self, is_there: impl Fn(&u32) -> bool) {
        self.until.retain(|id, _| is_there(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_runs_from_when_it_is_no_longer_needed() {
        let (start, life) = (Instant::now(), Duration::from_secs(60));
        let mut grace = Grace::new(abi::SERVICE_ACCEPTS_COOKIES, life);
        let slot = abi::Service { flags: abi::SERVICE_ACCEPTS_COOKIES, ..abi::Service::default() };
        let mut has = |after, is_needed| grace.end(1, &slot, is_needed, start + after).flags != 0;
        assert!(has(Duration::ZERO, true) && has(life * 9, true), "needed");
        assert!(has(life * 10, false) && has(life * 11 - Duration::from_millis(1), false));
        assert!(!has(life * 11, false));
        assert!(has(life * 12, true) && has(life * 13, false), "it begins anew");
        grace.retain(|_| false);
        assert_eq!(grace.end(1, &slot, false, start + life * 99).flags, slot.flags);
        let none = abi::Service::default();
        assert_eq!(grace.end(1, &none, false, start), none);
    }
}
