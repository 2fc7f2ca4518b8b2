//! Real TCP clients: one at a time for tests, and a steady stream of them to measure what clients see.

use std::{
    collections::{HashMap, VecDeque},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use std::os::fd::AsFd as _;

use crate::{
    cpu, netns::Namespace, server::GREETING, socket, statistics::percentile, tcp_info::TcpInfo, topology,
};

/// How long a client waits before it gives up. The first retransmission of a SYN comes after a second.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// When a client that is connected and not greeted speaks first: the ACK that ends its handshake may be lost, as in a
/// flood, and nobody sends that again.
pub const SPEAKS_AFTER: Duration = Duration::from_secs(1);

/// What it says. The server echoes it.
const WORD: u8 = b'?';

const EVENTS: usize = 256;

/// Connects from the namespace's own address.
pub fn connect(namespace: &Namespace, to: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    connect_from(namespace, None, to, timeout)
}

/// Connects from the given address; port 0 lets the kernel choose. The stream is blocking and has no timeouts.
pub fn connect_from(
    namespace: &Namespace,
    from: Option<SocketAddr>,
    to: SocketAddr,
    timeout: Duration,
) -> Result<TcpStream> {
    let stream = namespace.run(|| Ok(TcpStream::from(socket::begin_connect(from, to)?)))?;
    wait_connected(&stream, timeout).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn wait_connected(stream: &TcpStream, timeout: Duration) -> Result<()> {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    ensure!(poll(&mut polled, timeout)? == 1, "timed out");
    stream.take_error()?.map_or(Ok(()), |error| Err(error.into()))
}

/// A steady stream of clients, each from an address of its own. They come at their times whether those before them got
/// through or not, as clients of the world do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The server, which must send [`GREETING`]: a client succeeded when it has read it.
    pub target: SocketAddr,
    /// Connections begun per second.
    pub rate: f64,
    /// How long connections are begun. The last ones may take [`Load::deadline`] longer.
    pub duration: Duration,
    /// When a client gives up.
    pub deadline: Duration,
    /// Number of the first client address; see [`topology::Topology::fresh_clients`].
    pub first_client: u32,
    /// Processor of the clients' thread.
    pub cpu: Option<usize>,
    /// Make that thread real-time, so that waiting for a processor is not measured.
    pub urgent: bool,
}

impl Load {
    /// 400 connections per second for a second, from fresh addresses of the topology.
    pub fn new(bed: &topology::Topology, target: SocketAddr) -> Self {
        let mut load = Self {
            target,
            rate: 400.0,
            duration: Duration::from_secs(1),
            deadline: DEADLINE,
            first_client: 0,
            cpu: None,
            urgent: false,
        };
        load.first_client = bed.fresh_clients(load.connections());
        load
    }

    /// Sets how many connections per second are begun, and for how long; takes fresh addresses for them.
    #[must_use]
    pub fn with(mut self, bed: &topology::Topology, rate: f64, duration: Duration) -> Self {
        (self.rate, self.duration) = (rate, duration);
        self.first_client = bed.fresh_clients(self.connections());
        self
    }

    /// Connections that will be begun.
    pub fn connections(&self) -> u32 {
        (self.rate * self.duration.as_secs_f64()) as u32
    }

    /// Runs all clients in one thread inside the namespace, and waits for the last of them.
    pub fn run(&self, namespace: &Namespace) -> Result<LoadReport> {
        namespace.run(|| {
            if let Some(cpu) = self.cpu {
                cpu::pin_current(cpu)?;
            }
            if self.urgent {
                cpu::make_real_time(0)?;
            }
            Clients::new(*self)?.run()
        })
    }
}

/// What the clients saw.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Connections begun.
    pub attempts: u32,
    /// Connections that could not be begun or were reset.
    pub refused: u32,
    /// Clients that gave up.
    pub timed_out: u32,
    /// Clients that were connected, and not greeted before they spoke.
    pub spoke: u32,
    /// For each client that succeeded, how long the handshake took.
    pub connect_times: Vec<Duration>,
    /// For each client that succeeded, how long it took until the first byte came.
    pub first_byte_times: Vec<Duration>,
    /// For each client that succeeded, its address and what its kernel says.
    pub infos: Vec<(SocketAddr, TcpInfo)>,
}

impl LoadReport {
    /// Share of the clients that succeeded, 0 to 1.
    pub fn success(&self) -> f64 {
        self.connect_times.len() as f64 / f64::from(self.attempts.max(1))
    }

    /// The time below which the share `p` of the successful handshakes lies.
    pub fn connect_percentile(&self, p: f64) -> Option<Duration> {
        percentile(&self.connect_times, p)
    }

    /// Adds what other clients saw.
    pub fn merge(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.refused += other.refused;
        self.timed_out += other.timed_out;
        self.spoke += other.spoke;
        self.connect_times.extend(other.connect_times);
        self.first_byte_times.extend(other.first_byte_times);
        self.infos.extend(other.infos);
    }
}

struct Client {
    stream: TcpStream,
    begun: Instant,
    connected: Option<(Duration, TcpInfo)>,
    spoke: bool,
    /// Bytes that have come.
    got: usize,
}

