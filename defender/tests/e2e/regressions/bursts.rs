//! Several segments of one connection in one NAPI poll: XDP and the hand-off see all of them before TCP sees the first.

use anyhow::Result;
use defender_testbed::{server::Server, topology::Topology};

use crate::harness::{
    kernel::{assert_in_order, counted, kernel_counters, servers},
    scripted_client::{KINDS, Wire},
    start_always,
};

#[test]
fn data_behind_the_ack_is_not_lost() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    for server in &servers {
        for kind in KINDS {
            let (_, counts) = counted(&defender, || {
                let mut client = wire.greeted(server.address(), kind)?;
                client.burst(&[client.ack()], 5)
            })?;
            // The ACK, and the first piece of data: both have the number that proves the cookie.
            counts.assert(&[
                ("syn_challenged", 1),
                ("ack_accepted", 2),
                ("handoff_assigned", 1),
                ("handoff_repeated", 1),
                ("handoff_established", 1),
                ("pass.cookie_recent", 4),
            ]);
            counts.assert_no_drops_but(&[]);
        }
    }
    Ok(())
}

/// GRO merges and orders packets whose metadata is the same; the others it lets overtake each other. Ten segments are
/// what a client may send at first.
#[test]
fn data_behind_the_ack_stays_in_order() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let _defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let before = kernel_counters(&bed.server)?;
    for kind in KINDS {
        for pieces in [2, 5, 10] {
            let mut client = wire.greeted(server.address(), kind)?;
            client.burst(&[client.ack()], pieces)?;
        }
    }
    assert_in_order(&bed.server, &before)?;
    Ok(())
}

/// What a Linux client sends when its ACK is lost, and what it sends when the server speaks first and it has nothing to
/// say: each time two segments or more carry the number that proves the cookie.
#[test]
fn what_carries_the_cookie_twice_is_handed_over_once() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    for server in &servers {
        for kind in KINDS {
            let (_, counts) = counted(&defender, || {
                let mut client = wire.greeted(server.address(), kind)?;
                let bytes = b"once";
                client.send(&[client.ack(), client.data(0, bytes)])?;
                client.until_echoed(bytes, 0, 0)?;

                let mut client = wire.greeted(server.address(), kind)?;
                client.send(&[client.ack(), client.fin(0)])?;
                client.until("its end to be acknowledged", |got| got.acknowledged == 1 && got.end)?;

                let mut client = wire.greeted(server.address(), kind)?;
                client.send(&[client.data(0, bytes), client.data(0, bytes), client.data(0, bytes)])?;
                client.until_echoed(bytes, 0, 0)?;

                let mut client = wire.greeted(server.address(), kind)?;
                client.send(&[client.ack(), client.ack(), client.ack()])?;
                client.until("the greeting", |got| got.data == b"+")?;
                client.talk()
            })?;
            counts.assert(&[
                ("syn_challenged", 4),
                ("handoff_assigned", 4),
                ("handoff_established", 4),
                ("handoff_repeated", 1 + 1 + 2 + 2),
            ]);
            counts.assert_no_drops_but(&[]);
            assert_eq!(server.take_accepted().len(), 4);
        }
    }
    Ok(())
}

#[test]
fn bursts_of_many_clients_mix() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let (_, counts) = counted(&defender, || wire.mixed_burst(&[server]))?;
    counts.assert(&[("syn_challenged", 10), ("handoff_assigned", 10), ("handoff_established", 10)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}
