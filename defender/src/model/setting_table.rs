//! The table of settings: key, type, unit, default, range and description of each. Pure.
//!
//! Parsing, `set` and `get`, the configuration file, `explain`, JSON and the reference follow from it.

use humantime::parse_duration;

use crate::{model::mode::Mode, problem::Problem};

/// What a number is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Hundredths of the backlog.
    Percent,
    /// Seconds.
    Seconds,
    /// A plain factor.
    Times,
    /// SYNs per second.
    Syns,
    /// Packets per second.
    Packets,
    /// SYN-ACKs per second.
    SynAcks,
}

impl Unit {
    /// In words, after a number.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Percent => "percent",
            Self::Seconds => "seconds",
            Self::Times => "times",
            Self::Syns => "SYNs per second",
            Self::Packets => "packets per second",
            Self::SynAcks => "SYN-ACKs per second",
        }
    }

    /// A number as people write it: `30%`, `30s`, `10000`.
    fn show(self, number: u32) -> String {
        let sign = match self {
            Self::Percent => "%",
            Self::Seconds => "s",
            Self::Times | Self::Syns | Self::Packets | Self::SynAcks => "",
        };
        format!("{number}{sign}")
    }

    /// Reads a number, with or without its unit.
    fn parse(self, text: &str) -> Option<u32> {
        let text = text.trim();
        match (text.parse(), self) {
            (Ok(number), _) => Some(number),
            (_, Self::Percent) => text.strip_suffix('%')?.trim_end().parse().ok(),
            (_, Self::Times) => text.strip_suffix('x')?.trim_end().parse().ok(),
            (_, Self::Seconds) => {
                let duration = parse_duration(text).ok().filter(|duration| duration.subsec_nanos() == 0)?;
                duration.as_secs().try_into().ok()
            }
            (_, Self::Syns | Self::Packets | Self::SynAcks) => {
                let text = text.strip_suffix("/s").unwrap_or(text).trim_end();
                let (number, times) = match text.strip_suffix(['k', 'K', 'M']) {
                    Some(number) if text.ends_with('M') => (number, 1_000_000),
                    Some(number) => (number, 1000),
                    None => (text, 1),
                };
                number.trim_end().parse::<u32>().ok()?.checked_mul(times)
            }
        }
    }
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A mode.
    Mode,
    /// A whole number.
    Number {
        /// What it is counted in.
        unit: Unit,
        /// What it is unless set; none: it depends on the host.
        default: Option<u32>,
        /// The least and the greatest that it may be.
        range: [u32; 2],
    },
}

/// The value of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Type::Mode`].
    Mode(Mode),
    /// Of [`Type::Number`], in its unit.
    Number(u32),
}

/// All there is to say about a setting.
struct Declaration {
    name: &'static str,
    per_port: bool,
    of: Type,
    description: &'static str,
}

macro_rules! settings {
    ($($setting:ident: $name:literal, $scope:ident, $of:expr, $description:literal;)*) => {
        /// What can be set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Setting {
            $(#[doc = $description] $setting,)*
        }

        impl Setting {
            /// Every setting.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$setting),*];

            const fn declaration(self) -> Declaration {
                match self {
                    $(Self::$setting => Declaration {
                        name: $name,
                        per_port: $scope,
                        of: $of,
                        description: $description,
                    },)*
                }
            }
        }
    };
}

/// Ports can have a value of their own.
const PORT: bool = true;
/// One value for all.
const GLOBAL: bool = false;
/// The largest rate that can be set.
const MAX_RATE: u32 = 1_000_000_000;

const fn number(unit: Unit, default: u32, range: [u32; 2]) -> Type {
    Type::Number { unit, default: Some(default), range }
}

