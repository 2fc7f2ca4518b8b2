//! Who answers spoofed SYNs sends packets to people who never asked: one for each SYN, no longer than the kernel's
//! own, and not too many to one network.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    capture::Capture,
    flood::{Flood, Kind, Range},
    frame::{ParsedFrame, TcpFrame, flag},
    programs::Program,
    server::Server,
    topology::{CLIENT_INTERFACE, Options, Topology},
};

use crate::harness::{
    Counts, PATIENCE, connect_in_flood, counts_when,
    kernel::{counted, servers, set_mode},
    scripted_client::{ClientKind, KINDS, QUIET, Wire},
    start, start_always, talk, wait_active,
};

const LINUX: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 77, 0, 0, 0, 0, 1, 3, 3, 7];
const WINDOWS: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2];
const SYN: u8 = flag::SYN;
const ECN_SYN: u8 = flag::SYN | flag::ECE | flag::CWR;

/// SYNs of many makes: options, flags, bytes of data.
const SYNS: [(&[u8], u8, usize); 16] = [
    (&[], SYN, 0),
    (&[2, 4, 2, 0x18], SYN, 0),
    (&[2, 4, 0xff, 0xff], SYN, 0),
    (&[4, 2], SYN, 0),
    (&[3, 3, 14], SYN, 0),
    (&[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0], SYN, 0),
    (&[3, 3, 7, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0], SYN, 0),
    (LINUX, SYN, 0),
    (LINUX, ECN_SYN, 0),
    (LINUX, SYN, 1000),
    (WINDOWS, SYN, 0),
    (WINDOWS, ECN_SYN, 0),
    (WINDOWS, SYN, 100),
    // TCP Fast Open, MPTCP, an experiment.
    (&[2, 4, 5, 0xb4, 34, 2], SYN, 0),
    (&[2, 4, 5, 0xb4, 30, 4, 1, 1], SYN, 0),
    (&[2, 4, 5, 0xb4, 254, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], SYN, 0),
];

/// Sends each SYN from an address of its own; all that comes back, by SYN.
fn answers(wire: &Wire<'_>, capture: &Capture, server: &Server) -> Result<Vec<Vec<ParsedFrame>>> {
    capture.clear()?;
    let clients = SYNS.map(|_| wire.address(server.address()));
    let frames: Vec<_> = (SYNS.iter().zip(&clients))
        .map(|((options, flags, data), from)| {
            let frame = TcpFrame::new(*from, server.address()).flags(*flags).seq(1);
            frame.raw_options(options).payload(&vec![7; *data])
        })
        .collect();
    wire.send(&frames)?;
    let mut seen = Vec::new();
    while clients.iter().any(|client| !seen.iter().any(|seen: &ParsedFrame| seen.destination == *client)) {
        seen.push(capture.next_tcp(PATIENCE, |_| true)?.context("a SYN is not answered")?);
    }
    seen.extend(capture.tcp_until_quiet(QUIET)?);
    let to = |from| seen.iter().filter(|seen| seen.destination == from).cloned().collect();
    Ok(clients.map(to).into())
}

#[test]
fn one_answer_for_one_syn_and_none_longer_than_the_kernels() -> Result<()> {
    let bed = Topology::new()?;
    // The kernel answers once as well.
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 0)?;
    let servers = servers(&bed)?;
    let defender = start(&bed, &["--mode", "off"])?;
    let wire = Wire::new(&bed)?;
    let capture = Capture::incoming(&bed.client, CLIENT_INTERFACE)?;
    let kernel = [answers(&wire, &capture, &servers[0])?, answers(&wire, &capture, &servers[1])?];
    set_mode(&defender, "always")?;
    wait_active(&defender, 80)?;
    for (server, kernel) in servers.iter().zip(kernel) {
        let (ours, counts) = counted(&defender, || answers(&wire, &capture, server))?;
        counts.assert(&[("syn_challenged", ours.len() as u64)]);
        for (number, (ours, kernel)) in ours.iter().zip(&kernel).enumerate() {
            let ([ours], [kernel]) = (&ours[..], &kernel[..]) else {
                panic!("SYN {number}: not one answer each: {ours:?} and {kernel:?}");
            };
            assert!(ours.is(flag::SYN | flag::ACK) || ours.is(flag::SYN | flag::ACK | flag::ECE), "{ours:?}");
            assert!(ours.ip_length <= kernel.ip_length, "SYN {number}: {ours:?} is longer than {kernel:?}");
            assert!(ours.payload.is_empty());
        }
    }
    Ok(())
}

