//! The load on a service: its half-open connections.
//!
//! *Queued* connections are in the listener's SYN queue. The kernel says how many: each SYN that may pass looks the socket up.
//! *Passing* SYNs passed a moment ago and may not be queued yet. They count until the kernel answers them, or for two
//! [periods](PERIOD_BITS). *Averted* connections would be queued had their SYNs passed. The queued ones start mitigation; queued
//! and averted together end it.
//!
//! Averted connections are counted in age buckets, one for each second (2³⁰ ns) in which they began. A connection that completes
//! leaves its bucket. The first packet of a later second empties buckets as old as the kernel lets half-open connections grow.
//! Nothing sweeps.
//!
//! CPUs count at the same time, by atomic additions. Each compares before it adds, so at most one SYN per other CPU passes
//! beyond a trigger level.

use core::time::Duration;

use crate::{
    abi::{AGE_BUCKETS, Load, SECONDS, TriggerLimits},
    field,
    lifetimes::{COOKIE, KERNEL_COOKIE, milliseconds},
    mitigation::{Level, Measures, Trigger, rise, turn},
    queue::Queue,
    shared::{Peek, Shared, peek},
};

/// The most age buckets that are kept: one is being filled, one is cleared ahead.
pub const MAX_AGE_BUCKETS: u32 = AGE_BUCKETS as u32 - 2;

/// SYNs that passed are in the listener's queue after two periods at most, of this power of two milliseconds: a packet waits
/// for the end of its poll, or for another CPU. The clock's grain may be 10 ms.
pub const PERIOD_BITS: u32 = 3;

/// From [`BATCH_FROM`] averted connections on, a CPU counts SYNs in batches: exact numbers matter near the trigger levels only.
pub const BATCH: u32 = 64;
const BATCH_FROM: u64 = 4096;

/// Words that several CPUs write at the same time.
pub trait Words {
    /// Adds to a word; it wraps.
    fn add(word: &Shared<u64>, more: u64);
    /// Makes a word 0, and returns what it was.
    fn take(word: &Shared<u64>) -> u64;
    /// Makes a word `after` if it is `before`.
    fn replace(word: &Shared<u64>, before: u64, after: u64) -> bool;
}

/// Words that nobody else writes, such as those of a copy.
#[derive(Debug)]
pub struct Alone;

impl Words for Alone {
    fn add(word: &Shared<u64>, more: u64) {
        word.set(word.get().wrapping_add(more));
    }

    fn take(word: &Shared<u64>) -> u64 {
        let before = word.get();
        word.set(0);
        before
    }

    fn replace(word: &Shared<u64>, before: u64, after: u64) -> bool {
        let is = word.get() == before;
        if is {
            word.set(after);
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
    /// The moment at so many nanoseconds of uptime.
    #[inline(always)]
    pub const fn at(nanoseconds: u64) -> Self {
        Self { ms: crate::clock::milliseconds(nanoseconds), second: (nanoseconds >> 30) as u32 }
    }
}

/// The level a service is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MitigationState {
    /// The level.
    pub level: Level,
    /// Why it was taken.
    pub trigger: Trigger,
    /// When, in milliseconds.
    pub since: u32,
}

impl MitigationState {
    #[inline(always)]
    const fn unpack(word: u64) -> Self {
        Self {
            level: Level::from_abi(word as u8),
            trigger: Trigger::from_abi((word >> 8) as u8),
            since: (word >> 32) as u32,
        }
    }

    /// As [`Load::mitigation`] holds it.
    #[inline(always)]
    pub const fn to_abi(self) -> u64 {
        (self.since as u64) << 32 | (self.trigger as u64) << 8 | self.level as u64
    }
}

/// A level that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The level before.
    pub from: Level,
    /// The level now.
    pub to: Level,
    /// Why.
    pub trigger: Trigger,
}

/// The level a service is on.
#[inline(always)]
pub fn mitigation(load: &impl Peek<Load>) -> MitigationState {
    MitigationState::unpack(peek!(load.mitigation))
}

/// Notes that a SYN is answered with a cookie.
#[inline(always)]
pub fn sends_cookie(load: &Shared<Load>, now: u32) {
    note(field!(load.cookie_sent), now);
}

