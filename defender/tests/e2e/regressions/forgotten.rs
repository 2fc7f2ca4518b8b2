//! Connections that the server has lost and the client has not: a crash, a failover, `ss -K`. The kernel resets them at
//! their next segment; so it must be behind a defence, for else the client hangs for a quarter of an hour.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use defender_testbed::{
    flood::{Flood, Kind},
    frame::{TcpFrame, flag},
    programs::Program,
    server::Server,
    topology::{Options, Topology},
};

use crate::harness::{
    Counts, PATIENCE, connect, connect_in_flood, counts_when, eventually,
    kernel::{counted, servers, sockets},
    scripted_client::{ClientKind, Wire},
    start, start_always, talk,
};

/// Longer than what follows a proof passes.
const LATER: Duration = Duration::from_millis(1_200);

/// The server loses all its connections without a word to their clients.
fn lose_connections(bed: &Topology) -> Result<()> {
    nft(
        bed,
        "add table inet silent
        add chain inet silent out { type filter hook output priority 0; }
        add rule inet silent out tcp flags & rst == rst counter drop\n",
    )?;
    let killed = bed.server.command("ss")?.args(["-KHtan", "state", "established"]).output()?;
    ensure!(killed.status.success(), "ss -K failed: {}", String::from_utf8_lossy(&killed.stderr));
    eventually("the server has no connection", || Ok(!sockets(&bed.server)?.contains_key("ESTAB")))?;
    nft(bed, "delete table inet silent\n")
}

fn nft(bed: &Topology, commands: &str) -> Result<()> {
    let status = bed.server.command("nft")?.arg(commands).status()?;
    ensure!(status.success(), "nft failed");
    Ok(())
}

/// The client speaks, and is reset. Returns how long that took.
fn is_reset(stream: &mut TcpStream) -> Result<Duration> {
    let begun = Instant::now();
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?")?;
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(begun.elapsed()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("the client hangs"),
        other => bail!("no reset but {other:?}"),
    }
}

#[test]
fn clients_of_lost_connections_are_reset() -> Result<()> {
    for timestamps in [1, 0] {
        let bed = Topology::new()?;
        bed.client.set_sysctl("net.ipv4.tcp_timestamps", timestamps)?;
        let servers = servers(&bed)?;
        let defender = start_always(&bed, &[80])?;
        for server in &servers {
            for speaks_before in [false, true] {
                let mut stream = connect(&bed, bed.fresh_client(server.address()), server.address())?;
                thread::sleep(LATER);
                if speaks_before {
                    talk(&mut stream)?;
                }
                lose_connections(&bed)?;
                let took = is_reset(&mut stream)?;
                println!("timestamps {timestamps}, speaks before {speaks_before}: reset after {took:?}");
            }
            let counts = Counts::of(&defender)?;
            assert!(counts.get("pass.ack_out_of_state") > 0, "{counts}");
            // What the client said within a second of what the server did.
            counts.assert_no_drops_but(&["drop.ack_bad_cookie"]);
        }
    }
    Ok(())
}

/// During a flood, while out-of-state segments from everywhere use up the share of unknown sources.
#[test]
fn clients_of_lost_connections_are_reset_in_floods() -> Result<()> {
    for (mode, kind) in [("auto", Kind::LinuxSyn), ("always", Kind::LinuxSyn), ("always", Kind::Ack)] {
        let bed = Topology::with(&Options { client_end: Some(Program::Absorb), ..Options::default() })?;
        for server in &servers(&bed)? {
            let defender = start(&bed, &["--mode", mode])?;
            defender.wait_for_listener(80)?;
            let flood = Flood {
                max_packets: 2_000_000,
                rate: Some(40_000),
                max_time: Duration::from_secs(40),
                ..Flood::new(kind, server.address())
            };
            let before = Counts::of(&defender)?;
            let handle = flood.start(&bed)?;
            counts_when(&defender, &before, "the flood is challenged or dropped", |counts| {
                counts.get("syn_challenged") + counts.get("drop.ack_bad_cookie") > 10_000
            })?;
            let (mut stream, _) =
                connect_in_flood(&bed, bed.fresh_client(server.address()), server.address())?;
            talk(&mut stream)?;
            thread::sleep(LATER);
            lose_connections(&bed)?;
            is_reset(&mut stream)?;
            handle.stop()?;
            ensure!(defender.stop()?.success());
        }
    }
    Ok(())
}

