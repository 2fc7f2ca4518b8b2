//! Real connections, brought into a state and kept there; and what kernel and defender list.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use defender::{
    dataplane::{open_link::OpenLink, pins::PinRoot},
    report::connection_list::{self, Connection, STATES},
};
use defender_common::tcp_state::State;
use defender_testbed::{
    cleanup::Guard,
    client,
    controller::fresh_pin_root,
    topology::{SERVER_INTERFACE, Topology},
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

use crate::harness::{CLIENT_PATIENCE, eventually, kernel::Listener, process, run};

/// The service's port.
pub(crate) const PORT: u16 = 80;

/// Whether the server's end has a process.
pub(crate) const OWNERS: [Owner; 2] = [Owner::Process, Owner::Nobody];

/// Who has the server's end of a connection that the server has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It was shut down for sending, and a process still has it.
    Process,
    /// It was closed: the kernel finishes it.
    Nobody,
}

/// A server that accepts on demand, for both families, and a client's end that drops packets on demand.
pub(crate) struct Bed {
    pub(crate) topology: Topology,
    pub(crate) listeners: Vec<Listener>,
    next_port: AtomicU16,
}

impl Bed {
    pub(crate) fn new() -> Result<Self> {
        let topology = Topology::new()?;
        let addresses = [topology.server_v4(PORT), topology.server_v6(PORT)];
        let listeners: Vec<_> = addresses
            .into_iter()
            .map(|address| Listener::new(&topology.server, address))
            .collect::<Result<_>>()?;
        let bed = Self { topology, listeners, next_port: AtomicU16::new(20_000) };
        bed.nft(&format!(
            "add table inet hold
             add set inet hold ports {{ type inet_service; }}
             add chain inet hold in {{ type filter hook input priority 0; }}
             add rule inet hold in tcp sport {PORT} tcp dport @ports drop
             add set inet hold lost {{ type inet_service; }}
             add chain inet hold out {{ type filter hook output priority 0; }}
             add rule inet hold out tcp dport {PORT} tcp sport @lost drop\n"
        ))?;
        Ok(bed)
    }

    fn nft(&self, commands: &str) -> Result<()> {
        let output = self.topology.client.command("nft")?.arg(commands).output()?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// An address and a port that no client had.
    pub(crate) fn fresh(&self, like: SocketAddr) -> SocketAddr {
        let mut address = self.topology.fresh_client(like);
        address.set_port(self.next_port.fetch_add(1, Ordering::Relaxed));
        address
    }

    /// From now on the client gets nothing of this connection any more.
    pub(crate) fn hold(&self, remote: SocketAddr) -> Result<()> {
        self.nft(&format!("add element inet hold ports {{ {} }}\n", remote.port()))
    }

    /// The client gets its packets again.
    pub(crate) fn release(&self, remote: SocketAddr) -> Result<()> {
        self.nft(&format!("delete element inet hold ports {{ {} }}\n", remote.port()))
    }

    /// From now on nothing that the client sends on this connection arrives.
    pub(crate) fn lose_from(&self, remote: SocketAddr) -> Result<()> {
        self.nft(&format!("add element inet hold lost {{ {} }}\n", remote.port()))
    }

    /// What the client sends arrives again.
    pub(crate) fn keep_from(&self, remote: SocketAddr) -> Result<()> {
        self.nft(&format!("delete element inet hold lost {{ {} }}\n", remote.port()))
    }

    /// An established connection.
    pub(crate) fn connect(&self, listener: &Listener) -> Result<Pair<'_>> {
        self.connect_from(self.fresh(listener.address), listener)
    }

