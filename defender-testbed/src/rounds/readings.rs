//! Counters that are read repeatedly during a job, and the time in which the processor ran at full speed.

use std::{
    panic,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use defender_testbed::{
    cpu,
    speed::{Speeds, Watch},
    topology::Topology,
};

use super::SERVER_CPU;

/// How often counters are read. A throttled moment takes two or three intervals.
const EVERY: Duration = Duration::from_millis(20);

/// Minimum time to read counters before and after the job.
const MARGIN: Duration = Duration::from_millis(20);

/// Readings over some time, and how fast the server's processor was.
pub(crate) struct Readings<T> {
    readings: Vec<(Instant, T)>,
    pub(crate) speeds: Speeds,
}

/// The interval between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a, T> {
    pub(crate) from: Instant,
    pub(crate) to: Instant,
    pub(crate) before: &'a T,
    pub(crate) after: &'a T,
}

/// Runs a job, and reads counters from before it until after it. This happens inside the server's namespace
/// and with priority over every other thread of the server's processor.
pub(crate) fn during<T: Send, R>(
    bed: &Topology,
    read: impl Fn() -> Result<T> + Send,
    job: impl FnOnce() -> R,
) -> Result<(R, Readings<T>)> {
    let watch = Watch::start(SERVER_CPU)?;
    let (result, readings) = thread::scope(|scope| {
        let (under_way, over) = mpsc::channel();
        let now = move || read().map(|counters| (Instant::now(), counters));
        let reader = scope.spawn(move || bed.server.run(move || cpu::sample(SERVER_CPU, EVERY, &over, now)));
        thread::sleep(MARGIN);
        let result = job();
        thread::sleep(MARGIN);
        drop(under_way);
        (result, reader.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    });
    let speeds = watch.stop()?;
    Ok((result, Readings { readings: readings?, speeds }))
}

impl<T> Readings<T> {
    /// The intervals in which the processor ran at full speed, or all if it never did.
    pub(crate) fn at_full_speed(&self) -> Vec<Span<'_, T>> {
        let full = self.spans().filter(|span| self.speeds.were_full(span.from..span.to));
        let full: Vec<_> = full.collect();
        if full.is_empty() { self.spans().collect() } else { full }
    }

    /// The whole time.
    pub(crate) fn whole(&self) -> Option<Span<'_, T>> {
        let ((from, before), (to, after)) = (self.readings.first()?, self.readings.last()?);
        Some(Span { from: *from, to: *to, before, after })
    }

    fn spans(&self) -> impl Iterator<Item = Span<'_, T>> {
        self.readings.array_windows().map(|[(from, before), (to, after)]| Span {
            from: *from,
            to: *to,
            before,
            after,
        })
    }
}
