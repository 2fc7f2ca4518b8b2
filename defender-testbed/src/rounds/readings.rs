//! Counters that are read again and again while something goes on, and the time in which the processor ran at full speed.

use std::{
    panic,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
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

/// How often counters are read: a throttled moment takes two or three of these.
const EVERY: Duration = Duration::from_millis(20);

/// What was read in some time, and how fast the server's processor was.
pub(crate) struct Readings<T> {
    readings: Vec<(Instant, T)>,
    pub(crate) speeds: Speeds,
}

/// Does a job, and reads counters from before it until after it, inside the server's namespace. Reading comes before whatever
/// else the server's processor does.
pub(crate) fn during<T: Send, R>(
    bed: &Topology,
    read: impl Fn() -> Result<T> + Send,
    job: impl FnOnce() -> R,
) -> Result<(R, Readings<T>)> {
    let watch = Watch::start(SERVER_CPU)?;
    let (result, readings) = thread::scope(|scope| {
        let (under_way, over) = mpsc::channel();
        let reader = scope.spawn(move || bed.server.run(move || read_until(&over, read)));
        let result = job();
        drop(under_way);
        (result, reader.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    });
    let speeds = watch.stop()?;
    Ok((result, Readings { readings: readings?, speeds }))
}

fn read_until<T>(over: &Receiver<()>, read: impl Fn() -> Result<T>) -> Result<Vec<(Instant, T)>> {
    cpu::pin_current(SERVER_CPU)?;
    cpu::make_real_time(0)?;
    let mut readings = vec![(Instant::now(), read()?)];
    while over.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        readings.push((Instant::now(), read()?));
    }
    readings.push((Instant::now(), read()?));
    Ok(readings)
}

impl<T> Readings<T> {
    /// From one reading to the next: the time between them and both, where the processor ran at full speed; if it never did,
    /// all of them.
    pub(crate) fn at_full_speed(&self) -> Vec<(Duration, &T, &T)> {
        let spans = |speeds: Option<&Speeds>| -> Vec<_> {
            let pairs = self.readings.windows(2).map(|pair| (&pair[0], &pair[1]));
            let wanted =
                pairs.filter(|(from, to)| speeds.is_none_or(|speeds| speeds.were_full(from.0..to.0)));
            wanted.map(|((from, before), (to, after))| (*to - *from, before, after)).collect()
        };
        let full = spans(Some(&self.speeds));
        if full.is_empty() { spans(None) } else { full }
    }
}
