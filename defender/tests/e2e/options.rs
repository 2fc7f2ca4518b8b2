//! A challenged connection equals one that the kernel alone makes: same options on both sides, same SYN-ACK on the wire. Where
//! a cookie has no room for a client's offer, the offer is rounded as documented.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    capture::Capture,
    client,
    controller::Controller,
    frame::{ParsedFrame, SumState, flag},
    server::{self, Server},
    tcp_info::TcpInfo,
    topology::{CLIENT_INTERFACE, CLIENT_V4, CLIENT_V6, Options, SERVER_V4, SERVER_V6, Topology},
};

use crate::harness::{CLIENT_PATIENCE, Counts, PATIENCE, start, start_always, wait_active};

const ETHERNET: usize = 14;

/// What a client's kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offer {
    timestamps: bool,
    sack: bool,
    scaling: bool,
    ecn: bool,
}

impl Offer {
    /// Every combination.
    fn all() -> impl Iterator<Item = Self> {
        (0..16_u8).map(|bits| Self {
            timestamps: bits & 1 != 0,
            sack: bits & 2 != 0,
            scaling: bits & 4 != 0,
            ecn: bits & 8 != 0,
        })
    }

    /// Tells the client's kernel.
    fn set(self, bed: &Topology) -> Result<()> {
        let client = &bed.client;
        client.set_sysctl("net.ipv4.tcp_timestamps", u8::from(self.timestamps))?;
        client.set_sysctl("net.ipv4.tcp_sack", u8::from(self.sack))?;
        client.set_sysctl("net.ipv4.tcp_window_scaling", u8::from(self.scaling))?;
        client.set_sysctl("net.ipv4.tcp_ecn", u8::from(self.ecn))
    }
}

/// One connection, as both kernels and the wire show it.
#[derive(Clone, PartialEq, Eq)]
struct Outcome {
    client: TcpInfo,
    server: TcpInfo,
    syn_ack: Frame,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "\n  client {:?}\n  server {:?}\n  {:?}", self.client, self.server, self.syn_ack)
    }
}

/// A SYN-ACK without what differs from one to the next.
#[derive(Clone, PartialEq, Eq)]
struct Frame(Vec<u8>);

impl fmt::Debug for Frame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl Frame {
    /// Blanks the client's port, both sequence numbers, timestamps, the TCP checksum and IPv6's flow label.
    fn of(mut bytes: Vec<u8>) -> Self {
        let v4 = bytes[12..14] == [8, 0];
        if !v4 {
            bytes[ETHERNET + 1] &= 0xf0;
            bytes[ETHERNET + 2..ETHERNET + 4].fill(0);
        }
        let tcp = ETHERNET + if v4 { 20 } else { 40 };
        for range in [2..4, 4..12, 16..18] {
            bytes[tcp..][range].fill(0);
        }
        // Only as far as the IP packet goes: short frames are padded on some media.
        if let Some(stamps) = stamps_at(&bytes[tcp..]) {
            bytes[tcp..][stamps..stamps + 8].fill(0);
        }
        Self(bytes)
    }
}

/// Where TSval is.
fn stamps_at(tcp: &[u8]) -> Option<usize> {
    let end = usize::from(tcp[12] >> 4) * 4;
    let mut at = 20;
    while at < end {
        match tcp[at] {
            1 => at += 1,
            8 => return Some(at + 2),
            _ => at += usize::from(tcp[at + 1].max(2)),
        }
    }
    None
}

/// Connects to a server that stays silent, so that nothing but the handshake has happened.
fn connect(bed: &Topology, capture: &Capture, server: &Server) -> Result<Outcome> {
    connect_to(bed, capture, server, server.address())
}

/// The same, by this address of the server.
fn connect_to(bed: &Topology, capture: &Capture, server: &Server, address: SocketAddr) -> Result<Outcome> {
    capture.clear()?;
    // A port may come up again.
    server.take_accepted();
    // The same address every time: it is in the SYN-ACK.
    let from = topology_client(address);
    let stream = client::connect_from(&bed.client, Some(from), address, CLIENT_PATIENCE)?;
    let client = strip(TcpInfo::of(&stream)?);
    let local = stream.local_addr()?;
    let server = strip(server.wait_for(as_peer(local, server), CLIENT_PATIENCE)?.info);
    Ok(Outcome { client, server, syn_ack: syn_ack(capture, local)? })
}

