//! IPv4 and IPv6: options, extension headers, fragments, addresses of this host.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use defender_common::{
    abi::{INTERFACE_LOCAL_COMPLETE, MODE_AUTO},
    verdict::Reason,
    wire::address::{Address as _, V6},
};
use defender_testbed::frame::{Extension, TcpFrame, flag};

use super::{
    frames::{ISN, LINUX4, LINUX6, address, at, client4, client6, stray, syn4, syn6},
    row::{Frame, Row, check, row},
    world::DUAL,
};

const NOP: u8 = 1;
const RECORD_ROUTE: [u8; 7] = [7, 7, 4, 0, 0, 0, 0];
/// RFC 2113: routers shall look at this packet.
const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];

fn ipv4() -> Vec<Row> {
    let options = |bytes: &[u8]| syn4().ip_options(bytes);
    vec![
        row("one word of options", options(&[NOP; 4])).challenged(LINUX4),
        row("router alert", options(&ROUTER_ALERT)).challenged(LINUX4),
        row("record route", options(&RECORD_ROUTE)).challenged(LINUX4),
        row("as many options as there can be", options(&[NOP; 40])).challenged(LINUX4),
        row("options below a tag", options(&[NOP; 12]).vlan(5)).challenged(LINUX4),
        row("options and data", options(&[NOP; 12]).payload(b"GET")).challenged(LINUX4),
        row("an acknowledgement with options", stray(client4(), flag::ACK).ack(1).ip_options(&[NOP; 8]))
            .dropped(Reason::AckBadCookie),
        row("no DF", syn4().dont_fragment(false)).challenged(LINUX4),
        row("no DF, an identification", syn4().dont_fragment(false).identification(0xbeef))
            .challenged(LINUX4),
        row("TTL 0", syn4().ttl(0)).dropped(Reason::SynExpired),
        row("TTL 0: an acknowledgement is the kernel's to judge", stray(client4(), flag::ACK).ack(1).ttl(0))
            .dropped(Reason::AckBadCookie),
        row("TTL 1", syn4().ttl(1)).challenged(LINUX4),
        row("a wrong header checksum", syn4().wrong_ip_checksum()).dropped(Reason::SynBadIpChecksum),
        row("a wrong header checksum, in calm", syn4().wrong_ip_checksum())
            .world(|world| world.service().mode = MODE_AUTO)
            .passes(Reason::SynNotMitigating),
        row("a wrong header checksum below a tag", syn4().vlan(7).wrong_ip_checksum())
            .dropped(Reason::SynBadIpChecksum),
        row("a wrong checksum of a header with options", syn4().ip_options(&[1; 8]).wrong_ip_checksum())
            .dropped(Reason::SynBadIpChecksum),
        row("as many options as there may be", syn4().ip_options(&[1; 40])).challenged(LINUX4),
        row("as many options as there may be, a wrong checksum", {
            syn4().ip_options(&[1; 40]).wrong_ip_checksum()
        })
        .dropped(Reason::SynBadIpChecksum),
        row("TTL 255", syn4().ttl(255)).challenged(LINUX4),
        row("a DSCP", syn4().tos(0xb8)).challenged(LINUX4),
    ]
}

