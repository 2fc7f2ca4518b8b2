//! The levels at which mitigation starts and ends: derived from thresholds and what is known of the host. Pure.

use defender_common::abi;
use serde::{Deserialize, Serialize};

use crate::model::{
    setting_table::Setting,
    settings::{InForce, Key, Settings},
};

/// Fewer connections that stay half-open are no flood: an acknowledgement was lost, or somebody has probed the port.
const LEAST_START: u32 = 4;

/// What triggers are derived from besides settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerInputs {
    /// How many half-open connections the listeners take together; 0 counts as 1.
    pub backlog: u32,
    /// How many listeners share them (`SO_REUSEPORT`).
    #[serde(default)]
    pub listeners: u32,
    /// How many CPUs there may be.
    pub cpus: u32,
    /// The baseline of half-open connections (99th percentile); none: not known yet.
    pub half_open_p99: Option<u32>,
    /// The baseline of SYNs per second (99th percentile); none: not known yet.
    pub syn_rate_p99: Option<u32>,
    /// The SYN-ACKs per second that the fastest defended link carries; none: the speed of one is unknown.
    pub link_replies: Option<u32>,
}

/// What a trigger was derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// The threshold's share of the backlog.
    Share(Setting),
    /// The threshold times the baseline.
    Baseline(Setting),
    /// The threshold itself.
    Value(Setting),
    /// The backlog less the CPUs: as many SYNs may pass at once, and must not fill the queue.
    Cpus,
    /// Half of what the fastest link carries.
    Link,
    /// The speed of a link is unknown: no limit.
    NoLink,
    /// The baseline of SYNs per second.
    BaselineRate,
    /// The baseline is not known: no such trigger.
    Unknown,
    /// `critical`: `start` is not above.
    Critical,
    /// `start`: `end` is below.
    Start,
    /// It cannot be lower.
    Least,
}

/// The value of a trigger, and what it was derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derived {
    /// In the unit that [`Described::unit`] names.
    pub value: u32,
    /// What decided it.
    pub from: Derivation,
}

/// A trigger as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// What it is compared with, and so its unit.
    pub unit: &'static str,
    /// Its value.
    pub derived: Derived,
}

macro_rules! triggers {
    ($($name:ident: $unit:literal;)*) => {
        /// All triggers of a service, as people see them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct DerivedTriggers {
            $(#[doc = $unit] pub $name: Derived,)*
        }

        impl DerivedTriggers {
            /// Every trigger.
            pub const fn all(&self) -> [Described; [$($unit),*].len()] {
                [$(Described { name: stringify!($name), unit: $unit, derived: self.$name }),*]
            }
        }
    };
}

// The order is that of listings.
triggers! {
    start: "connections half-open for over 1 s; in a surge, all half-open ones";
    critical: "half-open connections";
    end: "half-open connections";
    rate: "SYNs per second";
    flood: "SYNs per second";
    out_of_state: "out-of-state packets per second";
    replies: "SYN-ACKs per second";
    min_active: "seconds";
}

/// The triggers of services on `port`, for the datapath.
pub fn triggers(settings: &Settings, port: u16, inputs: &TriggerInputs) -> abi::TriggerLimits {
    let derived = DerivedTriggers::new(settings, port, inputs);
    abi::TriggerLimits {
        start: derived.start.value,
        critical: derived.critical.value,
        end: derived.end.value,
        rate: derived.rate.value,
        out_of_state: derived.out_of_state.value,
        replies: derived.replies.value,
        min_active: derived.min_active.value.saturating_mul(1000),
        flood: derived.flood.value,
        listeners: inputs.listeners.max(1),
    }
}

impl DerivedTriggers {
    /// Derives the triggers of services on `port`.
    pub fn new(settings: &Settings, port: u16, inputs: &TriggerInputs) -> Self {
        let value = |setting| settings.on_port(port, setting);
        let number = |setting| value(setting).unwrap_or(0);
        let itself = |setting| Derived { value: number(setting), from: Derivation::Value(setting) };
        let backlog = inputs.backlog.max(1);
        let critical = critical(number(Setting::Critical), backlog, inputs);
        let baseline = inputs.half_open_p99.unwrap_or(0).saturating_mul(number(Setting::HalfOpenFactor));
        let start = start(number(Setting::Start), backlog, baseline, critical.value);
        Self {
            start,
            critical,
            end: end(number(Setting::End), backlog, start.value),
            rate: rate(
                number(Setting::RateFloor),
                inputs.syn_rate_p99.unwrap_or(0).saturating_mul(number(Setting::RateFactor)),
                Derivation::Baseline(Setting::RateFactor),
            ),
            flood: flood(number(Setting::RateFloor), inputs.syn_rate_p99),
            out_of_state: itself(Setting::OutOfState),
            replies: replies(value(Setting::ReplyLimit), inputs.link_replies),
            min_active: itself(Setting::MinActive),
        }
    }
}

