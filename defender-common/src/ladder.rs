//! How far the defence of a service goes: the ladder of steps, and when it goes up and down.
//!
//! Both directions are decided in the datapath, by the functions here: up at the packet that crosses a line, down at the
//! first packet of a later second. The controller only draws the lines ([`Lines`]) and tells people.

use crate::{abi::Lines, clock::age};

/// How long cookies are accepted after the last was sent, in milliseconds: as long as they live at the most.
pub const GRACE_MS: u32 = 60_000;

/// How long the kernel's own cookies are looked for after challenges began, in milliseconds: as long as those live.
pub const KERNEL_COOKIES_MS: u32 = 120_000;

/// What is done to SYNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Step {
    /// They pass.
    Pass,
    /// They are answered with cookies.
    Challenge,
    /// They are answered with cookies as far as the limit of replies goes, beyond it only known sources.
    Limit,
    /// Only sources that have completed a handshake not long ago are answered.
    KnownSources,
}

impl Step {
    /// Every step, from the lowest.
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
            Self::KnownSources => "only known sources are challenged, other SYNs are dropped",
        }
    }

    /// The step with this number.
    #[inline(always)]
    pub const fn from_abi(number: u8) -> Self {
        match number {
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

/// Why a step was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Because {
    /// None was taken yet.
    Nothing,
    /// Connections stay half open: [`Lines::up`].
    HalfOpen,
    /// The listener's queue is in danger: [`Lines::danger`].
    Queue,
    /// Far more SYNs than usual, most of which lead to nothing: [`Lines::rate`].
    SynRate,
    /// Packets of no connection: [`Lines::strays`].
    Strays,
    /// More answers than the limit allows: [`Lines::replies`].
    Replies,
    /// For a second, more than twice as many SYNs as the limit allows answers to.
    RepliesTwice,
    /// It has been quiet for long enough.
    Quiet,
    /// A surge of SYNs fills the listener's queue: [`Lines::flood`].
    Flood,
}

impl Because {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Nothing,
        Self::HalfOpen,
        Self::Queue,
        Self::SynRate,
        Self::Strays,
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
            Self::Strays => "strays",
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
            Self::Strays => "a flood of packets that belong to no connection",
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
            4 => Self::Strays,
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
    /// Connections that the listener's queue holds half open.
    pub held: u32,
    /// Of these: since before the last second.
    pub stale: u32,
    /// Connections that are half open, or would be if their SYNs had passed.
    pub half_open: u32,
    /// SYNs of this second.
    pub syns: u32,
    /// SYNs of the last second.
    pub syns_before: u32,
    /// Packets of no connection in this second.
    pub strays: u32,
    /// Packets of no connection in the last second.
    pub strays_before: u32,
    /// SYNs of the second before the last.
    pub earlier: u32,
    /// Of these: half open to this day.
    pub earlier_half_open: u32,
}

impl Measures {
    /// Far more SYNs than usual have come for some seconds, and most of those that had time to go on have not.
    #[inline(always)]
    const fn surges(&self, rate: u32, syns: u32) -> bool {
        rate != 0 && syns >= rate && self.earlier >= rate / 2 && self.earlier_half_open > self.earlier / 2
    }

    /// More SYNs than usual come, and most of this second's and the last's are half open.
    #[inline(always)]
    const fn floods(&self, lines: &Lines) -> bool {
        let fresh = self.held.saturating_sub(self.stale);
        lines.flood != 0 && self.syns >= lines.flood && fresh > self.syns / 2 + self.syns_before / 2
    }
}

/// The step up that a packet leads to, if one: it and why.
#[inline(always)]
pub const fn rise(step: Step, measures: &Measures, lines: &Lines) -> Option<(Step, Because)> {
    match step {
        Step::Pass => match alarm(measures, lines) {
            Some(because) => Some((Step::Challenge, because)),
            None => None,
        },
        Step::Challenge if lines.replies != 0 && measures.syns > lines.replies => {
            Some((Step::Limit, Because::Replies))
        }
        _ => None,
    }
}

/// Why a calm service is to be challenged.
#[inline(always)]
const fn alarm(measures: &Measures, lines: &Lines) -> Option<Because> {
    let filled = lines.up != 0 && measures.held >= lines.up;
    if lines.danger != 0 && measures.held >= lines.danger {
        Some(Because::Queue)
    } else if filled && measures.stale >= lines.up {
        Some(Because::HalfOpen)
    } else if filled && measures.floods(lines) {
        // Those that come as fast are not waited for until they are a second old.
        Some(Because::Flood)
    } else if measures.surges(lines.rate, measures.syns) {
        Some(Because::SynRate)
    } else if lines.strays != 0 && measures.strays >= lines.strays {
        Some(Because::Strays)
    } else {
        None
    }
}

/// The step that a new second leads to, if another one than before: it and why. `since` is when the present one was
/// taken, `idle` that nothing came for as long as half-open connections live.
#[inline(always)]
pub const fn turn(
    step: Step,
    since: u32,
    idle: bool,
    measures: &Measures,
    lines: &Lines,
    now: u32,
) -> Option<(Step, Because)> {
    if matches!(step, Step::Pass) {
        return None;
    }
    let replies = lines.replies;
    if replies == 0 && !matches!(step, Step::Challenge) {
        // The limit was lifted.
        return Some((Step::Challenge, Because::Quiet));
    }
    if matches!(step, Step::Limit) && replies != 0 && measures.syns_before / 2 > replies {
        return Some((Step::KnownSources, Because::RepliesTwice));
    }
    if age(since, now) < lines.min_active {
        return None;
    }
    if idle {
        return Some((Step::Pass, Because::Quiet));
    }
    let quiet = match step {
        Step::Challenge => is_calm(measures, lines),
        Step::Limit => measures.syns_before <= replies / 2,
        // Who is not answered tries again: their SYNs must not keep it here.
        _ => measures.syns_before / 2 <= replies,
    };
    if quiet { Some((step.below(), Because::Quiet)) } else { None }
}

#[inline(always)]
const fn is_calm(measures: &Measures, lines: &Lines) -> bool {
    measures.half_open <= lines.down
        && measures.strays_before <= lines.strays / 2
        && !measures.surges(lines.rate / 2, measures.syns_before)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: Lines = Lines {
        up: 25,
        danger: 75,
        down: 12,
        rate: 1000,
        strays: 10_000,
        replies: 5000,
        min_active: 30_000,
        flood: 0,
    };

    fn measures() -> impl Strategy<Value = Measures> {
        let number = || prop_oneof![0u32..200, any::<u32>()];
        prop::array::uniform8(number()).prop_map(
            |[half_open, stale, syns, syns_before, strays, strays_before, earlier, earlier_half_open]| {
                Measures {
                    held: half_open.max(stale),
                    half_open: half_open.max(stale),
                    stale,
                    syns,
                    syns_before,
                    strays,
                    strays_before,
                    earlier,
                    earlier_half_open: earlier_half_open.min(earlier),
                }
            },
        )
    }

    fn lines() -> impl Strategy<Value = Lines> {
        let number = || prop_oneof![Just(0u32), 1u32..200, any::<u32>()];
        prop::array::uniform8(number()).prop_map(
            |[up, danger, down, rate, strays, replies, min_active, flood]| Lines {
                up,
                danger,
                down,
                rate,
                strays,
                replies,
                min_active: min_active.min(1 << 30),
                flood,
            },
        )
    }

    #[test]
    fn busy_clients_are_no_attack_unless_the_queue_is_in_danger() {
        // A hundred thousand SYNs a second of which all go on within the second.
        let busy = Measures {
            held: 74,
            half_open: 74,
            syns: 100_000,
            syns_before: 100_000,
            earlier: 100_000,
            ..Measures::default()
        };
        assert_eq!(rise(Step::Pass, &busy, &LINES), None);
        let danger = Measures { held: 75, half_open: 75, ..busy };
        assert_eq!(rise(Step::Pass, &danger, &LINES), Some((Step::Challenge, Because::Queue)));
    }

    #[test]
    fn each_line_has_its_reason() {
        let because = |measures: Measures| rise(Step::Pass, &measures, &LINES).map(|(_, because)| because);
        let slow = Measures { held: 25, half_open: 25, stale: 25, ..Measures::default() };
        assert_eq!(because(slow), Some(Because::HalfOpen));
        let surge = Measures {
            syns: 1000,
            earlier: 900,
            earlier_half_open: 500,
            half_open: 24,
            ..Measures::default()
        };
        assert_eq!(because(surge), Some(Because::SynRate));
        assert_eq!(because(Measures { earlier_half_open: 400, ..surge }), None);
        assert_eq!(because(Measures { strays: 10_000, ..Measures::default() }), Some(Because::Strays));
        assert_eq!(because(Measures::default()), None);
    }

    #[test]
    fn a_flood_that_fills_the_queue_is_noticed_before_it_is_old() {
        let lines = Lines { flood: 30, ..LINES };
        let flood = Measures { held: 25, half_open: 25, syns: 30, syns_before: 19, ..Measures::default() };
        assert_eq!(rise(Step::Pass, &flood, &lines), Some((Step::Challenge, Because::Flood)));
        let calm = [
            ("the queue is not filled as far as up", Measures { held: 24, ..flood }, lines),
            ("no more SYNs than usual", Measures { syns: 29, ..flood }, lines),
            ("half of this second's went on", Measures { syns: 32, ..flood }, lines),
            ("half of the last second's went on", Measures { syns_before: 20, ..flood }, lines),
            ("some are older", Measures { stale: 1, ..flood }, lines),
            ("nobody knows what is usual", flood, Lines { flood: 0, ..lines }),
            ("there is no line", flood, Lines { up: 0, ..lines }),
        ];
        for (case, measures, lines) in calm {
            assert_eq!(rise(Step::Pass, &measures, &lines), None, "{case}");
        }
    }

    #[test]
    fn the_ladder_goes_up_with_the_rate_and_down_a_step_at_a_time() {
        let flood = |syns| Measures { half_open: 10_000, syns, syns_before: syns, ..Measures::default() };
        assert_eq!(rise(Step::Challenge, &flood(5000), &LINES), None);
        assert_eq!(rise(Step::Challenge, &flood(5001), &LINES), Some((Step::Limit, Because::Replies)));
        let turn = |step, syns, now| turn(step, 1, false, &flood(syns), &LINES, now);
        assert_eq!(turn(Step::Limit, 10_001, 2), None);
        assert_eq!(turn(Step::Limit, 10_002, 2), Some((Step::KnownSources, Because::RepliesTwice)));
        assert_eq!(turn(Step::KnownSources, 10_002, 40_000), None);
        assert_eq!(turn(Step::KnownSources, 10_001, 40_000), Some((Step::Limit, Because::Quiet)));
        assert_eq!(turn(Step::Limit, 2501, 40_000), None);
        assert_eq!(turn(Step::Limit, 2500, 40_000), Some((Step::Challenge, Because::Quiet)));
        assert_eq!(turn(Step::Challenge, 0, 40_000), None);
    }

    #[test]
    fn a_limit_that_is_lifted_holds_nobody_back() {
        // `defender set reply_limit 0`: the datapath takes no SYN for one within a limit of 0.
        let lines = Lines { replies: 0, ..LINES };
        let flood = Measures { half_open: 10_000, syns: 6000, syns_before: 6000, ..Measures::default() };
        for step in [Step::Limit, Step::KnownSources] {
            let next = turn(step, 1, false, &flood, &lines, 1000);
            assert_eq!(next.map(|(step, _)| step), Some(Step::Challenge), "{step:?}");
        }
    }

    #[test]
    fn numbers_and_names() {
        for step in Step::ALL {
            assert_eq!(Step::from_abi(step as u8), step);
        }
        for because in Because::ALL {
            assert_eq!(Because::from_abi(because as u8), because);
        }
    }

    proptest! {
        #[test]
        fn never_down_before_the_minimum(
            step in 1u8..4, since: u32, after: u32, idle: bool, measures in measures(), lines in lines(),
        ) {
            let step = Step::from_abi(step);
            let after = after % lines.min_active.max(1);
            let lifted = lines.replies == 0 && step > Step::Challenge;
            if after < lines.min_active
                && !lifted
                && let Some((next, _)) = turn(step, since, idle, &measures, &lines, since.wrapping_add(after)) {
                prop_assert!(next > step);
            }
        }

        #[test]
        fn never_up_in_calm(measures in measures(), lines in lines()) {
            let calm = measures.held < lines.danger
                && measures.stale < lines.up
                && measures.earlier_half_open <= measures.earlier / 2
                && (measures.held < lines.up || measures.syns < lines.flood || lines.flood == 0)
                && measures.strays < lines.strays;
            if calm {
                prop_assert_eq!(rise(Step::Pass, &measures, &lines), None);
            }
        }

        #[test]
        fn always_up_beyond_a_line(measures in measures(), lines in lines()) {
            let attacked = lines.danger != 0 && measures.held >= lines.danger
                || lines.up != 0 && measures.stale >= lines.up;
            if attacked {
                prop_assert!(matches!(rise(Step::Pass, &measures, &lines), Some((Step::Challenge, _))));
            }
        }

        #[test]
        fn what_has_come_down_does_not_go_up_at_once(measures in measures(), lines in lines(), now: u32) {
            // As the controller draws lines: down is below up, and up is not above danger.
            let up = lines.up.max(1);
            let lines = Lines { up, danger: lines.danger.max(up), down: lines.down.min(up - 1), ..lines };
            let quiet = Measures { syns: 0, strays: 0, ..measures };
            let since = now.wrapping_sub(lines.min_active);
            if turn(Step::Challenge, since, false, &quiet, &lines, now) == Some((Step::Pass, Because::Quiet)) {
                prop_assert_eq!(rise(Step::Pass, &quiet, &lines), None);
            }
        }
    }
}
