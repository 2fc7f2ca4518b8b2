//! Nothing that was established is ever cut.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    thread,
};

use anyhow::{Result, ensure};
use defender::dataplane::{maps::Maps, pins::PinRoot};
use defender_common::abi::MODE_ALWAYS;
use defender_testbed::{
    cleanup::Guard,
    client,
    server::{self, Server},
    topology::{CLIENT_V4, CLIENT_V6, SERVER_V4, SERVER_V6, Topology},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    harness::{
        CLIENT_PATIENCE, eventually,
        kernel::{Listener, counted, read_exactly, servers, set_mode, wait_for_sockets},
        scripted_client::{KINDS, ScriptedClient, Wire},
        start, start_always,
        traffic::{Traffic, take_over},
        unseen, wait_active,
    },
    regressions::sockets::{self, Before},
};

#[test]
fn connections_survive_all_that_is_done_to_the_defender() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let before = Traffic::start(&bed, &servers)?;

    let first = start_always(&bed, &[80])?;
    before.flows()?;
    let during = Traffic::start(&bed, &servers)?;
    for mode in ["monitor", "off", "auto", "always"] {
        set_mode(&first, mode)?;
        before.flows()?;
        during.flows()?;
    }
    wait_active(&first, 80)?;
    first.kill()?;
    before.flows()?;
    during.flows()?;
    let alone = Traffic::start(&bed, &servers)?;

    let second = take_over(&bed, &first)?;
    for traffic in [&before, &during, &alone] {
        traffic.flows()?;
    }
    second.ask(&["detach"])?;
    for traffic in [&before, &during, &alone] {
        traffic.flows()?;
    }
    // On a veth, attaching and detaching the XDP program itself may lose what is in the ring.
    for traffic in [before, during, alone] {
        traffic.end()?;
    }
    Ok(())
}

/// Cookies that are on their way when the defender is told to end: it stops challenging, waits a moment, and goes.
#[test]
fn the_last_cookies_are_accepted_while_the_defender_leaves() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let mut clients = Vec::new();
    for server in &servers {
        for kind in KINDS {
            clients.push(wire.greeted(server.address(), kind)?);
        }
    }
    let acks: Vec<_> = clients.iter().map(ScriptedClient::ack).collect();
    let maps = Maps::open(&PinRoot::new(defender.pin_root())?)?;
    let process = Pid::from_raw(defender.id() as i32);
    thread::scope(|scope| {
        let leaving = scope.spawn(|| defender.stop());
        eventually("it challenges no more", || is_normal(&maps))?;
        // The moment lasts until the clients are served, however long they take.
        kill(process, Signal::SIGSTOP)?;
        let go_on = Guard::new(move || {
            let _ = kill(process, Signal::SIGCONT);
        });
        ensure!(defender.pin_root().exists(), "it is gone already");
        wire.send(&acks)?;
        for client in &mut clients {
            client.until("the greeting", |got| got.data == b"+")?;
        }
        drop(go_on);
        ensure!(leaving.join().expect("no panic")?.success());
        clients.iter_mut().try_for_each(ScriptedClient::talk)
    })
}

/// Whether no service is challenged.
fn is_normal(maps: &Maps) -> Result<bool> {
    let services = (1..maps.services.len()).map(|id| maps.services.get(id));
    let services = services.collect::<Result<Vec<_>>>()?;
    Ok(services.iter().all(|service| service.mode != MODE_ALWAYS))
}

/// The new program takes the place of the old one in its link: every packet is seen by one of them.
#[test]
fn a_takeover_misses_no_packet() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let first = start_always(&bed, &[80])?;
    let unseen_before = unseen(&bed, &first)?;
    let traffic = Traffic::start(&bed, &servers)?;
    // All of them live as long as the test: each removes the pins when it goes.
    let mut controllers = vec![first];
    for _ in 0..3 {
        let last = controllers.last().expect("the first at least");
        last.kill()?;
        let next = take_over(&bed, last)?;
        traffic.flows()?;
        controllers.push(next);
    }
    // A machine that is busy for a moment makes TCP probe (RFC 8985, section 7), so that segments that were repeated say
    // nothing; that none was missed is counted below.
    traffic.end()?;
    eventually("every packet is counted", || Ok(unseen(&bed, &controllers[3])? == unseen_before))
}

#[test]
fn what_this_host_opens_is_left_alone() -> Result<()> {
    let bed = Topology::new()?;
    let options = server::Options { reuse_port: true, ..server::Options::default() };
    let pairs = [
        (SocketAddr::new(SERVER_V4.into(), 80), SocketAddr::new(CLIENT_V4.into(), 9000)),
        (SocketAddr::new(SERVER_V6.into(), 80), SocketAddr::new(CLIENT_V6.into(), 9000)),
    ];
    for (own, other) in pairs {
        let _protected = Server::with(&bed.server, own, options)?;
        let defender = start_always(&bed, &[80])?;
        let listener = Listener::new(&bed.client, other)?;
        let (_, counts) = counted(&defender, || {
            for from in [SocketAddr::new(own.ip(), 0), own] {
                let before = Before { from: Some(from), ..Before::default() };
                let mut stream = sockets::connect(&bed.server, &before, other)?;
                let mut accepted = listener.accept()?;
                stream.write_all(b"out")?;
                read_exactly(&mut accepted, b"out")?;
                accepted.write_all(b"and back")?;
                read_exactly(&mut stream, b"and back")?;
            }
            Ok(())
        })?;
        // All that came back to port 80 belongs to a connection of this host's own.
        assert!(counts.get("pass.connection") >= 3, "{counts}");
        counts.assert(&[("syn_received", 0), ("ack_accepted", 0)]);
        counts.assert_no_drops_but(&[]);
    }
    Ok(())
}

#[test]
fn rst_and_fin_of_a_connection_reach_it() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let early_wire = Wire::new(&bed)?;
    let mut early = Vec::new();
    for server in &servers {
        for kind in KINDS {
            early.push(early_wire.connected(server.address(), kind)?);
            early.push(early_wire.connected(server.address(), kind)?);
        }
    }
    let defender = start_always(&bed, &[80])?;
    let (_, counts) = counted(&defender, || {
        let mut clients = early;
        for server in &servers {
            for kind in KINDS {
                clients.push(early_wire.connected(server.address(), kind)?);
                clients.push(early_wire.connected(server.address(), kind)?);
            }
        }
        wait_for_sockets(&bed.server, &[("ESTAB", 16)])?;
        for pair in clients.chunks_mut(2) {
            pair[0].send(&[pair[0].rst()])?;
            pair[1].close()?;
        }
        wait_for_sockets(&bed.server, &[])
    })?;
    counts.assert(&[("handoff_established", 8)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn bulk_data_flows_through_a_connection_that_was_challenged() -> Result<()> {
    let bed = Topology::new()?;
    let listener = Listener::new(&bed.server, bed.server_v4(80))?;
    let defender = start(&bed, &["--mode", "always"])?;
    wait_active(&defender, 80)?;
    let from = bed.fresh_client(listener.address);
    let mut stream = client::connect_from(&bed.client, Some(from), listener.address, CLIENT_PATIENCE)?;
    let mut accepted = listener.accept()?;
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
    let expected = bytes.clone();
    let sender = thread::spawn(move || -> Result<()> { Ok(stream.write_all(&bytes)?) });
    let mut got = Vec::new();
    accepted.read_to_end(&mut got)?;
    sender.join().expect("no panic")?;
    assert!(got == expected, "{} bytes came, or others", got.len());
    Ok(())
}
