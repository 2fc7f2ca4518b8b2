//! Entries of connections that the kernel has no more, in the way of a new one with the same addresses and ports.

use anyhow::Result;
use defender_testbed::{
    server::{Options, Server},
    topology::Topology,
};

use crate::{
    conntrack::rules::Firewall,
    harness::{
        kernel::{Listener, servers, set_mode, wait_for_sockets},
        scripted_client::{KINDS, Wire},
        start, start_always, wait_active,
    },
};

/// The client ended first, so the server's kernel keeps nothing; conntrack keeps it for two minutes.
#[test]
fn a_port_is_used_again_while_conntrack_waits() -> Result<()> {
    for begun in ["off", "always"] {
        let bed = Topology::new()?;
        let firewall = Firewall::new(&bed)?;
        let servers = servers(&bed)?;
        let defender = start(&bed, &["--mode", begun])?;
        let wire = Wire::new(&bed)?;
        for server in &servers {
            for kind in KINDS {
                set_mode(&defender, begun)?;
                if begun == "always" {
                    wait_active(&defender, 80)?;
                }
                let mut client = wire.connected(server.address(), kind)?;
                client.close()?;
                wait_for_sockets(&bed.server, &[])?;
                assert_eq!(firewall.entry(client.from)?.state, "TIME_WAIT");
                set_mode(&defender, "always")?;
                wait_active(&defender, 80)?;
                let from = client.from;
                drop(client);
                let mut client = wire.client_at(from, server.address(), kind)?;
                client.isn = client.isn.wrapping_add(10_000_000);
                client.greet()?;
                client.burst(&[client.ack()], 3)?;
                assert_eq!(firewall.entry(from)?.state, "ESTABLISHED");
                client.close()?;
                wait_for_sockets(&bed.server, &[])?;
            }
        }
        assert_eq!((firewall.clashes()?, firewall.counted("invalid")?), (0, 0), "{begun}");
    }
    Ok(())
}

/// As a flood begins: the SYN passed, the kernel had no room for it, and the next one is challenged.
#[test]
fn a_syn_that_the_kernel_dropped_is_no_hindrance() -> Result<()> {
    let bed = Topology::new()?;
    let firewall = Firewall::new(&bed)?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let listener = Listener::with(&bed.server, address, Options { backlog: 1, ..Options::default() })?;
        let defender = start(&bed, &["--mode", "off"])?;
        let wire = Wire::new(&bed)?;
        for kind in KINDS {
            set_mode(&defender, "off")?;
            // Two fill an accept queue of one.
            for _ in 0..2 {
                let client = wire.greeted(address, kind)?;
                client.send(&[client.ack()])?;
            }
            wait_for_sockets(&bed.server, &[("ESTAB", 2)])?;
            let mut client = wire.client(address, kind)?;
            client.send(&[client.syn()])?;
            client.expect_silence()?;
            assert_eq!(firewall.entry(client.from)?.state, "SYN_SENT");
            let waiting = [listener.accept()?, listener.accept()?];
            set_mode(&defender, "always")?;
            wait_active(&defender, 80)?;
            client.greet()?;
            client.send(&[client.ack(), client.data(0, b"at last")])?;
            let accepted = listener.accept()?;
            client.until("its data to be acknowledged", |got| got.acknowledged == 7)?;
            assert_eq!(firewall.entry(client.from)?.state, "ESTABLISHED");
            for stream in waiting.into_iter().chain([accepted]) {
                nix::sys::socket::setsockopt(
                    &stream,
                    nix::sys::socket::sockopt::Linger,
                    &libc::linger { l_onoff: 1, l_linger: 0 },
                )?;
            }
            wait_for_sockets(&bed.server, &[])?;
        }
    }
    assert_eq!((firewall.clashes()?, firewall.counted("invalid")?), (0, 0));
    Ok(())
}

/// Nobody who cannot prove a cookie ends another's entry.
#[test]
fn entries_of_living_connections_stay() -> Result<()> {
    let bed = Topology::new()?;
    let firewall = Firewall::new(&bed)?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let _defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    for kind in KINDS {
        let mut client = wire.connected(server.address(), kind)?;
        client.talk()?;
        let before = firewall.entry(client.from)?;
        client.send(&[client.syn(), client.ack(), client.segment(77)])?;
        client.talk()?;
        let after = firewall.entry(client.from)?;
        assert_eq!((before.state, before.assured), (after.state, after.assured));
    }
    assert_eq!(firewall.counted("new")?, 2);
    Ok(())
}
