//! Mitigation levels of a service, and when they change.
//!
//! The datapath decides both directions with the functions here: up at the packet that reaches a trigger level, down at the first
//! packet of a later second. The controller derives the trigger levels ([`TriggerLimits`]) and reports changes.

use crate::{abi::TriggerLimits, clock::age};

/// At level `known_sources`, unknown sources get this part of the reply limit: one half. A new client may have to try again, but
/// is never shut out.
pub const STRANGERS_PART: u32 = 2;

/// What is done to SYNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// They pass.
    Pass,
    /// They are answered with cookies.
    Challenge,
    /// They are answered with cookies up to the reply limit, beyond it only for validated sources.
    Limit,
    /// The same, but unknown sources get only part of the limit ([`STRANGERS_PART`]).
    KnownSources,
}

impl Level {
    /// Every level, from the lowest.
    pub const ALL: [Self; 4] = [Self::Pass, Self::Challenge, Self::Limit, Self::KnownSources];

    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Challenge => "challenge",
            Self::Limit => "limit",
            Self::KnownSources => "known_sources",
        }
    }

    /// What it does, in words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Pass => "SYNs pass",
            Self::Challenge => "every SYN is challenged",
            Self::Limit => "SYNs are challenged as far as the reply limit goes",
            Self::KnownSources => {
                "SYNs of known sources are challenged, those of others up to half of the reply limit"
            }
        }
    }

    /// The level with this number, of which the two lower bits count. No comparison: the verifier would follow both outcomes.
    #[inline(always)]
    pub const fn from_abi(number: u8) -> Self {
        match number & 3 {
            0 => Self::Pass,
            1 => Self::Challenge,
            2 => Self::Limit,
            _ => Self::KnownSources,
        }
    }

    #[inline(always)]
    const fn below(self) -> Self {
        Self::from_abi((self as u8).saturating_sub(1))
    }
}

/// Why a level was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trigger {
    /// None was taken yet.
    Nothing,
    /// Connections stay half open: [`TriggerLimits::start`].
    HalfOpen,
    /// The listener's queue reaches [`TriggerLimits::critical`].
    Queue,
    /// Far more SYNs than usual, most of which lead to nothing: [`TriggerLimits::rate`].
    SynRate,
    /// Out-of-state packets: [`TriggerLimits::out_of_state`].
    OutOfState,
    /// More answers than the limit allows: [`TriggerLimits::replies`].
    Replies,
    /// For a second, more than twice as many SYNs as the limit allows answers to.
    RepliesTwice,
    /// The load has been below [`TriggerLimits::end`] for long enough.
    Quiet,
    /// A surge of SYNs fills the listener's queue: [`TriggerLimits::flood`].
    Flood,
}

impl Trigger {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Nothing,
        Self::HalfOpen,
        Self::Queue,
        Self::SynRate,
        Self::OutOfState,
        Self::Replies,
        Self::RepliesTwice,
        Self::Quiet,
        Self::Flood,
    ];

    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::HalfOpen => "half_open",
            Self::Queue => "queue",
            Self::SynRate => "syn_rate",
            Self::OutOfState => "out_of_state",
            Self::Replies => "replies",
            Self::RepliesTwice => "replies_twice",
            Self::Quiet => "quiet",
            Self::Flood => "flood",
        }
    }

    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Nothing => "nothing has happened yet",
            Self::HalfOpen => "connections stay half open",
            Self::Queue => "the listener's queue is filling up",
            Self::SynRate => "far more SYNs than usual, and most lead to nothing",
            Self::OutOfState => "a flood of packets that belong to no connection",
            Self::Replies => "more SYNs than the reply limit allows answers to",
            Self::RepliesTwice => "more than twice as many SYNs as the reply limit allows answers to",
            Self::Quiet => "it has been quiet",
            Self::Flood => "a surge of SYNs fills the listener's queue",
        }
    }

    /// The reason with this number.
    pub const fn from_abi(number: u8) -> Self {
        match number {
            1 => Self::HalfOpen,
            2 => Self::Queue,
            3 => Self::SynRate,
            4 => Self::OutOfState,
            5 => Self::Replies,
            6 => Self::RepliesTwice,
            7 => Self::Quiet,
            8 => Self::Flood,
            _ => Self::Nothing,
        }
    }
}

