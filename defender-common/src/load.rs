//! How much a service has to bear: its half-open connections, counted as they come and go.
//!
//! Two counts. What is *held* is in the listener's queue: it tells when to go up, so nothing but the kernel's own word
//! lowers it before its time. What is *spared* would be there had its SYN passed; both together tell when to come down.
//! Connections are counted in cohorts, one for each second (2³⁰ ns) in which they began. A connection that goes on is
//! taken out of its cohort; a cohort as old as the kernel lets half-open connections grow is taken out whole, by the first
//! packet of a later second. There are no sweeps. A client's RST takes nothing out: the kernel may ignore what looks like
//! one, and whoever spoofs a SYN can spoof its RST.
//!
//! CPUs count at the same time, by atomic additions. Each compares before it adds, so at most as many SYNs as there are
//! CPUs, less one, pass beyond a line.

use crate::{
    abi::{COHORTS, Lines, Load, SECONDS},
    ladder::{Because, GRACE_MS, KERNEL_COOKIES_MS, Measures, Step, rise, turn},
};

/// The most cohorts that are kept: one is being filled, one is cleared ahead.
pub const MOST_COHORTS: u32 = COHORTS as u32 - 2;

/// Where a service bears more, CPUs count SYNs by so many at once: exact numbers matter near the lines only.
pub const BATCH: u32 = 64;
const BATCH_FROM: u64 = 4096;

/// Words that several CPUs write at the same time.
pub trait Words {
    /// Adds to a word; it wraps.
    fn add(word: &mut u64, more: u64);
    /// Makes a word 0, and returns what it was.
    fn take(word: &mut u64) -> u64;
    /// Makes a word `after` if it is `before`.
    fn replace(word: &mut u64, before: u64, after: u64) -> bool;
}

/// Words that nobody else writes: a copy.
#[derive(Debug)]
pub struct Alone;

impl Words for Alone {
    fn add(word: &mut u64, more: u64) {
        *word = word.wrapping_add(more);
    }

    fn take(word: &mut u64) -> u64 {
        core::mem::take(word)
    }

    fn replace(word: &mut u64, before: u64, after: u64) -> bool {
        let is = *word == before;
        if is {
            *word = after;
        }
        is
    }
}

/// A moment, by two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Milliseconds, wrapping.
    pub ms: u32,
    /// Units of 2³⁰ ns since the machine started.
    pub second: u32,
}

impl Time {
    /// The moment when the machine has run for so many nanoseconds.
    #[inline(always)]
    pub const fn at(nanoseconds: u64) -> Self {
        Self { ms: crate::clock::milliseconds(nanoseconds), second: (nanoseconds >> 30) as u32 }
    }
}

/// The step a service is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posture {
    /// The step.
    pub step: Step,
    /// Why it was taken.
    pub because: Because,
    /// When, in milliseconds.
    pub since: u32,
}

impl Posture {
    #[inline(always)]
    const fn unpack(word: u64) -> Self {
        Self {
            step: Step::from_abi(word as u8),
            because: Because::from_abi((word >> 8) as u8),
            since: (word >> 32) as u32,
        }
    }

    /// As [`Load::posture`] holds it.
    #[inline(always)]
    pub const fn to_abi(self) -> u64 {
        (self.since as u64) << 32 | (self.because as u64) << 8 | self.step as u64
    }
}

/// A step that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The step before.
    pub from: Step,
    /// The step now.
    pub to: Step,
    /// Why.
    pub because: Because,
}

/// The step a service is on.
#[inline(always)]
pub const fn posture(load: &Load) -> Posture {
    Posture::unpack(load.posture)
}

/// Whether cookies may be on their way although none are sent now.
#[inline(always)]
pub const fn accepts_cookies(load: &Load, now: u32) -> bool {
    load.accepts_until != 0 && load.accepts_until.wrapping_sub(now) as i32 > 0
}

