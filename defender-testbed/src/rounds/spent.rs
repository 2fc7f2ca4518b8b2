//! How much processor time packets take at the server end.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use defender_testbed::{
    napi,
    topology::{SERVER_INTERFACE, Topology},
};

/// What the threads have used so far that poll the server end: all that packets cost, up to the socket.
pub(super) fn by_receiver(bed: &Topology) -> Result<Duration> {
    let threads = napi::threads(&bed.server, SERVER_INTERFACE)?;
    threads.into_iter().map(used).sum()
}

/// The first number of schedstat: nanoseconds on a processor.
fn used(thread: i32) -> Result<Duration> {
    let statistics = fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
    let nanoseconds = statistics.split_whitespace().next().context("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