/// The client as the server's socket names it.
fn as_peer(client: SocketAddr, server: &Server) -> SocketAddr {
    match client.ip() {
        IpAddr::V4(v4) if server.address().is_ipv6() => {
            SocketAddr::new(v4.to_ipv6_mapped().into(), client.port())
        }
        _ => client,
    }
}

fn topology_client(like: SocketAddr) -> SocketAddr {
    defender_testbed::topology::client(7, like)
}

/// Round-trip times are not agreed on.
fn strip(info: TcpInfo) -> TcpInfo {
    TcpInfo { rtt_us: 0, ..info }
}

fn syn_ack(capture: &Capture, to: SocketAddr) -> Result<Frame> {
    let (mut syn, mut answers) = (None, Vec::new());
    for frame in capture.until_quiet(Duration::from_millis(5))? {
        let Some(seen) = frame.tcp() else { continue };
        if seen.source == to && seen.is_syn() {
            syn = Some(seen);
        } else if seen.destination == to && seen.flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK {
            answers.push((seen, frame));
        }
    }
    ensure!(answers.len() == 1, "{} SYN-ACKs", answers.len());
    let (seen, frame) = answers.remove(0);
    let syn = syn.context("no SYN")?;
    assert_eq!(seen.ack, syn.seq.wrapping_add(1));
    if let Some((_, echo)) = seen.options.timestamps {
        assert_eq!(Some(echo), syn.options.timestamps.map(|(value, _)| value));
    }
    assert!(seen.ip_checksum_valid);
    assert!(frame.checksum_pending || seen.checksum == SumState::Valid, "{seen:?}");
    Ok(Frame::of(frame.bytes))
}

trait IsSyn {
    fn is_syn(&self) -> bool;
}

impl IsSyn for ParsedFrame {
    fn is_syn(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN
    }
}

/// Every combination of options, over one family.
fn connect_all(bed: &Topology, server: &Server) -> Result<Vec<(Offer, Outcome)>> {
    let capture = Capture::both_ways(&bed.client, CLIENT_INTERFACE)?;
    Offer::all()
        .map(|offer| {
            offer.set(bed)?;
            let outcome = connect(bed, &capture, server);
            Ok((offer, outcome.with_context(|| format!("{offer:?} to {}", server.address()))?))
        })
        .collect()
}

/// Compares what the kernel alone negotiates with what comes of a challenge.
fn compare(bed: &Topology) -> Result<()> {
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let options = server::Options { greet: false, ..server::Options::default() };
        let server = Server::with(&bed.server, address, options)?;
        let unchallenged = connect_all(bed, &server)?;
        let defender = start(bed, &["--mode", "monitor"])?;
        let before = Counts::of(&defender)?;
        let watched = connect_all(bed, &server)?;
        (&Counts::of(&defender)? - &before).assert(&[("syn_challenged", 0), ("syn_passed", 16)]);
        for (unchallenged, watched) in unchallenged.iter().zip(watched) {
            assert_eq!(unchallenged, &watched, "left: without it, right: watched");
        }
        defender.ask(&["set", "mode", "always"])?;
        wait_active(&defender, 80)?;
        challenge_all(&defender, bed, &server, &unchallenged)?;
    }
    Ok(())
}

fn challenge_all(
    defender: &Controller<'_>,
    bed: &Topology,
    server: &Server,
    unchallenged: &[(Offer, Outcome)],
) -> Result<()> {
    let before = Counts::of(defender)?;
    let challenged = connect_all(bed, server)?;
    (&Counts::of(defender)? - &before).assert_connections(unchallenged.len() as u64);
    for (unchallenged, challenged) in unchallenged.iter().zip(challenged) {
        let (offer, outcome) = &challenged;
        if offer.ecn && !offer.timestamps {
            // There is no room for it in the cookie then.
            assert!(!outcome.client.ecn && !outcome.server.ecn, "{offer:?} {outcome:?}");
        } else {
            assert_eq!(unchallenged, &challenged, "left: without it, right: challenged");
        }
    }
    Ok(())
}