/// Whether challenges began so short a time ago that cookies of the kernel's own may still be on their way.
#[inline(always)]
pub const fn kernel_cookies(load: &Load, now: u32) -> bool {
    load.began != 0 && now.wrapping_sub(load.began) < KERNEL_COOKIES_MS
}

/// How many connections are half open in the listener's queue.
#[inline(always)]
pub const fn held(load: &Load) -> u32 {
    clamp(load.held)
}

/// Whether the listener's queue has room for a SYN that only the kernel can answer.
#[inline(always)]
pub const fn has_room(load: &Load, lines: &Lines) -> bool {
    lines.danger == 0 || held(load) < lines.danger
}

/// Whether there may be so many more SYNs in this second within the limit of replies.
#[inline(always)]
pub const fn is_within_limit(load: &Load, lines: &Lines, more: u32) -> bool {
    lines.replies == 0 || syns(load, load.second as u32).saturating_add(more) <= lines.replies
}

/// How many connections are half open, or would be.
#[inline(always)]
pub const fn half_open(load: &Load) -> u32 {
    held(load).saturating_add(clamp(load.spared))
}

/// SYNs so far in a second that is not long past.
#[inline(always)]
pub const fn syns(load: &Load, second: u32) -> u32 {
    load.arrivals[second as usize & (SECONDS - 1)] as u32
}

#[inline(always)]
const fn strays(load: &Load, second: u32) -> u32 {
    (load.arrivals[second as usize & (SECONDS - 1)] >> 32) as u32
}

/// What is measured, in a second that [`advance`] has reached.
#[inline(always)]
pub const fn measures(load: &Load, second: u32) -> Measures {
    let (last, earlier) = (second.wrapping_sub(1), second.wrapping_sub(2));
    let held = held(load);
    let fresh = at(&load.held_cohorts, second).saturating_add(at(&load.held_cohorts, last));
    Measures {
        held,
        stale: held.saturating_sub(fresh),
        half_open: half_open(load),
        syns: syns(load, second),
        syns_before: syns(load, last),
        strays: strays(load, second),
        strays_before: strays(load, last),
        earlier: syns(load, earlier),
        earlier_half_open: at(&load.held_cohorts, earlier).saturating_add(at(&load.spared_cohorts, earlier)),
    }
}

#[inline(always)]
const fn at(cohorts: &[u64; COHORTS], second: u32) -> u32 {
    clamp(cohorts[second as usize & (COHORTS - 1)])
}

/// CPUs that count at the same time may take out more than there is, for a moment.
#[inline(always)]
const fn clamp(count: u64) -> u32 {
    if count > i64::MAX as u64 {
        0
    } else if count > u32::MAX as u64 {
        u32::MAX
    } else {
        count as u32
    }
}

/// By how many a CPU that has counted `seen` SYNs of the service is to count the next one.
#[inline(always)]
pub const fn batch(load: &Load, seen: u64) -> u32 {
    if load.held < BATCH_FROM && load.spared < BATCH_FROM {
        1
    } else if seen.is_multiple_of(BATCH as u64) {
        BATCH
    } else {
        0
    }
}

/// Brings a service to the present second: takes out what is over, and perhaps a step. `keep` is how many cohorts half-open
/// connections live for.
#[inline(always)]
pub fn advance<W: Words>(load: &mut Load, lines: &Lines, keep: u32, time: Time) -> Option<Change> {
    let idle = pass::<W>(load, keep, time)?;
    settle::<W>(load, lines, idle, time)
}