#[test]
fn the_rst_of_a_spoofed_source_is_dropped() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let (_, counts) = counted(&defender, || {
        for kind in KINDS {
            let client = wire.greeted(server.address(), kind)?;
            client.send(&[client.rst()])?;
            client.expect_silence()?;
        }
        Ok(())
    })?;
    counts.assert(&[("drop.rst_unknown", 2)]);
    counts.assert_no_drops_but(&["drop.rst_unknown"]);
    Ok(())
}

#[test]
fn one_network_gets_no_more_than_its_budget() -> Result<()> {
    const BUDGET: u64 = 100;
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let capture = Capture::incoming(&bed.client, CLIENT_INTERFACE)?;
    defender.ask(&["set", "reply_budget", &BUDGET.to_string()])?;
    let flood = Flood {
        source: Range::V4(Ipv4Addr::new(192, 0, 2, 0), 24),
        max_packets: 1000,
        rate: Some(20_000),
        ..Flood::new(Kind::LinuxSyn, server.address())
    };
    let before = Counts::of(&defender)?;
    let report = flood.run_to_end(&bed)?;
    let counts = counts_when(&defender, &before, "all that came is counted", |counts| {
        counts.get("syn_challenged") + counts.get("drop.syn_over_budget") == counts.get("syn_received")
    })?;
    let (answered, dropped) = (counts.get("syn_challenged"), counts.get("drop.syn_over_budget"));
    assert_eq!(answered + dropped, counts.get("syn_received"), "{counts}");
    assert!(counts.get("syn_received") > BUDGET * 5, "hardly anything arrived: {counts}");
    let seconds = 2 + report.elapsed.as_secs();
    assert!((BUDGET..=BUDGET * seconds).contains(&answered), "{counts} in {:?}", report.elapsed);
    let seen = capture.tcp_until_quiet(QUIET)?;
    assert_eq!(seen.len() as u64, answered, "what was counted is not what was sent");
    // Other networks do not suffer, nor does this one for long.
    wire.connected(server.address(), ClientKind::Linux)?.talk()?;
    thread::sleep(Duration::from_millis(2100));
    let before = Counts::of(&defender)?;
    flood_of_one(&flood, &bed)?;
    counts_when(&defender, &before, "it is answered", |counts| counts.get("syn_challenged") == 1)?;
    // The budget is no limit when it is 0.
    defender.ask(&["set", "reply_budget", "0"])?;
    let before = Counts::of(&defender)?;
    flood.run_to_end(&bed)?;
    let counts = counts_when(&defender, &before, "all that came is answered", |counts| {
        counts.get("syn_challenged") == counts.get("syn_received") && counts.get("syn_received") > 0
    })?;
    counts.assert(&[("drop.syn_over_budget", 0)]);
    Ok(())
}

fn flood_of_one(flood: &Flood, bed: &Topology) -> Result<()> {
    let report = Flood { max_packets: 1, ..*flood }.run_to_end(bed)?;
    ensure!(report.sent == 1);
    Ok(())
}

/// The budget counts networks, not addresses: a /64 is one.
#[test]
fn the_budget_counts_networks() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v6(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    defender.ask(&["set", "reply_budget", "10"])?;
    let capture = Capture::incoming(&bed.client, CLIENT_INTERFACE)?;
    let frames: Vec<_> = (1..=40_u16)
        .map(|number| {
            let network = if number <= 30 { 1 } else { 100 + number };
            let from = format!("[2001:db8:f:{network:x}::{number:x}]:2000").parse()?;
            Ok(TcpFrame::linux_syn(from, server.address(), 1))
        })
        .collect::<Result<_>>()?;
    let (_, counts) = counted(&defender, || wire.send(&frames))?;
    let seen = capture.tcp_until_quiet(QUIET)?;
    let answered: HashSet<_> = seen.iter().map(|seen| seen.destination).collect();
    assert!(frames_answered(&answered, 31..=40), "another network was not answered: {answered:?}");
    assert!((20..=30).contains(&answered.len()), "10 or 20 of the one network, and 10 others: {counts}");
    counts.assert(&[
        ("syn_challenged", answered.len() as u64),
        ("drop.syn_over_budget", 40 - answered.len() as u64),
    ]);
    Ok(())
}

