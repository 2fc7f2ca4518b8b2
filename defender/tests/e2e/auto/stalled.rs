//! An application that does not accept for a while: whoever would be served without the defender is served with it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    client,
    server::{self, GREETING},
    topology::Topology,
};

use crate::{
    auto::bed::{PORT, topology},
    harness::{PATIENCE, start, wait_active},
};

const BACKLOG: u32 = 128;
const CLIENTS: u32 = 300;
/// They come over so long a time, and the application wakes up after all of them have.
const COME: Duration = Duration::from_millis(2_500);
const STALL: Duration = Duration::from_secs(3);

/// Accepts nothing while it stalls, then everybody, and speaks first.
fn stalls(listener: TcpListener) -> impl FnOnce() -> Result<()> + Send {
    move || {
        thread::sleep(STALL);
        listener.set_nonblocking(false)?;
        let mut served = Vec::new();
        for _ in 0..CLIENTS {
            let (mut stream, _) = listener.accept()?;
            stream.write_all(&[GREETING])?;
            served.push(stream);
        }
        Ok(())
    }
}

/// A client that says nothing, and waits to be greeted.
fn greeted(bed: &Topology, to: SocketAddr, after: Duration) -> Result<TcpStream> {
    thread::sleep(after);
    let mut stream = client::connect_from(&bed.client, Some(bed.fresh_client(to)), to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0]).context("it is connected, and never greeted")?;
    Ok(stream)
}

fn everybody_is_served(mode: &str, address: impl Fn(&Topology) -> SocketAddr) -> Result<()> {
    let bed = topology()?;
    let address = address(&bed);
    for key in ["net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog"] {
        bed.server.set_sysctl(key, BACKLOG)?;
    }
    let options = server::Options { backlog: BACKLOG, ..server::Options::default() };
    let listener = bed.server.run(|| server::listen(address, options))?;
    let defender = start(&bed, &["--mode", mode])?;
    defender.wait_for_listener(PORT)?;
    if mode == "always" {
        wait_active(&defender, PORT)?;
    }
    thread::scope(|scope| {
        let application = scope.spawn(stalls(listener));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let bed = &bed;
                scope.spawn(move || greeted(bed, address, COME * number / CLIENTS))
            })
            .collect();
        let results: Vec<_> = clients.into_iter().map(|client| client.join().expect("no panic")).collect();
        let lost = results.iter().filter(|result| result.is_err()).count();
        let first = results.iter().find_map(|result| result.as_ref().err());
        ensure!(lost == 0, "{lost} of {CLIENTS} in mode {mode}, one: {:#}", first.context("an error")?);
        application.join().expect("no panic")
    })?;
    let told = defender.ask(&["events", "--json"])?;
    ensure!(told.is_empty(), "{told}");
    Ok(())
}

#[test]
fn everybody_is_served_after_a_stall_in_auto() -> Result<()> {
    everybody_is_served("auto", |bed| bed.server_v4(PORT))
}

#[test]
fn everybody_is_served_after_a_stall_in_auto_over_ipv6() -> Result<()> {
    everybody_is_served("auto", |bed| bed.server_v6(PORT))
}

#[test]
fn everybody_is_served_after_a_stall_in_always() -> Result<()> {
    everybody_is_served("always", |bed| bed.server_v4(PORT))
}

#[test]
fn everybody_is_served_after_a_stall_in_always_over_ipv6() -> Result<()> {
    everybody_is_served("always", |bed| bed.server_v6(PORT))
}