    /// The same, from a given address.
    pub(crate) fn connect_from(&self, remote: SocketAddr, listener: &Listener) -> Result<Pair<'_>> {
        let to = listener.address;
        let client = client::connect_from(&self.topology.client, Some(remote), to, CLIENT_PATIENCE)?;
        let server = listener.accept()?;
        ensure!(server.peer_addr()? == remote, "somebody else connected");
        Ok(Pair { bed: self, client: Some(client), server: Some(server), remote })
    }

    /// A connection whose SYN-ACK is lost.
    pub(crate) fn half_open(&self, listener: &Listener) -> Result<Pair<'_>> {
        let remote = self.fresh(listener.address);
        self.hold(remote)?;
        let client = self.topology.client.run(|| begin(remote, listener.address))?;
        let pair = Pair { bed: self, client: Some(client), server: None, remote };
        pair.wait(State::SynRecv)?;
        Ok(pair)
    }

    /// A connection that is in this state and stays there.
    pub(crate) fn bring(&self, listener: &Listener, state: State, owner: Owner) -> Result<Pair<'_>> {
        if state == State::SynRecv {
            return self.half_open(listener);
        }
        let mut pair = self.connect(listener)?;
        pair.bring(state, owner).with_context(|| format!("{} cannot be brought", state.name()))?;
        Ok(pair)
    }

    /// The kernel's state of every connection to the service, by the client.
    pub(crate) fn kernel(&self) -> Result<BTreeMap<SocketAddr, State>> {
        let text = process::run(&self.topology.server, "ss", &format!("-Htan sport = :{PORT}"))?;
        let mut states = BTreeMap::new();
        for line in text.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            let state = STATES.into_iter().find(|state| fields[0] == ss_name(*state));
            if let Some(state) = state {
                states.insert(fields[4].parse().with_context(|| format!("no address: {line}"))?, state);
            }
        }
        Ok(states)
    }

    /// How many connections to the service the kernel has in each state, each counted by a command of its own.
    pub(crate) fn kernel_counts(&self) -> Result<BTreeMap<String, u64>> {
        kernel_counts(&self.topology)
    }

    /// Attaches the defender without a controller, so nothing corrects its tables.
    pub(crate) fn attach(&self, mode: &str) -> Result<Attachment<'_>> {
        Attachment::new(&self.topology, mode)
    }
}

/// How many connections to the service the kernel has in each state.
pub(crate) fn kernel_counts(bed: &Topology) -> Result<BTreeMap<String, u64>> {
    let count = |state: State| {
        let arguments = format!("-Htn state {} sport = :{PORT}", filter_name(state));
        let text = process::run(&bed.server, "ss", &arguments)?;
        Ok((state.name().to_owned(), text.lines().count() as u64))
    };
    STATES.into_iter().map(count).collect()
}

/// As `ss` prints a state.
fn ss_name(state: State) -> &'static str {
    match state {
        State::Established => "ESTAB",
        State::SynRecv => "SYN-RECV",
        State::FinWait1 => "FIN-WAIT-1",
        State::FinWait2 => "FIN-WAIT-2",
        State::CloseWait => "CLOSE-WAIT",
        State::Closing => "CLOSING",
        State::LastAck => "LAST-ACK",
        State::TimeWait => "TIME-WAIT",
        State::Close => "UNCONN",
    }
}

/// As `ss` takes a state.
fn filter_name(state: State) -> String {
    if state == State::Established { "established".into() } else { ss_name(state).to_lowercase() }
}

/// Connects in the namespace of the calling thread, and waits.
pub(crate) fn connect_here(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = new_socket(from, to, SockFlag::SOCK_CLOEXEC)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))
        .with_context(|| format!("cannot connect to {to}"))?;
    Ok(socket.into())
}

/// Begins to connect and does not wait.
fn begin(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = new_socket(from, to, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

fn new_socket(from: SocketAddr, to: SocketAddr, flags: SockFlag) -> Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, flags, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    Ok(socket)
}

/// Both ends of a connection.
pub(crate) struct Pair<'a> {
    bed: &'a Bed,
    pub(crate) client: Option<TcpStream>,
    pub(crate) server: Option<TcpStream>,
    pub(crate) remote: SocketAddr,
}

