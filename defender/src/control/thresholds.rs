//! The numbers that lines are drawn from: what they are called, what they may be, what they are unless set. Pure.

use crate::problem::Problem;

/// A number that decides when a service is defended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Threshold {
    /// Share of the backlog that stays half open, from which on SYNs are challenged.
    Up,
    /// Share of the backlog that is half open in all, from which on SYNs are challenged.
    Danger,
    /// Share of the backlog, below which an attack is over.
    Down,
    /// For how long a step is kept at least.
    MinActive,
    /// `up` is no lower than this times the learnt number of half-open connections.
    HalfOpenFactor,
    /// SYNs beyond this times the learnt rate are a surge.
    RateFactor,
    /// No smaller rate of SYNs is a surge.
    RateFloor,
    /// Packets of no connection, from which on SYNs are challenged.
    Strays,
    /// SYN-ACKs that are sent at most.
    ReplyLimit,
}

/// What a threshold is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Hundredths of the backlog.
    Percent,
    /// Seconds.
    Seconds,
    /// A plain factor.
    Times,
    /// SYNs a second.
    Syns,
    /// Packets a second.
    Packets,
    /// SYN-ACKs a second.
    Replies,
}

impl Unit {
    /// In words, after a number.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Percent => "percent",
            Self::Seconds => "seconds",
            Self::Times => "times",
            Self::Syns => "SYNs a second",
            Self::Packets => "packets a second",
            Self::Replies => "SYN-ACKs a second",
        }
    }
}

/// All there is to say about a threshold.
struct Described {
    name: &'static str,
    unit: Unit,
    /// None: it depends on the host.
    default: Option<u32>,
    least: u32,
    most: u32,
    meaning: &'static str,
}

/// The largest rate that can be set.
const MOST_RATE: u32 = 1_000_000_000;

impl Threshold {
    /// Every threshold.
    pub const ALL: [Self; 9] = [
        Self::Up,
        Self::Danger,
        Self::Down,
        Self::MinActive,
        Self::HalfOpenFactor,
        Self::RateFactor,
        Self::RateFloor,
        Self::Strays,
        Self::ReplyLimit,
    ];

    /// The table of all thresholds.
    const fn described(self) -> Described {
        let (name, unit, default, [least, most], meaning) = match self {
            Self::Up => (
                "up",
                Unit::Percent,
                Some(25),
                [1, 100],
                "SYNs are challenged when connections half open for more than a second, in a surge all of them, fill this share of the backlog",
            ),
            Self::Danger => (
                "danger",
                Unit::Percent,
                Some(75),
                [1, 100],
                "SYNs are challenged when all half-open connections fill this share of the backlog",
            ),
            Self::Down => (
                "down",
                Unit::Percent,
                Some(12),
                [0, 99],
                "an attack is over when half-open connections fill no more than this share of the backlog",
            ),
            Self::MinActive => {
                ("min_active", Unit::Seconds, Some(30), [1, 86_400], "for how long a step is kept at least")
            }
            Self::HalfOpenFactor => (
                "half_open_factor",
                Unit::Times,
                Some(4),
                [0, 1000],
                "the line of up is no lower than this times the half-open connections usual in calm",
            ),
            Self::RateFactor => (
                "rate_factor",
                Unit::Times,
                Some(10),
                [0, 1000],
                "SYNs are challenged beyond this times the rate usual in calm, if most lead to nothing",
            ),
            Self::RateFloor => {
                ("rate_floor", Unit::Syns, Some(1000), [1, MOST_RATE], "no smaller rate of SYNs is a surge")
            }
            Self::Strays => (
                "strays",
                Unit::Packets,
                Some(10_000),
                [1, MOST_RATE],
                "SYNs are challenged when so many packets of no connection come (forged ACKs, RSTs)",
            ),
            Self::ReplyLimit => (
                "reply_limit",
                Unit::Replies,
                None,
                [0, MOST_RATE],
                "beyond this only known sources are answered; 0: no limit; default: half of what the slowest link carries",
            ),
        };
        Described { name, unit, default, least, most, meaning }
    }

    /// Its key.
    pub const fn name(self) -> &'static str {
        self.described().name
    }

    /// What it is counted in.
    pub const fn unit(self) -> Unit {
        self.described().unit
    }

    /// What it is unless set; none: that depends on the host.
    pub const fn default(self) -> Option<u32> {
        self.described().default
    }

    /// What it does, in a sentence.
    pub const fn meaning(self) -> &'static str {
        self.described().meaning
    }

    /// The threshold of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|threshold| threshold.name() == name)
    }

    /// Reads a value as people write it.
    pub fn parse(self, text: &str) -> Result<u32, Problem> {
        let number = match self.unit() {
            Unit::Percent => text.strip_suffix('%').map_or(text, str::trim_end),
            _ => text,
        };
        let Described { least, most, .. } = self.described();
        match number.parse() {
            Ok(value) if (least..=most).contains(&value) => Ok(value),
            _ => Err(Problem::Usage(format!("{text:?} is no value for {}: {}", self.name(), self.allowed()))),
        }
    }

    /// What is allowed, in words.
    pub fn allowed(self) -> String {
        let Described { least, most, unit, .. } = self.described();
        let range = format!("a whole number from {} to {}", self.show(least), self.show(most));
        match unit {
            Unit::Percent | Unit::Times => range,
            Unit::Seconds | Unit::Syns | Unit::Packets | Unit::Replies => format!("{range} {}", unit.name()),
        }
    }

    /// A value as people write it.
    pub fn show(self, value: u32) -> String {
        match self.unit() {
            Unit::Percent => format!("{value}%"),
            _ => value.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for threshold in Threshold::ALL {
            assert_eq!(Threshold::named(threshold.name()), Some(threshold));
        }
        assert_eq!(Threshold::named("sideways"), None);
    }

    #[test]
    fn defaults_are_allowed_and_read_as_they_print() {
        for threshold in Threshold::ALL {
            if let Some(default) = threshold.default() {
                assert_eq!(threshold.parse(&threshold.show(default)).expect("a value"), default);
            }
            assert!(!threshold.meaning().is_empty());
        }
    }

    #[test]
    fn only_percents_take_the_sign() {
        assert_eq!(Threshold::Up.parse("30%").expect("a value"), 30);
        assert_eq!(Threshold::Up.parse("30").expect("a value"), 30);
        for (threshold, wrong) in [
            (Threshold::Up, "0"),
            (Threshold::Up, "101%"),
            (Threshold::Up, "%"),
            (Threshold::Up, "2.5%"),
            (Threshold::MinActive, "30%"),
            (Threshold::MinActive, "30s"),
            (Threshold::Strays, "-1"),
            (Threshold::Strays, ""),
        ] {
            let error = threshold.parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains(threshold.name()) && error.contains("a whole number"), "{error}");
        }
    }
}
