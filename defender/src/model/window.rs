//! The window and the window scale that this kernel puts into a SYN-ACK.
//!
//! As `tcp_openreq_init_rwin` (`net/ipv4/tcp_minisocks.c`) and `tcp_select_initial_window` (`net/ipv4/tcp_output.c`)
//! compute them.

use crate::model::sysctls::Sysctls;

/// Aligned length of the timestamps option; it is part of every segment, so not of the window's unit.
const TIMESTAMPS_LEN: u32 = 12;
/// RFC 7323, section 2.3.
const MAX_SCALE: u32 = 14;
/// The greatest window where `tcp_workaround_signed_windows` is on (`include/net/tcp.h`, `MAX_TCP_WINDOW`).
const MAX_SIGNED_WINDOW: u32 = 32_767;
/// The share of a receive buffer that is offered as window, in 256ths (`include/net/tcp.h`,
/// `TCP_DEFAULT_SCALING_RATIO`): half, as `tcp_adv_win_scale` = 1 had it before.
const SCALING_RATIO: u64 = 128;

/// What a route says. 0: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// MTU, in bytes.
    pub mtu: u32,
    /// The MSS to advertise, in bytes.
    pub advertised_mss: u32,
    /// The greatest window to offer, in bytes.
    pub window: u32,
    /// The first window to offer, in segments.
    pub initial_window: u32,
    /// TTL or hop limit.
    pub hop_limit: u32,
}

/// What the kernel goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRules {
    /// `net.ipv4.tcp_rmem`: least, initial and greatest receive buffer, in bytes.
    pub tcp_rmem: [u32; 3],
    /// `net.core.rmem_max`, in bytes.
    pub rmem_max: u32,
    /// `net.ipv4.tcp_workaround_signed_windows`.
    pub signed_windows: bool,
}

impl From<&Sysctls> for WindowRules {
    fn from(sysctls: &Sysctls) -> Self {
        Self {
            tcp_rmem: sysctls.tcp_rmem,
            // Where the namespace does not say, tcp_rmem decides unless someone raised rmem_max beyond it.
            rmem_max: sysctls.rmem_max.unwrap_or(0),
            signed_windows: sysctls.tcp_workaround_signed_windows,
        }
    }
}

/// The receive buffer that a listener's connections begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its bytes.
    pub bytes: u32,
    /// The application has set it (`SO_RCVBUF`), which limits the scale.
    pub is_set: bool,
    /// `TCP_WINDOW_CLAMP`, in bytes; 0: none.
    pub window_clamp: u32,
}

/// What a SYN-ACK offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The window field, in bytes (a SYN-ACK's is never scaled).
    pub window: u16,
    /// The window scale, if the client offered one.
    pub scale: u8,
}

impl WindowRules {
    /// What a listener with this buffer offers on a route that says `metrics`, where the MSS is `mss` bytes.
    pub fn offer(&self, buffer: &Buffer, metrics: &Metrics, mss: u16, timestamps: bool) -> Offer {
        let full_space = (u64::from(buffer.bytes) * SCALING_RATIO / 256) as u32;
        let clamp = [buffer.window_clamp, metrics.window].into_iter().find(|clamp| *clamp != 0);
        let clamp = clamp.unwrap_or(u32::from(u16::MAX) << MAX_SCALE);
        let clamp = if buffer.is_set { clamp.min(full_space) } else { clamp };
        let unit = u32::from(mss).saturating_sub(if timestamps { TIMESTAMPS_LEN } else { 0 }).max(1);
        let space = full_space.max(metrics.initial_window.saturating_mul(mss.into())).min(clamp);
        let space = if space > unit { space - space % unit } else { space };
        let greatest = if self.signed_windows { MAX_SIGNED_WINDOW } else { u32::from(u16::MAX) };
        let first = match metrics.initial_window {
            0 => u32::MAX,
            segments => segments.saturating_mul(unit),
        };
        Offer { window: space.min(greatest).min(first) as u16, scale: self.scale(space, clamp) }
    }

    /// The scale that can express the greatest window the buffer may grow to.
    fn scale(&self, space: u32, clamp: u32) -> u8 {
        let greatest = space.max(self.tcp_rmem[2]).max(self.rmem_max).min(clamp);
        greatest.checked_ilog2().unwrap_or(0).saturating_sub(15).min(MAX_SCALE) as u8
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use nix::sys::socket::sockopt::RcvBuf;
    use nix::sys::socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen,
        recv, setsockopt, socket,
    };

    use super::*;
    use crate::host::{
        sockets, sysctl,
        testing::{in_namespace, shell},
    };

    /// Kernel 6.18 as it comes, on a machine with enough memory.
    const DEFAULT: WindowRules =
        WindowRules { tcp_rmem: [4096, 131_072, 33_554_432], rmem_max: 4_194_304, signed_windows: false };

    /// What this kernel sent, in `the_kernel_offers_the_same`, with [`DEFAULT`]: buffer, MSS, timestamps; window, scale.
    const SEEN: [(u32, u16, bool, u16, u8); 12] = [
        (131_072, 1460, true, 65_160, 10),
        (131_072, 1460, false, 64_240, 10),
        (131_072, 1360, true, 64_704, 10),
        (131_072, 1360, false, 65_280, 10),
        (131_072, 1440, true, 64_260, 10),
        (131_072, 1440, false, 64_800, 10),
        (131_072, 65_495, true, 65_483, 10),
        (131_072, 65_495, false, 65_495, 10),
        (2304, 1460, true, 1152, 0),
        (10_000, 1460, true, 4344, 0),
        (100_000, 1460, true, 49_232, 0),
        (2_000_000, 1460, true, 65_535, 4),
    ];