/// Takes out what is over. Returns whether nothing was heard for as long as cohorts are kept; none: there was nothing to do.
#[inline(always)]
pub fn pass<W: Words>(load: &mut Load, keep: u32, time: Time) -> Option<bool> {
    let before = load.second;
    let passed = time.second.wrapping_sub(before as u32);
    // Nothing to do, or another CPU is ahead.
    if passed == 0 || passed > i32::MAX as u32 {
        return None;
    }
    // One CPU does it.
    let now = time.second as u64;
    if !W::replace(&mut load.second, before, now) {
        return None;
    }
    let keep = if keep < MOST_COHORTS { keep } else { MOST_COHORTS };
    let idle = passed >= COHORTS as u32;
    let steps = if idle { COHORTS as u32 } else { passed };
    for back in 0..COHORTS as u32 {
        if back >= steps {
            break;
        }
        let second = time.second.wrapping_sub(back);
        retire::<W>(load, second.wrapping_sub(keep));
        // Nobody counts there yet.
        retire::<W>(load, second.wrapping_add(1));
        load.arrivals[second.wrapping_add(1) as usize & (SECONDS - 1)] = 0;
    }
    if load.accepts_until != 0 && !accepts_cookies(load, time.ms) {
        load.accepts_until = 0;
    }
    Some(idle)
}

/// What the service's defence does now that another second has begun.
#[inline(always)]
pub fn settle<W: Words>(load: &mut Load, lines: &Lines, idle: bool, time: Time) -> Option<Change> {
    let present = posture(load);
    let measures = measures(load, time.second);
    let (to, because) = turn(present.step, present.since, idle, &measures, lines, time.ms)?;
    take::<W>(load, present, to, because, time)
}

#[inline(always)]
fn retire<W: Words>(load: &mut Load, second: u32) {
    let second = second as usize & (COHORTS - 1);
    let over = W::take(&mut load.held_cohorts[second]);
    W::add(&mut load.held, over.wrapping_neg());
    let over = W::take(&mut load.spared_cohorts[second]);
    W::add(&mut load.spared, over.wrapping_neg());
}

/// Counts what arrives, SYNs in the lower half and packets of no connection in the upper, and takes the step they lead to.
#[inline(always)]
pub fn arrives<W: Words>(load: &mut Load, lines: &Lines, arrivals: u64, time: Time) -> Option<Change> {
    if arrivals != 0 {
        W::add(&mut load.arrivals[time.second as usize & (SECONDS - 1)], arrivals);
    }
    climb::<W>(load, lines, time)
}

#[inline(always)]
fn climb<W: Words>(load: &mut Load, lines: &Lines, time: Time) -> Option<Change> {
    let present = posture(load);
    // In a flood there is nothing more to compare.
    let top = if lines.replies == 0 { Step::Challenge } else { Step::Limit };
    if present.step >= top {
        return None;
    }
    let (to, because) = rise(present.step, &measures(load, time.second), lines)?;
    take::<W>(load, present, to, because, time)
}

/// Takes a step, unless another CPU has taken one.
#[inline(always)]
fn take<W: Words>(
    load: &mut Load,
    present: Posture,
    to: Step,
    because: Because,
    time: Time,
) -> Option<Change> {
    let now = time.ms | 1;
    // First, so that whoever sees the step sees this as well.
    if matches!(present.step, Step::Pass) {
        load.began = now;
        load.half_open_then = held(load);
    } else if matches!(to, Step::Pass) {
        load.accepts_until = now.wrapping_add(GRACE_MS) | 1;
    }
    let next = Posture { step: to, because, since: now };
    let taken = W::replace(&mut load.posture, present.to_abi(), next.to_abi());
    if taken { Some(Change { from: present.step, to, because }) } else { None }
}

/// A SYN passes: its connection is held from now on.
#[inline(always)]
pub fn opened<W: Words>(load: &mut Load, second: u32) {
    W::add(&mut load.held_cohorts[second as usize & (COHORTS - 1)], 1);
    W::add(&mut load.held, 1);
}

/// A connection that is held since second `began` is so no more: the kernel has completed it.
#[inline(always)]
pub fn closed<W: Words>(load: &mut Load, began: u32, keep: u32, second: u32) {
    let age = second.wrapping_sub(began);
    let keep = if keep < MOST_COHORTS { keep } else { MOST_COHORTS };
    let cohort = &mut load.held_cohorts[began as usize & (COHORTS - 1)];
    // If it is older it was taken out with its cohort.
    if age < keep && *cohort != 0 {
        W::add(cohort, 1_u64.wrapping_neg());
        W::add(&mut load.held, 1_u64.wrapping_neg());
    }
}

