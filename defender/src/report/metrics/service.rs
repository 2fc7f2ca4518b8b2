//! What metrics say of one service.

use defender_common::abi::ServiceCounters;

use crate::report::connection_list::STATES;

/// A service, or the sum of several. What is true or false of one is how many it is true of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceReading {
    pub counters: ServiceCounters,
    pub half_open: u64,
    pub averted: u64,
    pub queue_limit: u64,
    pub mitigating: u64,
    pub challenging: u64,
    pub unprotectable: u64,
    /// Connections by state, in the order of [`STATES`].
    pub states: [u64; STATES.len()],
}

impl ServiceReading {
    /// Adds another service.
    pub(super) fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        for (sum, more) in [
            (&mut self.half_open, other.half_open),
            (&mut self.averted, other.averted),
            (&mut self.queue_limit, other.queue_limit),
            (&mut self.mitigating, other.mitigating),
            (&mut self.challenging, other.challenging),
            (&mut self.unprotectable, other.unprotectable),
        ] {
            *sum += more;
        }
        self.states.iter_mut().zip(other.states).for_each(|(sum, more)| *sum += more);
    }
}