// The order is that of listings.
settings! {
    Mode: "mode", PORT, Type::Mode,
        "What is done to SYNs: auto, monitor, always or off.";
    // No limit by default, see `defender_common::budget`.
    ReplyBudget: "reply_budget", GLOBAL, number(Unit::SynAcks, 0, [0, u32::MAX]),
        "Send at most this many SYN-ACKs to one source network; 0: no limit.";
    // As many clients of a network may learn at once that this host has lost their connections.
    OutOfStateBudget: "out_of_state_budget", GLOBAL, number(Unit::Packets, 100, [0, u32::MAX]),
        "Pass at most this many out-of-state packets from one source network to the kernel; 0: none.";
    Start: "start", PORT, number(Unit::Percent, 25, [1, 100]),
        "Start challenging when connections half-open for over 1 s (in a surge: all half-open ones) reach this share of the backlog.";
    Critical: "critical", PORT, number(Unit::Percent, 75, [1, 100]),
        "Start challenging when all half-open connections reach this share of the backlog.";
    End: "end", PORT, number(Unit::Percent, 12, [0, 99]),
        "Stop challenging when half-open connections fill no more than this share of the backlog.";
    MinActive: "min_active", PORT, number(Unit::Seconds, 30, [1, 86_400]),
        "Keep a mitigation level for at least this long.";
    HalfOpenFactor: "half_open_factor", PORT, number(Unit::Times, 4, [0, 1000]),
        "`start` is at least this multiple of the baseline of half-open connections.";
    RateFactor: "rate_factor", PORT, number(Unit::Times, 10, [0, 1000]),
        "Start challenging when SYNs reach this multiple of the baseline rate and most lead to no connection.";
    RateFloor: "rate_floor", PORT, number(Unit::Syns, 1000, [1, MAX_RATE]),
        "No rate of SYNs below this is a surge.";
    OutOfState: "out_of_state", PORT, number(Unit::Packets, 10_000, [1, MAX_RATE]),
        "Start challenging when this many out-of-state packets (forged ACKs, RSTs) arrive.";
    ReplyLimit: "reply_limit", PORT, Type::Number { unit: Unit::SynAcks, default: None, range: [0, MAX_RATE] },
        "Above this rate of SYN-ACKs, validated sources come first; 0: no limit; default: half of what the fastest link carries.";
}

