//! Segments of quiet connections to services in calm, which pass before the pipeline: that must make no difference.
//!
//! Each row about such a service meets two worlds: in one of them something is bound to another address of the port, which
//! changes nothing but that the pipeline takes what would have passed before it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use defender_common::{
    abi::{
        self, CONFIG_SUSPENDED, FLOW_ENTRIES, FlowHot, INTERFACE_LOCAL_COMPLETE, Interface, MODE_ALWAYS,
        MODE_AUTO, MODE_MONITOR, MODE_OFF, PREFIX_DENY, Port, SERVICE_UNPROTECTABLE, Service, ServiceKey,
    },
    flow::NO_SOCKET,
    load::MitigationState,
    mitigation::{Level, Trigger},
    verdict::Reason,
};
use defender_testbed::{
    frame::{Extension, TcpFrame, flag, timestamp_options},
    topology::{CLIENT_MAC, SERVER_MAC, SERVER_V4},
};

use super::{
    bed::{Bed, Ran},
    expected::table_hash,
    frames::{LINUX4, address, at, client4, client6, proof, repair, server_of},
    network::cut4,
    random::{Random, change},
    row::{Frame, Row, check, hex, row},
    world::{BOUND_V4, DUAL, ONLY_V4, ONLY_V6, UNKNOWN, World, challenged},
};

/// The filter's generation. With none, bytes that nobody wrote would count.
const GENERATION: u8 = 5;
/// What the filter's byte holds besides where packets are followed.
const FOLLOWED: u8 = 0x80;

/// States as the kernel numbers them (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;

/// A service in calm, and a filter that has a generation.
fn calm(world: &mut World) {
    for (_, service) in &mut world.services {
        service.mode = MODE_AUTO;
    }
    (world.config.filter_newest, world.config.filter_oldest) = (GENERATION.into(), GENERATION.into());
}

/// The pipeline takes what it would take if there were nothing before it: a service is bound to an address that is not this
/// host's.
fn by_the_pipeline(world: &mut World) {
    let port = world.port(DUAL);
    (port.bound, port.bound_id) = (1, 8);
    port.bound_address = abi::words(abi::mapped([203, 0, 113, 250]));
}

/// Both ways.
fn both(row: Row) -> [Row; 2] {
    // What the frame proves has been proved by then.
    let other = row.also("by the pipeline", by_the_pipeline).uncertain();
    [row, other]
}

/// A frame of a connection of which the filter holds a byte, to a service in calm.
fn noted(what: &str, client: SocketAddr, frame: impl Frame, byte: u8) -> Row {
    let server = server_of(client, DUAL);
    row(what, frame).world(calm).world(|world| world.noted.push((client, server, byte)))
}

/// An acknowledgement of a quiet connection to any address and port, to a service in calm.
fn quiet_to(what: &str, client: SocketAddr, server: SocketAddr) -> Row {
    let frame = TcpFrame::new(client, server).flags(flag::ACK).seq(7).ack(9);
    row(what, frame).world(calm).world(|world| world.noted.push((client, server, GENERATION)))
}

fn quiet(what: &str, client: SocketAddr, frame: impl Frame) -> Row {
    noted(what, client, frame, GENERATION)
}

/// Data on a connection.
fn data(client: SocketAddr) -> TcpFrame {
    segment(client, flag::ACK | flag::PSH).payload(b"GET / HTTP/1.1\r\n\r\n")
}

fn segment(client: SocketAddr, flags: u8) -> TcpFrame {
    TcpFrame::new(client, server_of(client, DUAL)).flags(flags).seq(7_000).ack(9_000).flags(flags)
}