/// What is measured of a service. A second is 2³⁰ ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// Connections in the listener's SYN queue, and passing ones.
    pub queued: u32,
    /// Of these: since before the last second.
    pub stale: u32,
    /// Connections that are half open, or would be if their SYNs had passed.
    pub half_open: u32,
    /// SYNs of this second.
    pub syns: u32,
    /// SYNs of the last second.
    pub syns_before: u32,
    /// Out-of-state packets of this second.
    pub out_of_state: u32,
    /// Out-of-state packets of the last second.
    pub out_of_state_before: u32,
    /// SYNs of this second that were answered, or would have been but for the limit.
    pub replies: u32,
    /// The same of the last second.
    pub replies_before: u32,
    /// SYNs of the second before the last.
    pub earlier: u32,
    /// How many of these are still half-open, roughly.
    pub earlier_half_open: u32,
}

impl Measures {
    /// Far more SYNs than usual for some seconds, and most of those that had time to complete have not.
    #[inline(always)]
    const fn surges(&self, rate: u32, syns: u32) -> bool {
        rate != 0 && syns >= rate && self.earlier >= rate / 2 && self.earlier_half_open > self.earlier / 2
    }

    /// More SYNs than usual come, and most of this second's and the last's are half open.
    #[inline(always)]
    const fn floods(&self, triggers: &TriggerLimits) -> bool {
        let fresh = self.queued.saturating_sub(self.stale);
        triggers.flood != 0 && self.syns >= triggers.flood && fresh > self.syns / 2 + self.syns_before / 2
    }
}

/// The higher level that a packet leads to, if any, and its trigger.
#[inline(always)]
pub const fn rise(level: Level, measures: &Measures, triggers: &TriggerLimits) -> Option<(Level, Trigger)> {
    match level {
        // Answers at this level are those of mode `always`.
        Level::Pass | Level::Challenge if triggers.replies != 0 && measures.replies >= triggers.replies => {
            Some((Level::Limit, Trigger::Replies))
        }
        Level::Pass => match alarm(measures, triggers) {
            Some(trigger) => Some((Level::Challenge, trigger)),
            None => None,
        },
        _ => None,
    }
}

/// The trigger that starts mitigation, if any.
#[inline(always)]
const fn alarm(measures: &Measures, triggers: &TriggerLimits) -> Option<Trigger> {
    let filled = triggers.start != 0 && measures.queued >= triggers.start;
    if triggers.critical != 0 && measures.queued >= triggers.critical {
        Some(Trigger::Queue)
    } else if filled && measures.stale >= triggers.start {
        Some(Trigger::HalfOpen)
    } else if filled && measures.floods(triggers) {
        // Those that come as fast are not waited for until they are a second old.
        Some(Trigger::Flood)
    } else if measures.surges(triggers.rate, measures.syns) {
        Some(Trigger::SynRate)
    } else if triggers.out_of_state != 0 && measures.out_of_state >= triggers.out_of_state {
        Some(Trigger::OutOfState)
    } else {
        None
    }
}

/// The level that a new second leads to, if it changes, and its trigger. `since` is when the present level was taken; `idle` says
/// that no packet came for as long as half-open connections live.
#[inline(always)]
pub const fn turn(
    level: Level,
    since: u32,
    idle: bool,
    measures: &Measures,
    triggers: &TriggerLimits,
    now: u32,
) -> Option<(Level, Trigger)> {
    if matches!(level, Level::Pass) {
        return None;
    }
    let replies = triggers.replies;
    if replies == 0 && !matches!(level, Level::Challenge) {
        // The limit was lifted.
        return Some((Level::Challenge, Trigger::Quiet));
    }
    if matches!(level, Level::Limit) && replies != 0 && measures.replies_before / 2 > replies {
        return Some((Level::KnownSources, Trigger::RepliesTwice));
    }
    if age(since, now) < triggers.min_active {
        return None;
    }
    if idle {
        return Some((Level::Pass, Trigger::Quiet));
    }
    let quiet = match level {
        Level::Challenge => is_normal(measures, triggers),
        Level::Limit => measures.replies_before <= replies / 2,
        // Who is not answered tries again: their SYNs must not keep it here.
        _ => measures.replies_before / 2 <= replies,
    };
    if quiet { Some((level.below(), Trigger::Quiet)) } else { None }
}