#[test]
fn every_combination_is_what_the_kernel_alone_negotiates() -> Result<()> {
    let bed = Topology::new()?;
    compare(&bed)?;
    // The test would not notice a thing if the sysctls did nothing.
    let server = Server::start(&bed.server, bed.server_v4(81))?;
    let outcomes = connect_all(&bed, &server)?;
    for (offer, outcome) in outcomes {
        for info in [outcome.client, outcome.server] {
            let seen = Offer {
                timestamps: info.timestamps,
                sack: info.sack,
                scaling: info.window_scaling,
                ecn: info.ecn,
            };
            assert_eq!(seen, offer, "{outcome:?}");
        }
    }
    Ok(())
}

#[test]
fn a_host_with_other_settings_looks_like_itself() -> Result<()> {
    let bed = Topology::with(&Options { mtu: 1400, ..Options::default() })?;
    bed.server.set_sysctl("net.ipv4.ip_default_ttl", 77)?;
    bed.server.set_sysctl("net.ipv6.conf.all.hop_limit", 78)?;
    bed.server.set_sysctl("net.ipv6.conf.srv0.hop_limit", 78)?;
    // Equal scales: others are rounded.
    for namespace in [&bed.client, &bed.server] {
        namespace.set_sysctl("net.ipv4.tcp_rmem", "4096 20000 6291456")?;
    }
    compare(&bed)
}

#[test]
fn a_default_route_s_attributes_count() -> Result<()> {
    for attributes in ["advmss 1300 window 20000 hoplimit 33", "mtu 1400 initrwnd 5"] {
        let bed = Topology::new()?;
        // Clients are reached by the default route alone.
        bed.server.ip("route del 10.208.0.0/12")?;
        bed.server.ip("-6 route del 2001:db8:c::/48")?;
        bed.server.ip(&format!("route add default via {CLIENT_V4} {attributes}"))?;
        bed.server.ip(&format!("-6 route add default via {CLIENT_V6} {attributes}"))?;
        for address in [bed.server_v4(80), bed.server_v6(80)] {
            let server = listen(&bed, address, |_| Ok(()))?;
            let unchallenged = looks(&bed, &server)?;
            let defender = start_always(&bed, &[80])?;
            let before = Counts::of(&defender)?;
            let challenged = looks(&bed, &server)?;
            (&Counts::of(&defender)? - &before).assert_connections(unchallenged.len() as u64);
            assert_eq!(unchallenged, challenged, "{attributes}: left: without it, right: challenged");
        }
    }
    Ok(())
}

#[test]
fn a_host_that_forbids_options_gets_none() -> Result<()> {
    for (key, value) in [
        ("net.ipv4.tcp_timestamps", 0),
        ("net.ipv4.tcp_sack", 0),
        ("net.ipv4.tcp_window_scaling", 0),
        ("net.ipv4.tcp_ecn", 0),
    ] {
        let bed = Topology::new()?;
        bed.server.set_sysctl(key, value)?;
        // Without timestamps, a cookie has no room for ECN.
        let ecn = key != "net.ipv4.tcp_timestamps";
        compare_some(&bed, ecn).with_context(|| format!("{key}={value}"))?;
    }
    Ok(())
}

/// Like [`compare`], but only for a client that offers everything; `ecn` as well, maybe.
fn compare_some(bed: &Topology, ecn: bool) -> Result<()> {
    let options = server::Options { greet: false, ..server::Options::default() };
    let server = Server::with(&bed.server, bed.server_v4(80), options)?;
    let capture = Capture::both_ways(&bed.client, CLIENT_INTERFACE)?;
    Offer { timestamps: true, sack: true, scaling: true, ecn }.set(bed)?;
    let unchallenged = connect(bed, &capture, &server)?;
    let defender = start_always(bed, &[80])?;
    let before = Counts::of(&defender)?;
    let challenged = connect(bed, &capture, &server)?;
    (&Counts::of(&defender)? - &before).assert_connections(1);
    assert_eq!(unchallenged, challenged, "left: without it, right: challenged");
    Ok(())
}

/// What a client advertises, and what its route says besides.
#[derive(Clone, Copy, Debug)]
struct Route {
    mss: u16,
    /// Limits the window, and with it the scale.
    scale: Option<u8>,
}

