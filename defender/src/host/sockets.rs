//! TCP sockets from sock_diag (`net/ipv4/inet_diag.c`, sock_diag(7)).

use std::ffi::CStr;
use std::io;
use std::net::IpAddr;

use anyhow::Result;
use netlink_packet_core::{DefaultNla, Nla as _, NlasIterator};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink;
use crate::model::listener::{Family, Listener};

/// `INET_DIAG_ULP_INFO` (`include/uapi/linux/inet_diag.h`): the socket's upper-layer protocol.
const ULP_INFO: u16 = 19;
/// `INET_ULP_INFO_NAME`, nested in it.
const ULP_NAME: u16 = 1;

/// The listening TCP sockets of the calling thread's network namespace.
pub fn listeners() -> Result<Vec<Listener>> {
    // The upper-layer protocol is reported only together with INFO.
    let extensions = ExtensionFlags::SKMEMINFO | ExtensionFlags::INFO;
    let mut listeners = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = request(family, IPPROTO_TCP, extensions.clone());
        dump(request, |answer| listeners.extend(listener(&answer)))?;
    }
    Ok(listeners)
}

fn dump(request: InetRequest, each: impl FnMut(SockDiagMessage)) -> Result<()> {
    let listed = netlink::dump(NETLINK_SOCK_DIAG, SockDiagMessage::InetRequest(request), each);
    listed.map_err(|error| {
        let cause = error.downcast_ref::<io::Error>().map(io::Error::kind);
        let reason = match cause {
            // `sock_diag_rcv_msg`, net/core/sock_diag.c: no handler for this family or protocol.
            Some(io::ErrorKind::NotFound) => {
                "cannot list listening sockets: this kernel has no tcp_diag (`modprobe tcp_diag`; CONFIG_INET_TCP_DIAG)"
            }
            _ => "cannot list listening sockets",
        };
        error.context(reason)
    })
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
        uid: header.uid,
        inode: header.inode,
        cookie: cookie(header.socket_id.cookie),
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

/// A cookie is two halves, the lower one first.
fn cookie(bytes: [u8; 8]) -> u64 {
    let [a, b, c, d, e, f, g, h] = bytes;
    u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(u32::from_ne_bytes([e, f, g, h])) << 32
}

/// A dual-stack socket bound to one IPv4 address is listed as `::ffff:a.b.c.d`.
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

fn request(family: u8, protocol: u8, extensions: ExtensionFlags) -> InetRequest {
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    InetRequest { family, protocol, extensions, states: StateFlags::LISTEN, socket_id: any }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{SocketAddr, SocketAddrV6, TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::process::{Child, Command, Stdio};

    use nix::sys::socket::sockopt::{BindToDevice, Ipv6V6Only, RcvBuf};
    use nix::sys::socket::{
        AddressFamily, Backlog, SetSockOpt, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt,
        socket,
    };

    use super::super::testing::{in_namespace, shell};
    use super::*;

    #[test]
    fn a_kernel_without_the_module_differs_from_one_that_fails() {
        // DCCP: no current kernel lists its sockets.
        const DCCP: u8 = 33;
        let error = dump(request(AF_INET, DCCP, ExtensionFlags::empty()), drop).expect_err("nobody answers");
        assert!(error.to_string().contains("no tcp_diag"), "{error:#}");
    }

    /// A listener with one socket option set before bind.
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
                    uid: 0,
                    inode: inode(&server),
                    cookie: on_port(80).cookie,
                }]
            );
            assert!(on_port(80).accepts_v4() && !on_port(80).accepts_v6());
        });
    }

    #[test]
    fn dual_stack_and_ipv6_only_are_distinguished() {
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
    fn a_bound_device_and_a_set_receive_buffer_are_read() {
        in_namespace(|| {
            let _bound = listener_with("0.0.0.0:80", BindToDevice, &"lo".into());
            let _small = listener_with("0.0.0.0:81", RcvBuf, &5000);
            let plain = TcpListener::bind("0.0.0.0:82").unwrap();
            assert_eq!(on_port(80).device, 1);
            // The kernel doubles SO_RCVBUF to allow for its own overhead (socket(7)).
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
    fn mptcp_listeners_are_recognised() {
        for address in ["127.0.0.1", "::"] {
            in_namespace(|| {
                let _server = MptcpServer::start(address);
                let _plain = TcpListener::bind("127.0.0.1:81").unwrap();
                assert!(on_port(80).mptcp);
                assert!(!on_port(81).mptcp);
            });
        }
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
