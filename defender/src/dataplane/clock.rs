//! The datapath's clock, as its programs read it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use defender_common::load::Time;
use nix::time::{ClockId, clock_gettime};

/// The time.
pub fn now() -> Result<Time> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).context("cannot read the clock")?;
    Ok(Time::at(Duration::from(now).as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on() {
        let (first, second) = (now().expect("a clock"), now().expect("a clock"));
        assert!(second.ms.wrapping_sub(first.ms) < 1000 && second.second - first.second <= 1);
    }
}
