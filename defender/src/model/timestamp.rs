//! How wall-clock time is written (RFC 3339), and how people write moments. Pure.

use std::{
    str::FromStr,
    time::{Duration, UNIX_EPOCH},
};

use humantime::{format_rfc3339_millis, parse_duration, parse_rfc3339_weak};

use crate::problem::Problem;

/// The last millisecond of the year 9999: RFC 3339 has no later one.
const LATEST: u64 = 253_402_300_799_999;

/// A time in milliseconds since the epoch as `2026-01-31T23:59:59.123Z`.
pub fn rfc3339(milliseconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(milliseconds.min(LATEST));
    format_rfc3339_millis(time).to_string()
}

/// A moment as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long from now, as `90s`, `1h 30m` or `2days`.
    Distance(Duration),
    /// At this time, in milliseconds since the epoch, as `2026-01-31T23:59:59Z` or `2026-01-31 23:59:59`.
    At(u64),
}

impl FromStr for Moment {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        if let Ok(duration) = parse_duration(text) {
            return Ok(Self::Distance(duration));
        }
        let time = parse_rfc3339_weak(text).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let time = time.ok_or_else(|| {
            let expected =
                "a duration such as 90s, 1h or 2days, or a time in UTC such as 2026-01-31T23:59:59Z";
            Problem::Usage(format!("expected {expected}"))
        })?;
        Ok(Self::At(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Moment {
    /// In milliseconds since the epoch, where durations go back from `now`.
    pub fn before(self, now: u64) -> u64 {
        match self {
            Self::Distance(duration) => now.saturating_sub(milliseconds(duration)),
            Self::At(time) => time,
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1000), expected);
        }
        assert_eq!(rfc3339(1_234_567_890_123), "2009-02-13T23:31:30.123Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn moments_are_durations_or_times() {
        let now = 1_234_567_890_123;
        for (text, expected) in [
            ("90s", now - 90_000),
            ("1h 30m", now - 5_400_000),
            (" 1h30m ", now - 5_400_000),
            ("2days", now - 172_800_000),
            ("9000years", 0),
            ("2009-02-13T23:31:30Z", 1_234_567_890_000),
            ("2009-02-13 23:31:30", 1_234_567_890_000),
            ("2009-02-13T23:31:30.123Z", now),
        ] {
            assert_eq!(text.parse::<Moment>().expect(text).before(now), expected, "{text}");
        }
        for wrong in
            ["", "5", "yesterday", "1x", "-1h", "2009-02-13", "2009-13-13T00:00:00Z", "1960-01-01T00:00:00Z"]
        {
            let error = wrong.parse::<Moment>().expect_err(wrong).to_string();
            assert!(error.contains("such as 90s"), "{wrong}: {error}");
        }
    }

    proptest! {
        #[test]
        fn later_sorts_later(milliseconds in 0..200_000_000_000_000_u64, more in 1..100_000_000_u64) {
            prop_assert!(rfc3339(milliseconds) < rfc3339(milliseconds + more));
        }
    }
}