/// Each CPU compares before it counts, so one SYN less than there are CPUs may pass beyond it, to one of the listeners.
fn critical(percent: u32, backlog: u32, inputs: &TriggerInputs) -> Derived {
    let share = Derived { value: share(backlog, percent), from: Derivation::Share(Setting::Critical) };
    let cpus = inputs.cpus.max(1).saturating_mul(inputs.listeners.max(1));
    let room = Derived { value: backlog.saturating_sub(cpus), from: Derivation::Cpus };
    at_least_one(if room.value != 0 && room.value < share.value { room } else { share })
}

fn start(percent: u32, backlog: u32, baseline: u32, critical: u32) -> Derived {
    let mut start = Derived { value: share(backlog, percent), from: Derivation::Share(Setting::Start) };
    if baseline > start.value {
        start = Derived { value: baseline, from: Derivation::Baseline(Setting::HalfOpenFactor) };
    }
    if start.value < LEAST_START {
        start = Derived { value: LEAST_START, from: Derivation::Least };
    }
    if start.value > critical { Derived { value: critical, from: Derivation::Critical } } else { start }
}

fn end(percent: u32, backlog: u32, start: u32) -> Derived {
    let value = share(backlog, percent);
    if value < start {
        Derived { value, from: Derivation::Share(Setting::End) }
    } else {
        Derived { value: start - 1, from: Derivation::Start }
    }
}

fn rate(floor: u32, baseline: u32, from: Derivation) -> Derived {
    if baseline > floor {
        Derived { value: baseline, from }
    } else {
        Derived { value: floor, from: Derivation::Value(Setting::RateFloor) }
    }
}

/// Not set before the baseline is known: a controller that has just begun to watch a busy service sees none of its handshakes
/// complete for as long as a round trip.
fn flood(floor: u32, baseline: Option<u32>) -> Derived {
    match baseline {
        None => Derived { value: 0, from: Derivation::Unknown },
        Some(baseline) => rate(floor, baseline, Derivation::BaselineRate),
    }
}

fn replies(limit: Option<u32>, link: Option<u32>) -> Derived {
    match (limit, link) {
        (Some(limit), _) => Derived { value: limit, from: Derivation::Value(Setting::ReplyLimit) },
        (None, Some(link)) => at_least_one(Derived { value: link / 2, from: Derivation::Link }),
        (None, None) => Derived { value: 0, from: Derivation::NoLink },
    }
}

fn at_least_one(derived: Derived) -> Derived {
    if derived.value == 0 { Derived { value: 1, from: Derivation::Least } } else { derived }
}

fn share(backlog: u32, percent: u32) -> u32 {
    // A percentage is 100 at the most.
    (u64::from(backlog) * u64::from(percent) / 100) as u32
}

/// What derivations are described by: the settings of a port, and the inputs.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    /// What was set.
    pub settings: &'a Settings,
    /// The port.
    pub port: u16,
    /// What else triggers were derived from.
    pub inputs: &'a TriggerInputs,
}

