//! Whether a processor runs at its full speed, millisecond by millisecond.
//!
//! A host may throttle its processors: for some tens of milliseconds every instruction takes ten times as long. The guest
//! sees no stolen time and no gap; only work of a known length tells. What is measured at such a moment is the host, and a
//! packet that finds a full ring then says nothing about the program behind it.

use std::{
    hint::black_box,
    ops::Range,
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use crate::cpu;

/// How often it is looked. Each look takes some 3 us.
const EVERY: Duration = Duration::from_millis(1);

/// If nobody could look for so long, the processor did not run. The kernel's own work may keep the looks away for some
/// milliseconds, and counts.
const GAP: Duration = Duration::from_millis(20);

/// The processor is slow if work takes so many times as long as it takes at best. Throttled ones take five to fifteen
/// times as long; what a turbo clock and a neighbour on the same core change is below 1.5.
const SLOW: u32 = 2;

/// Multiplications of a look, each of which waits for the one before: a microsecond.
const WORK: u32 = 1000;

/// A thread that watches a processor. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Result<Vec<Look>>>,
}

/// What a watch saw.
#[derive(Clone, Debug, Default)]
pub struct Speeds {
    looks: Vec<Look>,
    best: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    took: Duration,
}

impl Watch {
    /// Watches the processor with this number from now on, before every other thread there.
    pub fn start(cpu: usize) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let watch = move || cpu::sample(cpu, EVERY, &stopped, || Ok(Look::now()));
        Ok(Self { stop, thread: thread::Builder::new().name("speed".to_owned()).spawn(watch)? })
    }

    /// Ends it, and returns what it saw.
    pub fn stop(self) -> Result<Speeds> {
        drop(self.stop);
        self.thread
            .join()
            .map_err(|_| anyhow!("the thread that watches a processor panicked"))?
            .map(Speeds::of)
    }
}

impl Speeds {
    fn of(looks: Vec<Look>) -> Self {
        let best = looks.iter().map(|look| look.took).min().unwrap_or_default();
        Self { looks, best }
    }

    /// Whether the processor ran at full speed all the time from one moment to another.
    pub fn were_full(&self, span: Range<Instant>) -> bool {
        let before = self.looks.partition_point(|look| look.at <= span.start);
        let after = self.looks.partition_point(|look| look.at < span.end);
        // From the last look before it to the first one after it.
        let seen = self.looks.get(before.saturating_sub(1)..=after).unwrap_or_default();
        before > 0 && seen.len() > 1 && seen.windows(2).all(|pair| self.is_full(pair))
    }

    /// Share of the time at full speed, 0 to 1.
    pub fn full_share(&self) -> f64 {
        let time = |pair: &[Look]| pair[1].at - pair[0].at;
        let full: Duration = self.looks.windows(2).filter(|pair| self.is_full(pair)).map(time).sum();
        let all: Duration = self.looks.windows(2).map(time).sum();
        full.as_secs_f64() / all.as_secs_f64().max(f64::EPSILON)
    }

    /// Whether it did from one look to the next.
    fn is_full(&self, pair: &[Look]) -> bool {
        pair[1].at - pair[0].at <= GAP && pair.iter().all(|look| look.took <= self.best * SLOW)
    }
}

impl Look {
    /// The shorter of two tries: an interrupt lengthens one.
    fn now() -> Self {
        let at = Instant::now();
        Self { at, took: work().min(work()) }
    }
}

fn work() -> Duration {
    let begun = Instant::now();
    // In registers alone: what memory takes depends on a neighbour on the same core.
    black_box((0..WORK).fold(black_box(1_u64), |number, _| number.wrapping_mul(number) ^ 1));
    begun.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn speeds(start: Instant, looks: &[(u32, u64)]) -> Speeds {
        let look =
            |(ms, took): &(u32, u64)| Look { at: start + MS * *ms, took: Duration::from_micros(*took) };
        Speeds::of(looks.iter().map(look).collect())
    }

    #[test]
    fn a_throttled_moment_is_seen_from_the_looks_around_it() {
        let start = Instant::now();
        let speeds = speeds(start, &[(0, 10), (1, 11), (2, 90), (3, 12), (4, 10)]);
        let full = |from: u32, to: u32| speeds.were_full(start + MS * from / 10..start + MS * to / 10);
        assert!(full(0, 10) && full(1, 9) && full(31, 40));
        assert!(!full(5, 15) && !full(12, 13) && !full(15, 35) && !full(25, 28));
        assert_eq!(speeds.full_share(), 0.5);
    }

    #[test]
    fn when_nobody_looked_nothing_is_known() {
        let start = Instant::now();
        let speeds = speeds(start, &[(0, 10), (1, 10), (31, 10), (40, 10)]);
        let full = |from: u32, to: u32| speeds.were_full(start + MS * from..start + MS * to);
        assert!(full(0, 1) && !full(0, 31) && !full(2, 3) && !full(31, 41) && !full(50, 51));
        assert!(full(31, 40), "the kernel may be busy for some milliseconds");
        assert_eq!(speeds.full_share(), 0.25);
        assert!(!Speeds::default().were_full(start..start + MS));
    }
}