/// Notes that a SYN passes because its service is not challenged.
#[inline(always)]
pub fn passes_unchallenged(load: &Shared<Load>, now: u32) {
    if note(field!(load.unchallenged_syn), now) {
        forget_cookies(load, now);
    }
}

/// Forgets the last cookie that was sent, if it no longer lives.
#[inline(always)]
pub fn forget_cookies(load: &Shared<Load>, now: u32) {
    if !awaits_cookies(load, now) {
        field!(load.cookie_sent).set(0);
    }
}

/// Notes a moment, to within [`GRAIN`]. Returns whether it was time to.
#[inline(always)]
fn note(word: &Shared<u32>, now: u32) -> bool {
    // Every CPU reads this line.
    let is_due = now.wrapping_sub(word.get()) >= GRAIN;
    if is_due {
        word.set(now | 1);
    }
    is_due
}

/// How exact the moments of [`note`] are, in milliseconds.
const GRAIN: u32 = 1000;

/// Whether a cookie that was sent, in whatever mode and on whatever level, may still be on its way.
#[inline(always)]
pub fn awaits_cookies(load: &impl Peek<Load>, now: u32) -> bool {
    is_within(peek!(load.cookie_sent), COOKIE, now)
}

/// Whether a cookie of the kernel's own may still be on its way.
#[inline(always)]
pub fn awaits_kernel_cookies(load: &impl Peek<Load>, now: u32) -> bool {
    is_within(peek!(load.unchallenged_syn), KERNEL_COOKIE, now)
}

/// Whether what was sent when [`note`] last noted it may live.
#[inline(always)]
fn is_within(noted: u32, lifetime: Duration, now: u32) -> bool {
    // Signed: another CPU may be ahead.
    noted != 0 && (now.wrapping_sub(noted) as i32) < (milliseconds(lifetime) + GRAIN) as i32
}

/// How many connections are half open in the listeners' queues, by that which was looked at last.
#[inline(always)]
pub fn queued(load: &impl Peek<Load>, triggers: &TriggerLimits) -> u32 {
    of_all(Queue::unpack(peek!(load.queue)).half_open, triggers)
}

/// Of these: older than a second.
#[inline(always)]
fn aged(load: &impl Peek<Load>, triggers: &TriggerLimits) -> u32 {
    of_all(Queue::unpack(peek!(load.queue)).aged(), triggers)
}

/// A count of one listener's queue, for all that share the service's clients.
#[inline(always)]
const fn of_all(count: u32, triggers: &TriggerLimits) -> u32 {
    count.saturating_mul(if triggers.listeners == 0 { 1 } else { triggers.listeners })
}

/// Whether a listener's queue has room for a SYN that only the kernel can answer.
#[inline(always)]
pub const fn has_room(queue: Queue, triggers: &TriggerLimits) -> bool {
    triggers.critical == 0 || of_all(queue.half_open, triggers) < triggers.critical
}

/// The same, where such SYNs may come fast: those on their way count.
#[inline(always)]
pub fn has_room_besides_passing(
    load: &impl Peek<Load>,
    queue: Queue,
    triggers: &TriggerLimits,
    now: u32,
) -> bool {
    triggers.critical == 0
        || of_all(queue.half_open, triggers).saturating_add(on_their_way(load, triggers, now))
            < triggers.critical
}

/// How many of the passing SYNs count as queued: at most half of `critical`, so they never reach it alone. A firewall may drop
/// them, and then the queue does not grow.
#[inline(always)]
fn on_their_way(load: &impl Peek<Load>, triggers: &TriggerLimits, now: u32) -> u32 {
    let (passing, most) = (passing(load, now), triggers.critical / 2);
    if passing < most { passing } else { most }
}

/// SYNs that passed and may not be in the queue yet.
#[inline(always)]
pub fn passing(load: &impl Peek<Load>, now: u32) -> u32 {
    let period = now >> PERIOD_BITS;
    in_period(load, period).saturating_add(in_period(load, period.wrapping_sub(1)))
}