impl<'a> Basis<'a> {
    /// The value of a setting on this port, and where it comes from.
    pub fn in_force(&self, setting: Setting) -> InForce<'a> {
        self.settings.in_force(Key::of(self.port, setting))
    }

    /// The same in words.
    fn number(&self, setting: Setting) -> String {
        let found = self.in_force(setting);
        format!("{} {} ({})", setting.name(), found.shown(), found.source)
    }

    /// How a trigger was derived, in words.
    pub fn describe(&self, derived: &Derived) -> String {
        let TriggerInputs { backlog, listeners, cpus, half_open_p99, syn_rate_p99, link_replies } =
            *self.inputs;
        match derived.from {
            Derivation::Share(setting) => format!("{} of the backlog of {backlog}", self.number(setting)),
            Derivation::Baseline(setting @ Setting::RateFactor) => format!(
                "{} times the baseline of {} SYNs per second",
                self.number(setting),
                syn_rate_p99.unwrap_or(0)
            ),
            Derivation::Baseline(setting) => format!(
                "{} times the baseline of {} half-open connections",
                self.number(setting),
                half_open_p99.unwrap_or(0)
            ),
            Derivation::Value(setting @ Setting::RateFloor) if syn_rate_p99.is_none() => {
                format!("{}; the baseline is not known yet", self.number(setting))
            }
            Derivation::Value(setting) => self.number(setting),
            Derivation::Cpus if listeners > 1 => format!(
                "the backlog of {backlog} that {listeners} listeners share, less {cpus} CPUs each: one SYN may pass \
                 on each CPU at once"
            ),
            Derivation::Cpus => {
                format!("the backlog of {backlog} less {cpus} CPUs: one SYN may pass on each at once")
            }
            Derivation::Link => format!(
                "half of the {} SYN-ACKs per second that the fastest link carries",
                link_replies.unwrap_or(0)
            ),
            Derivation::NoLink => "no limit: the speed of a link is unknown".to_owned(),
            Derivation::BaselineRate => {
                format!("the baseline of {} SYNs per second", syn_rate_p99.unwrap_or(0))
            }
            Derivation::Unknown => "not set: the baseline is not known yet".to_owned(),
            Derivation::Critical => "no higher than critical".to_owned(),
            Derivation::Start => "one less than start".to_owned(),
            Derivation::Least => format!("at least {}", derived.value),
        }
    }

    /// What a trigger was derived from: `set`, `file`, `default`, `learnt`, `backlog`, `link`.
    pub fn sources(&self, derived: &Derived) -> Vec<&'static str> {
        let of = |setting| self.in_force(setting).source.name();
        match derived.from {
            Derivation::Share(setting) => vec![of(setting), "backlog"],
            Derivation::Baseline(setting) => vec![of(setting), "learnt"],
            Derivation::Value(setting) => vec![of(setting)],
            Derivation::Cpus | Derivation::Critical | Derivation::Start | Derivation::Least => {
                vec!["backlog"]
            }
            Derivation::BaselineRate | Derivation::Unknown => vec!["learnt"],
            Derivation::Link | Derivation::NoLink => vec![of(Setting::ReplyLimit), "link"],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{setting_table::Setting, settings::Key};

    const INPUTS: TriggerInputs = TriggerInputs {
        backlog: 4096,
        listeners: 1,
        cpus: 4,
        half_open_p99: None,
        syn_rate_p99: None,
        link_replies: None,
    };

    fn derived(inputs: &TriggerInputs) -> DerivedTriggers {
        DerivedTriggers::new(&Settings::default(), 80, inputs)
    }

    fn set(settings: &mut Settings, threshold: Setting, value: &str) {
        settings.set(Key::of(80, threshold), value).expect("a value");
    }

    #[test]
    fn the_defaults_are_shares_of_the_backlog() {
        assert_eq!(
            triggers(&Settings::default(), 80, &INPUTS),
            abi::TriggerLimits {
                start: 1024,
                critical: 3072,
                end: 491,
                rate: 1000,
                out_of_state: 10_000,
                replies: 0,
                min_active: 30_000,
                flood: 0,
                listeners: 1
            }
        );
        let derived = derived(&INPUTS);
        assert_eq!(
            (derived.start.from, derived.replies.from),
            (Derivation::Share(Setting::Start), Derivation::NoLink)
        );
        assert_eq!(derived.flood, Derived { value: 0, from: Derivation::Unknown });
    }

    #[test]
    fn each_of_several_queues_keeps_room_for_what_passes_at_once() {
        let critical = |backlog, listeners| derived(&TriggerInputs { backlog, listeners, ..INPUTS }).critical;
        assert_eq!(critical(16 * 16, 16), Derived { value: 192, from: Derivation::Share(Setting::Critical) });
        assert_eq!(critical(16 * 12, 16), Derived { value: 128, from: Derivation::Cpus });
        assert_eq!(critical(2, 2), Derived { value: 1, from: Derivation::Share(Setting::Critical) });
        assert_eq!(
            triggers(&Settings::default(), 80, &TriggerInputs { listeners: 3, ..INPUTS }).listeners,
            3
        );
    }

    #[test]
    fn ports_have_their_own() {
        let mut settings = Settings::default();
        set(&mut settings, Setting::Start, "50");
        set(&mut settings, Setting::ReplyLimit, "7");
        let inputs = TriggerInputs { link_replies: Some(1000), ..INPUTS };
        assert_eq!(triggers(&settings, 80, &inputs).start, 2048);
        assert_eq!(
            (triggers(&settings, 80, &inputs).replies, triggers(&settings, 443, &inputs).replies),
            (7, 500)
        );
        set(&mut settings, Setting::ReplyLimit, "0");
        assert_eq!(triggers(&settings, 80, &inputs).replies, 0);
    }

    #[test]
    fn what_is_usual_raises_the_lines_but_not_above_danger() {
        let usual = |half_open, rate| {
            derived(&TriggerInputs { half_open_p99: Some(half_open), syn_rate_p99: Some(rate), ..INPUTS })
        };
        let calm = usual(100, 50);
        assert_eq!((calm.start.value, calm.rate.value), (1024, 1000));
        let busy = usual(300, 5000);
        assert_eq!(busy.start, Derived { value: 1200, from: Derivation::Baseline(Setting::HalfOpenFactor) });
        assert_eq!(busy.rate, Derived { value: 50_000, from: Derivation::Baseline(Setting::RateFactor) });
        assert_eq!(calm.flood, Derived { value: 1000, from: Derivation::Value(Setting::RateFloor) });
        assert_eq!(busy.flood, Derived { value: 5000, from: Derivation::BaselineRate });
        assert_eq!(usual(u32::MAX, u32::MAX).start, Derived { value: 3072, from: Derivation::Critical });
    }

    #[test]
    fn small_backlogs_have_lines_as_well() {
        let of = |backlog, cpus| derived(&TriggerInputs { backlog, cpus, ..INPUTS });
        for backlog in [0, 1] {
            let DerivedTriggers { start, critical, end, .. } = of(backlog, 64);
            assert_eq!((start.value, critical.value, end.value), (1, 1, 0));
            assert_eq!(critical.from, Derivation::Least);
        }
        assert_eq!(of(70, 64).critical, Derived { value: 6, from: Derivation::Cpus });
        assert_eq!(of(70, 64).start, Derived { value: 6, from: Derivation::Critical });
        assert_eq!(of(70, 64).end, Derived { value: 5, from: Derivation::Start });
        assert_eq!(of(64, 64).critical, Derived { value: 48, from: Derivation::Share(Setting::Critical) });
    }

    proptest! {
        #[test]
        fn lines_are_in_order_and_leave_room(
            backlog: u32, small in 0u32..300, use_small: bool, listeners in 1u32..64, cpus in 0u32..1024,
            half_open_p99: Option<u32>, syn_rate_p99: Option<u32>, link_replies: Option<u32>,
            // Whatever is set: a file and `set` together are checked, but triggers hold by themselves.
            [end, start, critical] in prop::array::uniform3(1u32..100),
            factor in 0u32..1000,
        ) {
            let backlog = if use_small { small } else { backlog };
            let mut settings = Settings::default();
            for (threshold, value) in [
                (Setting::End, end),
                (Setting::Start, start),
                (Setting::Critical, critical),
                (Setting::HalfOpenFactor, factor),
            ] {
                let setting = threshold;
                let value = setting.parse(&value.to_string()).expect("a value");
                settings.set.insert(Key::all(setting), value);
            }
            let inputs = TriggerInputs { backlog, listeners, cpus, half_open_p99, syn_rate_p99, link_replies };
            let triggers = triggers(&settings, 80, &inputs);
            prop_assert!(triggers.start >= 1 && triggers.end < triggers.start && triggers.start <= triggers.critical, "{triggers:?}");
            prop_assert!(triggers.rate >= 1 && triggers.out_of_state >= 1 && triggers.min_active >= 1);
            prop_assert_eq!(triggers.replies == 0, link_replies.is_none());
            let cpus = cpus.max(1);
            if backlog > cpus * listeners {
                prop_assert!(triggers.critical + cpus * listeners - 1 < backlog, "{triggers:?}");
            }
        }
    }
}
