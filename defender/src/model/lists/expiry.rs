//! When entries of the lists expire, as people say it and as it is shown. Pure.

use std::time::{Duration, UNIX_EPOCH};

use humantime::{format_duration, parse_duration, parse_rfc3339};

use crate::{model::timestamp, problem::Problem};

/// As somebody gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// So long from now on.
    In(Duration),
    /// At this time, in milliseconds since the epoch.
    At(u64),
}

impl Expiry {
    /// A duration such as `90s`, `1h 30m`, `7d`, or a time such as `2026-01-31T12:00:00Z`.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        if let Ok(time) = parse_rfc3339(text) {
            return Ok(Self::At(time.duration_since(UNIX_EPOCH).map_or(0, milliseconds)));
        }
        parse_duration(text).map(Self::In).map_err(|_| {
            Problem::Usage(format!(
                "`{text}` is neither a duration such as 90s, 1h or 7d, nor a time such as 2026-01-31T12:00:00Z"
            ))
        })
    }

    /// The time in milliseconds since the epoch, if that is later than `now`.
    pub fn resolve(self, now: u64) -> Result<u64, Problem> {
        let time = match self {
            Self::In(duration) => now.saturating_add(milliseconds(duration)),
            Self::At(time) => time,
        };
        if time <= now {
            let (time, now) = (timestamp::rfc3339(time), timestamp::rfc3339(now));
            return Err(Problem::Usage(format!(
                "it would expire at {time}, and it is {now}; name a later time"
            )));
        }
        Ok(time.min(timestamp::LATEST))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// How long that is from `now` on, by its two largest units.
pub fn time_left(expires: u64, now: u64) -> String {
    let seconds = expires.saturating_sub(now).div_ceil(1000);
    if seconds == 0 {
        return "overdue".to_owned();
    }
    let text = format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_769_860_800_000;

    #[test]
    fn durations_and_times_are_read() {
        for (text, expected) in [
            ("90s", NOW + 90_000),
            ("1h", NOW + 3_600_000),
            (" 1h 30m ", NOW + 5_400_000),
            ("7d", NOW + 604_800_000),
            ("1ms", NOW + 1),
            ("2026-01-31T13:00:00Z", NOW + 3_600_000),
            ("2026-01-31T13:00:00.5Z", NOW + 3_600_500),
            ("300000y", timestamp::LATEST),
        ] {
            let expiry = Expiry::parse(text).expect(text);
            assert_eq!(expiry.resolve(NOW).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_examples() {
        for text in
            ["", "x", "3600", "-1h", "1 hoar", "2026-01-31", "2026-02-30T00:00:00Z", "99999999999999999999y"]
        {
            let error = Expiry::parse(text).expect_err(text).to_string();
            assert!(error.contains("1h or 7d") && error.contains("2026-01-31T12:00:00Z"), "{error}");
        }
    }

    #[test]
    fn what_is_over_is_refused() {
        for text in ["0s", "2026-01-31T12:00:00Z", "1970-01-01T00:00:00Z"] {
            let error = Expiry::parse(text).expect(text).resolve(NOW).expect_err(text).to_string();
            assert!(error.ends_with("it is 2026-01-31T12:00:00.000Z; name a later time"), "{error}");
        }
    }

    #[test]
    fn time_left_has_two_units() {
        for (left, expected) in [
            (0, "overdue"),
            (1, "1s"),
            (59_001, "1m"),
            (3_599_000, "59m 59s"),
            (3_661_000, "1h 1m"),
            (86_400_000, "1day"),
            (200_000_000, "2days 7h"),
        ] {
            assert_eq!(time_left(NOW + left, NOW), expected);
        }
        assert_eq!(time_left(NOW - 1, NOW), "overdue");
    }
}
