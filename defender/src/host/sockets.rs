//! TCP sockets, as the kernel lists them over sock_diag (`net/ipv4/inet_diag.c`, sock_diag(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::net::IpAddr;

use anyhow::{Context, Result};
use netlink_packet_core::{DefaultNla, Emitable, NetlinkSerializable, Nla as _, NlasIterator};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED,
    TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_SYN_RECV, TCP_TIME_WAIT,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink;

/// `INET_DIAG_ULP_INFO` (`include/uapi/linux/inet_diag.h`): what sits on top of the socket.
const ULP_INFO: u16 = 19;
/// `INET_ULP_INFO_NAME`, within it.
const ULP_NAME: u16 = 1;
/// `INET_DIAG_REQ_BYTECODE`: a filter that the kernel runs on every socket.
const REQUEST_BYTECODE: u16 = 1;
/// More ports than this are not filtered in the kernel: the filter must fit one attribute.
const FILTER_PORTS: usize = 2048;

/// The kernel's names and numbers of the states that a connection to a listener can be in, in the order it takes them.
const STATES: [(&str, u8); 8] = [
    ("SYN_RECV", TCP_SYN_RECV),
    ("ESTABLISHED", TCP_ESTABLISHED),
    ("FIN_WAIT1", TCP_FIN_WAIT1),
    ("FIN_WAIT2", TCP_FIN_WAIT2),
    ("CLOSE_WAIT", TCP_CLOSE_WAIT),
    ("CLOSING", TCP_CLOSING),
    ("LAST_ACK", TCP_LAST_ACK),
    ("TIME_WAIT", TCP_TIME_WAIT),
];

/// The address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

/// A TCP socket in the state LISTEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The socket's family; that of `address` may be IPv4 where this is IPv6.
    pub family: Family,
    /// The address it is bound to; unspecified for a wildcard. An IPv4-mapped one is given as IPv4.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// An IPv6 socket that does not take IPv4: `IPV6_V6ONLY`, or bound to an IPv6 address.
    pub v6only: bool,
    /// Index of the device it is bound to (`SO_BINDTODEVICE`, a VRF, or a link-local scope); 0: none.
    pub device: u32,
    /// The receive buffer that its connections start with, in bytes, as `getsockopt(SO_RCVBUF)` gives it.
    pub receive_buffer: u32,
    /// How many connections may wait for `accept`.
    pub backlog: u32,
    /// How many do.
    pub accept_queue: u32,
    /// It listens for MPTCP: the kernel takes no hand-offs for it (`bpf_sk_assign_tcp_reqsk` → EINVAL).
    pub mptcp: bool,
    /// The socket's inode, as in `/proc/PID/fd`.
    pub inode: u32,
}

impl Listener {
    /// Whether IPv4 connections reach it.
    pub fn accepts_v4(&self) -> bool {
        match self.family {
            Family::V4 => true,
            Family::V6 => !self.v6only && (self.address.is_ipv4() || self.address.is_unspecified()),
        }
    }

    /// Whether IPv6 connections reach it.
    pub fn accepts_v6(&self) -> bool {
        self.address.is_ipv6()
    }
}

/// The listening TCP sockets of the calling thread's network namespace.
pub fn listeners() -> Result<Vec<Listener>> {
    // What sits on top of a socket comes only along with INFO.
    let extensions = ExtensionFlags::SKMEMINFO | ExtensionFlags::INFO;
    let mut listeners = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request =
            Request { inet: request(family, extensions.clone(), StateFlags::LISTEN), ports: Vec::new() };
        netlink::dump(NETLINK_SOCK_DIAG, request, |answer| listeners.extend(listener(&answer)))
            .context("cannot list listening sockets")?;
    }
    Ok(listeners)
}

/// How many connections of services there are, by state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// The kernel's name of a state → connections in it; every name is there.
    pub counts: BTreeMap<&'static str, u64>,
    /// Port → its connections in SYN_RECV; ports without any are missing.
    pub syn_received: BTreeMap<u16, u64>,
}

/// Counts the connections whose local port is one of `ports`, in the calling thread's network namespace.
///
/// Connections that this host opened itself from such a port count too; the kernel does not tell them apart.
pub fn states(ports: &BTreeSet<u16>) -> Result<States> {
    let mut states = States { counts: STATES.map(|(name, _)| (name, 0)).into(), ..States::default() };
    if ports.is_empty() {
        return Ok(states);
    }
    for family in [AF_INET, AF_INET6] {
        let request = Request {
            inet: request(family, ExtensionFlags::empty(), state_filter()),
            ports: ports.iter().copied().filter(|_| ports.len() <= FILTER_PORTS).collect(),
        };
        netlink::dump(NETLINK_SOCK_DIAG, request, |answer| states.count(&answer, ports))
            .context("cannot list connections")?;
    }
    Ok(states)
}