    fn of(bytes: u32, is_set: bool) -> Buffer {
        Buffer { bytes, is_set, window_clamp: 0 }
    }

    #[test]
    fn offers_are_as_seen() {
        for (buffer, mss, timestamps, window, scale) in SEEN {
            let offer = DEFAULT.offer(&of(buffer, buffer != 131_072), &Metrics::default(), mss, timestamps);
            assert_eq!(offer, Offer { window, scale }, "{buffer} {mss} {timestamps}");
        }
    }

    #[test]
    fn nothing_overflows() {
        let rules = WindowRules { tcp_rmem: [u32::MAX; 3], rmem_max: u32::MAX, signed_windows: false };
        assert_eq!(
            rules.offer(&of(u32::MAX, true), &Metrics::default(), u16::MAX, true),
            Offer { window: 65_535, scale: 14 }
        );
        assert_eq!(rules.offer(&of(0, true), &Metrics::default(), 0, true), Offer { window: 0, scale: 0 });
    }

    /// The fields of a SYN-ACK that this module foretells, and those it goes by.
    #[derive(Debug, PartialEq, Eq)]
    struct SynAck {
        window: u16,
        scale: Option<u8>,
        mss: u16,
        timestamps: bool,
    }

    /// Has a client connect to a listener over the loopback device, and looks at the SYN-ACK.
    fn observe(family: AddressFamily, so_rcvbuf: Option<usize>) -> (u32, SynAck) {
        // A port of its own each time: a process that another test is starting may still hold the one before.
        let address: SocketAddr =
            if family == AddressFamily::Inet { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
        let server = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        if let Some(bytes) = so_rcvbuf {
            setsockopt(&server, RcvBuf, &bytes).unwrap();
        }
        bind(server.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
        listen(&server, Backlog::new(5).unwrap()).unwrap();
        let address = TcpListener::from(server.try_clone().unwrap()).local_addr().unwrap();
        let listeners = sockets::listeners().unwrap();
        let listener = listeners.iter().find(|listener| listener.port == address.port()).unwrap();

        let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        loop {
            let mut bytes = [0; 2048];
            let length = recv(raw.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
            // A raw IPv4 socket delivers the IP header too.
            let header = if family == AddressFamily::Inet { usize::from(bytes[0] & 0xf) * 4 } else { 0 };
            let tcp = &bytes[header..length];
            if tcp[..2] == address.port().to_be_bytes() && tcp[13] & 0x12 == 0x12 {
                return (listener.receive_buffer, syn_ack(tcp));
            }
        }
    }

    fn syn_ack(tcp: &[u8]) -> SynAck {
        let window = u16::from_be_bytes([tcp[14], tcp[15]]);
        let mut syn_ack = SynAck { window, scale: None, mss: 0, timestamps: false };
        let mut options = &tcp[20..usize::from(tcp[12] >> 4) * 4];
        while let Some((&kind, rest)) = options.split_first() {
            let length = if kind <= 1 { 1 } else { usize::from(rest[0]) };
            match kind {
                2 => syn_ack.mss = u16::from_be_bytes([options[2], options[3]]),
                3 => syn_ack.scale = Some(options[2]),
                8 => syn_ack.timestamps = true,
                _ => {}
            }
            options = &options[length..];
        }
        syn_ack
    }

    /// Sysctls of `net.ipv4` that change the offer, by name and value.
    const SETTINGS: [&str; 4] = [
        "",
        "tcp_rmem='4096 87380 6291456'",
        "tcp_rmem='4096 1000000 600000'",
        "tcp_workaround_signed_windows=1",
    ];

    #[test]
    fn the_kernel_offers_the_same() {
        for settings in SETTINGS {
            for mtu in [1400, 1500, 9000, 65_536] {
                for timestamps in [1, 0] {
                    in_namespace(|| compare(settings, mtu, timestamps));
                }
            }
        }
    }

    fn compare(settings: &str, mtu: u32, timestamps: u32) {
        shell(&format!("ip link set lo mtu {mtu}; sysctl -qw net.ipv4.tcp_timestamps={timestamps}"));
        if !settings.is_empty() {
            shell(&format!("sysctl -qw net.ipv4.{settings}"));
        }
        let rules = WindowRules::from(&sysctl::read_all().unwrap());
        for so_rcvbuf in [None, Some(1), Some(5000), Some(50_000), Some(1_000_000), Some(100_000_000)] {
            for (family, overhead) in [(AddressFamily::Inet, 40), (AddressFamily::Inet6, 60)] {
                let (receive_buffer, seen) = observe(family, so_rcvbuf);
                let case = format!("{settings} {mtu} {so_rcvbuf:?} {receive_buffer} {family:?} {seen:?}");
                let buffer = of(receive_buffer, so_rcvbuf.is_some());
                let Offer { window, scale } =
                    rules.offer(&buffer, &Metrics::default(), seen.mss, seen.timestamps);
                assert_eq!((seen.window, seen.scale), (window, Some(scale)), "{case}");
                assert_eq!(seen.timestamps, timestamps == 1, "{case}");
                assert_eq!(u32::from(seen.mss), (mtu - overhead).min(65_495), "{case}");
            }
        }
    }
}
