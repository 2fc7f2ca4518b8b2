//! The soak: clients come and go, floods begin and end, listeners restart and keys rotate around one defender in mode `auto`.
//! In the end nothing may have grown or got lost, and all sums are right.

mod churn;
mod sample;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use defender_testbed::{
    client,
    controller::Controller,
    programs::Program,
    server::{self, GREETING, Server},
    topology::{Options, SERVER_INTERFACE, Topology},
};

use self::{churn::Churn, sample::Sample};

/// The port of the service that is always there.
const PORT: u16 = 80;
/// Half-open connections that its listeners take.
const BACKLOG: u32 = 4096;
/// How often samples are taken.
const PERIOD: Duration = Duration::from_secs(10);
/// How long connections of the end may take to close, TIME_WAIT included.
const CALM_DOWN: Duration = Duration::from_secs(100);
/// What memory may grow by after the first sample of a flood: the allocator keeps what it had.
const MOST_GROWTH: u64 = 4 << 20;

/// What is to be done.
pub(crate) struct Plan {
    /// The program.
    pub(crate) defender: PathBuf,
    /// For how long.
    pub(crate) time: Duration,
}

/// Runs it, prints a line a sample, and fails with what went wrong.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    let bed = Topology::with(&Options { client_end: Some(Program::AbsorbFlood), ..Options::default() })?;
    let addresses = [bed.server_v4(PORT), bed.server_v6(PORT)];
    let options = server::Options { backlog: BACKLOG, ..server::Options::default() };
    let _servers = addresses
        .map(|address| Server::with(&bed.server, address, options))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let defender = Controller::start(&bed.server, &plan.defender, SERVER_INTERFACE, &["--mode", "auto"])?;
    defender.wait_for_listener(PORT)?;
    let mut kept = addresses.map(|address| keep(&bed, address)).into_iter().collect::<Result<Vec<_>>>()?;

    println!("{}", Sample::HEADER);
    let churn = Churn::default();
    let samples = thread::scope(|scope| {
        let busy = churn.start(scope, &bed, addresses);
        let samples = take_samples(plan.time, &defender, &churn, &busy);
        churn.end();
        for thread in busy {
            thread.join().unwrap_or_else(|_| bail!("a thread panicked"))?;
        }
        samples
    })?;
    kept.iter_mut().try_for_each(talk).context("a connection from the beginning")?;
    drop(kept);
    judge(&samples, &churn)?;
    all_is_closed(&defender)?;
    println!(
        "soak: {} min, {} clients served, {} floods, {} listeners restarted, {} keys: nothing grew, nothing was lost, all sums are right",
        plan.time.as_secs() / 60,
        churn.served(),
        churn.floods(),
        churn.restarts(),
        samples.last().map_or(0, |last| last.keys - samples[0].keys),
    );
    Ok(())
}

fn keep(bed: &Topology, address: SocketAddr) -> Result<TcpStream> {
    let from = bed.fresh_client(address);
    let mut stream = client::connect_from(&bed.client, Some(from), address, Duration::from_secs(20))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    ensure!(byte == [GREETING], "the greeting is {byte:?}");
    Ok(stream)
}

fn talk(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"?")?;
    Ok(stream.read_exact(&mut [0])?)
}

/// Takes samples until the time is up, or one of the busy threads has failed.
fn take_samples(
    time: Duration,
    defender: &Controller<'_>,
    churn: &Churn,
    busy: &[ScopedJoinHandle<'_, Result<()>>],
) -> Result<Vec<Sample>> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    while begun.elapsed() < time && !busy.iter().any(ScopedJoinHandle::is_finished) {
        let sample = Sample::take(defender, begun.elapsed())?;
        println!("{sample}  {:>9}  {:>6}", churn.served(), churn.failed());
        samples.push(sample);
        thread::sleep(PERIOD);
    }
    Ok(samples)
}

/// What may not grow has not.
fn judge(samples: &[Sample], churn: &Churn) -> Result<()> {
    ensure!(samples.len() > 3, "only {} samples", samples.len());
    ensure!(
        churn.failed() == 0,
        "{} of {} clients were not served",
        churn.failed(),
        churn.failed() + churn.served()
    );
    ensure!(churn.floods() > 0 && churn.served() > 0 && churn.restarts() > 0, "nothing went on");
    // By then every kind of thing has happened once.
    let settled = &samples[samples.len() / 3];
    let last = samples.last().context("no sample")?;
    let most = samples.iter().skip(samples.len() / 3).map(|sample| sample.memory).max().unwrap_or_default();
    ensure!(most <= settled.memory + MOST_GROWTH, "memory grew from {} to {most} bytes", settled.memory);
    // Tools that are run now and then take some for a moment.
    let (before, after) = samples.split_at(samples.len() / 2);
    let most = before.iter().map(|sample| sample.descriptors).max().unwrap_or_default();
    let least = after.iter().map(|sample| sample.descriptors).min().unwrap_or_default();
    ensure!(least <= most, "descriptors grew from {most} to {least}");
    let expected = (last.at - samples[0].at).as_secs() / 30;
    ensure!(
        last.keys - samples[0].keys >= expected.saturating_sub(1),
        "only {} keys",
        last.keys - samples[0].keys
    );
    Ok(())
}

/// Once all connections are closed, as many have ended as were established.
fn all_is_closed(defender: &Controller<'_>) -> Result<()> {
    let deadline = Instant::now() + CALM_DOWN;
    loop {
        let [established, ended] = ["flows_established", "flows_ended"].map(|name| defender.counter(name));
        let (established, ended) = (established?, ended?);
        if established == ended {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{established} connections were established, {ended} ended");
        thread::sleep(Duration::from_secs(1));
    }
}