fn frames_answered(answered: &HashSet<SocketAddr>, numbers: std::ops::RangeInclusive<u16>) -> bool {
    numbers.into_iter().all(|number| {
        answered.iter().any(|address| match address.ip() {
            IpAddr::V6(address) => address.segments()[7] == number,
            IpAddr::V4(_) => false,
        })
    })
}

/// A flood names a network in which real clients are as well. Each of them gets in, known or not, as with the kernel's own
/// cookies.
#[test]
fn clients_of_a_network_that_a_flood_names_get_in() -> Result<()> {
    const CLIENTS: u16 = 20;
    for mode in ["always", "auto"] {
        let bed = Topology::with(&Options { client_end: Some(Program::AbsorbFlood), ..Options::default() })?;
        // Kernels of clients retransmit, and what comes for the others of the network ends there.
        bed.client
            .ip_batch("route add local 198.19.0.0/25 dev lo\nroute add local 2001:db8:f::/96 dev lo\n")?;
        for server in servers(&bed)? {
            let (source, first) = if server.address().is_ipv4() {
                (Range::V4(Ipv4Addr::new(198, 19, 0, 128), 25), "198.19.0.1:0")
            } else {
                (Range::V6Network, "[2001:db8:f::1]:0")
            };
            let defender = start(&bed, &["--mode", mode])?;
            defender.wait_for_listener(80)?;
            let flood = Flood {
                source,
                max_packets: 2_000_000,
                rate: Some(50_000),
                max_time: Duration::from_secs(60),
                ..Flood::new(Kind::LinuxSyn, server.address())
            };
            let before = Counts::of(&defender)?;
            let handle = flood.start(&bed)?;
            counts_when(&defender, &before, "the flood is challenged", |counts| {
                counts.get("syn_challenged") > 20_000
            })?;
            for number in 0..CLIENTS {
                let mut from: SocketAddr = first.parse()?;
                from.set_ip(nth(from.ip(), number));
                let (mut stream, _) = connect_in_flood(&bed, from, server.address())?;
                talk(&mut stream)?;
            }
            handle.stop()?;
            let counts = &Counts::of(&defender)? - &before;
            counts.assert_none_but("drop.", &["drop.ack_bad_cookie", "drop.rst_unknown"]);
            ensure!(counts.get("handoff_established") >= u64::from(CLIENTS), "{counts}");
            ensure!(defender.stop()?.success());
        }
    }
    Ok(())
}

fn nth(first: IpAddr, number: u16) -> IpAddr {
    match first {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() + u32::from(number)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() + u128::from(number)).into(),
    }
}

/// Who has completed a handshake is answered beyond the budget, and uses nothing up of what the others have.
#[test]
fn known_sources_are_answered_beyond_the_budget() -> Result<()> {
    let bed = Topology::new()?;
    for server in servers(&bed)? {
        let defender = start_always(&bed, &[80])?;
        let wire = Wire::new(&bed)?;
        defender.ask(&["set", "reply_budget", "1"])?;
        let known = wire.connected(server.address(), ClientKind::Linux)?.from;
        let strangers: Vec<_> = (0..20)
            .map(|_| TcpFrame::linux_syn(wire.address(server.address()), server.address(), 1))
            .collect();
        let (_, counts) = counted(&defender, || {
            wire.send(&strangers)?;
            let mut again = known;
            for port in 1..=20 {
                again.set_port(40_000 + port);
                wire.client_at(again, server.address(), ClientKind::Linux)?.greet()?;
            }
            Ok(())
        })?;
        let dropped = counts.get("drop.syn_over_budget");
        assert!((10..=20).contains(&dropped), "{counts}");
        counts.assert(&[("syn_challenged", 40 - dropped)]);
        ensure!(defender.stop()?.success());
    }
    Ok(())
}
