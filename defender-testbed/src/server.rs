//! A small real TCP server: it greets, echoes, and remembers what the kernel says about each connection it accepted.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::EventFd,
    socket::{self, Backlog, SockaddrStorage, sockopt},
};

use crate::{cpu, netns::Namespace, tcp_info::TcpInfo};

/// The first byte the server sends on each connection.
pub const GREETING: u8 = b'+';

/// The longest accept queue the server asks for by default. The namespace's `net.core.somaxconn` is raised to it.
pub const BACKLOG: u32 = 4096;

const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
const EVENTS: usize = 256;

/// How the server listens. Begin with [`Options::default`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Length of the accept queue; `net.core.somaxconn` and `net.ipv4.tcp_max_syn_backlog` are set to it.
    pub backlog: u32,
    /// Send [`GREETING`] on each connection, after it was remembered as accepted.
    pub greet: bool,
    /// Accept connections. Without, the accept queue fills up.
    pub accept: bool,
    /// Listen with MPTCP.
    pub mptcp: bool,
    /// A wildcard IPv6 listener takes IPv6 only.
    pub v6_only: bool,
    /// Share the port with other listeners.
    pub reuse_port: bool,
    /// Listen on this device only.
    pub device: Option<&'static str>,
    /// Sets further options of the socket before it listens.
    pub prepare: Option<fn(BorrowedFd<'_>) -> nix::Result<()>>,
    /// Processor of the server's thread.
    pub cpu: Option<usize>,
    /// Make that thread real-time, so that waiting for a processor is not measured.
    pub urgent: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backlog: BACKLOG,
            greet: true,
            accept: true,
            mptcp: false,
            v6_only: false,
            reuse_port: false,
            device: None,
            prepare: None,
            cpu: None,
            urgent: false,
        }
    }
}

/// A connection that the server accepted.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// The client.
    pub peer: SocketAddr,
    /// The address the client connected to.
    pub local: SocketAddr,
    /// What the kernel says about the connection, right after it was accepted.
    pub info: TcpInfo,
    /// When it was accepted.
    pub at: Instant,
}

/// A running server; dropping it closes the listener and all connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    accepted: Mutex<Vec<Accepted>>,
    stop: AtomicBool,
    wake: EventFd,
}

impl Server {
    /// Listens on the address in the namespace with the default options; port 0 picks one.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        Self::with(namespace, address, Options::default())
    }

    /// Listens on the address in the namespace; port 0 picks one.
    pub fn with(namespace: &Namespace, address: SocketAddr, options: Options) -> Result<Self> {
        namespace.set_sysctl("net.core.somaxconn", options.backlog)?;
        namespace.set_sysctl("net.ipv4.tcp_max_syn_backlog", options.backlog)?;
        let listener = namespace
            .run(|| listen(address, options))
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let wake = EventFd::from_flags(nix::sys::eventfd::EfdFlags::EFD_CLOEXEC)?;
        let shared = Arc::new(Shared { accepted: Mutex::default(), stop: AtomicBool::new(false), wake });
        let serving = Serving::new(listener, options, Arc::clone(&shared))?;
        let thread = namespace.spawn("server", move || serving.run())?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connections accepted so far.
    pub fn accepted(&self) -> Vec<Accepted> {
        self.shared.accepted().clone()
    }

    /// The connections accepted since this was asked last.
    pub fn take_accepted(&self) -> Vec<Accepted> {
        std::mem::take(&mut *self.shared.accepted())
    }

    /// Waits until a connection from this client was accepted.
    pub fn wait_for(&self, peer: SocketAddr, timeout: Duration) -> Result<Accepted> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(accepted) = self.shared.accepted().iter().find(|accepted| accepted.peer == peer) {
                return Ok(*accepted);
            }
            ensure!(Instant::now() < deadline, "the server did not accept a connection from {peer}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = self.shared.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn accepted(&self) -> MutexGuard<'_, Vec<Accepted>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a listening socket in the namespace of the calling thread.
pub fn listen(address: SocketAddr, options: Options) -> Result<TcpListener> {
    let socket = crate::socket::new(address, options.mptcp)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::setsockopt(&socket, sockopt::ReusePort, &options.reuse_port)?;
    if address.is_ipv6() {
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &options.v6_only)?;
    }
    if let Some(device) = options.device {
        socket::setsockopt(&socket, sockopt::BindToDevice, &device.into())?;
    }
    if let Some(prepare) = options.prepare {
        prepare(socket.as_fd())?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    socket::listen(&socket, Backlog::new(options.backlog as i32)?)?;
    Ok(TcpListener::from(socket))
}

/// The server's thread.
struct Serving {
    listener: TcpListener,
    options: Options,
    shared: Arc<Shared>,
    epoll: Epoll,
    connections: HashMap<u64, TcpStream>,
    next: u64,
}

impl Serving {
    fn new(listener: TcpListener, options: Options, shared: Arc<Shared>) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&shared.wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        if options.accept {
            epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        }
        Ok(Self { listener, options, shared, epoll, connections: HashMap::new(), next: 0 })
    }

    fn run(mut self) -> Result<()> {
        if let Some(cpu) = self.options.cpu {
            cpu::pin_current(cpu)?;
        }
        if self.options.urgent {
            cpu::make_real_time(0)?;
        }
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.shared.stop.load(Ordering::Acquire) {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    WAKE => {}
                    LISTENER => self.accept_all(),
                    key => self.serve(key),
                }
            }
        }
        Ok(())
    }

    fn accept_all(&mut self) {
        // Any error ends this round; what is left makes the listener ready again.
        while let Ok((stream, peer)) = self.listener.accept() {
            // A client that is gone already is no reason to stop.
            let _ = self.welcome(stream, peer);
        }
    }

    fn welcome(&mut self, stream: TcpStream, peer: SocketAddr) -> Result<()> {
        let at = Instant::now();
        let info = TcpInfo::of(&stream)?;
        let local = stream.local_addr()?;
        // Remembered before it is greeted: who has read the greeting finds it in `accepted`.
        self.shared.accepted().push(Accepted { peer, local, info, at });
        if self.options.greet {
            (&stream).write_all(&[GREETING])?;
        }
        stream.set_nonblocking(true)?;
        self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, self.next))?;
        self.connections.insert(self.next, stream);
        self.next += 1;
        Ok(())
    }

    /// Echoes what came; closes at the end of the connection.
    fn serve(&mut self, key: u64) {
        let Some(stream) = self.connections.get_mut(&key) else { return };
        let mut bytes = [0; 16 * 1024];
        let open = match stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(length) => echo(stream, &bytes[..length]).is_ok(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if !open {
            // Closing takes it out of the epoll set as well.
            self.connections.remove(&key);
        }
    }
}

/// Writes everything, waiting for the client where it must.
fn echo(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.write_all(bytes)?;
    stream.set_nonblocking(true)
}
