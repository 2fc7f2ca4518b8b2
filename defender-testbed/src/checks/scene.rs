//! A server, the defender in front of it, and clients that check the options they were granted.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    client,
    controller::Controller,
    server::{self, GREETING, Server},
    tcp_info::TcpInfo,
    topology::Topology,
};
use serde_json::Value;

use super::CheckMachine;

/// The service's port.
pub(crate) const PORT: u16 = 80;

/// Time limit for anything, in emulation on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(50);

/// Default number of clients.
const CLIENTS: u64 = 5;

/// Servers of both families, without the defender at first.
pub(crate) struct CheckScene {
    pub(crate) bed: Topology,
    servers: [Server; 2],
}

/// The options that both ends of a connection agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Agreed {
    timestamps: bool,
    sack: bool,
    window_scaling: bool,
    send_scale: u8,
    receive_scale: u8,
    send_mss: u32,
}

impl Agreed {
    fn of(info: TcpInfo) -> Self {
        let TcpInfo { timestamps, sack, window_scaling, send_scale, receive_scale, send_mss, .. } = info;
        Self { timestamps, sack, window_scaling, send_scale, receive_scale, send_mss }
    }
}

/// A connection whose greeting has arrived.
pub(crate) struct GreetedConnection {
    stream: TcpStream,
    client: Agreed,
    server: Agreed,
}

impl GreetedConnection {
    /// Sends data and waits for its echo.
    pub(crate) fn talk(&mut self) -> Result<()> {
        self.stream.write_all(b"hello")?;
        let mut echo = [0; 5];
        self.stream.read_exact(&mut echo).context("a connection was cut")?;
        ensure!(&echo == b"hello", "the echo is {echo:?}");
        Ok(())
    }
}

impl CheckScene {
    pub(crate) fn new(bed: Topology) -> Result<Self> {
        // A small queue: a small flood fills it, and packets are expensive on emulated processors.
        let options = server::Options { backlog: 256, ..server::Options::default() };
        let servers = [bed.server_v4(PORT), bed.server_v6(PORT)]
            .map(|address| Server::with(&bed.server, address, options));
        let [v4, v6] = servers;
        Ok(Self { bed, servers: [v4?, v6?] })
    }

    /// Addresses of the servers, IPv4 first.
    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        [0, 1].map(|family| self.servers[family].address())
    }

    /// Starts the defender on the server's device. Waits until it knows both servers and is attached, since
    /// it answers earlier.
    pub(crate) fn defend(&self, machine: &CheckMachine, arguments: &[&str]) -> Result<Controller<'_>> {
        let device = self.bed.server_device();
        let defender = Controller::start(&self.bed.server, &machine.defender, device, arguments)?;
        eventually("the defender knows both servers", || Ok(services(&defender)?.len() == 2))?;
        eventually("the defender is attached", || Ok(xdp_mode(&defender)? != "none"))?;
        Ok(defender)
    }

    /// Connects from a fresh address and reads the greeting.
    pub(crate) fn connect(&self, to: SocketAddr) -> Result<GreetedConnection> {
        let from = self.bed.fresh_client(to);
        let mut stream = client::connect_from(&self.bed.client, Some(from), to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut greeting = [0];
        stream.read_exact(&mut greeting).with_context(|| format!("{to} does not greet"))?;
        ensure!(greeting == [GREETING], "the greeting is {greeting:?}");
        let client = Agreed::of(TcpInfo::of(&stream)?);
        let server = &self.servers[usize::from(to.is_ipv6())];
        let server = Agreed::of(server.wait_for(stream.local_addr()?, PATIENCE)?.info);
        Ok(GreetedConnection { stream, client, server })
    }

    /// A client's connection without the defender.
    pub(crate) fn undefended(&self, to: SocketAddr) -> Result<GreetedConnection> {
        self.connect(to).context("without the defender")
    }

    /// Clients connect, each with a cookie, and get the same options as without the defender.
    pub(crate) fn challenged(
        &self,
        defender: &Controller<'_>,
        to: SocketAddr,
        like: &GreetedConnection,
    ) -> Result<Vec<GreetedConnection>> {
        let before = CookieCounts::of(defender)?;
        let connections = self.connect_all(to).with_context(|| match CookieCounts::of(defender) {
            Ok(now) => format!("counted {}", now.since(&before)),
            Err(error) => format!("{error:#}"),
        })?;
        for connection in &connections {
            ensure!(connection.client == like.client, "{:?} instead of {:?}", connection.client, like.client);
            ensure!(
                connection.server == like.server,
                "at the server {:?} instead of {:?}",
                connection.server,
                like.server
            );
        }
        let mut counted = before.clone();
        eventually("each connection is established through a cookie", || {
            counted = CookieCounts::of(defender)?.since(&before);
            Ok(counted.established >= CLIENTS)
        })
        .with_context(|| format!("counted {counted}"))?;
        ensure!(counted.accepted >= CLIENTS && counted.challenged >= CLIENTS, "counted {counted}");
        Ok(connections)
    }

    fn connect_all(&self, to: SocketAddr) -> Result<Vec<GreetedConnection>> {
        let mut connections = Vec::new();
        for _ in 0..CLIENTS {
            let mut connection = self.connect(to)?;
            connection.talk()?;
            connections.push(connection);
        }
        Ok(connections)
    }
}

/// The counters that show that clients connected with cookies.
#[derive(Clone, Debug)]
pub(crate) struct CookieCounts {
    pub(crate) challenged: u64,
    pub(crate) accepted: u64,
    pub(crate) established: u64,
}

impl CookieCounts {
    pub(crate) fn of(defender: &Controller<'_>) -> Result<Self> {
        let statistics = defender.statistics()?;
        let counter = |name: &str| {
            statistics["counters"][name]
                .as_u64()
                .with_context(|| format!("the defender has no counter {name}"))
        };
        Ok(Self {
            challenged: counter("syn_challenged")?,
            accepted: counter("ack_accepted")?,
            established: counter("handoff_established")?,
        })
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            challenged: self.challenged - before.challenged,
            accepted: self.accepted - before.accepted,
            established: self.established - before.established,
        }
    }
}

impl std::fmt::Display for CookieCounts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { challenged, accepted, established } = self;
        write!(
            formatter,
            "syn_challenged {challenged}, ack_accepted {accepted}, handoff_established {established}"
        )
    }
}

/// The services on our port, from `stats --json`.
pub(crate) fn services(defender: &Controller<'_>) -> Result<Vec<Value>> {
    let statistics = defender.statistics()?;
    let services = statistics["services"].as_array().context("no services in the statistics")?;
    Ok(services.iter().filter(|service| service["port"] == PORT).cloned().collect())
}

/// How the program is attached: `native`, `generic` or `none`.
pub(crate) fn xdp_mode(defender: &Controller<'_>) -> Result<String> {
    let statistics = defender.statistics()?;
    let mode = statistics["interfaces"][0]["xdp_mode"].as_str();
    mode.map(str::to_owned).context("no interface in the statistics")
}

/// Waits until `condition` holds. `what` names it in the error.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        ensure!(Instant::now() < deadline, "not after {} s: {what}", PATIENCE.as_secs());
        thread::sleep(POLL);
    }
    Ok(())
}