impl States {
    fn count(&mut self, answer: &SockDiagMessage, ports: &BTreeSet<u16>) {
        let SockDiagMessage::InetResponse(answer) = answer else { return };
        let port = answer.header.socket_id.source_port;
        let Some((name, state)) = STATES.iter().find(|(_, state)| *state == answer.header.state) else {
            return;
        };
        if !ports.contains(&port) {
            return;
        }
        *self.counts.entry(name).or_default() += 1;
        if *state == TCP_SYN_RECV {
            *self.syn_received.entry(port).or_default() += 1;
        }
    }
}

fn state_filter() -> StateFlags {
    STATES
        .iter()
        .fold(StateFlags::empty(), |all, (_, state)| all | StateFlags::from_bits_truncate(1 << state))
}

fn listener(answer: &SockDiagMessage) -> Option<Listener> {
    let SockDiagMessage::InetResponse(answer) = answer else { return None };
    let InetResponse { header, nlas } = answer.as_ref();
    let mut listener = Listener {
        family: if header.family == AF_INET { Family::V4 } else { Family::V6 },
        address: unmapped(header.socket_id.source_address),
        port: header.socket_id.source_port,
        v6only: false,
        device: header.socket_id.interface_id,
        receive_buffer: 0,
        backlog: header.send_queue,
        accept_queue: header.recv_queue,
        mptcp: false,
        inode: header.inode,
    };
    for nla in nlas {
        match nla {
            Nla::SkV6Only(v6only) => listener.v6only = *v6only,
            Nla::MemInfo(memory) => listener.receive_buffer = memory.receive_queue_max,
            Nla::Other(other) if other.kind() == ULP_INFO => listener.mptcp = ulp_name(other) == "mptcp",
            _ => {}
        }
    }
    Some(listener)
}

/// A dual-stack socket bound to one IPv4 address lists it as `::ffff:a.b.c.d`.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn ulp_name(attribute: &DefaultNla) -> String {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    NlasIterator::new(value.as_slice())
        .flatten()
        .find(|nla| nla.kind() == ULP_NAME)
        .and_then(|nla| {
            CStr::from_bytes_until_nul(nla.value()).ok().map(|name| name.to_string_lossy().into_owned())
        })
        .unwrap_or_default()
}

fn request(family: u8, extensions: ExtensionFlags, states: StateFlags) -> InetRequest {
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id: any }
}

/// A request for sockets on any of `ports`, or on all if there are none.
struct Request {
    inet: InetRequest,
    ports: Vec<u16>,
}

impl Request {
    fn filter(&self) -> Option<DefaultNla> {
        (!self.ports.is_empty()).then(|| DefaultNla::new(REQUEST_BYTECODE, port_filter(&self.ports)))
    }
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        self.inet.buffer_len() + self.filter().map_or(0, |filter| filter.buffer_len())
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (inet, rest) = buffer.split_at_mut(self.inet.buffer_len());
        self.inet.emit(inet);
        if let Some(filter) = self.filter() {
            filter.emit(rest);
        }
    }
}

