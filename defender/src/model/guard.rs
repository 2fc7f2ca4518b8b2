//! Gives up services that are worse off with challenges than without: the kernel refuses their every hand-off, or cookies are
//! accepted and lead to no connection. Pure.
//!
//! Only what nobody outside can bring about counts: connections that the kernel would certainly have made
//! ([`ServiceCounters::proved`]), each once. A service that was given up gets another chance after a while, and at once when
//! its listener is another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use defender_common::abi::ServiceCounters;

/// So many refusals in a row, and no connection taken, say that the listener will not have them.
const ENOUGH_REFUSALS: u64 = 8;
/// So many connections proved, and hardly one established, say that something is in the way.
const ENOUGH_PROOFS: u64 = 30;
/// So many connections established say that the way is open.
const OPEN: u64 = 3;
/// Of that many proofs at least one is to be established.
const LEAST_SHARE: u64 = 16;
/// How long proofs are given to become connections.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where the way was open once, proofs of a longer time are not added up: some clients may be denied by a firewall.
const WINDOW: Duration = Duration::from_secs(60);
/// When a service that was given up gets another chance.
pub const REST: Duration = Duration::from_secs(600);

/// What the kernel's lasting refusals mean, in the order of [`Counted::refusals`]. Lack of memory passes.
const REFUSALS: [&str; 3] = [
    "EINVAL: not a plain TCP listener",
    "ENETUNREACH: the listener is in another network namespace",
    "an unknown error",
];

/// Why a service was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The kernel refused every hand-off, with this error.
    Refused(&'static str),
    /// So many connections proved a cookie at the NIC, and not one reached the hand-off.
    NotHandedOver(u64),
    /// So many connections proved a cookie and were handed over, and hardly one was established.
    NotEstablished(u64),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = REST.as_secs() / 60;
        match self {
            Self::Refused(error) => write!(
                f,
                "the kernel refused every hand-off to the listener ({error}), so SYNs pass. Next try in {minutes} \
                 minutes, or when another socket listens"
            ),
            Self::NotHandedOver(proved) => write!(
                f,
                "{proved} clients proved their cookies at the NIC, but none arrived at the hand-off (tcx ingress), \
                 so SYNs pass. Another tc program, the driver or an upper device takes or changes packets in between \
                 (`tc filter show dev IF ingress`, `bpftool net`, `defender doctor`). Next try in {minutes} minutes"
            ),
            Self::NotEstablished(proved) => write!(
                f,
                "{proved} clients proved their cookies, but hardly any became a connection, so SYNs pass. Most \
                 likely a firewall, cgroup or IPsec policy drops segments whose SYN it has not seen (`nft list \
                 ruleset`, `defender doctor`). Next try in {minutes} minutes"
            ),
        }
    }
}

/// What was counted of a service at some time.
#[derive(Clone, Copy, Default)]
struct Counted {
    proved: u64,
    queue_full: u64,
    established: u64,
    assigned: u64,
    failed: u64,
    refusals: [u64; REFUSALS.len()],
}

impl Counted {
    fn new(service: &ServiceCounters) -> Self {
        Self {
            proved: service.proved,
            queue_full: service.handoff_queue_full,
            established: service.handoff_established,
            assigned: service.handoff_assigned,
            failed: service.handoff_failed,
            refusals: [service.refused_invalid, service.refused_namespace, service.refused_other],
        }
    }

    fn since(&self, before: &Self) -> Self {
        let mut refusals = self.refusals;
        for (now, before) in refusals.iter_mut().zip(before.refusals) {
            *now = now.saturating_sub(before);
        }
        Self {
            proved: self.proved.saturating_sub(before.proved),
            queue_full: self.queue_full.saturating_sub(before.queue_full),
            established: self.established.saturating_sub(before.established),
            assigned: self.assigned.saturating_sub(before.assigned),
            failed: self.failed.saturating_sub(before.failed),
            refusals,
        }
    }

    /// The counters began anew: those of another service.
    fn is_before(&self, other: &Self) -> bool {
        self.proved < other.proved || self.failed < other.failed || self.assigned < other.assigned
    }