impl Route {
    fn set(self, bed: &Topology, to: SocketAddr) -> Result<()> {
        let (family, host) =
            if to.is_ipv4() { ("", format!("{SERVER_V4}/32")) } else { ("-6 ", format!("{SERVER_V6}/128")) };
        // The scale is the least that brings this many bytes into 16 bits.
        let window =
            self.scale.map_or(String::new(), |scale| format!(" window {}", (1_u64 << (16 + scale)) - 1));
        let route =
            format!("{family}route replace {host} dev {CLIENT_INTERFACE} advmss {}{window}", self.mss);
        bed.client.ip(&route).map(drop)
    }
}

/// What the server may send, from its kernel; timestamps are put back on.
fn server_mss(info: &TcpInfo) -> u32 {
    info.send_mss + if info.timestamps { 12 } else { 0 }
}

#[test]
fn segment_sizes_are_rounded_down_as_documented() -> Result<()> {
    let v4 = [536, 1200, 1250, 1300, 1350, 1400, 1440, 1460];
    let v6 = [1220, 1260, 1310, 1360, 1400, 1420, 1440];
    let bed = Topology::new()?;
    let capture = Capture::both_ways(&bed.client, CLIENT_INTERFACE)?;
    for (address, table) in [(bed.server_v4(80), &v4[..]), (bed.server_v6(80), &v6[..])] {
        let server = Server::start(&bed.server, address)?;
        let offered = || {
            let around = table.iter().flat_map(|mss| [*mss - 1, *mss, *mss + 1]);
            around.filter(|mss| (table[0]..=table[table.len() - 1]).contains(mss))
        };
        let sizes = |expected: &dyn Fn(u16) -> u16| -> Result<()> {
            for mss in offered() {
                Route { mss, scale: None }.set(&bed, address)?;
                let outcome = connect(&bed, &capture, &server)?;
                assert_eq!(
                    server_mss(&outcome.server),
                    u32::from(expected(mss)),
                    "offered {mss} {outcome:?}"
                );
                assert!(outcome.server.has_all_options(), "{outcome:?}");
            }
            Ok(())
        };
        sizes(&|mss| mss)?;
        let defender = start_always(&bed, &[80])?;
        let before = Counts::of(&defender)?;
        let floor = |mss| table.iter().copied().filter(|entry| *entry <= mss).max().expect("none is smaller");
        sizes(&floor)?;
        (&Counts::of(&defender)? - &before).assert_connections(offered().count() as u64);
    }
    Ok(())
}

/// A client without timestamps: what it offers, and what is left of it.
struct Rounded {
    mss: u16,
    scale: u8,
    left_mss: u16,
    left_scale: Option<u8>,
}

const fn rounded(mss: u16, scale: u8, left_mss: u16, left_scale: Option<u8>) -> Rounded {
    Rounded { mss, scale, left_mss, left_scale }
}

/// IPv4 and 1460 bytes, this host's own scale being 10. Scaling is worth more than size, size more than steps of scale.
const ROUNDED: [Rounded; 18] = [
    rounded(1460, 10, 1460, Some(10)),
    rounded(1460, 12, 1460, Some(10)),
    rounded(1460, 14, 1460, Some(14)),
    rounded(1460, 9, 1460, Some(8)),
    rounded(1460, 8, 1460, Some(8)),
    rounded(1460, 7, 1460, Some(7)),
    rounded(1460, 6, 1460, None),
    rounded(1460, 0, 1460, None),
    rounded(1452, 8, 1402, Some(8)),
    rounded(1440, 8, 1402, Some(8)),
    rounded(1400, 8, 1350, Some(8)),
    rounded(1300, 8, 1300, Some(8)),
    rounded(1240, 8, 1200, Some(8)),
    rounded(1220, 8, 1200, Some(8)),
    rounded(1200, 8, 1200, Some(8)),
    rounded(1400, 7, 1300, None),
    rounded(1400, 2, 1300, None),
    rounded(1320, 8, 1300, Some(8)),
];

