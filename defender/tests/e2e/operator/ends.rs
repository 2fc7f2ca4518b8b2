//! However connections end, as many are counted to end as began.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{client, topology::Topology};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};

use crate::{
    harness::{CLIENT_PATIENCE, Counts, eventually, scripted_client::Wire, start, wait_active},
    operator::bed::{PORT, attack, topology},
};

/// How many of each kind.
const EACH: u64 = 3;

/// How a connection ends: what its client and its server do.
type End = fn(TcpStream, TcpStream) -> Result<()>;

const ENDS: [(&str, End); 9] = [
    ("the client closes", |client, mut server| {
        drop(client);
        until_end(&mut server)
    }),
    ("the server closes", |mut client, server| {
        drop(server);
        until_end(&mut client)
    }),
    ("both close", |client, server| {
        drop((client, server));
        Ok(())
    }),
    ("the server ends its side first and closes last", |mut client, mut server| {
        server.shutdown(Shutdown::Write)?;
        until_end(&mut client)?;
        drop(client);
        until_end(&mut server)
    }),
    ("the client ends its side first and closes last", |mut client, mut server| {
        client.shutdown(Shutdown::Write)?;
        until_end(&mut server)?;
        drop(server);
        until_end(&mut client)
    }),
    ("both end their sides, then close", |mut client, mut server| {
        client.shutdown(Shutdown::Write)?;
        server.shutdown(Shutdown::Write)?;
        until_end(&mut server)?;
        until_end(&mut client)
    }),
    ("the client resets", |client, mut server| {
        reset(client)?;
        let _ = server.read(&mut [0]);
        Ok(())
    }),
    ("the server resets", |mut client, server| {
        reset(server)?;
        let _ = client.read(&mut [0]);
        Ok(())
    }),
    ("the server has not read all", |mut client, server| {
        client.write_all(b"unread")?;
        server.peek(&mut [0])?;
        drop(server);
        let _ = client.read(&mut [0]);
        Ok(())
    }),
];

fn until_end(stream: &mut TcpStream) -> Result<()> {
    ensure!(stream.read(&mut [0])? == 0, "more data");
    Ok(())
}

/// Closes so that the other side gets a RST.
fn reset(stream: TcpStream) -> Result<()> {
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(stream);
    Ok(())
}

#[test]
fn in_monitor() -> Result<()> {
    all_end("monitor", |_, _| Ok(()))
}

#[test]
fn in_auto() -> Result<()> {
    all_end("auto", |_, _| Ok(()))
}

#[test]
fn in_auto_while_challenged() -> Result<()> {
    all_end("auto", attack)
}

#[test]
fn in_always() -> Result<()> {
    all_end("always", |_, _| Ok(()))
}

fn all_end(mode: &str, before: impl Fn(&Wire<'_>, SocketAddr) -> Result<()>) -> Result<()> {
    let bed = topology()?;
    bed.server.set_sysctl("net.core.somaxconn", 128)?;
    let wire = Wire::new(&bed)?;
    let addresses = [bed.server_v4(PORT), bed.server_v6(PORT)];
    let listeners = addresses.map(|address| bed.server.run(|| Ok(TcpListener::bind(address)?)));
    // From before: nobody saw it begin.
    let old = pair(&bed, listeners[0].as_ref().expect("it listens"), addresses[0])?;
    let defender = start(&bed, &["--mode", mode])?;
    defender.wait_for_listener(PORT)?;
    if mode == "always" {
        wait_active(&defender, PORT)?;
    }
    let begin = Counts::of(&defender)?;
    let mut number = 0;
    for (listener, address) in listeners.iter().zip(addresses) {
        let listener = listener.as_ref().expect("it listens");
        before(&wire, address)?;
        for (name, end) in ENDS {
            for _ in 0..EACH {
                let (client, server) = pair(&bed, listener, address)?;
                end(client, server).with_context(|| format!("{name}, {address}"))?;
                number += 1;
            }
            eventually(&format!("{name}, {address}"), || {
                let counts = &Counts::of(&defender)? - &begin;
                ensure!(counts.get("flows_ended") <= number, "{name}, {address}:\n{counts}");
                Ok(counts.get("flows_established") == number && counts.get("flows_ended") == number)
            })?;
        }
    }
    drop(old);
    let (client, server) = pair(&bed, listeners[0].as_ref().expect("it listens"), addresses[0])?;
    drop((client, server));
    eventually("the last one ends", || {
        let counts = &Counts::of(&defender)? - &begin;
        Ok(counts.get("flows_ended") == number + 1)
    })?;
    (&Counts::of(&defender)? - &begin).assert(&[("flows_established", number + 1), ("flows_no_room", 0)]);
    Ok(())
}

/// Both sides of a new connection.
fn pair(bed: &Topology, listener: &TcpListener, address: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let from = bed.fresh_client(address);
    let client = client::connect_from(&bed.client, Some(from), address, CLIENT_PATIENCE)?;
    let (server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    }
    Ok((client, server))
}