    /// The refusal that explains why so much has failed. A listener that merely went away does not count.
    fn refused(&self) -> Option<Loss> {
        if self.assigned != 0 {
            return None;
        }
        let worst = (0..REFUSALS.len()).max_by_key(|index| self.refusals[*index])?;
        (self.refusals[worst] >= ENOUGH_REFUSALS).then_some(Loss::Refused(REFUSALS[worst]))
    }

    /// Connections that were proved and should be there. Those for whom the accept queue had no room come again.
    fn expected(&self) -> u64 {
        self.proved.saturating_sub(self.queue_full)
    }

    fn is_suspect(&self) -> bool {
        let expected = self.expected();
        expected >= ENOUGH_PROOFS && self.established < OPEN && self.established * LEAST_SHARE < expected
    }

    fn unfinished(&self) -> Loss {
        let arrived = self.assigned + self.failed + self.queue_full;
        if arrived == 0 { Loss::NotHandedOver(self.proved) } else { Loss::NotEstablished(self.expected()) }
    }
}

/// What is known of a service.
struct Watched {
    inodes: BTreeSet<u32>,
    /// When a connection was last taken, or the service first looked at.
    taken: Counted,
    /// When the way was last seen to be open, or likewise.
    open: (Instant, Counted),
    /// It was open once.
    was_open: bool,
    /// Since when proofs lack their connections.
    suspect: Option<Instant>,
    given_up: Option<(Instant, Loss)>,
}

impl Watched {
    fn new(inodes: &BTreeSet<u32>, counted: Counted, now: Instant) -> Self {
        Self {
            inodes: inodes.clone(),
            taken: counted,
            open: (now, counted),
            was_open: false,
            suspect: None,
            given_up: None,
        }
    }

    fn look(&mut self, counted: &Counted, now: Instant) {
        if counted.assigned != self.taken.assigned {
            self.taken = *counted;
        }
        let loss = counted.since(&self.taken).refused().or_else(|| self.unfinished(counted, now));
        self.given_up = loss.map(|loss| (now, loss));
    }

    fn unfinished(&mut self, counted: &Counted, now: Instant) -> Option<Loss> {
        let (since, before) = &self.open;
        let recently = counted.since(before);
        if recently.is_suspect() {
            let suspect = *self.suspect.get_or_insert(now);
            return (now - suspect >= PATIENCE).then(|| recently.unfinished());
        }
        self.suspect = None;
        let is_open = recently.established >= OPEN;
        if is_open || self.was_open && now - *since >= WINDOW {
            self.was_open |= is_open;
            self.open = (now, *counted);
        }
        None
    }
}

/// What is known of all services.
#[derive(Default)]
pub struct Guard(BTreeMap<u32, Watched>);

impl Guard {
    /// Takes in the counters of a service whose sockets are `inodes`. Returns why it is given up, if it is. While something
    /// else explains that connections fail, such as a sysctl that was changed, it is `excused`: what fails counts for nothing.
    pub fn observe(
        &mut self,
        id: u32,
        inodes: &BTreeSet<u32>,
        service: &ServiceCounters,
        excused: bool,
        now: Instant,
    ) -> Option<Loss> {
        let counted = Counted::new(service);
        let watched = self.0.entry(id).or_insert_with(|| Watched::new(inodes, counted, now));
        let is_rested = watched.given_up.is_some_and(|(since, _)| now - since >= REST);
        let is_excused = excused && watched.given_up.is_none();
        if is_rested || is_excused || watched.inodes != *inodes || counted.is_before(&watched.taken) {
            *watched = Watched::new(inodes, counted, now);
        }
        if watched.given_up.is_none() {
            watched.look(&counted, now);
        }
        watched.given_up.map(|(_, loss)| loss)
    }

    /// Forgets services that are gone.
    pub fn retain(&mut self, is_there: impl Fn(u32) -> bool) {
        self.0.retain(|id, _| is_there(*id));
    }
}