#[inline(always)]
fn in_period(load: &impl Peek<Load>, period: u32) -> u32 {
    let word = peek!(load.passing[period as usize & 1]);
    // The kernel may have answered more than passed then: a SYN it had before.
    if (word >> 32) as u32 == period && (word as i32) > 0 { word as u32 } else { 0 }
}

/// Whether one more SYN-ACK in this second is within the reply limit, divided by `parts`.
#[inline(always)]
pub fn is_within_limit(load: &impl Peek<Load>, triggers: &TriggerLimits, parts: u32) -> bool {
    triggers.replies == 0 || replies(load, peek!(load.second) as u32).saturating_mul(parts) < triggers.replies
}

/// How many connections would be half open besides those that are.
#[inline(always)]
pub fn averted_now(load: &impl Peek<Load>) -> u32 {
    clamp(peek!(load.averted))
}

/// How many connections are half open, or would be.
#[inline(always)]
pub fn half_open(load: &impl Peek<Load>, triggers: &TriggerLimits) -> u32 {
    queued(load, triggers).saturating_add(averted_now(load))
}

/// SYNs so far in a second that is not long past.
#[inline(always)]
pub fn syns(load: &impl Peek<Load>, second: u32) -> u32 {
    peek!(load.arrivals[second as usize & (SECONDS - 1)]) as u32
}

/// SYNs that were answered, or would have been but for the limit, in a second that is not long past.
#[inline(always)]
fn replies(load: &impl Peek<Load>, second: u32) -> u32 {
    peek!(load.replies[second as usize & (SECONDS - 1)]) as u32
}

#[inline(always)]
fn out_of_state(load: &impl Peek<Load>, second: u32) -> u32 {
    (peek!(load.arrivals[second as usize & (SECONDS - 1)]) >> 32) as u32
}

/// The measures of a service. [`advance`] has reached the second of `time`.
#[inline(always)]
pub fn measures(load: &impl Peek<Load>, triggers: &TriggerLimits, time: Time) -> Measures {
    let second = time.second;
    let (last, earlier) = (second.wrapping_sub(1), second.wrapping_sub(2));
    let queued = queued(load, triggers).saturating_add(on_their_way(load, triggers, time.ms));
    let stale = aged(load, triggers);
    // What grew older than a second since the last second began.
    let grown = stale.saturating_sub(peek!(load.aged[last as usize & (SECONDS - 1)]));
    Measures {
        queued,
        stale,
        half_open: queued.saturating_add(averted_now(load)),
        syns: syns(load, second),
        syns_before: syns(load, last),
        out_of_state: out_of_state(load, second),
        out_of_state_before: out_of_state(load, last),
        replies: replies(load, second),
        replies_before: replies(load, last),
        earlier: syns(load, earlier),
        earlier_half_open: grown.saturating_add(averted_in(load, earlier)),
    }
}

#[inline(always)]
fn averted_in(load: &impl Peek<Load>, second: u32) -> u32 {
    clamp(peek!(load.averted_by_age[second as usize & (AGE_BUCKETS - 1)]))
}

/// CPUs that count at the same time may subtract more than there is, for a moment.
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

/// How many SYNs the next one stands for, on a CPU that has counted `seen` of the service.
#[inline(always)]
pub fn batch(load: &impl Peek<Load>, seen: u64) -> u32 {
    if peek!(load.averted) < BATCH_FROM {
        1
    } else if seen.is_multiple_of(BATCH as u64) {
        BATCH
    } else {
        0
    }
}

/// Brings a service to the present second: empties old age buckets, and may change the level. `keep` is how many age buckets
/// half-open connections live for.
#[inline(always)]
pub fn advance<W: Words>(
    load: &Shared<Load>,
    triggers: &TriggerLimits,
    keep: u32,
    time: Time,
) -> Option<Change> {
    let idle = pass::<W>(load, keep, time)?;
    settle::<W>(load, triggers, idle, time)
}

