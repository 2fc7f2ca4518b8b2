//! Packets of connections that do not exist.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    flood::{Flood, Kind},
    frame::{TcpFrame, flag},
    interface,
    server::Server,
    topology::{Options, SERVER_INTERFACE, Topology},
};

use crate::harness::{
    Counts, counts_when,
    kernel::{counted, kernel_counters, servers, sockets, wait_for_sockets},
    scripted_client::{ClientKind, KINDS, Wire},
    start_always,
};

#[test]
fn forged_packets_are_dropped_and_make_no_socket() -> Result<()> {
    let bed = Topology::with(&Options {
        client_end: Some(defender_testbed::programs::Program::Absorb),
        ..Options::default()
    })?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    // Else some pass, and the kernel resets them (`forgotten.rs`).
    defender.ask(&["set", "out_of_state_budget", "0"])?;
    let before_all = kernel_counters(&bed.server)?;
    for server in &servers {
        for (kind, reason) in [
            (Kind::Ack, "drop.ack_bad_cookie"),
            (Kind::PlainAck, "drop.ack_bad_cookie"),
            (Kind::Rst, "drop.rst_unknown"),
            (Kind::SynAck, "drop.syn_ack_unknown"),
        ] {
            let flood = Flood {
                max_packets: 50_000,
                rate: Some(50_000),
                max_time: Duration::from_secs(10),
                ..Flood::new(kind, server.address())
            };
            let before = interface::statistics(&bed.server, SERVER_INTERFACE)?.rx_packets;
            let before_counts = Counts::of(&defender)?;
            flood.run_to_end(&bed)?;
            let counts =
                counts_when(&defender, &before_counts, "all that came is dropped, besides noise", |counts| {
                    let noise =
                        ["pass.not_tcp", "pass.not_ip", "pass.other_mac"].map(|name| counts.get(name));
                    counts.get(reason) + noise.iter().sum::<u64>() == counts.get("rx_packets")
                })
                .with_context(|| format!("{kind:?}"))?;
            let taken = interface::statistics(&bed.server, SERVER_INTERFACE)?.rx_packets - before;
            assert!(counts.get(reason) >= 10_000, "{kind:?}: hardly anything arrived: {counts}");
            assert!(counts.get("rx_packets") <= taken, "{kind:?}: {counts}");
            counts.assert(&[("ack_accepted", 0), ("handoff_assigned", 0), ("handoff_failed", 0)]);
            assert!(sockets(&bed.server)?.is_empty());
            assert!(server.take_accepted().is_empty());
        }
    }
    // Nothing went back, not even a RST.
    let answers = bed.client_end().expect("set").counters()?;
    assert_eq!(answers.spoofed(), 0, "{answers:?}");
    let after = kernel_counters(&bed.server)?;
    for name in ["TcpPassiveOpens", "TcpOutRsts", "TcpExtSyncookiesRecv", "TcpExtSyncookiesFailed"] {
        assert_eq!(before_all.get(name), after.get(name), "{name}");
    }
    Ok(())
}

/// Every bit counts: the numbers, the echoed timestamp's low bits, the addresses and ports.
#[test]
fn a_cookie_that_was_changed_is_refused() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let other = Server::start(&bed.server, bed.server_v4(81))?;
    let defender = start_always(&bed, &[80, 81])?;
    defender.ask(&["set", "out_of_state_budget", "0"])?;
    let wire = Wire::new(&bed)?;
    let mut sent = 0;
    let (_, counts) = counted(&defender, || {
        for kind in KINDS {
            let mut client = wire.greeted(server.address(), kind)?;
            let mut frames = Vec::new();
            for bit in 0..32 {
                frames.push(client.ack().seq((client.isn.wrapping_add(1)) ^ 1 << bit));
            }
            for bit in 0..31 {
                frames.push(client.ack().ack(client.syn_ack().seq.wrapping_add(1) ^ 1 << bit));
            }
            let own = client.ack();
            if let Some((_, echo)) = own_stamps(&own) {
                frames.extend([0, 1, 2, 3, 4].map(|bit| {
                    client.ack().options(&defender_testbed::frame::timestamp_options(1, echo ^ 1 << bit))
                }));
                frames.push(client.ack().raw_options(&[]));
            }
            for batch in frames.chunks(32) {
                client.send(batch)?;
            }
            sent += frames.len() as u64;
            client.expect_silence()?;
            ensure!(sockets(&bed.server)?.is_empty(), "a changed cookie made a socket");
            client.finish_handshake()?;
            client.close()?;
        }
        // A cookie for one port is none for another.
        let client = wire.greeted(server.address(), ClientKind::Linux)?;
        let stranger = wire.client_at(client.from, other.address(), ClientKind::Linux)?;
        let frame = TcpFrame::new(client.from, other.address())
            .seq(client.isn.wrapping_add(1))
            .ack(client.syn_ack().seq.wrapping_add(1))
            .flags(flag::ACK);
        stranger.send(&[frame])?;
        sent += 1;
        stranger.expect_silence()
    })?;
    counts.assert(&[("ack_accepted", 2), ("ack_rejected", sent), ("handoff_assigned", 2)]);
    counts.assert_no_drops_but(&["drop.ack_bad_cookie"]);
    Ok(())
}

/// The timestamps of a frame of ours.
fn own_stamps(frame: &TcpFrame) -> Option<(u32, u32)> {
    defender_testbed::frame::ParsedFrame::parse(&frame.build())?.options.timestamps
}

/// Within a cookie's lifetime its ACK can be sent again once the connection is over: the kernel then gets a connection that the
/// client knows nothing of. The kernel's own SYN cookies do the same. Only who saw the ACK can do it, and once for
/// each ACK seen and not for each packet.
#[test]
fn a_replayed_ack_makes_one_connection_at_most() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let mut client = wire.greeted(server.address(), ClientKind::Linux)?;
    let ack = client.ack();
    client.finish_handshake()?;
    client.close()?;
    wait_for_sockets(&bed.server, &[])?;
    let (_, counts) = counted(&defender, || {
        // While the hand-off remembers the connection it is not handed over again.
        std::thread::sleep(Duration::from_millis(200));
        client.send(&[ack.clone(), ack.clone(), ack])?;
        wait_for_sockets(&bed.server, &[("ESTAB", 1)])?;
        // The client's kernel would say so.
        client.send(&[client.rst().seq(client.isn.wrapping_add(1))])?;
        wait_for_sockets(&bed.server, &[])
    })?;
    counts.assert(&[("handoff_assigned", 1), ("handoff_repeated", 2), ("handoff_established", 1)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

/// Flags no TCP sends, to a listener.
#[test]
fn odd_flags_are_dropped() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let client = wire.client(server.address(), ClientKind::Linux)?;
    let odd = [
        0,
        flag::FIN,
        flag::PSH,
        flag::URG | flag::PSH | flag::FIN,
        flag::SYN | flag::FIN,
        flag::SYN | flag::RST,
    ];
    let (_, counts) = counted(&defender, || {
        client.send(&odd.map(|flags| TcpFrame::new(client.from, client.to).seq(1).flags(flags)))?;
        client.expect_silence()
    })?;
    let dropped = counts.get("drop.bad_flags") + counts.get("drop.rst_unknown");
    assert_eq!(dropped, odd.len() as u64, "{counts}");
    counts.assert(&[("syn_challenged", 0)]);
    Ok(())
}
