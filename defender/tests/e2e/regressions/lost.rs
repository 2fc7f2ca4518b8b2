//! The ACK that ends the handshake is lost, comes twice, or something else comes first.

use std::{io::Write as _, thread, time::Duration};

use anyhow::{Result, ensure};
use defender_testbed::{
    client,
    frame::flag,
    server::Server,
    topology::{Options, Topology},
};

use crate::harness::{
    CLIENT_PATIENCE, PATIENCE,
    kernel::{Listener, counted, read_exactly, servers, wait_for_sockets},
    scripted_client::{KINDS, Wire},
    start_always,
};

/// Longer than the hand-off remembers a connection.
const LATER: Duration = Duration::from_millis(1200);

#[test]
fn data_comes_first() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let (_, counts) = counted(&defender, || {
        for server in &servers {
            for kind in KINDS {
                wire.greeted(server.address(), kind)?.burst(&[], 1)?;
                let mut client = wire.greeted(server.address(), kind)?;
                let pieces = [b"one", b"two", b"six"];
                let frames =
                    [0, 3, 6].map(|at| client.data(at, pieces[at as usize / 3]).flags(flag::ACK | flag::PSH));
                client.send(&frames)?;
                client.until_echoed(b"onetwosix", 0, 0)?;
            }
        }
        Ok(())
    })?;
    counts.assert(&[
        ("syn_challenged", 8),
        ("ack_accepted", 8),
        ("handoff_assigned", 8),
        ("handoff_repeated", 0),
        ("handoff_established", 8),
    ]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

/// GRO holds segments back to merge them, but not those with PSH: the first of them must not be overtaken.
#[test]
fn data_that_is_merged_comes_first() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let (_, counts) = counted(&defender, || {
        for server in &servers {
            for kind in KINDS {
                for pieces in [2, 3, 4, 5, 6, 20] {
                    wire.greeted(server.address(), kind)?.burst(&[], pieces)?;
                }
            }
        }
        Ok(())
    })?;
    counts.assert(&[("syn_challenged", 24), ("handoff_assigned", 24), ("handoff_established", 24)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn the_end_comes_first() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let (_, counts) = counted(&defender, || {
        for kind in KINDS {
            let mut client = wire.greeted(server.address(), kind)?;
            client.send(&[client.fin(0)])?;
            client.until("the end", |got| got.acknowledged == 1 && got.end)?;
            let mut client = wire.greeted(server.address(), kind)?;
            client.send(&[client.data(0, b"last words").flags(flag::ACK | flag::FIN)])?;
            client.until("the end", |got| got.acknowledged == 11 && got.data == b"+last words" && got.end)?;
        }
        wait_for_sockets(&bed.server, &[])
    })?;
    counts.assert(&[("handoff_assigned", 4), ("handoff_established", 4)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn the_ack_comes_twice() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let (_, counts) = counted(&defender, || {
        for kind in KINDS {
            let mut client = wire.greeted(server.address(), kind)?;
            let ack = client.ack();
            client.finish_handshake()?;
            client.send(std::slice::from_ref(&ack))?;
            thread::sleep(LATER);
            client.send(&[ack])?;
            client.talk()?;
        }
        wait_for_sockets(&bed.server, &[("ESTAB", 2)])
    })?;
    counts.assert(&[("ack_accepted", 2), ("handoff_assigned", 2), ("handoff_established", 2)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

/// A SYN that is repeated gets another SYN-ACK; the client may answer either.
#[test]
fn the_syn_comes_twice() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let (_, counts) = counted(&defender, || {
        for kind in KINDS {
            let mut client = wire.greeted(server.address(), kind)?;
            let first = client.ack();
            client.greet()?;
            client.send(&[first])?;
            client.until("the greeting", |got| got.data == b"+")?;
            client.talk()?;
        }
        Ok(())
    })?;
    counts.assert(&[("syn_challenged", 4), ("handoff_assigned", 2), ("handoff_established", 2)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

/// A real client whose ACK is lost sends its first data as one large packet, merged, with its checksum pending or not.
#[test]
fn merged_data_comes_first() -> Result<()> {
    for checksum_offload in [true, false] {
        let bed = Topology::with(&Options { checksum_offload, ..Options::default() })?;
        for address in [bed.server_v4(80), bed.server_v6(80)] {
            let listener = Listener::new(&bed.server, address)?;
            let defender = start_always(&bed, &[80])?;
            let (_, counts) = counted(&defender, || connect_without_ack(&bed, &listener))?;
            counts.assert(&[("syn_challenged", 1), ("handoff_assigned", 1), ("handoff_established", 1)]);
            counts.assert_no_drops_but(&[]);
        }
    }
    Ok(())
}

fn connect_without_ack(bed: &Topology, listener: &Listener) -> Result<()> {
    // Segments that carry nothing are short.
    let rules = "add table inet lossy
        add chain inet lossy out { type filter hook output priority 0; }
        add rule inet lossy out tcp dport 80 tcp flags == ack meta length < 100 counter drop\n";
    nft(bed, rules)?;
    let from = bed.fresh_client(listener.address);
    let mut stream = client::connect_from(&bed.client, Some(from), listener.address, CLIENT_PATIENCE)?;
    ensure!(listener.accepted()?.is_none(), "the ACK was not lost");
    let bytes: Vec<u8> = (0..10_000_u32).map(|at| (at % 251) as u8).collect();
    stream.write_all(&bytes)?;
    let mut accepted = listener.accept()?;
    read_exactly(&mut accepted, &bytes)?;
    nft(bed, "delete table inet lossy\n")?;
    accepted.set_write_timeout(Some(PATIENCE))?;
    accepted.write_all(&bytes)?;
    read_exactly(&mut stream, &bytes)
}

fn nft(bed: &Topology, commands: &str) -> Result<()> {
    let status = bed.client.command("nft")?.arg(commands).status()?;
    ensure!(status.success(), "nft failed");
    Ok(())
}