/// Empties old age buckets. Returns whether the service was idle for as long as they are kept; none: the second was begun already.
#[inline(always)]
pub fn pass<W: Words>(load: &Shared<Load>, keep: u32, time: Time) -> Option<bool> {
    let before = field!(load.second).get();
    let passed = time.second.wrapping_sub(before as u32);
    // Nothing to do, or another CPU is ahead.
    if passed == 0 || passed > i32::MAX as u32 {
        return None;
    }
    // One CPU does it.
    let now = time.second as u64;
    if !W::replace(field!(load.second), before, now) {
        return None;
    }
    let keep = if keep < MAX_AGE_BUCKETS { keep } else { MAX_AGE_BUCKETS };
    let idle = passed >= AGE_BUCKETS as u32;
    let levels = if idle { AGE_BUCKETS as u32 } else { passed };
    for back in 0..AGE_BUCKETS as u32 {
        if back >= levels {
            break;
        }
        let second = time.second.wrapping_sub(back);
        retire::<W>(load, second.wrapping_sub(keep));
        // Nobody counts there yet.
        retire::<W>(load, second.wrapping_add(1));
        field!(load.arrivals[second.wrapping_add(1) as usize & (SECONDS - 1)]).set(0);
        field!(load.replies[second.wrapping_add(1) as usize & (SECONDS - 1)]).set(0);
    }
    Some(idle)
}

/// Settles the level at the beginning of a second.
#[inline(always)]
pub fn settle<W: Words>(
    load: &Shared<Load>,
    triggers: &TriggerLimits,
    idle: bool,
    time: Time,
) -> Option<Change> {
    let present = mitigation(load);
    field!(load.aged[time.second as usize & (SECONDS - 1)]).set(aged(load, triggers));
    let measures = measures(load, triggers, time);
    let (to, trigger) = turn(present.level, present.since, idle, &measures, triggers, time.ms)?;
    take::<W>(load, present, to, trigger, time)
}

#[inline(always)]
fn retire<W: Words>(load: &Shared<Load>, second: u32) {
    let second = second as usize & (AGE_BUCKETS - 1);
    let over = W::take(field!(load.averted_by_age[second]));
    W::add(field!(load.averted), over.wrapping_neg());
}

/// Counts arrivals, SYNs in the lower half and out-of-state packets in the upper, and takes the level they lead to.
#[inline(always)]
pub fn count_syn<W: Words>(
    load: &Shared<Load>,
    triggers: &TriggerLimits,
    arrivals: u64,
    time: Time,
) -> Option<Change> {
    if arrivals != 0 {
        W::add(field!(load.arrivals[time.second as usize & (SECONDS - 1)]), arrivals);
    }
    climb::<W>(load, triggers, time)
}

#[inline(always)]
fn climb<W: Words>(load: &Shared<Load>, triggers: &TriggerLimits, time: Time) -> Option<Change> {
    let present = mitigation(load);
    // In a flood there is nothing more to compare.
    let top = if triggers.replies == 0 { Level::Challenge } else { Level::Limit };
    if present.level >= top {
        return None;
    }
    let measures = measures(load, triggers, time);
    let (to, trigger) = rise(present.level, &measures, triggers)?;
    if matches!(present.level, Level::Pass) {
        // First, so that whoever sees the level sees this as well.
        field!(load.half_open_then).set(measures.queued);
    }
    take::<W>(load, present, to, trigger, time)
}

/// Takes a level, unless another CPU has taken one.
#[inline(always)]
fn take<W: Words>(
    load: &Shared<Load>,
    present: MitigationState,
    to: Level,
    trigger: Trigger,
    time: Time,
) -> Option<Change> {
    let now = time.ms | 1;
    // First, so that whoever sees the level sees this as well.
    if matches!(present.level, Level::Pass) {
        field!(load.began).set(now);
    }
    let next = MitigationState { level: to, trigger, since: now };
    let taken = W::replace(field!(load.mitigation), present.to_abi(), next.to_abi());
    if taken { Some(Change { from: present.level, to, trigger }) } else { None }
}

/// A SYN passes, and will be in the listener's queue in a moment.
#[inline(always)]
pub fn passes<W: Words>(load: &Shared<Load>, now: u32) {
    let period = now >> PERIOD_BITS;
    let word = field!(load.passing[period as usize & 1]);
    let before = word.get();
    if (before >> 32) as u32 == period || !W::replace(word, before, (period as u64) << 32 | 1) {
        W::add(word, 1);
    }
}

