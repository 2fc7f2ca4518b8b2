//! A challenged connection is new once: conntrack did not see the SYN-ACK, which was the reply to it.

use anyhow::Result;
use defender_testbed::topology::Topology;

use crate::{
    conntrack::rules::Firewall,
    harness::{
        eventually,
        kernel::{Listener, kernel_counters},
        scripted_client::{KINDS, QUIET, Wire},
        start_always,
    },
};

/// The client speaks first, and not at once.
#[test]
fn a_connection_is_new_once() -> Result<()> {
    let bed = Topology::new()?;
    let firewall = Firewall::new(&bed)?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let listener = Listener::new(&bed.server, address)?;
        let defender = start_always(&bed, &[80])?;
        let wire = Wire::new(&bed)?;
        for kind in KINDS {
            let before = firewall.counted("new")?;
            let segments = kernel_counters(&bed.server)?["TcpInSegs"];
            let mut client = wire.greeted(address, kind)?;
            client.send(&[client.ack()])?;
            let accepted = listener.accept()?;
            // As after any handshake, though nobody has said anything.
            eventually("conntrack takes it for established", || Ok(firewall.entry(client.from)?.assured))?;
            let entry = firewall.entry(client.from)?;
            assert!(entry.replied && entry.state == "ESTABLISHED", "{entry:?}");
            assert!(entry.seconds > 400_000, "{entry:?}");
            std::thread::sleep(QUIET);
            for offset in [0, 5, 10] {
                client.send(&[client.data(offset, b"hello")])?;
            }
            client.until("its data to be acknowledged", |got| got.acknowledged == 15)?;
            assert_eq!(firewall.counted("new")? - before, 1);
            // The copy of its ACK does not reach TCP.
            assert_eq!(kernel_counters(&bed.server)?["TcpInSegs"] - segments, 4);
            drop(accepted);
        }
        drop(defender);
    }
    Ok(())
}

/// With data in the same poll.
#[test]
fn a_connection_that_begins_with_a_burst_is_new_once() -> Result<()> {
    let bed = Topology::new()?;
    let firewall = Firewall::new(&bed)?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let listener = Listener::new(&bed.server, address)?;
        let _defender = start_always(&bed, &[80])?;
        let wire = Wire::new(&bed)?;
        for kind in KINDS {
            let before = firewall.counted("new")?;
            let mut client = wire.greeted(address, kind)?;
            client.send(&[client.ack(), client.data(0, b"hello"), client.data(5, b"world")])?;
            client.until("its data to be acknowledged", |got| got.acknowledged == 10)?;
            let _accepted = listener.accept()?;
            client.send(&[client.data(10, b"again")])?;
            client.until("its data to be acknowledged", |got| got.acknowledged == 15)?;
            assert_eq!(firewall.counted("new")? - before, 1);
        }
    }
    Ok(())
}

/// As `ufw limit` does: so many new connections of an address, and no more.
#[test]
fn limits_count_connections() -> Result<()> {
    let bed = Topology::new()?;
    let firewall = Firewall::new(&bed)?;
    firewall.load(
        "add set inet firewall v4 { type ipv4_addr; flags dynamic; timeout 1h; }
         add set inet firewall v6 { type ipv6_addr; flags dynamic; timeout 1h; }",
    )?;
    for (family, selector) in [("v4", "ip saddr"), ("v6", "ip6 saddr")] {
        firewall.add(&format!(
            "tcp dport 80 ct state new update @{family} {{ {selector} limit rate over 1/hour burst 6 packets }} drop"
        ))?;
    }
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let listener = Listener::new(&bed.server, address)?;
        let _defender = start_always(&bed, &[80])?;
        let wire = Wire::new(&bed)?;
        let mut from = wire.address(address);
        for number in 0..6 {
            from.set_port(30_000 + number);
            let mut client = wire.client_at(from, address, KINDS[usize::from(number) % 2])?;
            client.greet()?;
            client.send(&[client.ack()])?;
            let _accepted = listener.accept()?;
            std::thread::sleep(QUIET);
            client.send(&[client.data(0, b"hello")])?;
            client.until("its data to be acknowledged", |got| got.acknowledged == 5)?;
        }
        from.set_port(30_006);
        let mut client = wire.client_at(from, address, KINDS[0])?;
        client.greet()?;
        client.send(&[client.ack(), client.data(0, b"one too many")])?;
        client.expect_silence()?;
        assert!(listener.accepted()?.is_none(), "the limit does not hold");
    }
    Ok(())
}