#[inline(always)]
const fn is_normal(measures: &Measures, triggers: &TriggerLimits) -> bool {
    measures.half_open <= triggers.end
        && measures.out_of_state_before <= triggers.out_of_state / 2
        && !measures.surges(triggers.rate / 2, measures.syns_before)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: TriggerLimits = TriggerLimits {
        start: 25,
        critical: 75,
        end: 12,
        rate: 1000,
        out_of_state: 10_000,
        replies: 5000,
        min_active: 30_000,
        flood: 0,
        listeners: 1,
    };

    fn measures() -> impl Strategy<Value = Measures> {
        let number = || prop_oneof![0u32..200, any::<u32>()];
        prop::array::uniform8(number()).prop_map(
            |[
                half_open,
                stale,
                syns,
                syns_before,
                out_of_state,
                out_of_state_before,
                earlier,
                earlier_half_open,
            ]| {
                Measures {
                    queued: half_open.max(stale),
                    half_open: half_open.max(stale),
                    stale,
                    syns,
                    syns_before,
                    out_of_state,
                    out_of_state_before,
                    replies: syns / 2,
                    replies_before: syns_before / 2,
                    earlier,
                    earlier_half_open: earlier_half_open.min(earlier),
                }
            },
        )
    }

    fn triggers() -> impl Strategy<Value = TriggerLimits> {
        let number = || prop_oneof![Just(0u32), 1u32..200, any::<u32>()];
        prop::array::uniform8(number()).prop_map(
            |[start, critical, end, rate, out_of_state, replies, min_active, flood]| TriggerLimits {
                start,
                critical,
                end,
                rate,
                out_of_state,
                replies,
                min_active: min_active.min(1 << 30),
                flood,
                listeners: 1,
            },
        )
    }

    #[test]
    fn busy_clients_are_no_attack_unless_the_queue_is_in_danger() {
        // A hundred thousand SYNs a second of which all go on within the second.
        let busy = Measures {
            queued: 74,
            half_open: 74,
            syns: 100_000,
            syns_before: 100_000,
            earlier: 100_000,
            ..Measures::default()
        };
        assert_eq!(rise(Level::Pass, &busy, &LINES), None);
        let critical = Measures { queued: 75, half_open: 75, ..busy };
        assert_eq!(rise(Level::Pass, &critical, &LINES), Some((Level::Challenge, Trigger::Queue)));
    }

    #[test]
    fn each_line_has_its_reason() {
        let trigger = |measures: Measures| rise(Level::Pass, &measures, &LINES).map(|(_, trigger)| trigger);
        let slow = Measures { queued: 25, half_open: 25, stale: 25, ..Measures::default() };
        assert_eq!(trigger(slow), Some(Trigger::HalfOpen));
        let surge = Measures {
            syns: 1000,
            earlier: 900,
            earlier_half_open: 500,
            half_open: 24,
            ..Measures::default()
        };
        assert_eq!(trigger(surge), Some(Trigger::SynRate));
        assert_eq!(trigger(Measures { earlier_half_open: 400, ..surge }), None);
        assert_eq!(
            trigger(Measures { out_of_state: 10_000, ..Measures::default() }),
            Some(Trigger::OutOfState)
        );
        assert_eq!(trigger(Measures::default()), None);
    }

    #[test]
    fn a_flood_that_fills_the_queue_is_noticed_before_it_is_old() {
        let triggers = TriggerLimits { flood: 30, ..LINES };
        let flood = Measures { queued: 25, half_open: 25, syns: 30, syns_before: 19, ..Measures::default() };
        assert_eq!(rise(Level::Pass, &flood, &triggers), Some((Level::Challenge, Trigger::Flood)));
        let calm = [
            ("the queue is not filled as far as up", Measures { queued: 24, ..flood }, triggers),
            ("no more SYNs than usual", Measures { syns: 29, ..flood }, triggers),
            ("half of this second's went on", Measures { syns: 32, ..flood }, triggers),
            ("half of the last second's went on", Measures { syns_before: 20, ..flood }, triggers),
            ("some are older", Measures { stale: 1, ..flood }, triggers),
            ("nobody knows what is usual", flood, TriggerLimits { flood: 0, ..triggers }),
            ("there is no line", flood, TriggerLimits { start: 0, ..triggers }),
        ];
        for (case, measures, triggers) in calm {
            assert_eq!(rise(Level::Pass, &measures, &triggers), None, "{case}");
        }
    }

    #[test]
    fn the_ladder_goes_up_with_the_rate_and_down_a_step_at_a_time() {
        let flood =
            |replies| Measures { half_open: 10_000, replies, replies_before: replies, ..Measures::default() };
        assert_eq!(rise(Level::Challenge, &flood(4999), &LINES), None);
        assert_eq!(rise(Level::Challenge, &flood(5000), &LINES), Some((Level::Limit, Trigger::Replies)));
        // What gets no answer, for whatever reason, needs no limit.
        let unanswered = Measures { syns: u32::MAX, syns_before: u32::MAX, ..flood(4999) };
        assert_eq!(rise(Level::Challenge, &unanswered, &LINES), None);
        let turn = |level, syns, now| turn(level, 1, false, &flood(syns), &LINES, now);
        assert_eq!(turn(Level::Limit, 10_001, 2), None);
        assert_eq!(turn(Level::Limit, 10_002, 2), Some((Level::KnownSources, Trigger::RepliesTwice)));
        assert_eq!(turn(Level::KnownSources, 10_002, 40_000), None);
        assert_eq!(turn(Level::KnownSources, 10_001, 40_000), Some((Level::Limit, Trigger::Quiet)));
        assert_eq!(turn(Level::Limit, 2501, 40_000), None);
        assert_eq!(turn(Level::Limit, 2500, 40_000), Some((Level::Challenge, Trigger::Quiet)));
        assert_eq!(turn(Level::Challenge, 0, 40_000), None);
    }

    #[test]
    fn a_limit_that_is_lifted_holds_nobody_back() {
        // `defender set reply_limit 0`: the datapath takes no SYN for one within a limit of 0.
        let triggers = TriggerLimits { replies: 0, ..LINES };
        let flood =
            Measures { half_open: 10_000, replies: 6000, replies_before: 6000, ..Measures::default() };
        for level in [Level::Limit, Level::KnownSources] {
            let next = turn(level, 1, false, &flood, &triggers, 1000);
            assert_eq!(next.map(|(level, _)| level), Some(Level::Challenge), "{level:?}");
        }
    }

    #[test]
    fn numbers_and_names() {
        for level in Level::ALL {
            assert_eq!(Level::from_abi(level as u8), level);
        }
        for trigger in Trigger::ALL {
            assert_eq!(Trigger::from_abi(trigger as u8), trigger);
        }
    }

    proptest! {
        #[test]
        fn never_down_before_the_minimum(
            level in 1u8..4, since: u32, after: u32, idle: bool, measures in measures(), triggers in triggers(),
        ) {
            let level = Level::from_abi(level);
            let after = after % triggers.min_active.max(1);
            let lifted = triggers.replies == 0 && level > Level::Challenge;
            if after < triggers.min_active
                && !lifted
                && let Some((next, _)) = turn(level, since, idle, &measures, &triggers, since.wrapping_add(after)) {
                prop_assert!(next > level);
            }
        }

        #[test]
        fn never_up_in_calm(measures in measures(), triggers in triggers()) {
            let measures = Measures { replies: 0, ..measures };
            let calm = measures.queued < triggers.critical
                && measures.stale < triggers.start
                && measures.earlier_half_open <= measures.earlier / 2
                && (measures.queued < triggers.start || measures.syns < triggers.flood || triggers.flood == 0)
                && measures.out_of_state < triggers.out_of_state;
            if calm {
                prop_assert_eq!(rise(Level::Pass, &measures, &triggers), None);
            }
        }

        #[test]
        fn always_up_beyond_a_line(measures in measures(), triggers in triggers()) {
            let measures = Measures { replies: 0, ..measures };
            let attacked = triggers.critical != 0 && measures.queued >= triggers.critical
                || triggers.start != 0 && measures.stale >= triggers.start;
            if attacked {
                prop_assert!(matches!(rise(Level::Pass, &measures, &triggers), Some((Level::Challenge, _))));
            }
        }

        #[test]
        fn what_has_come_down_does_not_go_up_at_once(measures in measures(), triggers in triggers(), now: u32) {
            // As the controller draws triggers: down is below up, and up is not above danger.
            let start = triggers.start.max(1);
            let triggers = TriggerLimits { start, critical: triggers.critical.max(start), end: triggers.end.min(start - 1), ..triggers };
            let quiet = Measures { syns: 0, out_of_state: 0, replies: 0, ..measures };
            let since = now.wrapping_sub(triggers.min_active);
            if turn(Level::Challenge, since, false, &quiet, &triggers, now) == Some((Level::Pass, Trigger::Quiet)) {
                prop_assert_eq!(rise(Level::Pass, &quiet, &triggers), None);
            }
        }
    }
}