/// The frame with some of its bytes replaced.
fn patched(frame: impl Frame, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.bytes();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Where the IP header begins, and where TCP's does behind one without options.
const IP: usize = 14;
const TCP4: usize = IP + 20;
const TCP6: usize = IP + 40;

/// Whatever carries the data of a connection passes.
fn carriers() -> Vec<Row> {
    use Extension::{AtomicFragment, DestinationOptions, Fragment, HopByHop, Routing};
    let v4 = |what: &str, frame: fn(TcpFrame) -> TcpFrame| {
        let client = client4();
        quiet(what, client, frame(data(client)))
    };
    let v6 = |what: &str, frame: fn(TcpFrame) -> TcpFrame| {
        let client = client6();
        quiet(&format!("{what}, IPv6"), client, frame(data(client)))
    };
    let split =
        |what: &str, client, linear| quiet(what, client, data(client).payload(&[7; 3_000])).linear(linear);
    let mut rows = vec![
        v4("padded with a trailer", |frame| frame.payload(b"").trailer(6)),
        v4("a long trailer", |frame| frame.trailer(1_000)),
        v4("timestamps", |frame| frame.options(&timestamp_options(1, 2))),
        v4("as many TCP options as there can be", |frame| frame.raw_options(&[1; 40])),
        v4("priority only", |frame| frame.vlan_tag(0x8100, 0xa000)),
        v4("802.1ad", |frame| frame.vlan_tag(0x88a8, 7)),
        v4("no DF, a DSCP, ECT, TTL 1", |frame| frame.dont_fragment(false).tos(0xba).ttl(1)),
        v4("a first fragment", |frame| frame.fragment(0, true)),
        v4("one word of IP options", |frame| frame.ip_options(&[1; 4])),
        v4("as many IP options as there can be", |frame| frame.ip_options(&[1; 40])),
        v4("IP options in a first fragment below a tag", |frame| {
            frame.ip_options(&[1; 8]).fragment(0, true).vlan(3)
        }),
        v6("hop-by-hop options", |frame| frame.extension(HopByHop(4))),
        v6("destination options", |frame| frame.extension(DestinationOptions(12))),
        v6("a routing header with no segments left", |frame| frame.extension(Routing)),
        v6("an atomic fragment", |frame| frame.extension(AtomicFragment)),
        v6("a first fragment", |frame| frame.extension(Fragment(0, true))),
        split("in pieces", client4(), 1_000),
        split("in pieces, IPv6", client6(), 1_000),
        split("the headers alone in one piece", client4(), TCP4 + 20),
        split("the headers alone in one piece, IPv6", client6(), TCP6 + 20),
    ];
    for of in [v4, v6] {
        rows.extend([
            of("data", |frame| frame),
            of("802.1Q", |frame| frame.vlan(100)),
            of("more tags than a SYN may have", |frame| frame.vlan(1).vlan(2)),
            of("a wrong checksum", |frame| frame.checksum(defender_testbed::frame::Checksum::Wrong)),
        ]);
    }
    rows.into_iter().map(|row| row.passes(Reason::Established)).collect()
}

/// What is in flags.
fn flags() -> Vec<Row> {
    let ack_with = |name: &str, more: u8| {
        [client4(), client6()].map(|client| {
            let what = format!("{name}, {}", client.ip());
            let reason = if more & (flag::SYN | flag::FIN | flag::RST) == 0 {
                Reason::Established
            } else {
                Reason::NotMitigating
            };
            quiet(&what, client, segment(client, flag::ACK | more)).passes(reason)
        })
    };
    let others = |name: &str, flags: u8| {
        [client4(), client6()].map(|client| {
            let row = quiet(&format!("{name}, {}", client.ip()), client, segment(client, flags));
            row.passes(if flags == flag::SYN { Reason::SynNotMitigating } else { Reason::NotMitigating })
        })
    };
    [
        ack_with("a bare acknowledgement", 0),
        ack_with("PSH", flag::PSH),
        ack_with("URG", flag::URG),
        ack_with("ECE", flag::ECE),
        ack_with("CWR", flag::CWR),
        ack_with("all of them", flag::PSH | flag::URG | flag::ECE | flag::CWR),
        ack_with("FIN", flag::FIN),
        ack_with("RST with ACK", flag::RST),
        ack_with("SYN-ACK", flag::SYN),
        others("SYN", flag::SYN),
        others("RST", flag::RST),
        others("no flag", 0),
        others("PSH alone", flag::PSH),
        others("FIN alone", flag::FIN),
        others("SYN, FIN and RST", flag::SYN | flag::FIN | flag::RST | flag::ACK),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What the filter holds.
fn filter() -> Vec<Row> {
    let of = |what: &str, frame: fn(SocketAddr) -> TcpFrame, byte| {
        [client4(), client6()].map(|client| {
            let what = format!("{what}, {}", client.ip());
            noted(&what, client, frame(client), byte).passes(Reason::NotMitigating)
        })
    };
    let is_established = |row: Row| row.passes(Reason::Established);
    let ack = |client| segment(client, flag::ACK);
    let two_generations = |row: Row| row.world(|world| world.config.filter_newest += 1);
    let other_key = |row: Row, word: usize| row.world(move |world| world.config.table_keys[word] ^= 1 << 40);
    let mut rows = Vec::new();
    rows.extend(of("followed", ack, GENERATION | FOLLOWED));
    rows.extend(of("unknown", ack, 0).map(Row::stray));
    rows.extend(of("unknown: a reset", |client| segment(client, flag::RST), 0).map(Row::stray_rst));
    rows.extend(of("noted in a generation that is over", ack, GENERATION - 1).map(Row::stray));
    rows.extend(of("followed in one that is over", ack, (GENERATION - 1) | FOLLOWED).map(Row::stray));
    rows.extend(of("noted in one that is to come", ack, GENERATION + 1).map(Row::stray));
    let older = of("noted in the older of two", ack, GENERATION).map(is_established);
    let newer = of("noted in the newer of two", ack, GENERATION + 1).map(is_established);
    let neither = of("noted in neither of two", ack, GENERATION + 2).map(Row::stray);
    rows.extend([older, newer, neither].into_iter().flatten().map(two_generations));
    let [v4, v6] = of("keys of which the last word counts", ack, GENERATION).map(is_established);
    rows.extend([other_key(v4, 2), other_key(v6, 8)]);
    rows
}

/// What does not pass is not let through because its connection is quiet.
fn broken() -> Vec<Row> {
    let v4 = |what: &str, frame: fn(TcpFrame) -> Vec<u8>, reason| {
        let client = client4();
        quiet(what, client, frame(data(client))).dropped(reason)
    };
    let v6 = |what: &str, frame: fn(TcpFrame) -> Vec<u8>, reason| {
        let client = client6();
        quiet(&format!("{what}, IPv6"), client, frame(data(client))).dropped(reason)
    };
    let passes4 = |what: &str, frame: fn(TcpFrame) -> Vec<u8>, reason| v4(what, frame, reason).passes(reason);
    let passes6 = |what: &str, frame: fn(TcpFrame) -> Vec<u8>, reason| v6(what, frame, reason).passes(reason);
    let elsewhere = |what: &str, frame: fn(TcpFrame) -> Vec<u8>| {
        let (client, other) = (client4(), at(address("10.203.0.9"), DUAL));
        let frame = frame(TcpFrame::new(client, other).flags(flag::ACK).seq(7).ack(9));
        let row = row(what, frame).world(calm);
        row.world(|world| world.noted.push((client, other, GENERATION))).passes(Reason::NotLocal)
    };
    let behind_look_alike = |what: &str, flags: u8, port: u16, reason| {
        let client = client4();
        let frame = TcpFrame::new(client, server_of(client, port)).seq(7).ack(9).flags(flags);
        quiet(what, client, frame.ip_options(&look_alike())).world(also_noted(client, port)).passes(reason)
    };
    let behind_look_alike6 = |what: &str, flags: u8, port: u16, reason| {
        let client = client6();
        let frame = TcpFrame::new(client, server_of(client, port)).seq(7).ack(9).flags(flags);
        let frame = frame.extension(Extension::DestinationOptions(20)).build();
        // Kind and length of the extension are its source port.
        quiet(what, client, patched(frame, TCP6 + 2, &look_alike()[2..]))
            .world(also_noted(client, port))
            .passes(reason)
    };
    vec![
        behind_look_alike(
            "a SYN behind IP options that look like an acknowledgement",
            flag::SYN,
            DUAL,
            Reason::SynNotMitigating,
        ),
        behind_look_alike(
            "data to no service behind IP options that look like some to one",
            flag::ACK,
            UNKNOWN,
            Reason::Unprotected,
        ),
        behind_look_alike6(
            "a SYN behind an extension header that looks like an acknowledgement",
            flag::SYN,
            DUAL,
            Reason::SynNotMitigating,
        ),
        behind_look_alike6(
            "data to no service behind an extension header that looks like some to one",
            flag::ACK,
            UNKNOWN,
            Reason::Unprotected,
        ),
        v4("a data offset of 4", |frame| frame.data_offset(4).build(), Reason::MalformedTcp),
        v4("a data offset of 0", |frame| frame.data_offset(0).build(), Reason::MalformedTcp),
        v4("a data offset beyond the packet", |frame| frame.data_offset(15).build(), Reason::MalformedTcp),
        v4(
            "a data offset beyond the packet, within the trailer",
            |frame| frame.payload(b"").data_offset(8).trailer(40).build(),
            Reason::MalformedTcp,
        ),
        v4("a header cut short", |frame| cut4(frame, 19), Reason::MalformedTcp),
        v4(
            "a header cut short, padded",
            |frame| {
                let mut frame = cut4(frame, 19);
                frame.resize(60, 0);
                frame
            },
            Reason::MalformedTcp,
        ),
        v4(
            "a total length that leaves out a part of the header",
            |frame| patched(frame, IP + 2, &[0, 39]),
            Reason::MalformedTcp,
        ),
        v4("no TCP header at all", |frame| patched(frame, IP + 2, &[0, 20]), Reason::MalformedTcp),
        v4(
            "a total length below the IP header's",
            |frame| patched(frame, IP + 2, &[0, 19]),
            Reason::MalformedIp,
        ),
        v4("a total length of 0", |frame| patched(frame, IP + 2, &[0, 0]), Reason::MalformedIp),
        v4(
            "one byte missing",
            |frame| {
                let mut frame = frame.build();
                frame.pop();
                frame
            },
            Reason::MalformedIp,
        ),
        v4("version 5", |frame| patched(frame, IP, &[0x55]), Reason::MalformedIp),
        v4("version 6 in a frame of type IPv4", |frame| patched(frame, IP, &[0x65]), Reason::MalformedIp),
        v4("an IP header of 16 bytes", |frame| patched(frame, IP, &[0x44]), Reason::MalformedIp),
        v4(
            "a first fragment that ends within the header",
            |frame| cut4(frame.fragment(0, true), 16),
            Reason::FragmentHeader,
        ),
        v4(
            "a data offset beyond a first fragment",
            |frame| frame.payload(b"").data_offset(6).fragment(0, true).build(),
            Reason::FragmentHeader,
        ),
        v4(
            "a data offset of 4 below a tag",
            |frame| frame.data_offset(4).vlan(7).build(),
            Reason::MalformedTcp,
        ),
        v4("the header in two pieces", TcpFrame::bytes, Reason::MalformedTcp).linear(TCP4 + 19),
        v6("the header in two pieces", TcpFrame::bytes, Reason::MalformedTcp).linear(TCP6 + 19),
        v6("a data offset of 4", |frame| frame.data_offset(4).build(), Reason::MalformedTcp),
        v6("a data offset beyond the packet", |frame| frame.data_offset(15).build(), Reason::MalformedTcp),
        v6(
            "a payload that leaves out a part of the header",
            |frame| patched(frame, IP + 4, &[0, 19]),
            Reason::MalformedTcp,
        ),
        v6("no payload", |frame| patched(frame, IP + 4, &[0, 0]), Reason::MalformedTcp),
        v6("a payload beyond the frame", |frame| patched(frame, IP + 4, &[0, 39]), Reason::MalformedIp),
        v6("version 4 in a frame of type IPv6", |frame| patched(frame, IP, &[0x45]), Reason::MalformedIp),
        passes4("a later fragment", |frame| frame.fragment(1, false).build(), Reason::LaterFragment),
        passes4("the last fragment", |frame| frame.fragment(0x1fff, false).build(), Reason::LaterFragment),
        passes4("UDP", |frame| patched(frame, IP + 9, &[17]), Reason::NotTcp),
        passes6("UDP", |frame| patched(frame, IP + 6, &[17]), Reason::NotTcp),
        passes6(
            "fragment header instead of TCP's",
            |frame| {
                // Ports as they are would be a later fragment's header.
                patched(frame, IP + 6, &[44])
            },
            Reason::LaterFragment,
        ),
        elsewhere("to another host", TcpFrame::bytes),
        elsewhere("to another host, a data offset of 4", |frame| frame.data_offset(4).build()),
    ]
}

/// The client has a connection to another port as well.
fn also_noted(client: SocketAddr, port: u16) -> impl FnOnce(&mut World) {
    move |world| world.noted.push((client, server_of(client, port), GENERATION))
}

/// Twenty bytes that look like an acknowledgement to a service.
fn look_alike() -> [u8; 20] {
    let mut header = [1; 20];
    header[2..4].copy_from_slice(&DUAL.to_be_bytes());
    header[12..14].copy_from_slice(&[5 << 4, flag::ACK]);
    header
}

/// Whose it is.
fn destinations() -> Vec<Row> {
    let to_mac = |what: &str, mac: [u8; 6], reason| {
        let client = client4();
        quiet(what, client, data(client).macs(CLIENT_MAC, mac)).passes(reason)
    };
    let from4 = |what: &str| {
        let client = client4();
        quiet(what, client, data(client))
    };
    let from6 = |what: &str| {
        let client = client6();
        quiet(what, client, data(client))
    };
    let to = |what: &str, text: &str| {
        let server = at(address(text), DUAL);
        quiet_to(what, if server.is_ipv4() { client4() } else { client6() }, server)
    };
    let any_ip = |row: Row| row.world(|world| world.add_local4([203, 0, 113, 0], 24));
    let any_ip6 = |row: Row| {
        row.world(|world| {
            world.local.push((Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0).octets(), 48));
        })
    };
    let (mut first, mut last) = (SERVER_MAC, SERVER_MAC);
    first[0] ^= 4;
    last[5] ^= 1;
    vec![
        to_mac("broadcast", [0xff; 6], Reason::OtherMac),
        to_mac("another's MAC, first byte", first, Reason::OtherMac),
        to_mac("another's MAC, last byte", last, Reason::OtherMac),
        to_mac("an address of zero", [0; 6], Reason::OtherMac),
        to_mac("an interface whose MAC is all zero", [0; 6], Reason::Established)
            .world(|world| world.interface.mac = 0),
        from4("an interface that is not defended")
            .world(|world| world.interface = Interface { ifindex: 9_999, ..world.interface })
            .passes(Reason::OtherMac),
        from4("an interface in the last of its slots")
            .world(|world| world.probe = 3)
            .passes(Reason::Established),
        from4("an interface beyond its slots").world(|world| world.probe = 4).passes(Reason::OtherMac),
        from4("an address that is no longer this host's")
            .world(|world| world.interface.local4 = Default::default())
            .passes(Reason::NotLocal),
        from6("an address that is no longer this host's, IPv6")
            .world(|world| world.interface.local6 = Default::default())
            .passes(Reason::NotLocal),
        from6("the interface's second address, IPv6")
            .world(|world| world.interface.local6.reverse())
            .passes(Reason::Established),
        to("zero, as unused slots are", "0.0.0.0").passes(Reason::NotLocal),
        to("zero, IPv6", "::").passes(Reason::NotLocal),
        to("the subnet's broadcast address", "10.203.0.3").passes(Reason::NotLocal),
        to("another host, IPv6", "2001:db8:0:1::9").passes(Reason::NotLocal),
        any_ip(to("a local prefix: AnyIP", "203.0.113.77")).passes(Reason::Established),
        any_ip6(to("a local prefix: AnyIP, IPv6", "2001:db8:a:5::77")).passes(Reason::Established),
        any_ip(to("a local prefix where the interface holds all addresses", "203.0.113.77"))
            .world(|world| world.interface.flags |= INTERFACE_LOCAL_COMPLETE)
            .passes(Reason::NotLocal),
        any_ip(to("beside a local prefix", "203.0.114.77")).passes(Reason::NotLocal),
    ]
}

/// What the service's mode and state make of it.
fn states() -> Vec<Row> {
    let of = |what: &str, change: fn(&mut World)| {
        let client = client4();
        quiet(what, client, data(client)).world(change)
    };
    let cookie = |what: &str, change: fn(&mut World)| {
        let client = client4();
        quiet(what, client, proof(&World::default(), client, 0, &LINUX4)).world(change)
    };
    let on = |world: &mut World, mode, level| {
        world.service().mode = mode;
        world.load.mitigation = MitigationState { level, trigger: Trigger::Queue, since: 1 }.to_abi();
    };
    let under_attack =
        move |what: &str, mode| of(what, |_| {}).world(|world| on(world, mode, Level::Challenge));
    let mut rows = vec![
        of("monitor", |world| world.service().mode = MODE_MONITOR).passes(Reason::Established),
        under_attack("monitor, under attack", MODE_MONITOR).passes(Reason::Established),
        of("off", |world| world.service().mode = MODE_OFF).passes(Reason::ServiceOff),
        of("off, not this host's", |world| {
            world.service().mode = MODE_OFF;
            world.interface.local4 = Default::default();
        })
        .passes(Reason::ServiceOff),
        under_attack("off, under attack", MODE_OFF).passes(Reason::ServiceOff),
        of("always", |world| world.service().mode = MODE_ALWAYS).dropped(Reason::AckBadCookie),
        under_attack("auto, under attack", MODE_AUTO).dropped(Reason::AckBadCookie),
        of("always, unprotectable", |world| {
            *world.service() = Service { flags: SERVICE_UNPROTECTABLE, ..challenged() };
        })
        .passes(Reason::Established),
        of("always, suspended", |world| {
            world.service().mode = MODE_ALWAYS;
            world.configure(CONFIG_SUSPENDED, true);
        })
        .passes(Reason::Established),
        under_attack("auto, under attack, suspended", MODE_AUTO)
            .world(|world| world.configure(CONFIG_SUSPENDED, true))
            .passes(Reason::Established),
        of("on the deny list, which is of SYNs", |world| {
            world.list4([0; 4], 0, PREFIX_DENY);
        })
        .passes(Reason::Established),
        cookie("always: a cookie, where another connection has the byte", |world| {
            world.service().mode = MODE_ALWAYS;
        })
        .proves(LINUX4),
        cookie("calm: a cookie of before", |_| {}).passes(Reason::Established),
        of("calm since a moment", World::sent_a_cookie).passes(Reason::NotMitigating),
        cookie("calm since a moment: a cookie", World::sent_a_cookie).proves(LINUX4),
        cookie("calm for longer: a cookie", World::sent_an_expired_cookie).passes(Reason::Established),
    ];
    for (name, mode, reason) in [
        ("auto", MODE_AUTO, Reason::NotMitigating),
        ("monitor", MODE_MONITOR, Reason::MonitorMode),
        ("off", MODE_OFF, Reason::MonitorMode),
    ] {
        let since_a_moment = |row: Row| {
            row.world(|world| {
                world.service().mode = mode;
                world.sent_a_cookie();
            })
        };
        let what = format!("{name} since a moment");
        rows.extend([
            since_a_moment(of(&what, |_| {})).passes(reason),
            since_a_moment(cookie(&format!("{what}: a cookie"), |_| {})).proves(LINUX4),
        ]);
    }
    rows
}

/// Which service it is. These have no other way.
fn services() -> Vec<Row> {
    let to = quiet_to;
    let to_port = |what: &str, client: SocketAddr, port| to(what, client, server_of(client, port));
    let elsewhere = || at(address("203.0.113.5"), BOUND_V4);
    // Service 8 is a wildcard beside the one that is bound; no socket listens there.
    let beside = |row: Row, bound: u32, wildcard: u32| {
        row.world(|world| {
            world.add_local4([203, 0, 113, 0], 24);
            world.services[3].1.mode = bound;
            world.services.push((8, Service { mode: wildcard, ..challenged() }));
            world.port(BOUND_V4).wildcard4 = 8;
        })
    };
    // The same with two that are bound, of which service 2 is the other.
    let twice = |row: Row, bound: u32, wildcard: u32| {
        beside(row, bound, wildcard).world(|world| {
            let port = world.port(BOUND_V4);
            (port.bound, port.bound_id, port.bound_address) = (2, 0, [0; 4]);
            for (address, id) in [(SERVER_V4, 4), (Ipv4Addr::new(203, 0, 113, 9), 2)] {
                let address = abi::mapped(address.octets());
                world.addresses.push((ServiceKey { address, port: BOUND_V4, reserved: 0 }, id));
            }
        })
    };
    vec![
        to_port("no service", client4(), UNKNOWN).passes(Reason::Unprotected),
        to_port("no service, IPv6", client6(), UNKNOWN).passes(Reason::Unprotected),
        to_port("port 0", client4(), 0).passes(Reason::Unprotected),
        to_port("port 65535", client4(), 65_535)
            .world(|world| world.ports.push((65_535, Port { wildcard4: 6, ..Port::default() })))
            .passes(Reason::Established),
        to_port("a service of IPv4 alone", client4(), ONLY_V4).passes(Reason::Established),
        to_port("a service of IPv4 alone: IPv6", client6(), ONLY_V4).passes(Reason::Unprotected),
        to_port("a service of IPv6 alone", client6(), ONLY_V6).passes(Reason::Established),
        to_port("a service of IPv6 alone: IPv4", client4(), ONLY_V6).passes(Reason::Unprotected),
        to_port("a service for each family", client4(), DUAL)
            .world(|world| {
                world.port(DUAL).wildcard6 = 3;
                world.services[2].1.mode = MODE_ALWAYS;
            })
            .passes(Reason::Established),
        to_port("a service for each family, IPv6 under attack", client6(), DUAL)
            .world(|world| {
                world.port(DUAL).wildcard6 = 3;
                world.services[2].1.mode = MODE_ALWAYS;
            })
            .dropped(Reason::AckBadCookie),
        to_port("the last id there can be", client4(), DUAL)
            .world(|world| {
                let last = abi::SERVICE_SLOTS - 1;
                world.port(DUAL).wildcard4 = last as u16;
                world.services.push((last, Service { mode: MODE_MONITOR, ..challenged() }));
            })
            .passes(Reason::Established),
        to_port("bound to its address", client4(), BOUND_V4).passes(Reason::Established),
        to("bound to its address, packet to another", client4(), elsewhere())
            .world(|world| world.add_local4([203, 0, 113, 0], 24))
            .passes(Reason::Unprotected),
        beside(
            to_port("bound under attack, the wildcard in calm", client4(), BOUND_V4),
            MODE_ALWAYS,
            MODE_AUTO,
        )
        .dropped(Reason::AckBadCookie),
        beside(to_port("bound off, the wildcard in calm", client4(), BOUND_V4), MODE_OFF, MODE_AUTO)
            .passes(Reason::ServiceOff),
        beside(
            to_port("bound in calm, the wildcard under attack", client4(), BOUND_V4),
            MODE_AUTO,
            MODE_ALWAYS,
        )
        .passes(Reason::Established),
        beside(
            to("the wildcard in calm, bound under attack", client4(), elsewhere()),
            MODE_ALWAYS,
            MODE_AUTO,
        )
        .passes(Reason::Established),
        beside(
            to("the wildcard under attack, bound in calm", client4(), elsewhere()),
            MODE_AUTO,
            MODE_ALWAYS,
        )
        .passes(Reason::NoListener),
        twice(to_port("bound twice, under attack", client4(), BOUND_V4), MODE_ALWAYS, MODE_AUTO)
            .dropped(Reason::AckBadCookie),
        twice(to("bound twice, the wildcard in calm", client4(), elsewhere()), MODE_ALWAYS, MODE_AUTO)
            .passes(Reason::Established),
        twice(to("bound twice, the wildcard under attack", client4(), elsewhere()), MODE_AUTO, MODE_ALWAYS)
            .passes(Reason::NoListener),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    let of_one_service = [carriers(), flags(), filter(), broken(), destinations(), states()];
    of_one_service.into_iter().flatten().flat_map(both).chain(services()).collect()
}

#[test]
fn quiet_connections() -> Result<()> {
    check(&rows())
}

/// Two beds that differ in nothing but the way that segments of quiet connections take.
struct Beds([Bed; 2]);

/// What is to be the same.
type Outcome = (u32, Vec<u8>, [Vec<u64>; 2], Noted);
/// What the filter and the flow table hold: of the latter what does not depend on the time.
type Noted = (Vec<u8>, [FlowHot; FLOW_ENTRIES], [u32; FLOW_ENTRIES]);

impl Beds {
    fn new() -> Result<Self> {
        Ok(Self([Bed::new()?, Bed::new()?]))
    }

    fn enter(&mut self, world: &World) -> Result<()> {
        let mut other = world.clone();
        by_the_pipeline(&mut other);
        let [one, two] = &mut self.0;
        one.enter(world)?;
        two.enter(&other)
    }

    /// Runs a frame on both, each time as if it were the first, and says what came of it.
    fn agree(&mut self, what: &str, frame: &[u8]) -> Result<Reason> {
        let run = |bed: &mut Bed| {
            bed.note()?;
            let ran = bed.run(frame)?;
            let (bytes, flows) = bed.noted()?;
            Ok::<_, anyhow::Error>((ran, (bytes, flows.hot, flows.cold.map(|cold| cold.packets))))
        };
        let [one, two] = &mut self.0;
        let ((one, of_one), (two, of_two)) = (run(one)?, run(two)?);
        assert_eq!(outcome(&one, of_one), outcome(&two, of_two), "{what}: {}", hex(frame));
        let [(reason, 1)] = one.counted[..] else { panic!("{what}: {:?}: {}", one.counted, hex(frame)) };
        Ok(reason)
    }
}

fn outcome(ran: &Ran, noted: Noted) -> Outcome {
    // A reply has a timestamp of its own.
    let out = if ran.counted == [(Reason::SynChallenged, 1)] { Vec::new() } else { ran.out.clone() };
    let all = [&ran.all.verdicts[..], &ran.all.handoff, &ran.all.tracked].concat();
    let of_services = &ran.services;
    let services = [
        of_services.syn_received,
        of_services.syn_challenged,
        of_services.ack_accepted,
        of_services.ack_rejected,
        of_services.out_of_state_acks,
        of_services.out_of_state_rsts,
    ];
    (ran.action, out, [all, services.to_vec()], noted)
}

/// Connections of each kind that the filter tells apart, over both families; established, as far as the flow table has
/// room. It counts their packets, since they have no socket.
fn connections(world: &mut World) -> Vec<SocketAddr> {
    let mut clients = Vec::new();
    for byte in [GENERATION, GENERATION, GENERATION | FOLLOWED, GENERATION - 1, GENERATION] {
        for client in [client4(), client6()] {
            let server = server_of(client, DUAL);
            world.noted.push((client, server, byte));
            if let Some(flow) = world.flows.hot.get_mut(clients.len()) {
                let tag = table_hash(client, server, &world.config) as u32 | 1;
                *flow = FlowHot {
                    tag,
                    state: ESTABLISHED,
                    flags: NO_SOCKET,
                    admitted: 1,
                    generation: GENERATION,
                };
            }
            clients.push(client);
        }
    }
    clients
}

/// Whether a segment passed because its service is not challenged.
fn is_unchallenged(reason: Reason) -> bool {
    matches!(reason, Reason::Established | Reason::NotMitigating | Reason::MonitorMode)
}

/// What makes a world another.
type Change = fn(&mut World);

/// The worlds in which services are in calm, or nearly so.
fn worlds() -> Vec<(&'static str, World)> {
    let changes: [(&str, Change); 8] = [
        ("auto", |_| {}),
        ("monitor", |world| world.service().mode = MODE_MONITOR),
        ("off", |world| world.service().mode = MODE_OFF),
        ("always", |world| world.service().mode = MODE_ALWAYS),
        ("suspended", |world| {
            world.service().mode = MODE_ALWAYS;
            world.configure(CONFIG_SUSPENDED, true);
        }),
        ("unprotectable", |world| world.service().flags |= SERVICE_UNPROTECTABLE),
        ("calm since a moment", World::sent_a_cookie),
        ("off since a moment", |world| {
            world.service().mode = MODE_OFF;
            world.sent_a_cookie();
        }),
    ];
    let make = |(name, change): (&'static str, Change)| {
        let mut world = World::default();
        calm(&mut world);
        change(&mut world);
        (name, world)
    };
    changes.into_iter().map(make).collect()
}

/// Flags, lengths and offsets, each with every value; and cut at any byte.
fn systematic(client: SocketAddr) -> Vec<Vec<u8>> {
    let tcp = if client.is_ipv4() { TCP4 } else { TCP6 };
    let whole = data(client).build();
    let mut frames = Vec::new();
    frames.extend((0..=u8::MAX).map(|flags| patched(whole.clone(), tcp + 13, &[flags])));
    frames.extend((0..16).map(|words| patched(whole.clone(), tcp + 12, &[words << 4])));
    frames.extend((0..=u8::MAX).map(|byte| patched(whole.clone(), IP, &[byte])));
    // The protocol, or the next header.
    let protocol = if client.is_ipv4() { IP + 9 } else { IP + 6 };
    frames.extend((0..=u8::MAX).map(|kind| patched(whole.clone(), protocol, &[kind])));
    let length = if client.is_ipv4() { IP + 2 } else { IP + 4 };
    frames.extend((0..100).map(|bytes| patched(whole.clone(), length, &[0, bytes])));
    if client.is_ipv4() {
        frames.extend((0..16).map(|bit| patched(whole.clone(), IP + 6, &(1_u16 << bit).to_be_bytes())));
    }
    frames.extend((IP..whole.len()).map(|bytes| whole[..bytes].to_vec()));
    frames
}

#[test]
fn both_ways_agree_on_every_value() -> Result<()> {
    let mut beds = Beds::new()?;
    let mut passed = 0;
    for (name, mut world) in worlds() {
        let clients = connections(&mut world);
        beds.enter(&world)?;
        for client in [&clients[..2], &clients[4..]].concat() {
            for frame in systematic(client) {
                passed += u32::from(is_unchallenged(beds.agree(name, &frame)?));
            }
        }
    }
    assert!(passed > 1_000, "only {passed}");
    Ok(())
}

const ROUNDS: u32 = 1_500;

#[test]
fn both_ways_agree_on_whatever_comes_in() -> Result<()> {
    let mut beds = Beds::new()?;
    let mut random = Random(0x5eed_0f0d_dba1_1000);
    let mut passed = 0;
    for (name, mut world) in worlds() {
        world.interface.max_vlan_tags = 2;
        let clients = connections(&mut world);
        let frames: Vec<_> = clients.iter().flat_map(|client| originals(*client)).collect();
        beds.enter(&world)?;
        for _ in 0..ROUNDS {
            let mut frame = frames[random.below(frames.len())].clone();
            for _ in 0..random.below(4) {
                change(&mut random, &mut frame);
            }
            if random.below(4) != 0 {
                repair(&mut frame);
            }
            passed += u32::from(is_unchallenged(beds.agree(name, &frame)?));
        }
    }
    assert!(passed > ROUNDS, "only {passed}");
    Ok(())
}

fn originals(client: SocketAddr) -> Vec<Vec<u8>> {
    let mut frames = vec![
        data(client),
        data(client).vlan(100),
        data(client).vlan_tag(0x88a8, 5).vlan(200),
        data(client).options(&timestamp_options(1, 2)),
        segment(client, flag::ACK).trailer(6),
        segment(client, flag::ACK | flag::FIN),
        segment(client, flag::RST),
        segment(client, flag::SYN),
    ];
    if client.is_ipv4() {
        frames.extend([data(client).ip_options(&[1; 8]), data(client).fragment(0, true)]);
    } else {
        let extended = data(client).extension(Extension::HopByHop(4));
        frames.extend([extended, data(client).extension(Extension::AtomicFragment)]);
    }
    frames.iter().map(TcpFrame::build).collect()
}
