//! Keeps the filter true that stands in for the socket table in a flood (`defender_common::presence_filter`).

use std::time::{Duration, Instant};

use defender_common::{abi::Config, presence_filter};

/// How often a new generation begins.
const PERIOD: Duration = Duration::from_secs(5);
/// How long the filter counts after the controller was last seen alive, in milliseconds.
const VALID_MS: u32 = 3_000;
/// Between the beginning of a generation and the walk through the sockets: whatever a CPU has seen before the beginning
/// is in the socket table by then. A packet's way there takes microseconds.
pub const SETTLE: Duration = Duration::from_millis(20);

/// Where the filter's generations are.
#[derive(Debug, Default)]
pub struct Generations {
    /// When the last one began.
    begun: Option<Instant>,
    /// A walk has ended since this process controls: what is in the socket table is in the filter.
    complete: bool,
    /// What the datapath watches has changed since the last generation began: its walk does not count.
    doubted: bool,
}

impl Generations {
    /// Whether it is time for a new generation.
    pub fn is_due(&self, now: Instant) -> bool {
        self.begun.is_none_or(|begun| now.duration_since(begun) >= PERIOD)
    }

    /// Begins a generation: it is written from now on, and the one before counts as well. If that one's walk has failed,
    /// it is walked again: with ever more generations none would count in the end.
    pub fn begin(&mut self, config: Config, now: Instant) -> Config {
        self.begun = Some(now);
        self.doubted = false;
        if config.filter_newest != config.filter_oldest {
            return config;
        }
        Config { filter_newest: presence_filter::next(config.filter_newest), ..config }
    }

    /// Ends the generation before: all that is in the socket table has the new one's number.
    pub fn complete(&mut self, config: Config) -> Config {
        self.complete = !self.doubted;
        Config { filter_oldest: config.filter_newest, ..config }
    }

    /// What the datapath watches is about to change: SYNs that passed until now may have become connections to it, of which the
    /// filter has not heard. It counts no more before another walk has ended.
    pub fn doubt(&mut self, config: Config) -> Config {
        *self = Self { doubted: true, ..Self::default() };
        Config { filter_until: 0, ..config }
    }

    /// Lets the filter count for a while longer, if it has anything to say.
    pub fn prolong(&self, config: Config, now_ms: u32) -> Config {
        // 0 would mean that it does not count.
        let until = now_ms.wrapping_add(VALID_MS).max(1);
        Config { filter_until: if self.complete { until } else { config.filter_until }, ..config }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_counts_only_after_a_walk() {
        let mut generations = Generations::default();
        let now = Instant::now();
        assert!(generations.is_due(now));
        let config = generations.begin(Config::default(), now);
        assert_eq!((config.filter_newest, config.filter_oldest), (1, 0));
        assert!(!generations.is_due(now));
        assert_eq!(generations.prolong(config, 1000).filter_until, 0);
        let config = generations.complete(config);
        assert_eq!((config.filter_newest, config.filter_oldest), (1, 1));
        assert_eq!(generations.prolong(config, 1000).filter_until, 4000);
        assert!(generations.is_due(now + PERIOD));
    }

    #[test]
    fn what_is_new_is_walked_for_before_the_filter_counts_again() {
        let mut generations = Generations::default();
        let now = Instant::now();
        let counts = |generations: &Generations, config| generations.prolong(config, 1000).filter_until != 0;
        let config = generations.begin(Config::default(), now);
        let config = generations.complete(config);
        let config = generations.doubt(config);
        assert!(!counts(&generations, config) && generations.is_due(now));
        // In the midst of a walk: that one does not count, but the next.
        let config = generations.begin(config, now);
        let config = generations.doubt(config);
        let config = generations.complete(config);
        assert!(!counts(&generations, config) && generations.is_due(now));
        let config = generations.begin(config, now);
        let config = generations.complete(config);
        assert!(counts(&generations, config));
    }

    #[test]
    fn a_generation_whose_walk_failed_is_walked_again() {
        let mut generations = Generations::default();
        let mut now = Instant::now();
        let first = generations.begin(Config::default(), now);
        for _ in 0..300 {
            now += PERIOD;
            assert_eq!(generations.begin(first, now), first);
            assert!(!generations.is_due(now));
        }
    }
}