fn ipv6() -> Vec<Row> {
    use Extension::{AtomicFragment, DestinationOptions, HopByHop, Routing};
    let with = |extensions: &[Extension]| extend(syn6(), extensions);
    let row6 = |what: &str, extensions: &[Extension]| row(what, with(extensions)).challenged(LINUX6);
    vec![
        row6("hop-by-hop options", &[HopByHop(4)]),
        row6("hop-by-hop options of 64 bytes", &[HopByHop(60)]),
        row6("destination options", &[DestinationOptions(4)]),
        row6("a routing header with no segments left", &[Routing]),
        row6("an atomic fragment", &[AtomicFragment]),
        row6("hop-by-hop, destination options", &[HopByHop(4), DestinationOptions(12)]),
        row6(
            "each kind, in RFC 8200's order",
            &[HopByHop(4), DestinationOptions(4), Routing, AtomicFragment, DestinationOptions(4)],
        ),
        row("each kind below a tag, with data", with(&[HopByHop(4), Routing]).vlan(3).payload(b"x"))
            .challenged(LINUX6),
        row(
            "one more extension header than are followed",
            with(&[
                HopByHop(4),
                DestinationOptions(4),
                Routing,
                AtomicFragment,
                DestinationOptions(4),
                Routing,
            ]),
        )
        .dropped(Reason::ExtensionChain),
        row("an acknowledgement behind destination options", {
            stray(client6(), flag::ACK).ack(1).extension(DestinationOptions(4))
        })
        .dropped(Reason::AckBadCookie),
        row("a traffic class", syn6().tos(0xb8)).challenged(LINUX6),
        row("hop limit 0", syn6().ttl(0)).dropped(Reason::SynExpired),
        row("hop limit 1", syn6().ttl(1)).challenged(LINUX6),
        row("no next header", next_header(59)).passes(Reason::NotTcp),
        row("an authentication header", next_header(51)).passes(Reason::NotTcp),
        row("ESP", next_header(50)).passes(Reason::NotTcp),
        row("ICMPv6", next_header(58)).passes(Reason::NotTcp),
        row("UDP behind hop-by-hop options", {
            let mut frame = with(&[HopByHop(4)]).build();
            frame[54] = 17;
            frame
        })
        .passes(Reason::NotTcp),
        row("a routing header with segments left is not for this host to answer", {
            let mut frame = with(&[Routing]).build();
            frame[57] = 1;
            frame
        })
        .passes(Reason::NotTcp),
    ]
}

fn extend(mut frame: TcpFrame, extensions: &[Extension]) -> TcpFrame {
    for extension in extensions {
        frame = frame.extension(*extension);
    }
    frame
}

fn next_header(kind: u8) -> Vec<u8> {
    let mut frame = syn6().build();
    frame[20] = kind;
    frame
}

fn other_protocols() -> Vec<Row> {
    let of = |protocol: u8| {
        let mut frame = syn4().build();
        frame[23] = protocol;
        frame
    };
    vec![
        row("UDP", of(17)).passes(Reason::NotTcp),
        row("ICMP", of(1)).passes(Reason::NotTcp),
        row("SCTP", of(132)).passes(Reason::NotTcp),
        row("IP in IP", of(4)).passes(Reason::NotTcp),
        row("UDP below a tag", {
            let mut frame = syn4().vlan(4).build();
            frame[27] = 17;
            frame
        })
        .passes(Reason::NotTcp),
        row("UDP over IPv6", next_header(17)).passes(Reason::NotTcp),
        row("UDP to another's MAC", {
            let mut frame = of(17);
            frame[5] ^= 1;
            frame
        })
        .passes(Reason::NotTcp),
    ]
}

fn fragments() -> Vec<Row> {
    use Extension::Fragment;
    let elsewhere = at(address("10.203.0.9"), DUAL);
    vec![
        row("a SYN in a first fragment", syn4().fragment(0, true)).dropped(Reason::SynFragment),
        row("a SYN in a first fragment, IPv6", syn6().extension(Fragment(0, true)))
            .dropped(Reason::SynFragment),
        row("an acknowledgement in a first fragment", stray(client4(), flag::ACK).ack(5).fragment(0, true))
            .dropped(Reason::AckBadCookie),
        row("a first fragment that ends within the options", cut4(syn4().fragment(0, true), 32))
            .dropped(Reason::FragmentHeader),
        row("a first fragment that ends within the TCP header", cut4(syn4().fragment(0, true), 16))
            .dropped(Reason::FragmentHeader),
        row("a first fragment of eight bytes", cut4(syn4().fragment(0, true), 8))
            .dropped(Reason::FragmentHeader),
        row("a first fragment of nothing", cut4(syn4().fragment(0, true), 0)).dropped(Reason::FragmentHeader),
        row("a first fragment of eight bytes, IPv6", cut6(syn6().extension(Fragment(0, true)), 8))
            .dropped(Reason::FragmentHeader),
        row(
            "a first fragment that ends within the options, IPv6",
            cut6(syn6().extension(Fragment(0, true)), 24),
        )
        .dropped(Reason::FragmentHeader),
        row(
            "a short first fragment for another host",
            cut4(TcpFrame::linux_syn(client4(), elsewhere, ISN).fragment(0, true), 8),
        )
        .passes(Reason::NotLocal),
        row("a later fragment", syn4().fragment(1, false)).passes(Reason::LaterFragment),
        row("a later fragment with more to come", syn4().fragment(185, true)).passes(Reason::LaterFragment),
        row("the last fragment there can be", syn4().fragment(0x1fff, false)).passes(Reason::LaterFragment),
        row("a later fragment, IPv6", syn6().extension(Fragment(1, false))).passes(Reason::LaterFragment),
        row("a later fragment with more to come, IPv6", syn6().extension(Fragment(0x1fff, true)))
            .passes(Reason::LaterFragment),
        row("a later fragment, whatever follows", {
            let mut frame = syn6().extension(Fragment(9, false)).build();
            frame[54] = 17;
            frame
        })
        .passes(Reason::LaterFragment),
    ]
}

