//! What is no connection to a service is not listed.

use std::{io::Write as _, net::SocketAddr, net::TcpStream};

use anyhow::Result;
use defender_testbed::{
    client,
    topology::{CLIENT_V4, CLIENT_V6},
};

use crate::{
    harness::{
        CLIENT_PATIENCE,
        kernel::{Listener, read_exactly, wait_for_sockets},
        start, wait_active,
    },
    states::bed::{Bed, list},
};

/// Both ends of a connection that works.
fn connect(bed: &Bed, listener: &Listener, from: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let mut client =
        client::connect_from(&bed.topology.client, Some(from), listener.address, CLIENT_PATIENCE)?;
    let mut accepted = listener.accept()?;
    client.write_all(b"there")?;
    read_exactly(&mut accepted, b"there")?;
    accepted.write_all(b"and back")?;
    read_exactly(&mut client, b"and back")?;
    Ok((client, accepted))
}

/// Connections of the server's host as a client, to port 9000 of the other side.
fn outgoing(bed: &Bed) -> Result<Vec<(TcpStream, TcpStream)>> {
    let topology = &bed.topology;
    let mut made = Vec::new();
    for address in [SocketAddr::new(CLIENT_V4.into(), 9000), SocketAddr::new(CLIENT_V6.into(), 9000)] {
        let listener = Listener::new(&topology.client, address)?;
        let mut stream = client::connect(&topology.server, address, CLIENT_PATIENCE)?;
        let mut accepted = listener.accept()?;
        stream.write_all(b"out")?;
        read_exactly(&mut accepted, b"out")?;
        made.push((stream, accepted));
    }
    Ok(made)
}

#[test]
fn only_connections_to_services_are_listed() -> Result<()> {
    for mode in ["monitor", "always"] {
        let bed = Bed::new()?;
        let topology = &bed.topology;
        let others = [
            Listener::new(&topology.server, topology.server_v4(81))?,
            Listener::new(&topology.server, topology.server_v6(81))?,
        ];
        let connect_all = || -> Result<Vec<_>> {
            let mut made = outgoing(&bed)?;
            for listener in &others {
                made.push(connect(&bed, listener, bed.fresh(listener.address))?);
            }
            Ok(made)
        };
        let before = connect_all()?;
        let defender = start(topology, &["--mode", mode, "--port", "80"])?;
        if mode == "always" {
            wait_active(&defender, 80)?;
        }
        let after = connect_all()?;
        wait_for_sockets(&topology.server, &[("ESTAB", before.len() + after.len())])?;
        assert!(list(topology, defender.pin_root())?.is_empty(), "{mode}");
        assert_eq!(defender.counter("flows_established")?, 0, "{mode}");
        assert_eq!(defender.counter("flows_opened")?, 0, "{mode}");
        let listener = &bed.listeners[0];
        let wanted = bed.fresh(listener.address);
        let _wanted = connect(&bed, listener, wanted)?;
        let listing = list(topology, defender.pin_root())?;
        assert_eq!(listing.keys().collect::<Vec<_>>(), [&wanted], "{mode}");
        drop((before, after));
        assert_eq!(defender.counter("flows_ended")?, 0, "{mode}");
    }
    Ok(())
}