/// All clients of a load and their one thread.
struct Clients {
    load: Load,
    epoll: Epoll,
    started: Instant,
    waiting: HashMap<u32, Client>,
    /// When each client gives up, in that order; those that are done are skipped.
    deadlines: VecDeque<(Instant, u32)>,
    /// When each client speaks unless it was greeted, likewise.
    words: VecDeque<(Instant, u32)>,
    report: LoadReport,
}

impl Clients {
    fn new(load: Load) -> Result<Self> {
        Ok(Self {
            load,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            started: Instant::now(),
            waiting: HashMap::new(),
            deadlines: VecDeque::new(),
            words: VecDeque::new(),
            report: LoadReport::default(),
        })
    }

    fn run(mut self) -> Result<LoadReport> {
        let mut events = [EpollEvent::empty(); EVENTS];
        while self.report.attempts < self.load.connections() || !self.waiting.is_empty() {
            self.begin_due();
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                self.advance(event.data() as u32);
            }
            self.give_up();
            self.speak();
        }
        Ok(self.report)
    }

    /// When the next connection is to begin.
    fn next_begin(&self) -> Option<Instant> {
        let next = self.report.attempts;
        (next < self.load.connections())
            .then(|| self.started + Duration::from_secs_f64(f64::from(next) / self.load.rate))
    }

    fn begin_due(&mut self) {
        while self.next_begin().is_some_and(|next| next <= Instant::now()) {
            let number = self.report.attempts;
            self.report.attempts += 1;
            if self.begin(number).is_err() {
                self.report.refused += 1;
            }
        }
    }

    fn begin(&mut self, number: u32) -> Result<()> {
        let from = topology::client(self.load.first_client.wrapping_add(number), self.load.target);
        let begun = Instant::now();
        let stream = TcpStream::from(socket::begin_connect(Some(from), self.load.target)?);
        let interest = EpollFlags::EPOLLOUT | EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        self.epoll.add(&stream, EpollEvent::new(interest, u64::from(number)))?;
        self.waiting.insert(number, Client { stream, begun, connected: None, spoke: false, got: 0 });
        self.words.push_back((begun + SPEAKS_AFTER, number));
        self.deadlines.push_back((begun + self.load.deadline, number));
        Ok(())
    }

    /// Until the next thing is to be done, rounded up to the clock of epoll.
    fn timeout(&self) -> EpollTimeout {
        let front = |queue: &VecDeque<(Instant, u32)>| queue.front().map(|(at, _)| *at);
        let until =
            [self.next_begin(), front(&self.deadlines), front(&self.words)].into_iter().flatten().min();
        let left = until.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        EpollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(EpollTimeout::MAX)
    }

    fn advance(&mut self, number: u32) {
        let Some(client) = self.waiting.get_mut(&number) else { return };
        match client.advance() {
            Ok(None) => {}
            Ok(Some((connect, first_byte, info))) => {
                self.report.connect_times.push(connect);
                self.report.first_byte_times.push(first_byte);
                let client = self.waiting.remove(&number);
                let address = client.and_then(|client| client.stream.local_addr().ok());
                self.report.infos.extend(address.map(|address| (address, info)));
            }
            Err(_) => {
                self.report.refused += 1;
                self.waiting.remove(&number);
            }
        }
    }

    fn give_up(&mut self) {
        let now = Instant::now();
        while let Some((_, number)) =
            self.deadlines.pop_front_if(|(at, number)| *at <= now || !self.waiting.contains_key(number))
        {
            if self.waiting.remove(&number).is_some() {
                self.report.timed_out += 1;
            }
        }
    }

    /// Has those speak who wait for too long. Who is not connected yet does so later: its kernel repeats the SYN.
    fn speak(&mut self) {
        let now = Instant::now();
        while let Some((_, number)) =
            self.words.pop_front_if(|(at, number)| *at <= now || !self.waiting.contains_key(number))
        {
            let Some(client) = self.waiting.get_mut(&number) else { continue };
            if client.connected.is_none() {
                self.words.push_back((now + SPEAKS_AFTER, number));
            } else if client.stream.write(&[WORD]).is_ok() {
                client.spoke = true;
                self.report.spoke += 1;
            }
        }
    }
}

impl Client {
    /// Looks how far it got; the times and what the kernel says when the greeting is there.
    fn advance(&mut self) -> Result<Option<(Duration, Duration, TcpInfo)>> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error.into());
        }
        let elapsed = self.begun.elapsed();
        let (connect, info) = match self.connected {
            Some(connected) => connected,
            None => {
                if self.stream.peer_addr().is_err() {
                    return Ok(None);
                }
                *self.connected.insert((elapsed, TcpInfo::of(&self.stream)?))
            }
        };
        // Who spoke waits for the echo as well, so that nothing comes when it has gone.
        let expected = [GREETING, WORD];
        let expected = if self.spoke { &expected[..] } else { &expected[..1] };
        let mut bytes = [0; 2];
        match self.stream.read(&mut bytes[..expected.len() - self.got]) {
            Ok(0) => anyhow::bail!("the server did not greet"),
            Ok(length) if expected[self.got..].starts_with(&bytes[..length]) => self.got += length,
            Ok(_) => anyhow::bail!("the server said something else"),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok((self.got == expected.len()).then_some((connect, elapsed, info)))
    }
}
