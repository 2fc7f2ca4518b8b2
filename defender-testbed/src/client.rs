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

/// When a client that gets no greeting speaks first. A flood may have cost it the final ACK of the handshake, which nobody
/// retransmits.
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

/// A steady stream of clients, each from an address of its own. They arrive on schedule whether or not earlier ones got
/// through, as on the Internet.
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

/// What the clients saw, in the order in which they were done.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Each client.
    pub clients: Vec<Outcome>,
}

/// What one client saw.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// When it began.
    pub begun: Instant,
    /// Whether it was connected, not greeted for long, and spoke.
    pub spoke: bool,
    /// How it ended.
    pub end: End,
}

/// How a client ended.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// Its connection could not be begun or was reset.
    Refused,
    /// It gave up.
    TimedOut,
    /// It succeeded.
    Greeted(Greeted),
}

/// A client that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Greeted {
    /// How long the handshake took.
    pub connect: Duration,
    /// Its own address.
    pub address: SocketAddr,
    /// What its kernel says of the connection.
    pub info: TcpInfo,
}

impl LoadReport {
    /// The clients that succeeded.
    pub fn greeted(&self) -> impl Iterator<Item = &Greeted> {
        self.clients.iter().filter_map(|client| match &client.end {
            End::Greeted(greeted) => Some(greeted),
            End::Refused | End::TimedOut => None,
        })
    }

    /// Share of the clients that succeeded, 0 to 1.
    pub fn success(&self) -> f64 {
        self.greeted().count() as f64 / self.clients.len().max(1) as f64
    }

    /// How many were refused, and how many gave up.
    pub fn failed(&self) -> (usize, usize) {
        let count = |is: fn(&End) -> bool| self.clients.iter().filter(|client| is(&client.end)).count();
        (count(|end| matches!(end, End::Refused)), count(|end| matches!(end, End::TimedOut)))
    }

    /// How many were connected, not greeted for long, and spoke.
    pub fn spoke(&self) -> usize {
        self.clients.iter().filter(|client| client.spoke).count()
    }

    /// The time below which the share `p` of the successful handshakes lies.
    pub fn connect_percentile(&self, p: f64) -> Option<Duration> {
        percentile(&self.greeted().map(|greeted| greeted.connect).collect::<Vec<_>>(), p)
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
    /// How many were begun.
    begun: u32,
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
            begun: 0,
            report: LoadReport::default(),
        })
    }

    fn run(mut self) -> Result<LoadReport> {
        let mut events = [EpollEvent::empty(); EVENTS];
        while self.begun < self.load.connections() || !self.waiting.is_empty() {
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
        (self.begun < self.load.connections())
            .then(|| self.started + Duration::from_secs_f64(f64::from(self.begun) / self.load.rate))
    }

    fn begin_due(&mut self) {
        while self.next_begin().is_some_and(|next| next <= Instant::now()) {
            let (number, begun) = (self.begun, Instant::now());
            self.begun += 1;
            if self.begin(number, begun).is_err() {
                self.report.clients.push(Outcome { begun, spoke: false, end: End::Refused });
            }
        }
    }

    fn begin(&mut self, number: u32, begun: Instant) -> Result<()> {
        let from = topology::client(self.load.first_client.wrapping_add(number), self.load.target);
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
            Ok(Some(greeted)) => self.end(number, End::Greeted(greeted)),
            Err(_) => self.end(number, End::Refused),
        }
    }

    fn end(&mut self, number: u32, end: End) {
        let Some(Client { begun, spoke, .. }) = self.waiting.remove(&number) else { return };
        self.report.clients.push(Outcome { begun, spoke, end });
    }

    fn give_up(&mut self) {
        let now = Instant::now();
        while let Some((_, number)) =
            self.deadlines.pop_front_if(|(at, number)| *at <= now || !self.waiting.contains_key(number))
        {
            self.end(number, End::TimedOut);
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
            }
        }
    }
}

impl Client {
    /// Looks how far it got; something when the greeting is there.
    fn advance(&mut self) -> Result<Option<Greeted>> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error.into());
        }
        let (connect, info) = match self.connected {
            Some(connected) => connected,
            None => {
                if self.stream.peer_addr().is_err() {
                    return Ok(None);
                }
                *self.connected.insert((self.begun.elapsed(), TcpInfo::of(&self.stream)?))
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
        if self.got < expected.len() {
            return Ok(None);
        }
        Ok(Some(Greeted { connect, address: self.stream.local_addr()?, info }))
    }
}