/// `count` SYNs do not pass: the listener is spared their connections.
#[inline(always)]
pub fn spared<W: Words>(load: &mut Load, count: u32, second: u32) {
    W::add(&mut load.spared_cohorts[second as usize & (COHORTS - 1)], count as u64);
    W::add(&mut load.spared, count as u64);
}

/// The kernel has taken a connection by its cookie: one of those that were spared a moment ago.
#[inline(always)]
pub fn proved<W: Words>(load: &mut Load, second: u32) {
    let last = second.wrapping_sub(1);
    let began = if at(&load.spared_cohorts, second) == 0 { last } else { second };
    let cohort = &mut load.spared_cohorts[began as usize & (COHORTS - 1)];
    if *cohort != 0 {
        W::add(cohort, 1_u64.wrapping_neg());
        W::add(&mut load.spared, 1_u64.wrapping_neg());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP: u32 = 59;
    const LINES: Lines = Lines {
        up: 32,
        danger: 96,
        down: 15,
        rate: 1000,
        strays: 10_000,
        replies: 0,
        min_active: 30_000,
        flood: 0,
    };
    /// Of a long queue, where it is known what is usual.
    const LONG: Lines = Lines { up: 1024, danger: 3072, down: 491, flood: 1000, ..LINES };

    /// A service in a world of its own, as the datapath treats it.
    struct World {
        load: Load,
        lines: Lines,
        ns: u64,
        changes: Vec<(u64, Change)>,
    }

    impl World {
        fn new(lines: Lines) -> Self {
            let mut world = Self { load: Load::default(), lines, ns: 5_000_000_000_000, changes: Vec::new() };
            world.tick();
            world
        }

        fn time(&self) -> Time {
            Time::at(self.ns)
        }

        fn tick(&mut self) {
            let time = self.time();
            let change = advance::<Alone>(&mut self.load, &self.lines, KEEP, time);
            self.changes.extend(change.map(|change| (self.ns, change)));
        }

        /// A SYN; the second it counts in if it passes.
        fn syn(&mut self) -> Option<u32> {
            self.tick();
            let time = self.time();
            let change = arrives::<Alone>(&mut self.load, &self.lines, 1, time);
            self.changes.extend(change.map(|change| (self.ns, change)));
            let passes = posture(&self.load).step == Step::Pass;
            if passes {
                opened::<Alone>(&mut self.load, time.second);
            } else {
                spared::<Alone>(&mut self.load, 1, time.second);
            }
            passes.then_some(time.second)
        }

        fn completes(&mut self, began: Option<u32>) {
            self.tick();
            let second = self.time().second;
            match began {
                Some(began) => closed::<Alone>(&mut self.load, began, KEEP, second),
                None => proved::<Alone>(&mut self.load, second),
            }
        }

        fn wait(&mut self, ms: u64) {
            self.ns += ms * 1_000_000;
        }

        fn step(&self) -> Step {
            posture(&self.load).step
        }
    }

    /// What the cohorts come to.
    fn sums(load: &Load) -> (u64, u64) {
        (load.held_cohorts.iter().sum(), load.spared_cohorts.iter().sum())
    }

    #[test]
    fn a_fast_flood_is_noticed_at_the_line() {
        let mut world = World::new(LINES);
        let passed = (0..1000).filter(|_| world.syn().is_some()).count();
        assert_eq!(passed, 96);
        assert_eq!(world.changes.len(), 1);
        assert_eq!(world.changes[0].1.because, Because::Queue);
        assert_eq!(world.load.half_open_then, 96);
    }

    #[test]
    fn a_fast_flood_takes_little_of_a_long_queue() {
        let mut world = World::new(LONG);
        // Clients that go on: as many as are usual.
        for _ in 0..900 {
            let began = world.syn();
            world.completes(began);
            world.wait(1);
        }
        let passed = (0..10_000).filter(|_| world.syn().is_some()).count();
        assert_eq!(passed, 1024);
        assert_eq!(world.changes.len(), 1);
        assert_eq!(world.changes[0].1.because, Because::Flood);
    }

    #[test]
    fn a_rush_of_clients_with_a_round_trip_is_no_flood() {
        let mut world = World::new(LONG);
        let mut under_way = std::collections::VecDeque::new();
        // From 2,000 a second to 10,000, with a round trip of 150 ms.
        for (rate, count) in [(2_000_u64, 4_000), (10_000, 30_000)] {
            for _ in 0..count {
                under_way.push_back((world.syn(), world.ns + 150_000_000));
                world.ns += 1_000_000_000 / rate;
                while under_way.front().is_some_and(|(_, done)| *done <= world.ns) {
                    world.completes(under_way.pop_front().and_then(|(began, _)| began));
                }
            }
        }
        assert!(held(&world.load) > world.lines.up);
        assert_eq!(world.changes, []);
    }

    #[test]
    fn a_slow_flood_is_noticed_by_what_stays_half_open() {
        let mut world = World::new(LINES);
        let mut passed = 0;
        for _ in 0..1000 {
            passed += u32::from(world.syn().is_some());
            world.wait(50);
        }
        assert_eq!(world.changes.len(), 1);
        assert_eq!(world.changes[0].1.because, Because::HalfOpen);
        assert!(passed < 96, "{passed}");
    }

    #[test]
    fn busy_clients_with_a_round_trip_change_nothing() {
        let mut world = World::new(LINES);
        let mut under_way = std::collections::VecDeque::new();
        // Ten a second, then a thousand a second, 80 ms each.
        for number in 0..20_000 {
            under_way.push_back((world.ns + 80_000_000, world.syn()));
            world.wait(if number < 100 { 100 } else { 1 });
            while under_way.front().is_some_and(|(due, _)| *due <= world.ns) {
                let (_, began) = under_way.pop_front().expect("one is due");
                world.completes(began);
            }
        }
        assert_eq!(world.changes, []);
        assert_eq!(half_open(&world.load), under_way.len() as u32);
    }

    #[test]
    fn what_nobody_completes_is_over_when_the_kernel_gives_it_up() {
        let mut world = World::new(Lines::default());
        for _ in 0..50 {
            world.syn();
        }
        world.wait(62_000);
        world.tick();
        assert_eq!(half_open(&world.load), 50);
        world.wait(2_500);
        world.tick();
        assert_eq!((half_open(&world.load), sums(&world.load)), (0, (0, 0)));
    }

    #[test]
    fn an_attack_ends_after_its_cohorts_and_cookies_are_accepted_for_a_while() {
        let mut world = World::new(LINES);
        for _ in 0..5000 {
            world.syn();
        }
        assert_eq!(world.step(), Step::Challenge);
        while world.step() != Step::Pass {
            world.wait(500);
            world.syn();
            assert!(world.changes.len() <= 2);
            // A real client.
            world.completes(None);
        }
        let [(began, _), (ended, change)] = world.changes[..] else { panic!("{:?}", world.changes) };
        assert!((60_000_000_000..70_000_000_000).contains(&(ended - began)), "{}", ended - began);
        assert_eq!((change.from, change.to), (Step::Challenge, Step::Pass));
        assert!(accepts_cookies(&world.load, world.time().ms));
        world.wait(61_000);
        assert!(!accepts_cookies(&world.load, world.time().ms));
        world.tick();
        assert_eq!(world.load.accepts_until, 0);
    }

    #[test]
    fn a_pulsed_flood_does_not_flap() {
        let mut world = World::new(LINES);
        for _ in 0..40 {
            for _ in 0..2000 {
                world.syn();
                world.wait(1);
            }
            world.wait(20_000);
        }
        assert_eq!(world.changes.len(), 1, "{:?}", world.changes);
    }

    #[test]
    fn a_long_pause_ends_everything_at_once() {
        let lines = Lines { replies: 100, ..LINES };
        let mut world = World::new(lines);
        for _ in 0..3000 {
            world.syn();
            world.wait(1);
        }
        assert_eq!(world.step(), Step::KnownSources);
        world.wait(3_600_000);
        assert!(world.syn().is_some());
        assert_eq!(half_open(&world.load), 1);
    }

    #[test]
    fn strays_are_an_attack_and_stay_one_while_they_come() {
        let mut world = World::new(LINES);
        for _ in 0..60 * 400 {
            world.tick();
            let time = world.time();
            let change = arrives::<Alone>(&mut world.load, &world.lines, 64 << 32, time);
            world.changes.extend(change.map(|change| (world.ns, change)));
            world.wait(2);
        }
        assert_eq!(world.changes.len(), 1);
        assert_eq!(world.changes[0].1.because, Because::Strays);
        world.wait(31_000);
        world.syn();
        assert_eq!(world.step(), Step::Pass);
    }

    #[test]
    fn large_numbers_are_counted_in_batches() {
        let mut load = Load::default();
        let mut counted = 0;
        for seen in 0..100_000_u64 {
            let count = batch(&load, seen);
            spared::<Alone>(&mut load, count, 5);
            counted += count;
        }
        assert!(100_000_u32.abs_diff(counted) <= BATCH, "{counted}");
    }

    #[test]
    fn proofs_take_out_nobody_whom_the_kernel_holds() {
        let mut world = World::new(LINES);
        for _ in 0..20 {
            world.syn();
        }
        for _ in 0..50 {
            world.completes(None);
        }
        assert_eq!(held(&world.load), 20);
    }

    #[test]
    fn a_cpu_that_is_behind_changes_nothing() {
        let mut world = World::new(LINES);
        world.syn();
        let before = world.load;
        let late = Time { second: world.time().second - 1, ..world.time() };
        assert_eq!(advance::<Alone>(&mut world.load, &LINES, KEEP, late), None);
        assert_eq!(world.load, before);
    }

    #[derive(Clone, Debug)]
    enum Act {
        Syn(u16),
        Complete(u16),
        Wait(u16),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            (1u16..300).prop_map(Act::Syn),
            (1u16..300).prop_map(Act::Complete),
            (0u16..8000).prop_map(Act::Wait),
        ];
        prop::collection::vec(act, 1..200)
    }

    proptest! {
        /// Whatever comes: the count is the sum of the cohorts, no more pass than the line allows, each attack lasts for
        /// the minimum at least, and calm is never challenged.
        #[test]
        fn the_ladder_keeps_its_promises(acts in acts(), flood in prop_oneof![Just(0u32), 1u32..200]) {
            let mut world = World::new(Lines { flood, ..LINES });
            let (mut under_way, mut proofs) = (Vec::new(), 0);
            for act in acts {
                match act {
                    Act::Syn(count) => for _ in 0..count {
                        let calm = held(&world.load) < LINES.up && world.step() == Step::Pass;
                        let began = world.syn();
                        under_way.push(began);
                        prop_assert!(!calm || began.is_some() || world.changes.last().is_some_and(
                            |(_, change)| change.because == Because::SynRate));
                        prop_assert!(held(&world.load) <= LINES.danger);
                    },
                    Act::Complete(count) => for _ in 0..count {
                        let Some(began) = under_way.pop() else { break };
                        proofs += u64::from(began.is_none());
                        world.completes(began);
                    },
                    Act::Wait(ms) => world.wait(ms.into()),
                }
                prop_assert_eq!(sums(&world.load), (world.load.held, world.load.spared));
                // A cookie that comes late is not taken out.
                prop_assert!(u64::from(half_open(&world.load)) <= under_way.len() as u64 + proofs);
            }
            for pair in world.changes.windows(2) {
                let [(began, up), (ended, down)] = pair else { continue };
                if up.to > up.from && down.to < down.from {
                    prop_assert!(ended - began >= u64::from(LINES.min_active) * 999_000);
                }
            }
        }
    }
}