impl Pair<'_> {
    /// Brings an established connection into a state that it does not leave by itself.
    pub(crate) fn bring(&mut self, state: State, owner: Owner) -> Result<()> {
        match state {
            State::Established => {}
            State::CloseWait => self.close_client()?,
            State::FinWait1 => {
                self.bed.hold(self.remote)?;
                self.close_server(owner)?;
            }
            State::FinWait2 => self.close_server(owner)?,
            State::Closing => {
                self.bring(State::FinWait1, owner)?;
                self.close_client()?;
            }
            State::LastAck => {
                self.bring(State::CloseWait, owner)?;
                self.bed.hold(self.remote)?;
                self.close_server(owner)?;
            }
            State::TimeWait => {
                self.bring(State::FinWait2, owner)?;
                self.close_client()?;
            }
            State::SynRecv | State::Close => anyhow::bail!("no established connection gets there"),
        }
        self.wait(state)
    }

    /// Waits until the kernel has it in this state.
    pub(crate) fn wait(&self, state: State) -> Result<()> {
        let mut last = None;
        eventually("the kernel has the expected state", || {
            last = self.bed.kernel()?.get(&self.remote).copied();
            Ok(last == Some(state))
        })
        .with_context(|| format!("{} is in {last:?}, not {state:?}", self.remote))
    }

    /// Waits until the kernel has it no more.
    pub(crate) fn wait_gone(&self) -> Result<()> {
        eventually("the kernel forgets the connection", || Ok(!self.bed.kernel()?.contains_key(&self.remote)))
    }

    /// The client has nothing more to send.
    pub(crate) fn close_client(&self) -> Result<()> {
        Ok(self.client.as_ref().context("the client is gone")?.shutdown(Shutdown::Write)?)
    }

    /// The server has nothing more to send.
    pub(crate) fn close_server(&mut self, owner: Owner) -> Result<()> {
        match owner {
            Owner::Process => {
                self.server.as_ref().context("the server is gone")?.shutdown(Shutdown::Write)?;
            }
            Owner::Nobody => drop(self.server.take()),
        }
        Ok(())
    }

    /// The client resets.
    pub(crate) fn abort_client(&mut self) -> Result<()> {
        abort(self.client.take().context("the client is gone")?)
    }

    /// The server resets.
    pub(crate) fn abort_server(&mut self) -> Result<()> {
        abort(self.server.take().context("the server is gone")?)
    }
}

fn abort(stream: TcpStream) -> Result<()> {
    setsockopt(&stream.as_fd(), sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(stream);
    Ok(())
}

/// The defender, attached and left alone. Dropping it detaches.
pub(crate) struct Attachment<'a> {
    bed: &'a Topology,
    pins: PathBuf,
    _sweep: Guard,
}

impl<'a> Attachment<'a> {
    fn new(bed: &'a Topology, mode: &str) -> Result<Self> {
        let pins = fresh_pin_root();
        let _sweep = Guard::new({
            let pins = pins.clone();
            move || drop(fs::remove_dir_all(pins))
        });
        let output = run(bed, &pins, &["attach", "--iface", SERVER_INTERFACE, "--mode", mode])?;
        ensure!(output.status.success(), "attach: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { bed, pins, _sweep })
    }

    pub(crate) fn list(&self) -> Result<Listing> {
        list(self.bed, &self.pins)
    }

    /// One of its counters.
    pub(crate) fn counter(&self, name: &str) -> Result<u64> {
        let output = run(self.bed, &self.pins, &["stats", "--json"])?;
        let statistics: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        statistics["counters"][name].as_u64().with_context(|| format!("there is no counter {name}"))
    }

    /// Connections that the kernel remembers without a socket, in TIME_WAIT or FIN_WAIT2, by the client.
    pub(crate) fn without_socket(&self) -> Result<BTreeSet<SocketAddr>> {
        let text = process::run(&self.bed.server, "ss", &format!("-Htano sport = :{PORT}"))?;
        let lines = text.lines().filter(|line| line.contains("timer:(timewait,"));
        lines
            .map(|line| {
                let peer = line.split_whitespace().nth(4);
                peer.and_then(|peer| peer.parse().ok()).with_context(|| format!("no address: {line}"))
            })
            .collect()
    }

    /// How many runs of the tracepoint's program the kernel has skipped, because each would have interrupted another.
    pub(crate) fn skipped_runs(&self) -> Result<usize> {
        let link = OpenLink::from_pin(&PinRoot::new(&self.pins)?.sock_state())?;
        let id = link.about()?.program;
        let mut programs = loaded_programs().filter_map(Result::ok);
        let program =
            programs.find(|program| program.id() == id).context("the program is not loaded")?.fd()?;
        let number = program.as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{number}"))?;
        let misses = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
        Ok(misses.context("the kernel does not count skipped runs")?.trim().parse()?)
    }
}

/// Connections to services, by the client.
pub(crate) type Listing = BTreeMap<SocketAddr, Connection>;

/// What the defender with these pins lists. No connection may be there twice.
pub(crate) fn list(bed: &Topology, pins: &Path) -> Result<Listing> {
    let root = PinRoot::new(pins)?;
    let listed = bed.server.run(|| connection_list::read(&root))?;
    let count = listed.len();
    let listing: Listing = listed.into_iter().map(|one| (one.remote, one)).collect();
    ensure!(listing.len() == count, "{count} lines for {} connections", listing.len());
    Ok(listing)
}
