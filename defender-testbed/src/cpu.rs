//! Which processor does what, and keeping them awake.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    thread,
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

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

/// Keeps processors out of deep sleep as long as it lives. Waking up takes longer than a veth's ring lasts, and fast
/// programs would look slow.
#[derive(Debug)]
pub struct Awake(#[expect(dead_code, reason = "the kernel looks whether the file is open")] Option<File>);

impl Awake {
    /// Asks for it; a machine that has no such knob is fine.
    pub fn new() -> Self {
        Self(hold().ok())
    }
}

impl Default for Awake {
    fn default() -> Self {
        Self::new()
    }
}

fn hold() -> std::io::Result<File> {
    let mut file = OpenOptions::new().write(true).open("/dev/cpu_dma_latency")?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}