/// However many come: a kernel that resets them all has nothing else to do.
#[test]
fn a_flood_of_out_of_state_packets_is_dropped() -> Result<()> {
    let bed = Topology::with(&Options { client_end: Some(Program::Absorb), ..Options::default() })?;
    for server in &servers(&bed)? {
        let defender = start_always(&bed, &[80])?;
        for kind in [Kind::Ack, Kind::PlainAck] {
            let flood = Flood {
                max_packets: 100_000,
                rate: Some(50_000),
                max_time: Duration::from_secs(10),
                ..Flood::new(kind, server.address())
            };
            let before = Counts::of(&defender)?;
            let report = flood.run_to_end(&bed)?;
            let counts = counts_when(&defender, &before, "all that came is counted", |counts| {
                counts.get("ack_rejected") >= report.sent / 2
            })?;
            let seconds = 2 + report.elapsed.as_secs();
            let most = 1_000 * seconds * thread::available_parallelism()?.get() as u64;
            assert!((1..=most).contains(&counts.get("pass.ack_out_of_state")), "{counts}");
        }
        ensure!(defender.stop()?.success());
    }
    Ok(())
}

/// A network that sends more out-of-state segments than its budget leaves others theirs.
#[test]
fn a_network_has_a_budget_of_out_of_state_packets() -> Result<()> {
    const BUDGET: u64 = 10;
    let bed = Topology::new()?;
    for server in &servers(&bed)? {
        let defender = start_always(&bed, &[80])?;
        defender.ask(&["set", "out_of_state_budget", &BUDGET.to_string()])?;
        let wire = Wire::new(&bed)?;
        let (_, counts) = counted(&defender, || {
            let frames: Vec<_> =
                (0..60).map(|_| out_of_state(wire.address(server.address()), server)).collect();
            wire.send(&frames)
        })?;
        let passed = counts.get("pass.ack_out_of_state");
        // Perhaps in two seconds.
        assert!((BUDGET..=2 * BUDGET).contains(&passed), "{counts}");
        counts.assert(&[("drop.ack_bad_cookie", 60 - passed)]);
        let other = bed.fresh_client(server.address());
        let (_, counts) =
            counted(&defender, || wire.send(&[out_of_state(SocketAddr::new(other.ip(), 4_000), server)]))?;
        counts.assert(&[("pass.ack_out_of_state", 1)]);
        defender.ask(&["set", "out_of_state_budget", "0"])?;
        let (_, counts) =
            counted(&defender, || wire.send(&[out_of_state(wire.address(server.address()), server)]))?;
        counts.assert(&[("pass.ack_out_of_state", 0), ("drop.ack_bad_cookie", 1)]);
        ensure!(defender.stop()?.success());
    }
    Ok(())
}

/// An acknowledgement of nothing.
fn out_of_state(from: SocketAddr, server: &Server) -> TcpFrame {
    TcpFrame::new(from, server.address()).flags(flag::ACK).seq(1_000).ack(2_000)
}

/// What a handshake under way may bring before its proof, for that was lost: it is not reset, and the proof counts when it
/// comes.
#[test]
fn a_handshake_whose_first_segments_were_lost_is_not_reset() -> Result<()> {
    let bed = Topology::new()?;
    for server in &servers(&bed)? {
        let defender = start_always(&bed, &[80])?;
        let wire = Wire::new(&bed)?;
        let (_, counts) = counted(&defender, || {
            let mut client = wire.greeted(server.address(), ClientKind::Linux)?;
            client.send(&[client.data(1_000, &[7; 500]).flags(flag::ACK | flag::PSH)])?;
            client.expect_silence()?;
            client.burst(&[], 1)
        })?;
        counts.assert(&[("pass.ack_out_of_state", 0), ("handoff_established", 1)]);
        ensure!(defender.stop()?.success());
    }
    Ok(())
}

/// A middlebox takes the timestamps out of what the client sends: what was agreed in them is lost, and the client is told at once.
#[test]
fn an_acknowledgement_without_its_timestamps_is_reset() -> Result<()> {
    let bed = Topology::new()?;
    for server in &servers(&bed)? {
        let defender = start_always(&bed, &[80])?;
        let wire = Wire::new(&bed)?;
        let (_, counts) = counted(&defender, || {
            let client = wire.greeted(server.address(), ClientKind::Linux)?;
            client.send(&[client.ack().raw_options(&[])])?;
            let seen = client.expect("a RST")?;
            ensure!(seen.flags & flag::RST != 0, "no RST: {seen:?}");
            Ok(())
        })?;
        counts.assert(&[("pass.ack_out_of_state", 1), ("handoff_assigned", 0)]);
        ensure!(defender.stop()?.success());
    }
    Ok(())
}
