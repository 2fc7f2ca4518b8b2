//! Floods, bounded: what is counted is what came, and clients do not notice. Nothing here depends on how fast it goes.

use std::{fs, io::Write as _, net::SocketAddr, path::Path, thread, time::Duration};

use anyhow::{Result, ensure};
use defender_testbed::{
    flood::{Flood, FloodHandle, Kind as FloodKind},
    programs::Program,
    server::{self, Server},
    topology::{CLIENT_V4, CLIENT_V6, Options, SERVER_INTERFACE, Topology},
};

use crate::{
    harness::{
        Counts, clients_connect, counts_when, eventually,
        kernel::{Listener, kernel_counters, read_exactly, sockets},
        scripted_client::{KINDS, Wire},
        start_always,
        traffic::take_over,
        unseen,
    },
    regressions::{
        reuse::closed_by_server,
        sockets::{self as client_sockets, Before},
    },
};

/// The filter of the datapath is filled by then.
const FILTER_READY: Duration = Duration::from_secs(4);
/// Look-ups in the socket table that the datapath makes in a second on each CPU.
const BUDGET: u64 = 20_000;
const PACKETS: u64 = 200_000;

fn bed() -> Result<Topology> {
    Topology::with(&Options { client_end: Some(Program::Absorb), ..Options::default() })
}

fn flood(kind: FloodKind, server: &Server) -> Flood {
    Flood {
        max_packets: PACKETS,
        rate: Some(50_000),
        max_time: Duration::from_secs(30),
        ..Flood::new(kind, server.address())
    }
}

#[test]
fn a_flood_leaves_no_trace_in_the_kernel() -> Result<()> {
    for (v6, kind) in [(false, FloodKind::LinuxSyn), (true, FloodKind::WindowsSyn)] {
        let bed = bed()?;
        let address = if v6 { bed.server_v6(80) } else { bed.server_v4(80) };
        let server = Server::start(&bed.server, address)?;
        let defender = start_always(&bed, &[80])?;
        let (unseen_before, before) = (unseen(&bed, &defender)?, Counts::of(&defender)?);
        let kernel_before = kernel_counters(&bed.server)?;
        let handle = flood(kind, &server).start(&bed)?;
        handle.wait_until_running()?;
        clients_connect(&bed, server.address())?;
        ensure_no_syn_recv(&bed)?;
        let report = handle.wait()?;
        assert_eq!(report.sent, PACKETS);
        let kernel_after = kernel_counters(&bed.server)?;
        eventually("all that was received is counted", || Ok(unseen(&bed, &defender)? == unseen_before))?;
        let counts = &Counts::of(&defender)? - &before;
        assert!(counts.get("syn_received") > PACKETS / 10, "hardly anything arrived: {counts}");
        assert_eq!(counts.get("syn_challenged"), counts.get("syn_received"), "{counts}");
        assert_eq!(counts.get("handoff_established"), 50, "{counts}");
        counts.assert(&[("handoff_assigned", 50), ("syn_passed", 0)]);
        counts.assert_no_drops_but(&[]);
        let answers = bed.client_end().expect("set").counters()?;
        assert_eq!(answers.spoofed_others, 0);
        assert!(answers.spoofed_syn_acks + 50 <= counts.get("syn_challenged"), "more answers than SYNs");
        ensure_no_syn_recv(&bed)?;
        for name in [
            "TcpExtTCPReqQFullDrop",
            "TcpExtTCPReqQFullDoCookies",
            "TcpExtListenOverflows",
            "TcpExtListenDrops",
        ] {
            assert_eq!(kernel_before[name], kernel_after[name], "{name}");
        }
    }
    Ok(())
}

fn ensure_no_syn_recv(bed: &Topology) -> Result<()> {
    let sockets = sockets(&bed.server)?;
    ensure!(!sockets.contains_key("SYN-RECV"), "half-open connections in the kernel: {sockets:?}");
    Ok(())
}

#[test]
fn the_controller_dies_in_a_flood_and_another_takes_over() -> Result<()> {
    let bed = bed()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let first = start_always(&bed, &[80])?;
    let before = Counts::of(&first)?;
    let handle: FloodHandle<'_> =
        Flood { max_packets: 1_500_000, ..flood(FloodKind::LinuxSyn, &server) }.start(&bed)?;
    handle.wait_until_running()?;
    clients_connect(&bed, server.address())?;
    first.kill()?;
    clients_connect(&bed, server.address())?;
    let second = take_over(&bed, &first)?;
    clients_connect(&bed, server.address())?;
    ensure_no_syn_recv(&bed)?;
    handle.stop()?;
    let counts = counts_when(&second, &before, "every SYN that came is challenged", |counts| {
        counts.get("syn_challenged") == counts.get("syn_received")
    })?;
    counts.assert(&[("handoff_established", 150)]);
    counts.assert_no_drops_but(&[]);

    let pins = second.pin_root().to_owned();
    ensure!(second.stop()?.success());
    nothing_is_left(&bed, &pins)
}

