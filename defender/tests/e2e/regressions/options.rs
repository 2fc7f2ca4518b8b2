//! Clients with more to say in their SYN than a cookie can hold.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use anyhow::Result;
use defender_testbed::{
    netns::Namespace,
    server::{GREETING, Server},
    topology::Topology,
};

use crate::{
    harness::{
        kernel::{Listener, counted, kernel_counters, read_exactly, servers, set_mode},
        start_always, wait_active,
    },
    regressions::sockets::{self, Before},
};

fn addresses(bed: &Topology) -> [SocketAddr; 2] {
    [bed.server_v4(80), bed.server_v6(80)]
}

#[test]
fn signed_connections_are_the_kernels() -> Result<()> {
    let bed = Topology::new()?;
    for address in addresses(&bed) {
        let listener = Listener::new(&bed.server, address)?;
        let from = bed.fresh_client(address);
        sockets::sign(listener.socket(), from, b"secret")?;
        let defender = start_always(&bed, &[80])?;
        let (_, counts) = counted(&defender, || {
            let before = Before { from: Some(from), key: Some(b"secret"), ..Before::default() };
            let mut stream = sockets::connect(&bed.client, &before, address)?;
            let mut accepted = listener.accept()?;
            stream.write_all(b"signed")?;
            read_exactly(&mut accepted, b"signed")?;
            accepted.write_all(b"sealed")?;
            read_exactly(&mut stream, b"sealed")
        })?;
        counts.assert(&[("pass.syn_signed", 1), ("syn_challenged", 0), ("handoff_assigned", 0)]);
        counts.assert_no_drops_but(&[]);
    }
    Ok(())
}

/// Connects and exchanges data, `fast_open` or not.
fn exchange(client: &Namespace, before: &Before<'_>, server: &Server) -> Result<()> {
    let mut stream = sockets::connect(client, before, server.address())?;
    stream.write_all(b"hello")?;
    let mut echo = [0; 6];
    stream.read_exact(&mut echo)?;
    assert_eq!(&echo, &[GREETING, b'h', b'e', b'l', b'l', b'o']);
    Ok(())
}

#[test]
fn fast_open_clients_connect() -> Result<()> {
    let bed = Topology::new()?;
    bed.client.set_sysctl("net.ipv4.tcp_fastopen", 1)?;
    let before = Before { fast_open: true, ..Before::default() };
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let (_, counts) = counted(&defender, || {
        // Each asks for a cookie of this kind, does not get one, asks again.
        servers.iter().chain(&servers).try_for_each(|server| exchange(&bed.client, &before, server))
    })?;
    counts.assert(&[("syn_challenged", 4), ("handoff_established", 4)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

/// The client has the server's fast-open cookie from before, and sends its first data with the SYN: the answer does not
/// acknowledge it, and the client sends it once more.
#[test]
fn fast_open_cookies_from_calm_do_no_harm() -> Result<()> {
    let bed = Topology::new()?;
    bed.client.set_sysctl("net.ipv4.tcp_fastopen", 1)?;
    bed.server.set_sysctl("net.ipv4.tcp_fastopen", 2)?;
    // The client remembers the cookie where it remembers routes.
    bed.client.set_sysctl("net.ipv4.tcp_no_metrics_save", 0)?;
    for address in addresses(&bed) {
        let listener = Listener::new(&bed.server, address)?;
        sockets::accept_fast_open(listener.socket())?;
        let defender = start_always(&bed, &[80])?;
        set_mode(&defender, "off")?;
        let before = Before { fast_open: true, ..Before::default() };
        let connect = || -> Result<()> {
            let mut stream = sockets::connect(&bed.client, &before, address)?;
            stream.write_all(b"first words")?;
            let mut accepted = listener.accept()?;
            read_exactly(&mut accepted, b"first words")?;
            accepted.write_all(b"understood")?;
            read_exactly(&mut stream, b"understood")
        };
        connect()?;
        connect()?;
        let unchallenged = kernel_counters(&bed.server)?;
        assert!(unchallenged["TcpExtTCPFastOpenPassive"] > 0, "the client does not use its cookie");
        set_mode(&defender, "always")?;
        wait_active(&defender, 80)?;
        let (_, counts) = counted(&defender, connect)?;
        counts.assert(&[("syn_challenged", 1), ("handoff_established", 1)]);
        counts.assert_no_drops_but(&[]);
    }
    Ok(())
}

#[test]
fn mptcp_clients_fall_back() -> Result<()> {
    let bed = Topology::new()?;
    let before = Before { mptcp: true, ..Before::default() };
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let (_, counts) =
        counted(&defender, || servers.iter().try_for_each(|server| exchange(&bed.client, &before, server)))?;
    counts.assert_connections(2);
    Ok(())
}

#[test]
fn ecn_is_agreed_on_where_the_kernel_would() -> Result<()> {
    let bed = Topology::new()?;
    bed.client.set_sysctl("net.ipv4.tcp_ecn", 1)?;
    // 2: where the client asks; 0: never.
    for (setting, agreed) in [(2, true), (1, true), (0, false)] {
        bed.server.set_sysctl("net.ipv4.tcp_ecn", setting)?;
        let servers = servers(&bed)?;
        let defender = start_always(&bed, &[80])?;
        let (_, counts) = counted(&defender, || {
            servers.iter().try_for_each(|server| exchange(&bed.client, &Before::default(), server))
        })?;
        counts.assert_connections(2);
        for accepted in servers.iter().flat_map(Server::accepted) {
            assert_eq!(accepted.info.ecn, agreed, "tcp_ecn={setting}: {accepted:?}");
        }
    }
    Ok(())
}
