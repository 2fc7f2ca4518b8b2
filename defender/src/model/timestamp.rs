//! How wall-clock time is written (RFC 3339). Pure.

use std::time::{Duration, UNIX_EPOCH};

use humantime::format_rfc3339_millis;

/// The last millisecond of the year 9999: RFC 3339 has no later one.
pub const LATEST: u64 = 253_402_300_799_999;

/// A time in milliseconds since the epoch as `2026-01-31T23:59:59.123Z`.
pub fn rfc3339(milliseconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(milliseconds.min(LATEST));
    format_rfc3339_millis(time).to_string()
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

    proptest! {
        #[test]
        fn later_sorts_later(milliseconds in 0..200_000_000_000_000_u64, more in 1..100_000_000_u64) {
            prop_assert!(rfc3339(milliseconds) < rfc3339(milliseconds + more));
        }
    }
}