/// In a heavy flood the datapath does not ask the socket table about each packet; it must know what is in there all
/// the same: a handshake begun before the flood, TIME_WAIT, connections this host opens.
#[test]
fn what_the_kernel_holds_is_found_in_a_flood() -> Result<()> {
    // One processor has one budget of look-ups, which the flood uses up. It comes before all else there, so that few
    // packets are lost.
    let bed = Topology::with(&Options { server_cpu: Some(0), urgent: true, ..Options::default() })?;
    let listeners =
        [Listener::new(&bed.server, bed.server_v4(80))?, Listener::new(&bed.server, bed.server_v6(80))?];
    let servers =
        [Server::start(&bed.server, bed.server_v4(81))?, Server::start(&bed.server, bed.server_v6(81))?];
    let shared = server::Options { reuse_port: true, ..server::Options::default() };
    let _open = [
        Server::with(&bed.server, bed.server_v4(82), shared)?,
        Server::with(&bed.server, bed.server_v6(82), shared)?,
    ];
    let away = [
        Listener::new(&bed.client, SocketAddr::new(CLIENT_V4.into(), 9000))?,
        Listener::new(&bed.client, SocketAddr::new(CLIENT_V6.into(), 9000))?,
    ];
    let wire = Wire::new(&bed)?;
    let mut waiting = Vec::new();
    let mut ended = Vec::new();
    for (server, listener) in servers.iter().zip(&listeners) {
        for kind in KINDS {
            waiting.push(wire.greeted(server.address(), kind)?);
            ended.push(closed_by_server(&wire, listener, kind)?);
        }
    }
    let defender = start_always(&bed, &[80, 81, 82])?;
    thread::sleep(FILTER_READY);
    let before = Counts::of(&defender)?;
    // Forged ACKs are not answered, so that the clients see nothing of the flood.
    // In long bursts, so that a source that has to wait for its processor falls behind less.
    let flood = Flood { max_packets: 6_000_000, burst: 32, ..Flood::new(FloodKind::Ack, bed.server_v4(80)) };
    let handle = Flood { rate: Some(100_000), max_time: Duration::from_secs(60), ..flood }.start(&bed)?;
    handle.wait_until_running()?;
    // Longer than a generation: what is known now is known from the socket table.
    thread::sleep(Duration::from_secs(6));
    for client in &mut waiting {
        client.insist_on_handshake()?;
    }
    for (client, listener) in ended.iter_mut().zip([0, 0, 1, 1].map(|family| &listeners[family])) {
        client.isn = client.isn.wrapping_add(1_000_000);
        client.insist_on_greeting()?;
        client.send(&[client.ack(), client.ack()])?;
        ensure!(listener.accept()?.peer_addr()? == client.from, "another client");
    }
    // From a port that is defended.
    let own = [bed.server_v4(82), bed.server_v6(82)];
    for (away, own) in away.iter().zip(own) {
        let before = Before { from: Some(own), ..Before::default() };
        let mut stream = client_sockets::connect(&bed.server, &before, away.address)?;
        stream.write_all(b"out")?;
        read_exactly(&mut away.accept()?, b"out")?;
    }
    let report = handle.stop()?;
    let most_looked_up = BUDGET * report.elapsed.as_secs();
    let counts = &Counts::of(&defender)? - &before;
    assert!(
        counts.get("drop.ack_bad_cookie") > most_looked_up.max(BUDGET),
        "no flood to speak of: {report:?}\n{counts}"
    );
    counts.assert(&[("syn_challenged", 0), ("handoff_assigned", 0)]);
    assert!(counts.get("pass.syn_known") >= 4, "{counts}");
    counts.assert_no_drops_but(&["drop.ack_bad_cookie"]);
    Ok(())
}

#[test]
fn sigterm_in_a_flood_leaves_nothing_behind() -> Result<()> {
    let bed = bed()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let handle = flood(FloodKind::LinuxSyn, &server).start(&bed)?;
    handle.wait_until_running()?;
    ensure!(defender.stop()?.success());
    nothing_is_left(&bed, defender.pin_root())?;
    handle.stop()?;
    clients_connect(&bed, server.address()).map(drop)
}

/// No pins, no program on the interface, no files.
fn nothing_is_left(bed: &Topology, pins: &Path) -> Result<()> {
    ensure!(!pins.exists(), "{} is still there", pins.display());
    let link = bed.server.ip(&format!("-d link show {SERVER_INTERFACE}"))?;
    ensure!(!link.contains("prog/xdp"), "XDP is still attached: {link}");
    let run = Path::new("/run/defender");
    let name = pins.file_name().expect("a name").to_string_lossy().into_owned();
    if run.exists() {
        for entry in fs::read_dir(run)? {
            let entry = entry?.file_name();
            ensure!(!entry.to_string_lossy().contains(&name), "{} is left in /run", entry.display());
        }
    }
    Ok(())
}