#[cfg(test)]
mod tests {
    use defender_common::abi::Handoff;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    struct World {
        guard: Guard,
        service: ServiceCounters,
        excused: bool,
        inodes: BTreeSet<u32>,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self {
                guard: Guard::default(),
                service: ServiceCounters::default(),
                excused: false,
                inodes: [7].into(),
                now: Instant::now(),
            };
            assert_eq!(world.look(), None);
            world
        }

        fn look(&mut self) -> Option<Loss> {
            self.guard.observe(1, &self.inodes, &self.service, self.excused, self.now)
        }

        /// A look after so many seconds.
        fn after(&mut self, seconds: u64) -> Option<Loss> {
            self.now += Duration::from_secs(seconds);
            self.look()
        }

        fn fail(&mut self, outcome: Handoff, times: u64) {
            self.service.handoff_failed += times;
            match outcome {
                Handoff::RefusedInvalid => self.service.refused_invalid += times,
                Handoff::RefusedNamespace => self.service.refused_namespace += times,
                _ => {}
            }
        }

        /// Clients that prove their cookies, of which so many are handed over and so many established.
        fn clients(&mut self, proved: u64, assigned: u64, established: u64) {
            self.service.proved += proved;
            self.service.handoff_assigned += assigned;
            self.service.handoff_established += established;
        }
    }

    #[test]
    fn only_refusals_and_nothing_else_give_a_service_up() {
        let mut world = World::new();
        world.fail(Handoff::RefusedInvalid, ENOUGH_REFUSALS - 1);
        assert_eq!(world.look(), None);
        world.fail(Handoff::RefusedInvalid, 1);
        assert_eq!(world.look(), Some(Loss::Refused(REFUSALS[0])));
        assert!(world.look().expect("still").to_string().contains("EINVAL"));
    }

    #[test]
    fn what_a_changed_sysctl_explains_counts_for_nothing_then_and_later() {
        let mut world = World::new();
        world.excused = true;
        for _ in 0..3 {
            world.fail(Handoff::RefusedInvalid, ENOUGH_REFUSALS);
            world.clients(ENOUGH_PROOFS, 0, 0);
            assert_eq!(world.after(4), None);
        }
        world.excused = false;
        assert_eq!(world.after(1), None);
        assert_eq!(world.after(4), None);
        world.fail(Handoff::RefusedInvalid, ENOUGH_REFUSALS);
        assert!(world.look().is_some());
        world.excused = true;
        assert!(world.look().is_some(), "what was wrong before the change is wrong still");
    }

    #[test]
    fn refusals_of_one_service_are_not_anothers() {
        let mut world = World::new();
        world.fail(Handoff::NoListener, 1000);
        let other = ServiceCounters { refused_invalid: 1000, ..ServiceCounters::default() };
        let mut observe = |id, counters| world.guard.observe(id, &[7].into(), &counters, false, world.now);
        assert_eq!(observe(2, ServiceCounters::default()), None);
        assert!(observe(2, other).is_some());
        assert_eq!(observe(1, world.service), None);
    }

    #[test]
    fn one_connection_taken_clears_the_suspicion() {
        let mut world = World::new();
        world.fail(Handoff::RefusedInvalid, ENOUGH_REFUSALS);
        world.clients(1, 1, 1);
        assert_eq!(world.look(), None);
    }

    #[test]
    fn lack_of_memory_and_absent_listeners_pass() {
        let mut world = World::new();
        world.fail(Handoff::RefusedMemory, 1000);
        world.fail(Handoff::NoListener, 1000);
        assert_eq!(world.look(), None);
    }

    #[test]
    fn a_new_listener_gets_its_chance() {
        let mut world = World::new();
        for inode in 8..10 {
            world.fail(Handoff::RefusedNamespace, ENOUGH_REFUSALS);
            assert!(world.look().is_some());
            assert!(world.after(1).is_some());
            world.inodes = [inode].into();
            assert_eq!(world.look(), None);
        }
    }

    #[test]
    fn who_was_given_up_is_tried_again() {
        let mut world = World::new();
        world.fail(Handoff::RefusedInvalid, ENOUGH_REFUSALS);
        assert!(world.look().is_some());
        assert!(world.after(REST.as_secs() - 1).is_some());
        assert_eq!(world.after(1), None);
        world.clients(ENOUGH_PROOFS, 0, 0);
        assert_eq!(world.after(1), None);
        assert!(world.after(3).is_some());
        assert_eq!(world.after(REST.as_secs()), None);
        assert_eq!(world.after(1000), None, "nothing new has happened");
    }

    #[test]
    fn proofs_without_connections_give_a_service_up_after_a_while() {
        for (assigned, loss) in [
            (0, Loss::NotHandedOver(ENOUGH_PROOFS)),
            (ENOUGH_PROOFS, Loss::NotEstablished(ENOUGH_PROOFS)),
            (1, Loss::NotEstablished(ENOUGH_PROOFS)),
        ] {
            let mut world = World::new();
            world.clients(ENOUGH_PROOFS - 1, assigned, 0);
            assert_eq!(world.after(1), None);
            assert_eq!(world.after(100), None);
            world.clients(1, 0, 0);
            assert_eq!(world.after(1), None);
            assert_eq!(world.after(2), None);
            assert_eq!(world.after(1), Some(loss));
            assert!(world.look().expect("still").to_string().contains("SYNs pass"));
        }
    }

    #[test]
    fn slow_clients_are_added_up_until_the_way_is_seen_to_be_open() {
        let mut world = World::new();
        for _ in 0..ENOUGH_PROOFS {
            assert_eq!(world.after(20), None);
            world.clients(1, 1, 0);
        }
        world.after(1);
        assert_eq!(world.after(3), Some(Loss::NotEstablished(ENOUGH_PROOFS)));

        let mut world = World::new();
        world.clients(OPEN, OPEN, OPEN);
        assert_eq!(world.after(1), None);
        for _ in 0..100 {
            world.clients(1, 1, 0);
            assert_eq!(world.after(20), None, "a firewall may deny them");
        }
        world.clients(ENOUGH_PROOFS, 0, 0);
        assert_eq!(world.after(1), None);
        assert!(world.after(3).is_some());
    }

    #[test]
    fn a_way_that_closes_is_noticed_whenever_it_does() {
        let mut world = World::new();
        for _ in 0..100 {
            world.clients(50, 50, 50);
            assert_eq!(world.after(1), None);
        }
        // Two of the last were on their way.
        world.clients(50, 50, 2);
        assert_eq!(world.after(1), None);
        world.clients(50, 50, 0);
        assert_eq!(world.after(1), None);
        assert_eq!(world.after(2), Some(Loss::NotEstablished(100)));
    }

    #[test]
    fn clients_for_whom_the_queue_has_no_room_are_left_out() {
        let mut world = World::new();
        world.clients(1000, 0, 0);
        world.service.handoff_queue_full += 990;
        assert_eq!(world.after(1), None);
        assert_eq!(world.after(100), None);
    }

    #[test]
    fn counters_of_another_service_begin_anew() {
        let mut world = World::new();
        world.clients(1000, 1000, 1000);
        assert_eq!(world.after(1), None);
        world.service = ServiceCounters::default();
        assert_eq!(world.after(1), None);
        world.clients(ENOUGH_PROOFS - 1, 0, 0);
        assert_eq!(world.after(1), None);
        assert_eq!(world.after(10), None);
    }

    proptest! {
        /// Whatever else comes: where every second three are let in, or a tenth, nobody is given up.
        #[test]
        fn a_way_that_is_open_is_never_given_up(
            seconds in vec((0u64..10_000, 0u64..5, 0u64..3), 1..100), share in 1u64..15,
        ) {
            let mut world = World::new();
            for (proved, pause, extra) in seconds {
                let established = (proved / share).max(OPEN) + extra;
                world.clients(proved.max(established), established, established);
                prop_assert_eq!(world.after(pause), None);
            }
        }
    }
}