/// Filter code that accepts a socket if its local port is one of `ports` (`net/ipv4/inet_diag.c`,
/// `inet_diag_bc_run`: `yes` and `no` are distances in bytes; to land on the end accepts, beyond it rejects).
///
/// For each port: is it this one? then on to a jump to the end; else past that jump, to the next port.
fn port_filter(ports: &[u16]) -> Vec<u8> {
    const JUMP: u8 = 1;
    const SOURCE_PORT_IS: u8 = 11;
    const OPERATION: u16 = 4;
    const BLOCK: u16 = 3 * OPERATION;
    let operation = |code: u8, yes: u16, no: u16| {
        let [no_low, no_high] = no.to_ne_bytes();
        [code, yes as u8, no_low, no_high]
    };
    let mut code = Vec::with_capacity(ports.len() * usize::from(BLOCK));
    for (&port, blocks_after) in ports.iter().zip((0..ports.len() as u16).rev()) {
        // The last port has nobody to pass the socket on to: its "no" goes beyond the end.
        let no = if blocks_after == 0 { BLOCK + OPERATION } else { BLOCK };
        code.extend(operation(SOURCE_PORT_IS, 2 * OPERATION, no));
        code.extend(operation(0, 0, port));
        code.extend(operation(JUMP, OPERATION, OPERATION + blocks_after * BLOCK));
    }
    code
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::process::{Child, Command, Stdio};

    use nix::sys::socket::sockopt::{BindToDevice, Ipv6V6Only, RcvBuf};
    use nix::sys::socket::{
        AddressFamily, Backlog, SetSockOpt, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt,
        socket,
    };

    use super::super::testing::{in_namespace, shell};
    use super::*;

    /// A listener with one socket option set before it is bound.
    fn listener_with<O: SetSockOpt>(address: &str, option: O, value: &O::Val) -> OwnedFd {
        let address: SocketAddr = address.parse().unwrap();
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&fd, option, value).unwrap();
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
        listen(&fd, Backlog::new(7).unwrap()).unwrap();
        fd
    }

    fn on_port(port: u16) -> Listener {
        let mut found: Vec<Listener> =
            listeners().unwrap().into_iter().filter(|listener| listener.port == port).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn inode(fd: &impl AsRawFd) -> u32 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        let link = link.to_str().unwrap();
        link.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
    }

    #[test]
    fn an_ipv4_listener_is_found_with_its_queue() {
        in_namespace(|| {
            let server = TcpListener::bind("127.0.0.1:80").unwrap();
            let _waiting = TcpStream::connect("127.0.0.1:80").unwrap();
            assert_eq!(
                listeners().unwrap(),
                [Listener {
                    family: Family::V4,
                    address: "127.0.0.1".parse().unwrap(),
                    port: 80,
                    v6only: false,
                    device: 0,
                    receive_buffer: 131_072,
                    backlog: 128,
                    accept_queue: 1,
                    mptcp: false,
                    inode: inode(&server),
                }]
            );
            assert!(on_port(80).accepts_v4() && !on_port(80).accepts_v6());
        });
    }

    #[test]
    fn dual_stack_and_ipv6_only_are_told_apart() {
        in_namespace(|| {
            let _dual = listener_with("[::]:80", Ipv6V6Only, &false);
            let _only = listener_with("[::]:81", Ipv6V6Only, &true);
            let _v4 = listener_with("[::ffff:127.0.0.1]:82", Ipv6V6Only, &false);
            let _v6 = listener_with("[::1]:83", Ipv6V6Only, &false);
            let seen = [80, 81, 82, 83].map(|port| {
                let listener = on_port(port);
                assert_eq!((listener.family, listener.backlog), (Family::V6, 7));
                (listener.address.to_string(), listener.v6only, listener.accepts_v4(), listener.accepts_v6())
            });
            assert_eq!(
                seen,
                [
                    ("::".to_owned(), false, true, true),
                    ("::".to_owned(), true, false, true),
                    ("127.0.0.1".to_owned(), false, true, false),
                    ("::1".to_owned(), true, false, true),
                ]
            );
        });
    }

    #[test]
    fn a_bound_device_and_a_set_receive_buffer_are_seen() {
        in_namespace(|| {
            let _bound = listener_with("0.0.0.0:80", BindToDevice, &"lo".into());
            let _small = listener_with("0.0.0.0:81", RcvBuf, &5000);
            let plain = TcpListener::bind("0.0.0.0:82").unwrap();
            assert_eq!(on_port(80).device, 1);
            // The kernel doubles what SO_RCVBUF says, for its own overhead (socket(7)).
            assert_eq!(on_port(81).receive_buffer, 10_000);
            assert_eq!((on_port(82).device, on_port(82).inode), (0, inode(&plain)));
        });
    }

    /// A process that listens with MPTCP on port 80 until it is killed.
    struct MptcpServer(Child);

    impl MptcpServer {
        fn start(address: &str) -> Self {
            let script = format!(
                "import socket, time
s = socket.socket(socket.AF_INET6 if ':' in '{address}' else socket.AF_INET, socket.SOCK_STREAM, 262)
s.bind(('{address}', 80)); s.listen(5); print('listening', flush=True); time.sleep(60)"
            );
            let mut server =
                Command::new("python3").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
            server.stdout.take().unwrap().read_exact(&mut [0; 9]).unwrap();
            Self(server)
        }
    }

    impl Drop for MptcpServer {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn mptcp_listeners_are_told_apart() {
        for address in ["127.0.0.1", "::"] {
            in_namespace(|| {
                let _server = MptcpServer::start(address);
                let _plain = TcpListener::bind("127.0.0.1:81").unwrap();
                assert!(on_port(80).mptcp);
                assert!(!on_port(81).mptcp);
            });
        }
    }

    /// What `ss` counts in a state on a local port.
    fn ss(state: &str, port: u16) -> u64 {
        shell(&format!("ss -Htn state {state} sport = :{port} | wc -l")).trim().parse().unwrap()
    }

    #[test]
    fn states_agree_with_ss() {
        in_namespace(|| {
            // What 127.0.0.9 begins stays half-open.
            shell(
                "nft 'table ip t { chain o { type filter hook output priority 0; \
                     ip daddr 127.0.0.9 tcp flags & (syn|ack) == syn|ack drop; }; }'",
            );
            let server = TcpListener::bind("[::]:80").unwrap();
            let other = TcpListener::bind("127.0.0.1:81").unwrap();
            let connect = |address: &str| {
                let client = TcpStream::connect(address).unwrap();
                let accepted = if address.ends_with("81") { &other } else { &server }.accept().unwrap().0;
                (client, accepted)
            };
            let mut ends = Vec::new();
            for _ in 0..3 {
                ends.push(connect("127.0.0.1:80"));
                ends.push(connect("[::1]:80"));
                ends.push(connect("127.0.0.1:81"));
            }
            let closed_by_client = connect("127.0.0.1:80");
            closed_by_client.0.shutdown(Shutdown::Write).unwrap();
            let closed_by_server = connect("127.0.0.1:80");
            closed_by_server.1.shutdown(Shutdown::Write).unwrap();
            let _half_open = ["127.0.0.1:80", "127.0.0.1:81"].map(|server| half_open("127.0.0.9", server));
            // FINs are acknowledged a moment later.
            while ss("fin-wait-1", 80) > 0 {
                std::thread::yield_now();
            }

            let one = states(&[80].into()).unwrap();
            for (name, _) in STATES {
                let state = ss_name(name);
                assert_eq!(one.counts[name], ss(&state, 80), "{name}: {one:?}");
            }
            let counts: Vec<u64> = STATES.map(|(name, _)| one.counts[name]).into();
            assert_eq!(counts, [1, 6, 0, 1, 1, 0, 0, 0]);
            assert_eq!(one.syn_received, [(80, 1)].into());

            let both = states(&[79, 80, 81, 82].into()).unwrap();
            assert_eq!(both.counts["ESTABLISHED"], 9);
            assert_eq!(both.syn_received, [(80, 1), (81, 1)].into());
            for last in [FILTER_PORTS as u16, u16::MAX] {
                assert_eq!(states(&(1..=last).collect()).unwrap().counts["SYN_RECV"], 2, "up to {last}");
            }
            assert_eq!(states(&BTreeSet::new()).unwrap().counts["ESTABLISHED"], 0);
            assert_eq!(states(&[79].into()).unwrap().counts["ESTABLISHED"], 0);
        });
    }

    fn ss_name(state: &str) -> String {
        state.to_lowercase().replace('_', "-").replace("wait1", "wait-1").replace("wait2", "wait-2")
    }

    /// Leaves one connection in SYN_RECV: the server's SYN-ACKs to `source` are filtered away.
    fn half_open(source: &str, server: &str) -> OwnedFd {
        let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
        let source: SocketAddr = format!("{source}:0").parse().unwrap();
        bind(client.as_raw_fd(), &SockaddrStorage::from(source)).unwrap();
        let server: SocketAddr = server.parse().unwrap();
        let _ = nix::sys::socket::connect(client.as_raw_fd(), &SockaddrStorage::from(server));
        client
    }

    #[test]
    fn time_wait_is_counted() {
        in_namespace(|| {
            let server = TcpListener::bind("127.0.0.1:80").unwrap();
            let client = TcpStream::connect("127.0.0.1:80").unwrap();
            let mut accepted = server.accept().unwrap().0;
            accepted.shutdown(Shutdown::Write).unwrap();
            drop(client);
            accepted.read_to_end(&mut Vec::new()).unwrap();
            drop(accepted);
            let states = states(&[80].into()).unwrap();
            assert_eq!((states.counts["TIME_WAIT"], ss("time-wait", 80)), (1, 1));
        });
    }

    #[test]
    fn a_link_local_listener_keeps_its_scope() {
        in_namespace(|| {
            shell("ip addr add fe80::1/64 dev lo nodad");
            let address = SocketAddrV6::new("fe80::1".parse().unwrap(), 80, 0, 1);
            let _server = TcpListener::bind(address).unwrap();
            assert_eq!(on_port(80).device, 1);
        });
    }
}
