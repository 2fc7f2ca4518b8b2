//! Milliseconds out of the kernel's nanoseconds, without a division.

/// Monotonic milliseconds, wrapping at 32 bits.
///
/// `ns >> 16` counts units of 0.065536 ms; 2²⁴ times that is 1,099,511.6, of which the fraction is left out: the result runs
/// 0.6 millionths slow and so is never ahead of the clock. The product fits 64 bits for the first 34 years.
#[inline(always)]
pub const fn milliseconds(nanoseconds: u64) -> u32 {
    ((nanoseconds >> 16).wrapping_mul(1_099_511) >> 24) as u32
}

/// How far ahead of a reader's clock a time may be that another CPU wrote, in milliseconds.
const AHEAD_MS: u32 = 1_000;

/// How long ago `at` was, in milliseconds; 0 if another CPU wrote it a moment after `now` was read.
#[inline(always)]
pub const fn age(at: u32, now: u32) -> u32 {
    let age = now.wrapping_sub(at);
    if age > u32::MAX - AHEAD_MS { 0 } else { age }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_wrap_and_are_never_negative() {
        assert_eq!(age(1_000, 61_000), 60_000);
        assert_eq!(age(u32::MAX - 9, 10), 20);
        assert_eq!(age(61_000, 61_000), 0);
        assert_eq!(age(61_003, 61_000), 0);
        assert_eq!(age(2, u32::MAX), 0);
    }

    #[test]
    fn runs_for_decades() {
        let year = 365 * 24 * 3600 * 1_000_000_000;
        let (ms, exact) = (milliseconds(34 * year), 34 * year / 1_000_000);
        assert!((exact as u32).wrapping_sub(ms) < 700_000, "{ms}");
    }

    #[test]
    fn runs_as_the_clock_does_but_never_ahead() {
        let mut last = 0;
        for step in 0..2_000_000u64 {
            let ns = step * 1_234_567;
            let (ms, exact) = (milliseconds(ns), ns / 1_000_000);
            assert!(u64::from(ms) <= exact, "{ns}");
            assert!(exact - u64::from(ms) <= 2 + exact / 1_000_000, "{ns}: {ms}");
            assert!(ms >= last);
            last = ms;
        }
    }
}