#[test]
fn clients_without_timestamps_get_the_nearest_profile() -> Result<()> {
    let bed = Topology::new()?;
    let capture = Capture::both_ways(&bed.client, CLIENT_INTERFACE)?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let without = Offer { timestamps: false, sack: true, scaling: true, ecn: false };
    without.set(&bed)?;
    // So that the route alone decides about the scale.
    bed.client.set_sysctl("net.ipv4.tcp_rmem", "4096 131072 1610612736")?;
    let look = |row: &Rounded| -> Result<Outcome> {
        Route { mss: row.mss, scale: Some(row.scale) }.set(&bed, server.address())?;
        connect(&bed, &capture, &server)
    };
    for row in &ROUNDED {
        let unchallenged = look(row)?;
        assert_eq!(
            (server_mss(&unchallenged.server), unchallenged.server.send_scale),
            (row.mss.into(), row.scale),
            "{unchallenged:?}"
        );
    }
    let defender = start_always(&bed, &[80])?;
    let before = Counts::of(&defender)?;
    for row in &ROUNDED {
        let outcome = look(row)?;
        let Outcome { client, server, .. } = &outcome;
        assert_eq!(
            server_mss(server),
            u32::from(row.left_mss),
            "offered {} {} {outcome:?}",
            row.mss,
            row.scale
        );
        let scale = server.window_scaling.then_some(server.send_scale);
        assert_eq!(scale, row.left_scale, "offered {} {} {outcome:?}", row.mss, row.scale);
        assert!(server.sack && client.sack, "{outcome:?}");
        assert_eq!(client.window_scaling, server.window_scaling, "{outcome:?}");
        assert_eq!(client.send_scale, server.receive_scale, "{outcome:?}");
    }
    (&Counts::of(&defender)? - &before).assert_connections(ROUNDED.len() as u64);
    Ok(())
}

/// Bytes read before the reader stalls.
const WARM_UP: usize = 8_000_000;

/// Bytes unread; far beyond what 16 bits can say.
const FAR: usize = 1_500_000;

#[test]
fn much_more_than_64_kib_is_in_flight_to_a_stalled_reader() -> Result<()> {
    let bed = Topology::new()?;
    for namespace in [&bed.client, &bed.server] {
        namespace.set_sysctl("net.ipv4.tcp_rmem", "4096 4194304 33554432")?;
    }
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let listener = bed.server.run(|| server::listen(address, server::Options::default()))?;
        listener.set_nonblocking(false)?;
        let offer = |timestamps, scaling| Offer { timestamps, sack: true, scaling, ecn: false }.set(&bed);
        // First by the kernel alone: it must be possible at all.
        offer(true, true)?;
        stall(&bed, &listener, true).context("by the kernel alone")?;
        let defender = start_always(&bed, &[80])?;
        let before = Counts::of(&defender)?;
        for timestamps in [true, false] {
            offer(timestamps, true)?;
            stall(&bed, &listener, true)?;
        }
        // And it is the scale that does it.
        offer(true, false)?;
        stall(&bed, &listener, false)?;
        (&Counts::of(&defender)? - &before).assert_connections(3);
    }
    Ok(())
}

/// Neither side reads, and both write.
fn stall(bed: &Topology, listener: &TcpListener, scaled: bool) -> Result<()> {
    let address = listener.local_addr()?;
    let from = bed.fresh_client(address);
    let client = client::connect_from(&bed.client, Some(from), address, CLIENT_PATIENCE)?;
    let (server, peer) = listener.accept()?;
    assert_eq!(peer, client.local_addr()?);
    for (writer, reader) in [(&client, &server), (&server, &client)] {
        let widest = fill(writer, reader)?;
        ensure!((widest > 65_535) == scaled, "the widest window had {widest} bytes");
    }
    Ok(())
}

/// Lets the reader read for a while, then writes until [`FAR`] bytes wait unread. Returns the widest window that the
/// writer was granted.
fn fill(mut writer: &TcpStream, mut reader: &TcpStream) -> Result<u32> {
    for stream in [writer, reader] {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
        stream.set_write_timeout(Some(CLIENT_PATIENCE))?;
    }
    // A window grows only with what is read.
    thread::scope(|scope| -> Result<()> {
        let writing = scope.spawn(|| writer.write_all(&vec![0; WARM_UP]));
        reader.read_exact(&mut vec![0; WARM_UP])?;
        Ok(writing.join().expect("no panic")?)
    })?;
    writer.set_nonblocking(true)?;
    let (mut unread, mut widest) = (0, 0);
    let deadline = Instant::now() + CLIENT_PATIENCE;
    while unread < FAR {
        ensure!(Instant::now() < deadline, "{unread} bytes are unread, and no more come");
        // It may well be full.
        let _ = writer.write(&[0; 65_536]);
        unread = bytes_unread(reader)?;
        widest = widest.max(TcpInfo::of(writer)?.send_window);
        thread::sleep(Duration::from_millis(1));
    }
    Ok(widest)
}

