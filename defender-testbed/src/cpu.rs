//! Which processor does what, and keeping them awake.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    ptr,
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::cleanup::Guard;

/// The nice value that gives the largest share of a processor.
const MOST_URGENT: libc::c_int = -20;

/// Time slice of an urgent thread. A thread with a short one need not wait until the slice of another one is over.
const SLICE: Duration = Duration::from_micros(100);

/// The nice value of this process's session, where sessions have one.
const AUTOGROUP: &str = "/proc/self/autogroup";

/// Number of processors this process may use.
pub fn count() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

/// Binds the calling thread to one processor.
pub fn pin_current(cpu: usize) -> Result<()> {
    pin(0, cpu)
}

/// Binds a thread, given by its id, to one processor; 0 is the calling thread.
pub fn pin(thread: i32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(thread), &set)
        .with_context(|| format!("cannot bind thread {thread} to CPU {cpu}"))
}

/// Puts a thread, given by its id, before everything else that is not real-time; 0 is the calling thread, and threads
/// and processes that it starts later follow it. A measurement should not show what else the machine is doing.
pub fn prioritise(thread: i32) -> Result<()> {
    set_scheduling(thread, &scheduling(libc::SCHED_OTHER, 0)).context("cannot raise the priority of a thread")
}

/// Lets a thread, given by its id, interrupt any other one as soon as it has something to do; 0 is the calling thread. For
/// threads that mostly wait: what they measure is then how long the network took, not how long they had to wait for a
/// processor.
pub fn make_real_time(thread: i32) -> Result<()> {
    set_scheduling(thread, &scheduling(libc::SCHED_FIFO, 1)).context("cannot make a thread real-time")
}

/// Takes samples on a processor, before every other thread there: one now, one at each interval, and one when whoever has the
/// other end of the channel drops it. The calling thread stays what it becomes, so it should be one for this alone.
pub fn sample<T>(
    cpu: usize,
    every: Duration,
    stopped: &Receiver<()>,
    sample: impl Fn() -> Result<T>,
) -> Result<Vec<T>> {
    pin_current(cpu)?;
    make_real_time(0)?;
    let mut samples = vec![sample()?];
    while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        samples.push(sample()?);
    }
    samples.push(sample()?);
    Ok(samples)
}

fn scheduling(policy: libc::c_int, priority: u32) -> libc::sched_attr {
    libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: policy as u32,
        sched_flags: 0,
        sched_nice: MOST_URGENT,
        sched_priority: priority,
        sched_runtime: SLICE.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    }
}

fn set_scheduling(thread: i32, attributes: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: the structure is valid and says how long it is.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, thread, ptr::from_ref(attributes), 0) };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps what else the machine does out of a measurement as long as it lives: processors stay out of deep sleep, whose
/// end takes longer than a veth's ring lasts, and this session comes before others.
#[derive(Debug)]
pub struct Undisturbed {
    /// The kernel looks whether the file is open.
    _latency: Option<File>,
    _session: Option<Guard>,
}

impl Undisturbed {
    /// Asks for it; a machine that has no such knobs is fine.
    pub fn new() -> Self {
        Self { _latency: stay_awake().ok(), _session: prefer_session() }
    }
}

impl Default for Undisturbed {
    fn default() -> Self {
        Self::new()
    }
}

fn stay_awake() -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open("/dev/cpu_dma_latency")?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

/// Where the scheduler shares processors among sessions first, the priority of a thread says nothing to other sessions.
fn prefer_session() -> Option<Guard> {
    let before = match session_nice(&fs::read_to_string(AUTOGROUP).ok()?)? {
        // Another one of us, at the same time or killed: leaving things as they are now would leave them for ever.
        MOST_URGENT => 0,
        other => other,
    };
    fs::write(AUTOGROUP, MOST_URGENT.to_string()).ok()?;
    Some(Guard::new(move || {
        // It counts for nothing once the session is over.
        let _ = fs::write(AUTOGROUP, before.to_string());
    }))
}

/// The number in "/autogroup-5 nice 0".
fn session_nice(line: &str) -> Option<i32> {
    line.trim().rsplit_once(" nice ")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::session_nice;

    #[test]
    fn the_nice_value_of_a_session_is_read() {
        assert_eq!(session_nice("/autogroup-5 nice 0\n"), Some(0));
        assert_eq!(session_nice("/autogroup-21 nice -20\n"), Some(-20));
        assert_eq!(session_nice(""), None);
    }
}
