//! Milliseconds out of the kernel's nanoseconds, without a division.

/// Monotonic milliseconds, wrapping at 32 bits.
///
/// `(ns >> 20)` counts units of 1.048576 ms; the fraction is added back as 3183/65536 = 0.048569, which is a little
/// short: the result runs 7 millionths slow and so is never ahead of the clock.
#[inline(always)]
pub const fn milliseconds(nanoseconds: u64) -> u32 {
    let units = nanoseconds >> 20;
    (units + (units.wrapping_mul(3183) >> 16)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_as_the_clock_does_but_never_ahead() {
        let mut last = 0;
        for step in 0..2_000_000u64 {
            let ns = step * 1_234_567;
            let (ms, exact) = (milliseconds(ns), ns / 1_000_000);
            assert!(u64::from(ms) <= exact, "{ns}");
            assert!(exact - u64::from(ms) <= 2 + exact / 100_000, "{ns}: {ms}");
            assert!(ms >= last);
            last = ms;
        }
    }
}