fn bytes_unread(stream: &TcpStream) -> Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one integer.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    ensure!(result == 0, "FIONREAD: {}", std::io::Error::last_os_error());
    Ok(count as usize)
}

#[test]
fn data_goes_both_ways_over_a_short_mtu() -> Result<()> {
    let bed = Topology::with(&Options { mtu: 1400, ..Options::default() })?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let server = Server::start(&bed.server, address)?;
        let defender = start(&bed, &["--mode", "always"])?;
        wait_active(&defender, 80)?;
        let before = Counts::of(&defender)?;
        let from = bed.fresh_client(address);
        let mut stream = client::connect_from(&bed.client, Some(from), address, CLIENT_PATIENCE)?;
        stream.read_exact(&mut [0])?;
        let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
        let mut received = vec![0; sent.len()];
        let mut writer = stream.try_clone()?;
        thread::scope(|scope| -> Result<()> {
            scope.spawn(|| writer.write_all(&sent));
            Ok(stream.read_exact(&mut received)?)
        })?;
        assert!(received == sent, "what came back is not what was sent");
        let info = server.wait_for(stream.local_addr()?, CLIENT_PATIENCE)?.info;
        assert_eq!(server_mss(&info), if address.is_ipv4() { 1360 } else { 1340 }, "{info:?}");
        (&Counts::of(&defender)? - &before).assert_connections(1);
    }
    Ok(())
}

/// Sets options of a listening socket.
type Prepare = fn(BorrowedFd<'_>) -> nix::Result<()>;

/// Options of a listener that its SYN-ACKs show. A socket of either family takes those of IPv4; those of IPv6 are for IPv6.
const LISTENERS: [(&str, Prepare); 9] = [
    ("none", |_| Ok(())),
    ("the hops of a peer that checks them (GTSM)", |socket| hops(socket, 255)),
    ("few hops", |socket| hops(socket, 5)),
    ("a type of service", |socket| {
        set(socket, libc::IPPROTO_IP, libc::IP_TOS, 0x10)?;
        if_v6(socket, libc::IPV6_TCLASS, 0xb8)
    }),
    ("TCP_MAXSEG", |socket| set(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1300)),
    ("TCP_WINDOW_CLAMP", |socket| set(socket, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, 20_000)),
    ("a small buffer", |socket| set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 5_000)),
    ("a large buffer", |socket| set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 1_000_000)),
    ("some of each", |socket| {
        hops(socket, 200)?;
        set(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1250)?;
        set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 50_000)
    }),
];

fn set(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> nix::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value is valid for its length.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    nix::errno::Errno::result(result).map(drop)
}

