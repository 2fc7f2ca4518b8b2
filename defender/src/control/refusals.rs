//! Notices services whose every hand-off the kernel refuses. Pure.

use std::collections::{BTreeMap, BTreeSet};

use defender_common::abi::{Counters, Handoff, ServiceCounters};

/// So many refusals in a row, and no connection taken, say that the listener will not have them.
const ENOUGH: u64 = 8;

/// The kernel's lasting refusals, with what they mean. Lack of memory passes.
const REFUSALS: [(Handoff, &str); 3] = [
    (Handoff::RefusedInvalid, "EINVAL: not a plain TCP listener"),
    (Handoff::RefusedNamespace, "ENETUNREACH: the listener is in another network namespace"),
    (Handoff::RefusedOther, "an error this version does not know"),
];

/// What was seen of a service when a connection of it was last taken, or it was first looked at.
struct Baseline {
    assigned: u64,
    failed: u64,
    refusals: [u64; REFUSALS.len()],
}

/// A service that was given up.
struct GivenUp {
    inodes: BTreeSet<u32>,
    reason: &'static str,
}

/// What is known of all services.
#[derive(Default)]
pub struct Refusals {
    baselines: BTreeMap<u32, Baseline>,
    given_up: BTreeMap<u32, GivenUp>,
}

impl Refusals {
    /// Takes in the counters of a service whose sockets are `inodes`.
    pub fn observe(&mut self, id: u32, inodes: &BTreeSet<u32>, service: &ServiceCounters, all: &Counters) {
        if self.given_up.get(&id).is_some_and(|given_up| given_up.inodes != *inodes) {
            // Another listener: it gets its chance.
            self.given_up.remove(&id);
            self.baselines.remove(&id);
        }
        let now = Baseline {
            assigned: service.handoff_assigned,
            failed: service.handoff_failed,
            refusals: REFUSALS.map(|(outcome, _)| all.handoff[outcome as usize]),
        };
        let Some(before) = self.baselines.get(&id) else {
            self.baselines.insert(id, now);
            return;
        };
        if now.assigned != before.assigned || now.failed < before.failed {
            self.baselines.insert(id, now);
            return;
        }
        if let Some(reason) = before.reason(&now) {
            self.given_up.entry(id).or_insert(GivenUp { inodes: inodes.clone(), reason });
        }
    }

    /// Why `id` was given up, if it was.
    pub fn reason(&self, id: u32) -> Option<&'static str> {
        self.given_up.get(&id).map(|given_up| given_up.reason)
    }

    /// Forgets services that are gone.
    pub fn retain(&mut self, is_there: impl Fn(u32) -> bool) {
        self.baselines.retain(|id, _| is_there(*id));
        self.given_up.retain(|id, _| is_there(*id));
    }
}

impl Baseline {
    /// The refusal that explains why `now` is so much worse. A listener that merely went away does not count.
    fn reason(&self, now: &Self) -> Option<&'static str> {
        if now.failed - self.failed < ENOUGH {
            return None;
        }
        let grown = |index: usize| now.refusals[index].saturating_sub(self.refusals[index]);
        let worst = (0..REFUSALS.len()).max_by_key(|index| grown(*index))?;
        (grown(worst) >= ENOUGH).then_some(REFUSALS[worst].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        refusals: Refusals,
        service: ServiceCounters,
        all: Counters,
        inodes: BTreeSet<u32>,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self {
                refusals: Refusals::default(),
                service: ServiceCounters::default(),
                all: Counters::default(),
                inodes: [7].into(),
            };
            world.observe();
            world
        }

        fn observe(&mut self) -> Option<&'static str> {
            self.refusals.observe(1, &self.inodes, &self.service, &self.all);
            self.refusals.reason(1)
        }

        fn fail(&mut self, outcome: Handoff, times: u64) {
            self.service.handoff_failed += times;
            self.all.handoff[outcome as usize] += times;
        }
    }

    #[test]
    fn only_refusals_and_nothing_else_give_a_service_up() {
        let mut world = World::new();
        world.fail(Handoff::RefusedInvalid, ENOUGH - 1);
        assert_eq!(world.observe(), None);
        world.fail(Handoff::RefusedInvalid, 1);
        assert!(world.observe().is_some_and(|reason| reason.contains("EINVAL")));
    }

    #[test]
    fn one_connection_taken_clears_the_suspicion() {
        let mut world = World::new();
        world.fail(Handoff::RefusedInvalid, ENOUGH);
        world.service.handoff_assigned += 1;
        assert_eq!(world.observe(), None);
    }

    #[test]
    fn lack_of_memory_and_absent_listeners_pass() {
        let mut world = World::new();
        world.fail(Handoff::RefusedMemory, 1000);
        world.fail(Handoff::NoListener, 1000);
        assert_eq!(world.observe(), None);
    }

    #[test]
    fn a_new_listener_gets_its_chance() {
        let mut world = World::new();
        world.fail(Handoff::RefusedNamespace, ENOUGH);
        assert!(world.observe().is_some());
        assert!(world.observe().is_some());
        world.inodes = [8].into();
        assert_eq!(world.observe(), None);
        world.fail(Handoff::RefusedNamespace, ENOUGH);
        assert!(world.observe().is_some());
    }
}
