//! Segments in the same NAPI poll as the one that proves the cookie. All of a poll pass conntrack's first hook before the first
//! reaches the second, where its entry becomes one that others find.

use anyhow::Result;
use defender_testbed::{frame::flag, topology::Topology};

use crate::{
    conntrack::rules::Firewall,
    harness::{
        kernel::{assert_in_order, counted, kernel_counters, servers},
        scripted_client::{KINDS, Wire},
        start_always, unseen,
    },
};

/// The request, and the end of the client's side.
#[test]
fn a_request_in_one_burst_arrives() -> Result<()> {
    let bed = Topology::new()?;
    let firewall = Firewall::new(&bed)?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let before = kernel_counters(&bed.server)?;
    let unseen_before = unseen(&bed, &defender)?;
    let (_, counts) = counted(&defender, || {
        for server in &servers {
            for kind in KINDS {
                let mut client = wire.greeted(server.address(), kind)?;
                client.send(&[
                    client.ack(),
                    client.data(0, &[1; 1000]),
                    client.data(1000, &[2; 1000]).flags(flag::ACK | flag::PSH),
                    client.fin(2000),
                ])?;
                client.until("all of it to be acknowledged", |got| got.acknowledged == 2001 && got.end)?;
            }
        }
        Ok(())
    })?;
    assert_eq!((firewall.clashes()?, firewall.counted("invalid")?), (0, 0));
    let after = kernel_counters(&bed.server)?;
    for name in ["TcpExtTCPOFOQueue", "TcpOutRsts"] {
        assert_eq!(after[name] - before[name], 0, "{name}");
    }
    counts.assert(&[("syn_challenged", 4), ("handoff_assigned", 4), ("handoff_established", 4)]);
    counts.assert_no_drops_but(&[]);
    assert_eq!(unseen(&bed, &defender)?, unseen_before);
    Ok(())
}

/// What carries the cookie more than once, with and without the ACK of the handshake; and a reset behind it.
#[test]
fn other_bursts_arrive() -> Result<()> {
    let bed = Topology::new()?;
    let firewall = Firewall::new(&bed)?;
    let servers = servers(&bed)?;
    let _defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    for server in &servers {
        for kind in KINDS {
            let mut client = wire.greeted(server.address(), kind)?;
            client.send(&[client.data(0, b"lost"), client.data(4, b"ack"), client.fin(7)])?;
            client.until("all of it to be acknowledged", |got| got.acknowledged == 8 && got.end)?;
            let mut client = wire.greeted(server.address(), kind)?;
            client.send(&[client.ack(), client.ack(), client.data(0, b"twice"), client.data(0, b"twice")])?;
            client.until_echoed(b"twice", 0, 0)?;
            let mut client = wire.greeted(server.address(), kind)?;
            client.send(&[client.ack(), client.fin(0)])?;
            client.until("its end to be acknowledged", |got| got.acknowledged == 1 && got.end)?;
            let client = wire.greeted(server.address(), kind)?;
            client.send(&[client.ack(), client.rst()])?;
        }
    }
    assert_eq!((firewall.clashes()?, firewall.counted("invalid")?), (0, 0));
    Ok(())
}

#[test]
fn bursts_of_many_clients_mix() -> Result<()> {
    let bed = Topology::new()?;
    let firewall = Firewall::new(&bed)?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let before = kernel_counters(&bed.server)?;
    let unseen_before = unseen(&bed, &defender)?;
    let (_, counts) = counted(&defender, || wire.mixed_burst(&servers))?;
    assert_eq!((firewall.clashes()?, firewall.counted("invalid")?), (0, 0));
    assert_in_order(&bed.server, &before)?;
    counts.assert(&[("syn_challenged", 10), ("handoff_assigned", 10), ("handoff_established", 10)]);
    counts.assert_no_drops_but(&[]);
    assert_eq!(unseen(&bed, &defender)?, unseen_before);
    Ok(())
}

/// More than the kernel keeps back for the end of a poll (`net.core.gro_normal_batch`, eight): it takes the first while others
/// are still to come to XDP.
#[test]
fn long_bursts_stay_in_order() -> Result<()> {
    let bed = Topology::new()?;
    let firewall = Firewall::new(&bed)?;
    let servers = servers(&bed)?;
    let _defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let before = kernel_counters(&bed.server)?;
    for server in &servers {
        for kind in KINDS {
            for pieces in [6, 7, 8, 9, 10, 15] {
                let mut client = wire.greeted(server.address(), kind)?;
                client.burst(&[client.ack()], pieces)?;
            }
        }
    }
    assert_in_order(&bed.server, &before)?;
    assert_eq!((firewall.clashes()?, firewall.counted("invalid")?), (0, 0));
    assert_eq!(firewall.counted("new")?, 24);
    Ok(())
}

/// Rules that let nobody in are not got round, by no segment of a burst. Once is enough: those behind the first wait for it in
/// vain.
#[test]
fn what_the_firewall_drops_stays_dropped() -> Result<()> {
    let bed = Topology::new()?;
    let firewall = Firewall::new(&bed)?;
    let servers = servers(&bed)?;
    let _defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    firewall.load("add counter inet firewall refused")?;
    firewall.add("tcp dport 80 ct state new counter name refused drop")?;
    let mut sent = 0;
    for server in &servers {
        for kind in KINDS {
            let client = wire.greeted(server.address(), kind)?;
            client.send(&[client.ack(), client.data(0, b"never"), client.fin(5)])?;
            client.expect_silence()?;
            client.send(&[client.data(0, b"never")])?;
            client.expect_silence()?;
            sent += 2;
            assert!(server.take_accepted().is_empty());
        }
    }
    assert_eq!((firewall.counted("refused")?, firewall.counted("new")?), (sent, 0));
    Ok(())
}