fn if_v6(socket: BorrowedFd<'_>, option: i32, value: i32) -> nix::Result<()> {
    match set(socket, libc::IPPROTO_IPV6, option, value) {
        // A socket of IPv4.
        Err(nix::errno::Errno::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

fn hops(socket: BorrowedFd<'_>, hops: i32) -> nix::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_TTL, hops)?;
    if_v6(socket, libc::IPV6_UNICAST_HOPS, hops)
}

fn listen(bed: &Topology, address: SocketAddr, prepare: Prepare) -> Result<Server> {
    let options = server::Options { greet: false, prepare: Some(prepare), ..server::Options::default() };
    Server::with(&bed.server, address, options)
}

/// What clients are answered by a listener, and what is agreed on: with timestamps, and with what Windows offers.
fn looks(bed: &Topology, server: &Server) -> Result<Vec<Outcome>> {
    let capture = Capture::both_ways(&bed.client, CLIENT_INTERFACE)?;
    let address = server.address();
    // A wildcard listener of IPv6 answers clients of IPv4 as well.
    let wildcard = [bed.server_v4(address.port()), bed.server_v6(address.port())];
    let to = if address.ip().is_unspecified() { &wildcard[..] } else { &[address] };
    // A scale that cookies have a profile for, whatever this host's own is.
    bed.client.set_sysctl("net.ipv4.tcp_rmem", "4096 131072 8388608")?;
    let mut outcomes = Vec::new();
    for address in to {
        for timestamps in [true, false] {
            Offer { timestamps, sack: true, scaling: true, ecn: false }.set(bed)?;
            outcomes.push(connect_to(bed, &capture, server, *address)?);
        }
    }
    Ok(outcomes)
}

#[test]
fn a_syn_ack_is_as_its_listener_was_told() -> Result<()> {
    let bed = Topology::new()?;
    for address in [bed.server_v4(80), bed.server_v6(80), "[::]:80".parse()?] {
        for (what, prepare) in LISTENERS {
            let server = listen(&bed, address, prepare)?;
            let unchallenged = looks(&bed, &server).with_context(|| format!("without it, {what}"))?;
            let defender = start_always(&bed, &[80])?;
            let before = Counts::of(&defender)?;
            let challenged = looks(&bed, &server).with_context(|| format!("challenged, {what}"))?;
            (&Counts::of(&defender)? - &before).assert_connections(unchallenged.len() as u64);
            assert_eq!(unchallenged, challenged, "{address}, {what}: left: without it, right: challenged");
        }
    }
    Ok(())
}

#[test]
fn one_client_s_path_is_nobody_else_s() -> Result<()> {
    for mode in ["monitor", "auto"] {
        let bed = Topology::new()?;
        for address in [bed.server_v4(80), bed.server_v6(80)] {
            let server = listen(&bed, address, |_| Ok(()))?;
            let unchallenged = looks(&bed, &server)?;
            let defender = start(&bed, &["--mode", mode])?;
            // What an ICMP message of its own would bring about: a smaller MTU on the way to this one client.
            let narrow = bed.fresh_client(address);
            let (family, bits, via) = match narrow.ip() {
                IpAddr::V4(_) => ("", 32, CLIENT_V4.to_string()),
                IpAddr::V6(_) => ("-6 ", 128, CLIENT_V6.to_string()),
            };
            bed.server.ip(&format!("{family}route add {}/{bits} via {via} mtu 1280", narrow.ip()))?;
            let client = client::connect_from(&bed.client, Some(narrow), address, CLIENT_PATIENCE)?;
            let reduced = TcpInfo::of(&client)?;
            assert!(reduced.send_mss < unchallenged[0].client.send_mss, "{reduced:?}");
            thread::sleep(Duration::from_millis(1200));
            defender.ask(&["set", "mode", "always"])?;
            wait_active(&defender, 80)?;
            let challenged = looks(&bed, &server)?;
            assert_eq!(unchallenged, challenged, "{mode}, {address}: left: without it, right: challenged");
        }
    }
    Ok(())
}

#[test]
fn what_a_listener_is_told_later_counts_soon() -> Result<()> {
    let bed = Topology::new()?;
    let address = bed.server_v4(80);
    let listener = bed.server.run(|| server::listen(address, server::Options::default()))?;
    let defender = start_always(&bed, &[80])?;
    let capture = Capture::both_ways(&bed.client, CLIENT_INTERFACE)?;
    let answer = || -> Result<ParsedFrame> {
        capture.clear()?;
        let from = bed.fresh_client(address);
        let client = client::connect_from(&bed.client, Some(from), address, CLIENT_PATIENCE)?;
        listener.set_nonblocking(false)?;
        listener.accept()?;
        let to = client.local_addr()?;
        let is_syn_ack = |seen: &ParsedFrame| seen.destination == to && seen.flags & flag::SYN != 0;
        capture.next_tcp(PATIENCE, is_syn_ack)?.context("no SYN-ACK")
    };
    let usual = answer()?;
    hops(listener.as_fd(), 255)?;
    // A key is drawn every half minute: what it brings must not be waited for so long.
    soon("IP_TTL", || Ok(answer()?.ttl == 255))?;
    set(listener.as_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1000)?;
    soon("TCP_MAXSEG", || Ok(answer()?.options.mss == Some(1000)))?;
    bed.server.set_sysctl("net.ipv4.tcp_rmem", "4096 131072 2097152")?;
    soon("tcp_rmem", || Ok(answer()?.options.window_scale < usual.options.window_scale))?;
    assert!(Counts::of(&defender)?.get("syn_challenged") >= 4);
    Ok(())
}

/// Well below the half minute after which a new key is drawn in any case.
const SOON: Duration = Duration::from_secs(15);

fn soon(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what} does not count after {SOON:?}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
