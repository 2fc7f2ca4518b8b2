//! What the kernel's socket table holds goes to the kernel, whatever it is.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use defender_common::{
    abi::{MODE_ALWAYS, MODE_AUTO, MODE_MONITOR, MODE_OFF},
    verdict::Reason,
};
use defender_testbed::{
    client,
    frame::{Checksum, TcpFrame, flag},
    inject::Injector,
    netns::Namespace,
    topology::CLIENT_INTERFACE,
};

use super::{
    bed::Bed,
    frames::{ISN, LINUX4, address, at, client4, client6, server_of, syn_to},
    row::{Row, check_on, row},
    world::{DEAD, DUAL, UNKNOWN, World},
};

/// How long something may take that happens by itself, on a machine that is slow and does other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// States as /proc/net/tcp has them (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";
const SYN_RECV: &str = "03";
const TIME_WAIT: &str = "06";
const CLOSE_WAIT: &str = "08";

/// The client of a connection in each state, over IPv4 and IPv6.
fn clients(state: &str) -> [SocketAddr; 2] {
    let [v4, v6] = match state {
        ESTABLISHED => ["10.208.1.1", "2001:db8:c::1:1"],
        TIME_WAIT => ["10.208.1.2", "2001:db8:c::1:2"],
        CLOSE_WAIT => ["10.208.1.3", "2001:db8:c::1:3"],
        // Nobody's addresses: nobody resets what the server answers.
        _ => ["198.18.1.4", "2001:db8:f::1:4"],
    };
    [at(address(v4), 40_001), at(address(v6), 40_002)]
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, state) in [
        ("ESTABLISHED", ESTABLISHED),
        ("SYN_RECV", SYN_RECV),
        ("TIME_WAIT", TIME_WAIT),
        ("CLOSE_WAIT", CLOSE_WAIT),
    ] {
        for client in clients(state) {
            rows.extend(known(&format!("{name}, {}", client.ip()), client));
        }
    }
    let [established, _] = clients(ESTABLISHED);
    let beside = |ports| SocketAddr::new(established.ip(), established.port() + ports);
    rows.extend([
        row("a SYN from a port beside a connection's", syn_to(beside(1), DUAL)).challenged(LINUX4),
        row("an acknowledgement from a port beside a connection's", segment(beside(2), flag::ACK))
            .dropped(Reason::AckBadCookie),
    ]);
    rows
}

fn segment(client: SocketAddr, flags: u8) -> TcpFrame {
    TcpFrame::new(client, server_of(client, DUAL)).flags(flags).seq(7).ack(9).flags(flags)
}

/// The kernel judges, even where a stranger's would be dropped.
fn known(name: &str, client: SocketAddr) -> Vec<Row> {
    let row = |what: &str, frame: TcpFrame| row(format!("{name}: {what}"), frame);
    vec![
        row("a SYN", syn_to(client, DUAL)).passes(Reason::SynKnown),
        row("a SYN below a tag", syn_to(client, DUAL).vlan(8)).passes(Reason::SynKnown),
        row("a SYN with a wrong checksum", syn_to(client, DUAL).checksum(Checksum::Wrong))
            .passes(Reason::SynKnown),
        row("a SYN beyond a budget", syn_to(client, DUAL))
            .world(|world| world.config.reply_budget = 1)
            .passes(Reason::SynKnown),
        row("an acknowledgement", segment(client, flag::ACK)).passes(Reason::Connection),
        row("data", segment(client, flag::ACK | flag::PSH).payload(b"data")).passes(Reason::Connection),
        row("a FIN", segment(client, flag::ACK | flag::FIN)).passes(Reason::Connection),
        row("a RST", segment(client, flag::RST)).passes(Reason::Connection),
        row("a RST with ACK", segment(client, flag::RST | flag::ACK)).passes(Reason::Connection),
        row("a SYN-ACK", segment(client, flag::SYN | flag::ACK)).passes(Reason::Connection),
        row("flags no TCP sends", segment(client, flag::FIN | flag::URG)).passes(Reason::Connection),
    ]
}