/// The frame of an IPv4 packet with so many bytes behind the IP header.
pub(super) fn cut4(frame: impl Frame, bytes: usize) -> Vec<u8> {
    let mut frame = frame.bytes();
    frame.truncate(34 + bytes);
    frame[16..18].copy_from_slice(&(20 + bytes as u16).to_be_bytes());
    frame
}

/// The frame of an IPv6 packet with so many bytes behind a fragment header.
fn cut6(frame: impl Frame, bytes: usize) -> Vec<u8> {
    let mut frame = frame.bytes();
    frame.truncate(62 + bytes);
    frame[18..20].copy_from_slice(&(8 + bytes as u16).to_be_bytes());
    frame
}

fn destinations() -> Vec<Row> {
    let to = |text: &str| {
        let ip = address(text);
        TcpFrame::linux_syn(if ip.is_ipv4() { client4() } else { client6() }, at(ip, DUAL), ISN)
    };
    let any_ip = |row: Row| row.world(|world| world.add_local4([203, 0, 113, 0], 24));
    let any_ip6 = |row: Row| {
        row.world(|world| {
            let std::net::IpAddr::V6(network) = address("2001:db8:a::") else { return };
            world.local.push((network.octets(), 48));
        })
    };
    vec![
        row("another host's address", to("10.203.0.9")).passes(Reason::NotLocal),
        row("another host's address, IPv6", to("2001:db8:0:1::9")).passes(Reason::NotLocal),
        row("the subnet's broadcast address", to("10.203.0.3")).passes(Reason::NotLocal),
        row("the limited broadcast address", to("255.255.255.255")).passes(Reason::NotLocal),
        row("multicast", to("224.0.0.1")).passes(Reason::NotLocal),
        row("an address of zero, as unused slots are", to("0.0.0.0")).passes(Reason::NotLocal),
        row("an address of zero, IPv6", to("::")).passes(Reason::NotLocal),
        row("an acknowledgement for another host", {
            TcpFrame::new(client4(), at(address("10.203.0.9"), DUAL)).flags(flag::ACK).ack(9)
        })
        .passes(Reason::NotLocal),
        row("the interface's fourth address", to("198.51.100.4"))
            .world(|world| world.interface.local4[3] = Ipv4Addr::new(198, 51, 100, 4).into())
            .challenged(LINUX4),
        row("the interface's second address, IPv6", to("2001:db8:a::4"))
            .world(|world| {
                world.interface.local6[1] =
                    V6::from(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 4)).halves();
            })
            .challenged(LINUX6),
        any_ip(row("a local prefix: AnyIP", to("203.0.113.77"))).challenged(LINUX4),
        any_ip(row("beside a local prefix", to("203.0.114.77"))).passes(Reason::NotLocal),
        any_ip6(row("a local prefix: AnyIP, IPv6", to("2001:db8:a:5::77"))).challenged(LINUX6),
        any_ip6(row("beside a local prefix, IPv6", to("2001:db8:b::77"))).passes(Reason::NotLocal),
        any_ip(row("a local prefix where the interface holds all addresses", to("203.0.113.77")))
            .world(|world| world.interface.flags |= INTERFACE_LOCAL_COMPLETE)
            .passes(Reason::NotLocal),
        row("a whole prefix of IPv4 is not one of IPv6", to("2001:db8:b::77"))
            .world(|world| world.add_local4([0, 0, 0, 0], 0))
            .passes(Reason::NotLocal),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    [ipv4(), ipv6(), other_protocols(), fragments(), destinations()].into_iter().flatten().collect()
}

#[test]
fn ip() -> Result<()> {
    check(&rows())
}
