//! During a heavy flood the presence filter stands in for the socket table. It must not cost any connection.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use defender_testbed::{
    flood::{Flood, Kind},
    server::Server,
    topology::{Options, Topology},
};

use crate::harness::{Counts, connect, connect_in_flood, start, talk, wait_active};

/// Three times as long as the first run of the socket iterator takes; then the filter is in force.
const FILTER_READY: Duration = Duration::from_secs(4);
/// Real look-ups that the datapath makes in a second on each CPU.
const BUDGET: u64 = 20_000;
/// Both floods are well over the budget of the one that takes them, also on a machine that is slow and does other things.
const RATE: u64 = 100_000;
/// Longer than a generation of the filter: connections outlive one.
const FLOOD_TIME: Duration = Duration::from_secs(7);

/// Both address families of the server.
fn addresses(bed: &Topology) -> [SocketAddr; 2] {
    [bed.server_v4(80), bed.server_v6(80)]
}

/// A connection from a fresh address.
fn visit(bed: &Topology, address: SocketAddr) -> Result<TcpStream> {
    connect(bed, bed.fresh_client(address), address)
}

/// Connections from before the attach and handed-over ones, busy and quiet: all go on while a flood of `kind` runs,
/// through more than one generation of the filter.
fn connections_live_through(kind: Kind, reasons: &[&str]) -> Result<()> {
    // It comes before all else on its processor, so that few packets are lost.
    let bed = Topology::with(&Options { server_cpu: Some(0), urgent: true, ..Options::default() })?;
    let servers = addresses(&bed).map(|address| Server::start(&bed.server, address));
    let [_v4, _v6] = servers;
    let (_v4, _v6) = (_v4?, _v6?);
    let mut quiet = Vec::new();
    let mut streams = Vec::new();
    for address in addresses(&bed) {
        for _ in 0..20 {
            quiet.push(visit(&bed, address)?);
            streams.push(visit(&bed, address)?);
        }
    }
    let defender = start(&bed, &["--mode", "always"])?;
    wait_active(&defender, 80)?;
    for address in addresses(&bed) {
        for _ in 0..20 {
            quiet.push(visit(&bed, address)?);
            streams.push(visit(&bed, address)?);
        }
    }
    std::thread::sleep(FILTER_READY);
    let before = Counts::of(&defender)?;
    let flood = Flood {
        rate: Some(RATE),
        // A source that has to wait for its processor falls behind less.
        burst: 32,
        max_time: FLOOD_TIME,
        max_packets: RATE * FLOOD_TIME.as_secs(),
        ..Flood::new(kind, bed.server_v4(80))
    }
    .start(&bed)?;
    flood.wait_until_running()?;
    let end = Instant::now() + FLOOD_TIME - Duration::from_secs(1);
    let (mut visits, mut ungreeted) = (0, 0);
    while Instant::now() < end {
        for stream in &mut streams {
            talk(stream)?;
        }
        for address in addresses(&bed) {
            let (mut fresh, spoke) = connect_in_flood(&bed, bed.fresh_client(address), address)?;
            talk(&mut fresh)?;
            visits += 1;
            ungreeted += u32::from(spoke);
        }
    }
    ensure!(ungreeted <= 1 + visits / 10, "{ungreeted} of {visits} were not greeted");
    // Only the socket iterator has noted these in the newest generation.
    for stream in &mut quiet {
        talk(stream)?;
    }
    let report = flood.wait()?;
    let counts = &Counts::of(&defender)? - &before;
    counts.assert_no_drops_but(reasons);
    // More was taken on the filter's word than the budget of real look-ups allows: both were at work.
    let flooded: u64 = counts.get(if reasons.is_empty() { "tx.syn_challenged" } else { reasons[0] });
    let most_looked_up = BUDGET * report.elapsed.as_secs();
    ensure!(flooded > most_looked_up.max(BUDGET), "only {flooded} were judged: {report:?}");
    Ok(())
}

#[test]
fn connections_live_through_a_syn_flood() -> Result<()> {
    connections_live_through(Kind::LinuxSyn, &[])
}

#[test]
fn connections_live_through_a_flood_of_acknowledgements() -> Result<()> {
    connections_live_through(Kind::Ack, &["drop.ack_bad_cookie"])
}