/// Connections in each state; they last as long as this does.
struct Connections(#[expect(dead_code, reason = "held open")] Vec<TcpStream>);

impl Connections {
    fn new(bed: &Bed) -> Result<Self> {
        let mut streams = Vec::new();
        for family in [0, 1] {
            let (theirs, ours) = connect(bed, clients(TIME_WAIT)[family])?;
            // Who closes first waits.
            drop(ours);
            wait_until_closed_by_peer(&theirs)?;
            drop(theirs);

            let (theirs, ours) = connect(bed, clients(CLOSE_WAIT)[family])?;
            theirs.shutdown(std::net::Shutdown::Write)?;
            streams.extend([theirs, ours]);

            let (theirs, ours) = connect(bed, clients(ESTABLISHED)[family])?;
            streams.extend([theirs, ours]);
        }
        let syns = clients(SYN_RECV).map(|client| syn_to(client, DUAL).seq(ISN).build());
        Injector::new(&bed.topology.client, CLIENT_INTERFACE)?.send(&syns)?;
        for state in [ESTABLISHED, SYN_RECV, TIME_WAIT, CLOSE_WAIT] {
            for client in clients(state) {
                wait_for_state(&bed.topology.server, client, state)?;
            }
        }
        Ok(Self(streams))
    }
}

/// A connection of a client: its end and the server's.
fn connect(bed: &Bed, client: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let server = server_of(client, DUAL);
    let theirs = client::connect_from(&bed.topology.client, Some(client), server, PATIENCE)?;
    let ours = within(PATIENCE, || bed.listeners.dual.accept().ok()).context("nothing to accept")?;
    Ok((theirs, ours.0))
}

fn wait_until_closed_by_peer(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    ensure!(std::io::Read::read(&mut &*stream, &mut [0])? == 0, "the server sent something");
    Ok(())
}

/// Waits until the server has the client's connection in this state.
fn wait_for_state(server: &Namespace, client: SocketAddr, state: &str) -> Result<()> {
    let port = format!(":{:04X}", client.port());
    let is_there = |table: &str| {
        table.lines().skip(1).any(|line| {
            let mut columns = line.split_whitespace().skip(2);
            columns.next().is_some_and(|remote| remote.ends_with(&port) && is_host(remote, client))
                && columns.next() == Some(state)
        })
    };
    let found = within(PATIENCE, || {
        let tables = server.run(|| {
            let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
            Ok(read("tcp")? + &read("tcp6")?)
        });
        tables.ok().filter(|tables| is_there(tables))
    });
    found.map(drop).with_context(|| format!("{client} is not in state {state}"))
}

/// Whether an address as /proc/net/tcp writes it ends like the client's: the last word, as it lies in memory.
fn is_host(remote: &str, client: SocketAddr) -> bool {
    let word = match client.ip() {
        std::net::IpAddr::V4(address) => address.octets(),
        std::net::IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
    };
    let word = format!("{:08X}", u32::from_ne_bytes(word));
    remote.split(':').next().is_some_and(|address| address.ends_with(&word))
}

fn within<T>(timeout: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = attempt() {
            return Some(value);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// SYNs to closed ports, and those of others, leave no trace in the filter: a flood of them would fill it.
#[test]
fn only_what_may_become_a_connection_is_noted() -> Result<()> {
    let mut bed = Bed::new()?;
    let elsewhere = |client: SocketAddr| {
        let other = if client.is_ipv4() { "10.203.0.9" } else { "2001:db8:0:1::9" };
        at(address(other), DUAL)
    };
    for client in [client4, client6] {
        let to = |port| server_of(client(), port);
        for (what, server, mode, noted) in [
            ("no service", to(UNKNOWN), MODE_AUTO, false),
            ("a listener that has gone", to(DEAD), MODE_ALWAYS, false),
            ("another host", elsewhere(client()), MODE_AUTO, false),
            ("challenged", to(DUAL), MODE_ALWAYS, false),
            ("calm", to(DUAL), MODE_AUTO, true),
            ("watched", to(DUAL), MODE_MONITOR, true),
            ("off, until somebody changes that", to(DUAL), MODE_OFF, true),
        ] {
            let client = client();
            let mut world = World::default();
            (world.config.filter_newest, world.config.filter_oldest) = (5, 5);
            world.services.iter_mut().for_each(|(_, service)| service.mode = mode);
            world.noted = vec![(client, server, 0)];
            bed.enter(&world)?;
            bed.run(&TcpFrame::linux_syn(client, server, ISN).build())?;
            let (bytes, _) = bed.noted()?;
            assert_eq!(bytes[0] != 0, noted, "{what}: {client} to {server}");
        }
    }
    Ok(())
}

#[test]
fn sockets() -> Result<()> {
    let mut bed = Bed::new()?;
    let _connections = Connections::new(&bed)?;
    check_on(&mut bed, &rows())
}
