//! When entries of the lists expire, as people give and see it. Pure.

use std::time::Duration;

use humantime::format_duration;

use crate::{
    model::timestamp::{Moment, rfc3339},
    problem::Problem,
};

/// The time in milliseconds since the epoch, which is later than `now`.
pub fn resolve(moment: Moment, now: u64) -> Result<u64, Problem> {
    moment.after(now).ok_or_else(|| {
        Problem::Usage(format!(
            "--expires: it would expire at once, as it is {}; name a later time",
            rfc3339(now)
        ))
    })
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
    fn what_is_over_is_refused() {
        let resolve = |text: &str| resolve(text.parse().expect(text), NOW).map_err(|error| error.to_string());
        assert_eq!(resolve("1h"), Ok(NOW + 3_600_000));
        assert_eq!(resolve("2026-01-31T12:00:01Z"), Ok(NOW + 1000));
        for text in ["0s", "2026-01-31T12:00:00Z", "1970-01-01T00:00:00Z"] {
            let error = resolve(text).expect_err(text);
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
