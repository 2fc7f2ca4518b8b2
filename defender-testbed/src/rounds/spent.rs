//! How much processor time packets take at the server end.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use defender_testbed::{
    napi,
    topology::{SERVER_INTERFACE, Topology},
};

/// The threads that poll the server end.
pub(super) struct Receiver(Vec<i32>);

impl Receiver {
    pub(super) fn of(bed: &Topology) -> Result<Self> {
        napi::threads(&bed.server, SERVER_INTERFACE).map(Self)
    }

    /// Their processor time so far: all costs of packets up to the socket.
    pub(super) fn spent(&self) -> Result<Duration> {
        self.0.iter().copied().map(used).sum()
    }
}

/// The first number of schedstat: nanoseconds on a processor.
fn used(thread: i32) -> Result<Duration> {
    let statistics = fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
    let nanoseconds = statistics.split_whitespace().next().context("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