impl Setting {
    /// Its key.
    pub const fn name(self) -> &'static str {
        self.declaration().name
    }

    /// Whether ports can have their own.
    pub const fn is_per_port(self) -> bool {
        self.declaration().per_port
    }

    /// What it does, in a sentence.
    pub const fn description(self) -> &'static str {
        self.declaration().description
    }

    /// What it is counted in; none: it is no number.
    pub const fn unit(self) -> Option<Unit> {
        match self.declaration().of {
            Type::Mode => None,
            Type::Number { unit, .. } => Some(unit),
        }
    }

    /// What it is unless set; none: that depends on the host.
    pub fn default(self) -> Option<Value> {
        match self.declaration().of {
            Type::Mode => Some(Value::Mode(Mode::default())),
            Type::Number { default, .. } => default.map(Value::Number),
        }
    }

    /// The numbers that ports can have: they decide when a service is defended.
    pub fn thresholds() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|setting| setting.is_per_port() && setting.unit().is_some())
    }

    /// The setting of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.name() == name)
    }

    /// The names of settings, for a message.
    pub fn names(wanted: fn(Self) -> bool) -> String {
        let names: Vec<_> = Self::ALL.into_iter().filter(|it| wanted(*it)).map(Self::name).collect();
        names.join(", ")
    }

    /// Reads a value as people write it.
    pub fn parse(self, text: &str) -> Result<Value, Problem> {
        match self.declaration().of {
            Type::Mode => text.parse().map(Value::Mode),
            Type::Number { unit, range: [least, most], .. } => {
                let number = unit.parse(text).filter(|number| (least..=most).contains(number));
                number.map(Value::Number).ok_or_else(|| {
                    let (name, allowed) = (self.name(), self.allowed());
                    Problem::Usage(format!("{name} cannot be {text:?}; expected {allowed}"))
                })
            }
        }
    }

    /// A value that [`Self::parse`] takes, in the unit it was written in: shares always with their sign, and no spaces.
    pub fn written(self, text: &str) -> String {
        let text: String = text.split_whitespace().collect();
        if self.unit() == Some(Unit::Percent) && !text.ends_with('%') { text + "%" } else { text }
    }

    /// What is allowed, in words.
    pub fn allowed(self) -> String {
        let Type::Number { unit, range, .. } = self.declaration().of else {
            return Mode::ALL.map(Mode::name).join(", ");
        };
        let [least, most] = range.map(|number| unit.show(number));
        match unit {
            Unit::Percent | Unit::Times => format!("a whole number from {least} to {most}"),
            Unit::Seconds => format!("a whole number of seconds from {least} to {most}, such as 30s or 5m"),
            Unit::Syns | Unit::Packets | Unit::SynAcks => {
                format!("a whole number from {least} to {most} {}, such as 1500 or 10k", unit.name())
            }
        }
    }

    /// A value as people write it.
    pub fn show(self, value: Value) -> String {
        match (self.unit(), value) {
            (Some(unit), Value::Number(number)) => unit.show(number),
            (None, Value::Number(number)) => number.to_string(),
            (_, Value::Mode(mode)) => mode.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for setting in Setting::ALL {
            assert_eq!(Setting::named(setting.name()), Some(setting));
        }
        assert_eq!(Setting::named("sideways"), None);
    }

    #[test]
    fn defaults_are_allowed_and_read_as_they_print() {
        for setting in Setting::ALL {
            if let Some(default) = setting.default() {
                assert_eq!(setting.parse(&setting.show(default)).expect("a value"), default);
            }
            assert!(setting.description().ends_with('.'));
        }
    }

    #[test]
    fn units_are_as_people_write_them() {
        for (setting, text, number, written) in [
            (Setting::Start, "30%", 30, "30%"),
            (Setting::Start, "1 %", 1, "1%"),
            (Setting::Start, "30", 30, "30%"),
            (Setting::MinActive, "30", 30, "30"),
            (Setting::MinActive, "30s", 30, "30s"),
            (Setting::MinActive, "30 s", 30, "30s"),
            (Setting::MinActive, "5m", 300, "5m"),
            (Setting::MinActive, " 1h 30m", 5400, "1h30m"),
            (Setting::MinActive, "1day", 86_400, "1day"),
            (Setting::RateFloor, "10k", 10_000, "10k"),
            (Setting::RateFloor, "10 K", 10_000, "10K"),
            (Setting::RateFloor, "10k/s", 10_000, "10k/s"),
            (Setting::RateFloor, "1500 /s", 1500, "1500/s"),
            (Setting::RateFloor, "2M", 2_000_000, "2M"),
            (Setting::RateFactor, "10x", 10, "10x"),
            (Setting::ReplyBudget, "0", 0, "0"),
        ] {
            let value = setting.parse(text).expect(text);
            assert_eq!((value, setting.written(text)), (Value::Number(number), written.to_owned()));
            assert_eq!(setting.parse(written).expect(written), value);
            assert_eq!(setting.written(written), written);
        }
        assert_eq!(
            Setting::MinActive.default().map(|value| Setting::MinActive.show(value)),
            Some("30s".into())
        );
    }

    #[test]
    fn units_of_others_are_refused() {
        for (setting, wrong) in [
            (Setting::Start, "0"),
            (Setting::Start, "101%"),
            (Setting::Start, "%"),
            (Setting::Start, "2.5%"),
            (Setting::MinActive, "30%"),
            (Setting::MinActive, "500ms"),
            (Setting::MinActive, "2days"),
            (Setting::RateFloor, "30s"),
            (Setting::RateFloor, "5000M"),
            (Setting::RateFactor, "10k"),
            (Setting::OutOfState, "-1"),
            (Setting::OutOfState, "k"),
            (Setting::OutOfState, ""),
            (Setting::ReplyBudget, "4294967296"),
        ] {
            let error = setting.parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains(setting.name()) && error.contains("a whole number"), "{error}");
        }
    }
}