/// The kernel has answered a SYN that passed: it is in the queue.
#[inline(always)]
pub fn answered<W: Words>(load: &Shared<Load>, now: u32) {
    let period = now >> PERIOD_BITS;
    let word = field!(load.passing[period as usize & 1]);
    if (word.get() >> 32) as u32 == period && word.get() as u32 != 0 {
        W::add(word, 1_u64.wrapping_neg());
        return;
    }
    let word = field!(load.passing[!period as usize & 1]);
    if (word.get() >> 32) as u32 == period.wrapping_sub(1) && word.get() as u32 != 0 {
        W::add(word, 1_u64.wrapping_neg());
    }
}

/// `count` SYNs do not pass: their connections are averted.
#[inline(always)]
pub fn averted<W: Words>(load: &Shared<Load>, count: u32, second: u32) {
    W::add(field!(load.averted_by_age[second as usize & (AGE_BUCKETS - 1)]), count as u64);
    W::add(field!(load.averted), count as u64);
}

/// `count` SYNs are answered, or would be but for the reply limit.
#[inline(always)]
pub fn replied<W: Words>(load: &Shared<Load>, count: u32, second: u32) {
    W::add(field!(load.replies[second as usize & (SECONDS - 1)]), count as u64);
}

/// The kernel has a connection by its cookie: it is averted no longer.
#[inline(always)]
pub fn proved<W: Words>(load: &Shared<Load>, second: u32) {
    let last = second.wrapping_sub(1);
    let began = if averted_in(load, second) == 0 { last } else { second };
    let age_bucket = field!(load.averted_by_age[began as usize & (AGE_BUCKETS - 1)]);
    if age_bucket.get() != 0 {
        W::add(age_bucket, 1_u64.wrapping_neg());
        W::add(field!(load.averted), 1_u64.wrapping_neg());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP: u32 = 59;
    const LINES: TriggerLimits = TriggerLimits {
        start: 32,
        critical: 96,
        end: 15,
        rate: 1000,
        out_of_state: 10_000,
        replies: 0,
        min_active: 30_000,
        flood: 0,
        listeners: 1,
    };
    /// How long the kernel keeps half-open connections, in nanoseconds.
    const LIFE: u64 = 63_000_000_000;
    const SECOND: u64 = 1_000_000_000;
    /// Of a long queue, where it is known what is usual.
    const LONG: TriggerLimits = TriggerLimits { start: 1024, critical: 3072, end: 491, flood: 1000, ..LINES };

    /// A service in a world of its own, as the datapath treats it.
    struct World {
        load: Load,
        triggers: TriggerLimits,
        ns: u64,
        changes: Vec<(u64, Change)>,
        /// When the connections in the listener's queue began.
        queue: Vec<u64>,
        /// SYNs reach the queue at the end of this: until then they are on their way.
        poll: Vec<u64>,
        polls: bool,
    }

    impl World {
        fn new(triggers: TriggerLimits) -> Self {
            let (load, ns, changes) = (Load::default(), 5_000 * SECOND, Vec::new());
            let mut world =
                Self { load, triggers, ns, changes, queue: Vec::new(), poll: Vec::new(), polls: false };
            world.tick();
            world
        }

        /// The kernel takes what has arrived, and answers.
        fn end_poll(&mut self) {
            let now = self.time().ms;
            for began in self.poll.drain(..) {
                self.queue.push(began);
                answered::<Alone>(Shared::from_mut(&mut self.load), now);
            }
        }

        fn look(&mut self) {
            self.queue.retain(|began| self.ns - began < LIFE);
            let young = self.queue.iter().filter(|began| self.ns - **began < SECOND).count() as u32;
            let queue = Queue { half_open: self.queue.len() as u32, young, ..Queue::default() };
            self.load.queue = queue.pack();
        }

        fn time(&self) -> Time {
            Time::at(self.ns)
        }

        fn tick(&mut self) {
            let time = self.time();
            let change = advance::<Alone>(Shared::from_mut(&mut self.load), &self.triggers, KEEP, time);
            self.changes.extend(change.map(|change| (self.ns, change)));
        }

        /// A SYN; when it came, if it passes.
        fn syn(&mut self) -> Option<u64> {
            self.look();
            self.tick();
            let time = self.time();
            let change = count_syn::<Alone>(Shared::from_mut(&mut self.load), &self.triggers, 1, time);
            self.changes.extend(change.map(|change| (self.ns, change)));
            let passes = mitigation(&self.load).level == Level::Pass;
            if passes {
                super::passes::<Alone>(Shared::from_mut(&mut self.load), time.ms);
                self.poll.push(self.ns);
                if !self.polls {
                    self.end_poll();
                }
            } else {
                averted::<Alone>(Shared::from_mut(&mut self.load), 1, time.second);
                replied::<Alone>(Shared::from_mut(&mut self.load), 1, time.second);
            }
            passes.then_some(self.ns)
        }

        fn completes(&mut self, began: Option<u64>) {
            self.tick();
            match began {
                Some(began) => {
                    if let Some(index) = self.queue.iter().position(|other| *other == began) {
                        self.queue.swap_remove(index);
                    }
                }
                None => {
                    let second = self.time().second;
                    proved::<Alone>(Shared::from_mut(&mut self.load), second);
                }
            }
        }

        fn wait(&mut self, ms: u64) {
            self.ns += ms * 1_000_000;
        }

        fn level(&self) -> Level {
            mitigation(&self.load).level
        }
    }

    /// What the age buckets come to.
    fn sum(load: &Load) -> u64 {
        load.averted_by_age.iter().sum()
    }

    #[test]
    fn a_fast_flood_is_noticed_at_the_line() {
        let mut world = World::new(LINES);
        let passed = (0..1000).filter(|_| world.syn().is_some()).count();
        assert_eq!(passed, 96);
        assert_eq!(world.changes.len(), 1);
        assert_eq!(world.changes[0].1.trigger, Trigger::Queue);
        assert_eq!(world.load.half_open_then, 96);
    }

    #[test]
    fn what_the_kernel_has_not_seen_yet_counts() {
        let mut world = World { polls: true, ..World::new(LINES) };
        let mut passed = 0;
        for number in 1..=1000 {
            passed += u32::from(world.syn().is_some());
            if number % 48 == 0 {
                world.end_poll();
            }
        }
        // Two polls fill the queue as far as the line.
        assert_eq!(passed, 96);
        assert_eq!(world.changes[0].1.trigger, Trigger::Queue);
    }

    #[test]
    fn what_the_kernel_has_answered_counts_once() {
        let mut world = World::new(LINES);
        for _ in 0..60 {
            world.syn();
        }
        world.look();
        assert_eq!(measures(&world.load, &LINES, world.time()).queued, 60);
    }

    #[test]
    fn what_the_kernel_never_took_is_forgotten() {
        // A firewall dropped them, or their signature was wrong.
        let mut world = World { polls: true, ..World::new(LINES) };
        for number in 0..2000 {
            assert!(world.syn().is_some());
            world.poll.clear();
            world.wait(number % 2);
        }
        assert_eq!(world.changes, []);
    }

    #[test]
    fn one_of_several_listeners_stands_for_all() {
        let triggers = TriggerLimits { listeners: 4, ..LINES };
        let load =
            Load { queue: Queue { half_open: 9, young: 2, ..Queue::default() }.pack(), ..Load::default() };
        let measures = measures(&load, &triggers, Time::at(5_000 * SECOND));
        assert_eq!((measures.queued, measures.stale), (36, 28));
        assert!(has_room(Queue { half_open: 23, ..Queue::default() }, &triggers));
        assert!(!has_room(Queue { half_open: 24, ..Queue::default() }, &triggers));
    }

    #[test]
    fn periods_that_are_over_do_not_count() {
        let mut load = Load::default();
        for now in [80, 81, 87, 88] {
            passes::<Alone>(Shared::from_mut(&mut load), now);
        }
        assert_eq!([88, 95, 96, 103, 104].map(|now| passing(&load, now)), [4, 4, 1, 1, 0]);
        answered::<Alone>(Shared::from_mut(&mut load), 88);
        answered::<Alone>(Shared::from_mut(&mut load), 88);
        assert_eq!(passing(&load, 88), 2);
        for _ in 0..5 {
            answered::<Alone>(Shared::from_mut(&mut load), 88);
        }
        assert_eq!(passing(&load, 88), 0);
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
        assert_eq!(world.changes[0].1.trigger, Trigger::Flood);
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
        assert!(queued(&world.load, &world.triggers) > world.triggers.start);
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
        assert_eq!(world.changes[0].1.trigger, Trigger::HalfOpen);
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
        world.look();
        assert_eq!(half_open(&world.load, &LINES), under_way.len() as u32);
    }

    #[test]
    fn what_was_spared_is_over_when_the_kernel_would_have_given_it_up() {
        let mut world = World::new(LINES);
        let second = world.time().second;
        averted::<Alone>(Shared::from_mut(&mut world.load), 50, second);
        world.wait(62_000);
        world.tick();
        assert_eq!(half_open(&world.load, &LINES), 50);
        world.wait(2_500);
        world.tick();
        assert_eq!((half_open(&world.load, &LINES), sum(&world.load)), (0, 0));
    }

    #[test]
    fn an_attack_ends_after_its_cohorts() {
        let mut world = World::new(LINES);
        for _ in 0..5000 {
            world.syn();
        }
        assert_eq!(world.level(), Level::Challenge);
        while world.level() != Level::Pass {
            world.wait(500);
            world.syn();
            assert!(world.changes.len() <= 2);
            // A real client.
            world.completes(None);
        }
        let [(began, _), (ended, change)] = world.changes[..] else { panic!("{:?}", world.changes) };
        assert!((60_000_000_000..70_000_000_000).contains(&(ended - began)), "{}", ended - began);
        assert_eq!((change.from, change.to), (Level::Challenge, Level::Pass));
    }

    #[test]
    fn cookies_are_awaited_as_long_as_the_last_one_lives() {
        let mut load = Load::EMPTY;
        let load = Shared::from_mut(&mut load);
        assert!(!awaits_cookies(load, 5) && !awaits_kernel_cookies(load, 5), "none was sent");
        for start in [77_000_u32, u32::MAX - 30_000] {
            let at = |after: u32| start.wrapping_add(after);
            // The last is sent within the grain of the moment that is noted.
            (0..5000).step_by(7).for_each(|after| sends_cookie(load, at(after)));
            let last = at(4998);
            assert!(awaits_cookies(load, last.wrapping_add(60_000)));
            assert!(!awaits_cookies(load, last.wrapping_add(62_000)));
            assert!(awaits_cookies(load, start), "another CPU is ahead");
            passes_unchallenged(load, at(30_000));
            assert_ne!(field!(load.cookie_sent).get(), 0);
            assert!(awaits_kernel_cookies(load, at(150_000)));
            assert!(!awaits_kernel_cookies(load, at(151_002)));
            passes_unchallenged(load, at(70_000));
            assert_eq!(field!(load.cookie_sent).get(), 0, "the first SYN afterwards forgets it");
        }
    }

    #[test]
    fn a_line_that_every_cpu_reads_is_written_once_a_second() {
        let mut load = Load::EMPTY;
        let load = Shared::from_mut(&mut load);
        let word = field!(load.cookie_sent);
        let written = (60_000..70_000).filter(|now| note(word, *now)).count();
        assert_eq!(written, 10);
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
        let triggers = TriggerLimits { replies: 100, ..LINES };
        let mut world = World::new(triggers);
        for _ in 0..3000 {
            world.syn();
            world.wait(1);
        }
        assert_eq!(world.level(), Level::KnownSources);
        world.wait(3_600_000);
        assert!(world.syn().is_some());
        world.look();
        assert_eq!(half_open(&world.load, &triggers), 1);
    }

    #[test]
    fn what_gets_no_answer_uses_up_no_limit() {
        let mut world = World::new(TriggerLimits { replies: 100, ..LINES });
        for _ in 0..LINES.critical + 10 {
            world.syn();
        }
        for _ in 0..3000 {
            world.tick();
            let time = world.time();
            let change = count_syn::<Alone>(Shared::from_mut(&mut world.load), &world.triggers, 1, time);
            world.changes.extend(change.map(|change| (world.ns, change)));
            averted::<Alone>(Shared::from_mut(&mut world.load), 1, time.second);
            world.wait(1);
        }
        assert_eq!(world.level(), Level::Challenge);
        assert!(is_within_limit(&world.load, &world.triggers, 1));
    }

    #[test]
    fn strangers_keep_a_part_of_the_limit() {
        let mut load = Load { second: 7, ..Load::default() };
        let triggers = TriggerLimits { replies: 100, ..LINES };
        let answered = |load: &mut Load, parts| {
            let before = load.replies[7 & (SECONDS - 1)];
            while is_within_limit(load, &triggers, parts) {
                replied::<Alone>(Shared::from_mut(load), 1, 7);
            }
            load.replies[7 & (SECONDS - 1)] - before
        };
        assert_eq!(answered(&mut load, crate::mitigation::STRANGERS_PART), 50);
        assert_eq!(answered(&mut load, 1), 50);
        assert!(is_within_limit(&load, &TriggerLimits { replies: 0, ..triggers }, u32::MAX));
    }

    #[test]
    fn strays_are_an_attack_and_stay_one_while_they_come() {
        let mut world = World::new(LINES);
        for _ in 0..60 * 400 {
            world.tick();
            let time = world.time();
            let change =
                count_syn::<Alone>(Shared::from_mut(&mut world.load), &world.triggers, 64 << 32, time);
            world.changes.extend(change.map(|change| (world.ns, change)));
            world.wait(2);
        }
        assert_eq!(world.changes.len(), 1);
        assert_eq!(world.changes[0].1.trigger, Trigger::OutOfState);
        world.wait(31_000);
        world.syn();
        assert_eq!(world.level(), Level::Pass);
    }

    #[test]
    fn large_numbers_are_counted_in_batches() {
        let mut load = Load::default();
        let mut counted = 0;
        for seen in 0..100_000_u64 {
            let count = batch(&load, seen);
            averted::<Alone>(Shared::from_mut(&mut load), count, 5);
            counted += count;
        }
        assert!(100_000_u32.abs_diff(counted) <= BATCH, "{counted}");
    }

    #[test]
    fn a_cpu_that_is_behind_changes_nothing() {
        let mut world = World::new(LINES);
        world.syn();
        let before = world.load;
        let late = Time { second: world.time().second - 1, ..world.time() };
        assert_eq!(advance::<Alone>(Shared::from_mut(&mut world.load), &LINES, KEEP, late), None);
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
        /// Whatever comes: the count is the sum of the age buckets, no more pass than the line allows, each attack lasts for
        /// the minimum at least, and calm is never challenged.
        #[test]
        fn the_ladder_keeps_its_promises(acts in acts(), flood in prop_oneof![Just(0u32), 1u32..200]) {
            let mut world = World::new(TriggerLimits { flood, ..LINES });
            let (mut under_way, mut proofs) = (Vec::new(), 0);
            for act in acts {
                match act {
                    Act::Syn(count) => for _ in 0..count {
                        world.look();
                        let calm = queued(&world.load, &LINES) < LINES.start && world.level() == Level::Pass;
                        let began = world.syn();
                        under_way.push(began);
                        prop_assert!(!calm || began.is_some() || world.changes.last().is_some_and(
                            |(_, change)| change.trigger == Trigger::SynRate));
                        prop_assert!(queued(&world.load, &LINES) <= LINES.critical);
                    },
                    Act::Complete(count) => for _ in 0..count {
                        let Some(began) = under_way.pop() else { break };
                        proofs += u64::from(began.is_none());
                        world.completes(began);
                    },
                    Act::Wait(ms) => world.wait(ms.into()),
                }
                prop_assert_eq!(sum(&world.load), world.load.averted);
                world.look();
                // A cookie that comes late is not taken out.
                prop_assert!(u64::from(half_open(&world.load, &LINES)) <= under_way.len() as u64 + proofs);
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
