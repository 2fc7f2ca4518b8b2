//! What is not for this host, not for a service, or not TCP: untouched.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Result, ensure};
use defender_testbed::{
    capture::Capture,
    client,
    frame::{TcpFrame, flag},
    netns::Namespace,
    server::Server,
    topology::{
        BEHIND_INTERFACE, BEHIND_MAC, BEHIND_V4, BEHIND_V6, CLIENT_INTERFACE, CLIENT_MAC, CLIENT_V4, Options,
        ROUTER_MAC, SERVER_INTERFACE, SERVER_MAC, SERVER_V4, Topology,
    },
};

use crate::harness::{
    CLIENT_PATIENCE, PATIENCE,
    kernel::{counted, servers},
    scripted_client::{ClientKind, QUIET, Wire},
    start_always,
};

const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];
const BROADCAST_MAC: [u8; 6] = [0xff; 6];

/// A server on every address of the namespace.
fn everywhere(namespace: &Namespace) -> Result<Server> {
    Server::start(namespace, "[::]:80".parse()?)
}

#[test]
fn connections_through_this_host_are_not_its_own() -> Result<()> {
    let bed = Topology::with(&Options { behind: true, ..Options::default() })?;
    let behind = bed.behind.as_ref().expect("asked for");
    let _own = everywhere(&bed.server)?;
    let server = everywhere(behind)?;
    let defender = start_always(&bed, &[80])?;
    let (_, counts) = counted(&defender, || {
        for to in [SocketAddr::new(BEHIND_V4.into(), 80), SocketAddr::new(BEHIND_V6.into(), 80)] {
            let from = bed.fresh_client(to);
            let stream = client::connect_from(&bed.client, Some(from), to, CLIENT_PATIENCE)?;
            let own = stream.local_addr()?;
            crate::harness::eventually("the server behind accepts", || {
                Ok(server.accepted().iter().any(|accepted| accepted.peer.port() == own.port()))
            })?;
        }
        Ok(())
    })?;
    assert!(counts.get("pass.not_local") >= 4, "{counts}");
    counts.assert(&[("syn_received", 0), ("ack_accepted", 0)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn forwarded_packets_are_untouched() -> Result<()> {
    let bed = Topology::with(&Options { behind: true, ..Options::default() })?;
    let behind = bed.behind.as_ref().expect("asked for");
    let _own = everywhere(&bed.server)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let capture = Capture::incoming(behind, BEHIND_INTERFACE)?;
    let (_, counts) = counted(&defender, || {
        for to in [SocketAddr::new(BEHIND_V4.into(), 80), SocketAddr::new(BEHIND_V6.into(), 80)] {
            let from = wire.address(to);
            let frames = [
                TcpFrame::linux_syn(from, to, 1).payload(b"data in a SYN"),
                TcpFrame::new(from, to).seq(1).ack(1).payload(&[7; 1000]),
                TcpFrame::new(from, to).flags(flag::RST).seq(1).tos(3),
                TcpFrame::linux_syn(from, to, 1).flags(flag::SYN | flag::ACK).ack(1),
                TcpFrame::new(from, to).flags(0).raw_options(&[254, 4, 1, 2]),
                TcpFrame::linux_syn(from, to, 1).flags(flag::SYN | flag::FIN),
            ];
            wire.send(&frames)?;
            for frame in frames {
                let expected = frame.macs(ROUTER_MAC, BEHIND_MAC).ttl(63).build();
                let got = next_from(&capture, from)?;
                assert_eq!(got, expected);
            }
        }
        Ok(())
    })?;
    counts.assert(&[("pass.not_local", 12), ("syn_received", 0)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

fn next_from(capture: &Capture, from: SocketAddr) -> Result<Vec<u8>> {
    loop {
        let frame = capture.next(PATIENCE)?.expect("a frame");
        if frame.tcp().is_some_and(|seen| seen.source == from) {
            return Ok(frame.bytes);
        }
    }
}

#[test]
fn frames_for_others_are_untouched_and_unanswered() -> Result<()> {
    let bed = Topology::new()?;
    let _server = everywhere(&bed.server)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let from = wire.address(bed.server_v4(80));
    let answers = Capture::incoming(&bed.client, CLIENT_INTERFACE)?;
    let arrived = Capture::incoming(&bed.server, SERVER_INTERFACE)?;
    let to = |address: [u8; 4]| SocketAddr::new(Ipv4Addr::from(address).into(), 80);
    let syn = |address| TcpFrame::linux_syn(from, to(address), 1);
    let frames = [
        // For the MAC address of another host.
        TcpFrame::linux_syn(from, bed.server_v4(80), 1).macs(CLIENT_MAC, OTHER_MAC),
        TcpFrame::new(from, bed.server_v4(80)).seq(1).ack(1).macs(CLIENT_MAC, OTHER_MAC),
        TcpFrame::linux_syn(from, bed.server_v4(80), 1).macs(CLIENT_MAC, BROADCAST_MAC),
        // Multicast and broadcast, also where somebody sends that to our MAC address alone.
        syn([224, 0, 0, 1]).macs(CLIENT_MAC, [1, 0, 0x5e, 0, 0, 1]),
        syn([224, 0, 0, 1]),
        syn([255; 4]).macs(CLIENT_MAC, BROADCAST_MAC),
        syn([255; 4]),
        syn([10, 203, 0, 3]).macs(CLIENT_MAC, BROADCAST_MAC),
        syn([10, 203, 0, 3]),
        syn([10, 203, 0, 0]),
        // Nobody's.
        syn([203, 0, 113, 77]).macs(CLIENT_MAC, SERVER_MAC),
    ];
    let (_, counts) = counted(&defender, || {
        wire.send(&frames)?;
        for frame in &frames {
            assert_eq!(next_from(&arrived, from)?, frame.build());
        }
        let answers = answers.tcp_until_quiet(QUIET)?;
        ensure!(answers.is_empty(), "answered: {answers:?}");
        Ok(())
    })?;
    counts.assert(&[("pass.other_mac", 6), ("pass.not_local", 5), ("syn_received", 0)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

/// Whoever answered these would be a tool against others.
#[test]
fn sources_that_must_not_be_answered_are_not() -> Result<()> {
    let bed = Topology::new()?;
    let _server = everywhere(&bed.server)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let answers = Capture::incoming(&bed.client, CLIENT_INTERFACE)?;
    let v4: Vec<SocketAddr> = [
        "224.0.0.5:9",
        "239.1.2.3:9",
        "255.255.255.255:9",
        "127.0.0.1:9",
        "10.203.0.2:80",
        "10.203.0.2:9",
        "0.0.0.0:9",
        // The broadcast address of the server's subnet.
        "10.203.0.3:9",
    ]
    .iter()
    .map(|text| text.parse())
    .collect::<Result<_, _>>()?;
    let v6: Vec<SocketAddr> =
        ["[ff02::1]:9", "[::1]:9", "[2001:db8:0:1::2]:80", "[::]:9", "[::ffff:10.203.0.1]:9"]
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()?;
    let frames: Vec<_> = (v4.iter().map(|from| TcpFrame::linux_syn(*from, bed.server_v4(80), 1)))
        .chain(v6.iter().map(|from| TcpFrame::linux_syn(*from, bed.server_v6(80), 1)))
        .collect();
    let (_, counts) = counted(&defender, || {
        wire.send(&frames)?;
        let answers = answers.tcp_until_quiet(QUIET)?;
        ensure!(answers.is_empty(), "answered: {answers:?}");
        Ok(())
    })?;
    counts.assert(&[("syn_challenged", 0), ("drop.syn_odd_source", frames.len() as u64)]);
    Ok(())
}

/// What no host sends: from a group's MAC address or the interface's own, with a TTL of 0, with a wrong header checksum.
#[test]
fn headers_that_no_host_sends_are_not_answered() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let answers = Capture::incoming(&bed.client, CLIENT_INTERFACE)?;
    for server in &servers {
        let to = server.address();
        let syn = || TcpFrame::linux_syn(wire.address(to), to, 1);
        let mut frames = vec![
            syn().macs(BROADCAST_MAC, SERVER_MAC),
            syn().macs([0x33, 0x33, 0, 0, 0, 1], SERVER_MAC),
            syn().macs(SERVER_MAC, SERVER_MAC),
            syn().ttl(0),
        ];
        if to.is_ipv4() {
            frames.extend([syn().wrong_ip_checksum(), syn().ip_options(&[1; 4]).wrong_ip_checksum()]);
        }
        let (_, counts) = counted(&defender, || wire.send(&frames))?;
        let checksums = if to.is_ipv4() { 2 } else { 0 };
        counts.assert(&[
            ("syn_challenged", 0),
            ("drop.syn_odd_mac", 3),
            ("drop.syn_expired", 1),
            ("drop.syn_bad_ip_checksum", checksums),
        ]);
        ensure!(answers.tcp_until_quiet(QUIET)?.is_empty(), "answered");
        wire.connected(to, ClientKind::Linux)?.talk()?;
        answers.clear()?;
    }
    Ok(())
}

#[test]
fn the_kernel_refuses_where_nobody_listens() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let refused = |to| -> Result<()> {
        let client = wire.client(to, ClientKind::Linux)?;
        client.send(&[client.syn()])?;
        let seen = client.expect("a RST")?;
        ensure!(seen.is(flag::RST | flag::ACK) && seen.ack == client.isn.wrapping_add(1), "{seen:?}");
        client.expect_silence()
    };
    let (_, counts) = counted(&defender, || {
        refused(bed.server_v4(81))?;
        refused(bed.server_v6(81))?;
        // The one that ends is not answered for from that moment on, whatever the controller knows.
        drop(servers);
        refused(bed.server_v4(80))?;
        refused(bed.server_v6(80))
    })?;
    counts.assert(&[("syn_challenged", 0)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn what_is_not_tcp_is_untouched() -> Result<()> {
    let bed = Topology::new()?;
    let _server = everywhere(&bed.server)?;
    let defender = start_always(&bed, &[80])?;
    let client = Capture::incoming(&bed.client, CLIENT_INTERFACE)?;
    let arrived = Capture::incoming(&bed.server, SERVER_INTERFACE)?;
    let frames = [arp(), ethernet(0x88cc, &[2; 40]), ipv4(17), ipv4(1), ipv4(47), ipv6(17), ipv6(58)];
    let (_, counts) = counted(&defender, || {
        arrived.clear()?;
        for frame in &frames {
            client.send(frame)?;
            loop {
                let got = arrived.next(PATIENCE)?.expect("a frame").bytes;
                // Kernels have things to say to each other as well.
                if got[6..14] == frame[6..14] && got.ends_with(&[0x5a; 4]) {
                    assert_eq!(&got, frame);
                    break;
                }
            }
        }
        udp_goes_there_and_back(&bed)?;
        bed.client.ip(&format!("neighbour del {SERVER_V4} dev {CLIENT_INTERFACE}"))?;
        udp_goes_there_and_back(&bed)?;
        icmp_comes_back(&bed)
    })?;
    assert!(counts.get("pass.not_ip") >= 3 && counts.get("pass.not_tcp") >= 8, "{counts}");
    counts.assert_no_drops_but(&[]);
    Ok(())
}

fn udp_goes_there_and_back(bed: &Topology) -> Result<()> {
    let server = bed.server.run(|| Ok(UdpSocket::bind((SERVER_V4, 80))?))?;
    let client = bed.client.run(|| Ok(UdpSocket::bind((CLIENT_V4, 80))?))?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    let mut bytes = [0; 8];
    client.send_to(b"question", (SERVER_V4, 80))?;
    let (length, from) = server.recv_from(&mut bytes)?;
    ensure!(&bytes[..length] == b"question");
    server.send_to(b"answer", from)?;
    let (length, _) = client.recv_from(&mut bytes)?;
    ensure!(&bytes[..length] == b"answer");
    Ok(())
}

/// The kernel says by ICMP that nobody is there.
fn icmp_comes_back(bed: &Topology) -> Result<()> {
    let client = bed.client.run(|| Ok(UdpSocket::bind((CLIENT_V4, 0))?))?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.connect((SERVER_V4, 9))?;
    client.send(b"anybody?")?;
    let error = client.recv(&mut [0; 8]).expect_err("nobody is there");
    ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{error}");
    Ok(())
}

/// A frame from the client to the server that ends in a mark.
fn ethernet(ether_type: u16, content: &[u8]) -> Vec<u8> {
    [&SERVER_MAC[..], &CLIENT_MAC, &ether_type.to_be_bytes(), content, &[0x5a; 4]].concat()
}

fn arp() -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let (own, other) = (CLIENT_V4.octets(), SERVER_V4.octets());
    ethernet(0x0806, &[&head[..], &CLIENT_MAC, &own, &[0; 6], &other, &[0; 14]].concat())
}

/// A packet of another protocol whose first bytes read like a SYN to port 80.
fn ipv4(protocol: u8) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 20 + 24, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header.extend(CLIENT_V4.octets());
    header.extend(SERVER_V4.octets());
    ethernet(0x0800, &[&header[..], &like_a_syn()].concat())
}

fn ipv6(protocol: u8) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 24, protocol, 64];
    header.extend(defender_testbed::topology::CLIENT_V6.octets());
    header.extend(defender_testbed::topology::SERVER_V6.octets());
    ethernet(0x86dd, &[&header[..], &like_a_syn()].concat())
}

fn like_a_syn() -> [u8; 20] {
    [0x4e, 0x20, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flag::SYN, 0xff, 0xff, 0, 0, 0, 0]
}
