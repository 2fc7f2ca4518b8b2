//! Cookies that come back, and what is none.

use std::net::SocketAddr;

use anyhow::Result;
use defender_common::{
    abi::{CONFIG_TIMESTAMPS, INTERFACE_PARTIAL_CHECKSUMS, KeySlot},
    verdict::Reason,
};
use defender_testbed::frame::{Checksum, Extension, TcpFrame, flag, timestamp_options};

use super::{
    expected::NegotiatedOptions,
    frames::{
        ISN, LINUX4, LINUX6, STAMP, WINDOWS4, WINDOWS6, at, client4, client6, echo, proof, stray, syn4, syn6,
    },
    row::{Row, check, row},
    world::{OLD_KEY, World},
};
use defender_testbed::topology::{CLIENT_V4, SERVER_V4};

fn valid() -> Vec<Row> {
    let world = World::default();
    let mut rows = Vec::new();
    for slot in [0, 1] {
        for (what, client, negotiated) in [
            ("timestamps", client4(), LINUX4),
            ("timestamps, IPv6", client6(), LINUX6),
            ("no timestamps", client4(), WINDOWS4),
            ("no timestamps, IPv6", client6(), WINDOWS6),
        ] {
            let frame = proof(&world, client, slot, &negotiated);
            rows.push(row(format!("{what}, key slot {slot}"), frame).proves(negotiated));
        }
    }
    rows.extend((0..8).map(|index| {
        let mss = [536, 1200, 1250, 1300, 1350, 1400, 1440, 1460][usize::from(index)];
        let negotiated =
            NegotiatedOptions { index, mss, ecn: index % 2 == 1, sack: index % 3 == 0, ..LINUX4 };
        row(format!("with timestamps, index {index}"), proof(&world, client4(), 1, &negotiated))
            .proves(negotiated)
    }));
    rows.extend((0..16).map(|index| {
        let negotiated = profile4(index);
        row(format!("without timestamps, index {index}"), proof(&world, client4(), 0, &negotiated))
            .proves(negotiated)
    }));
    let linux = || proof(&world, client4(), 0, &LINUX4);
    let windows = || proof(&world, client4(), 0, &WINDOWS4);
    rows.extend([
        row("data: the acknowledgement was lost", linux().flags(flag::ACK | flag::PSH).payload(b"GET /"))
            .proves(LINUX4),
        row("data, no timestamps", windows().flags(flag::ACK | flag::PSH).payload(&[7; 1400]))
            .proves(WINDOWS4),
        row("FIN", linux().flags(flag::ACK | flag::FIN)).proves(LINUX4),
        row("FIN and data", linux().flags(flag::ACK | flag::FIN | flag::PSH).payload(b"bye")).proves(LINUX4),
        row("urgent data", linux().urgent(1).payload(b"!")).proves(LINUX4),
        row("ECE and CWR", linux().flags(flag::ACK | flag::ECE | flag::CWR)).proves(LINUX4),
        row("below a tag", linux().vlan(100)).proves(LINUX4),
        row("below two tags", linux().vlan(100).vlan(200))
            .world(|world| world.interface.max_vlan_tags = 2)
            .proves(LINUX4),
        row("behind IPv4 options", linux().ip_options(&[1; 8])).proves(LINUX4).uncertain(),
        row("behind IPv6 destination options", {
            let frame = proof(&world, client6(), 0, &LINUX6);
            frame.extension(Extension::DestinationOptions(4))
        })
        .proves(LINUX6)
        .uncertain(),
        row("padded", windows().trailer(6)).proves(WINDOWS4),
        row("timestamps in another layout", {
            let mut options = timestamp_options(STAMP, echo(&LINUX4));
            options.rotate_left(1);
            linux().options(&options)
        })
        .proves(LINUX4),
        row("timestamps behind SACK blocks", {
            let mut options = vec![defender_testbed::frame::TcpOption::SelectiveAcknowledgement(
                (1, 2),
                [None, None, None],
            )];
            options.extend(timestamp_options(STAMP, echo(&LINUX4)));
            linux().options(&options)
        })
        .proves(LINUX4),
        row("jumbo data in fragments", linux().payload(&[7; 8_000]))
            .world(|world| world.interface.mss4 = 8_960)
            .linear(2_000)
            .proves(NegotiatedOptions { mss: 8_960, ..LINUX4 }),
        row("more than a frame can hold: merged by the driver, which checked", {
            linux().payload(&[7; 8_000]).checksum(Checksum::Wrong)
        })
        .proves(LINUX4)
        .uncertain(),
        row("the same once more", linux_twice(&world)).after(linux_twice(&world)).proves(LINUX4).uncertain(),
        row("client ISN 2³² - 1", wrapped(&world)).proves(WINDOWS4),
    ]);
    rows
}

type NewClient = fn() -> SocketAddr;

/// What carries a valid cookie and is dropped by the kernel, whoever sent it.
fn unsound() -> Vec<Row> {
    let world = World::default();
    let clients: [(&str, NewClient, NegotiatedOptions); 4] = [
        ("", client4, LINUX4),
        (", no timestamps", client4, WINDOWS4),
        (", IPv6", client6, LINUX6),
        (", IPv6, no timestamps", client6, WINDOWS6),
    ];
    let mut rows = Vec::new();
    for (what, client, negotiated) in clients {
        let ack = || proof(&world, client(), 0, &negotiated);
        let signed = |kind: u8, len: u8| {
            let mut options = [&[kind, len][..], &vec![7; usize::from(len) - 2]].concat();
            options.resize(options.len().next_multiple_of(4), 1);
            let stamps = negotiated.stamp.map(|stamp| {
                let words = [0x0101_080a, stamp, echo(&negotiated)];
                words.map(u32::to_be_bytes).concat()
            });
            ack().raw_options(&[stamps.unwrap_or_default(), options].concat())
        };
        let bad =
            |kind: &str, frame: TcpFrame| row(format!("{kind}{what}"), frame).dropped(Reason::AckBadCookie);
        let partial = |row: Row| row.world(|world| world.interface.flags |= INTERFACE_PARTIAL_CHECKSUMS);
        rows.extend([
            bad("a checksum off by one", ack().checksum(Checksum::Wrong)),
            bad("a checksum off by one, with data", ack().payload(b"GET /").checksum(Checksum::Wrong)),
            bad("no checksum", ack().checksum(Checksum::Exactly(0))),
            bad("a checksum for the hardware to fill in", ack().checksum(Checksum::Partial)),
            partial(bad("a wrong checksum where the hardware fills them in", {
                ack().checksum(Checksum::Wrong)
            })),
            bad("a first fragment", {
                let frame = ack().payload(&[7; 64]);
                if negotiated.mss == LINUX4.mss {
                    frame.fragment(0, true)
                } else {
                    frame.extension(Extension::Fragment(0, true))
                }
            }),
            bad("an MD5 signature", signed(19, 18)),
            bad("an authentication option", signed(29, 16)),
            partial(row(format!("a checksum for the hardware to fill in, as usual there{what}"), {
                ack().checksum(Checksum::Partial)
            }))
            .proves(negotiated)
            .uncertain(),
        ]);
    }
    rows.push(
        row("a wrong IPv4 header checksum", proof(&world, client4(), 0, &LINUX4).wrong_ip_checksum())
            .dropped(Reason::AckBadCookie),
    );
    rows
}

fn linux_twice(world: &World) -> TcpFrame {
    proof(world, at(CLIENT_V4, 50_001), 0, &LINUX4)
}

/// The client's ISN is the highest there is, so its next sequence number is 0.
fn wrapped(world: &World) -> TcpFrame {
    let client = client4();
    let server = at(SERVER_V4, super::world::DUAL);
    let isn = super::expected::isn(client, server, u32::MAX, &WINDOWS4, &world.keys[0], 0, 10);
    TcpFrame::new(client, server).seq(0).ack(isn.wrapping_add(1))
}

/// What the profile of an index is over IPv4 (ARCHITECTURE: the profiles), on an interface of MSS 1460 and scale 10.
fn profile4(index: u8) -> NegotiatedOptions {
    let (mss, scale, sack) = [
        (1460, Some(10), true),
        (1460, None, true),
        (1460, Some(10), false),
        (1460, None, false),
        (1460, Some(8), true),
        (1460, Some(7), true),
        (1460, Some(14), true),
        (1402, Some(8), true),
        (1350, Some(8), true),
        (1300, Some(8), true),
        (1250, Some(8), true),
        (1200, Some(8), true),
        (1300, None, true),
        (1440, None, false),
        (1300, None, false),
        (536, None, false),
    ][usize::from(index)];
    NegotiatedOptions { index, mss, scale, sack, stamp: None, ecn: false }
}

fn rotation() -> Vec<Row> {
    let world = World::default();
    let mut before = World::default();
    before.keys[0] = OLD_KEY;
    let mut wrong_scale = World::default();
    wrong_scale.service().window_scale = [7, 7];
    let current = |row: Row| row.world(|world| world.config.key_current = 1);
    vec![
        current(row("challenged with the other slot: its key, its scale", syn4())).challenged(LINUX4),
        current(row("challenged with the other slot, IPv6", syn6())).challenged(LINUX6),
        current(row("a cookie of the slot before", proof(&world, client4(), 0, &LINUX4))).proves(LINUX4),
        row("a cookie of an epoch that is over", proof(&before, client4(), 0, &LINUX4))
            .dropped(Reason::AckBadCookie),
        row("a cookie of an epoch that is over, no timestamps", proof(&before, client4(), 0, &WINDOWS4))
            .dropped(Reason::AckBadCookie),
        row("the right key, another epoch", {
            let mut other = World::default();
            other.keys[0].epoch += 2;
            proof(&other, client4(), 0, &LINUX4)
        })
        .dropped(Reason::AckBadCookie),
        row("a cookie of a slot never filled", proof(&world, client4(), 1, &LINUX4))
            .world(|world| world.keys[1].filled = 0)
            .dropped(Reason::AckBadCookie),
        row("a cookie of a key of zeroes, slot never filled", {
            let mut zero = World::default();
            zero.keys[1] = KeySlot::default();
            proof(&zero, client4(), 1, &LINUX4)
        })
        .world(|world| world.keys[1] = KeySlot::default())
        .dropped(Reason::AckBadCookie),
        row("made when this host's scale was another", proof(&wrong_scale, client4(), 0, &LINUX4))
            .dropped(Reason::AckBadCookie),
    ]
}

fn forged() -> Vec<Row> {
    let world = World::default();
    let bad = |what: String, frame: TcpFrame| row(what, frame).dropped(Reason::AckBadCookie);
    let mut rows = Vec::new();
    for (what, frame) in [
        ("an acknowledgement of nothing", stray(client4(), flag::ACK).ack(0)),
        ("an acknowledgement of nothing, IPv6", stray(client6(), flag::ACK).ack(0)),
        ("a guess", stray(client4(), flag::ACK).ack(0x1234_5678)),
        ("a guess in the other slot", stray(client4(), flag::ACK).ack(0x9234_5678)),
        ("a guess with timestamps", {
            stray(client4(), flag::ACK).ack(0x1234_5678).options(&timestamp_options(1, 2))
        }),
        ("a guess with timestamps of zero", {
            stray(client4(), flag::ACK).ack(0x1234_5678).options(&timestamp_options(0, 0))
        }),
        ("a guess on data", stray(client4(), flag::ACK | flag::PSH).ack(1).payload(&[0; 1400])),
        ("a guess on a FIN", stray(client4(), flag::ACK | flag::FIN).ack(1)),
    ] {
        rows.push(bad(what.to_owned(), frame));
    }
    for bit in 0..5 {
        let frame = proof(&world, client4(), 0, &LINUX4);
        let options = timestamp_options(STAMP, echo(&LINUX4) ^ 1 << bit);
        rows.push(bad(format!("bit {bit} of the echo changed"), frame.options(&options)));
    }
    for bit in [0, 5, 26, 27, 28, 30, 31] {
        for negotiated in [LINUX4, WINDOWS4] {
            let client = client4();
            let seen =
                defender_testbed::frame::ParsedFrame::parse(&proof(&world, client, 0, &negotiated).build());
            let ack = seen.expect("readable").ack.wrapping_sub(1) ^ 1 << bit;
            let stamps = negotiated.stamp.is_some();
            let frame = proof(&world, client, 0, &negotiated).ack(ack.wrapping_add(1));
            rows.push(bad(format!("bit {bit} of the cookie changed, timestamps {stamps}"), frame));
        }
    }
    let linux = || proof(&world, client4(), 0, &LINUX4);
    rows.extend([
        bad("one behind".into(), linux().seq(ISN + 2)),
        bad("one before".into(), linux().seq(ISN)),
        bad("the timestamps left out".into(), linux().raw_options(&[])),
        bad("timestamps put in".into(), {
            proof(&world, client4(), 0, &WINDOWS4).options(&timestamp_options(1, 0x1f))
        }),
        bad("another client's".into(), {
            let seen = defender_testbed::frame::ParsedFrame::parse(&linux().build()).expect("readable");
            stray(client4(), flag::ACK).ack(seen.ack).options(&timestamp_options(STAMP, echo(&LINUX4)))
        }),
        bad("made for IPv4, sent over IPv6".into(), {
            let seen = defender_testbed::frame::ParsedFrame::parse(&linux().build()).expect("readable");
            stray(client6(), flag::ACK).ack(seen.ack).options(&timestamp_options(STAMP, echo(&LINUX4)))
        }),
        row("the echo's upper bits are the clock's", {
            linux().options(&timestamp_options(STAMP, echo(&LINUX4) ^ 0x8000_0020))
        })
        .proves(LINUX4),
        row("the client's timestamp is its own", {
            linux().options(&timestamp_options(STAMP.wrapping_add(99), echo(&LINUX4)))
        })
        .proves(LINUX4),
        row("a cookie made with timestamps where they are forbidden by now", linux())
            .world(|world| world.configure(CONFIG_TIMESTAMPS, false))
            .proves(LINUX4),
    ]);
    rows
}

/// What carries a valid cookie but is no acknowledgement.
fn not_acknowledgements() -> Vec<Row> {
    let world = World::default();
    let linux = |flags| proof(&world, client4(), 0, &LINUX4).flags(flags);
    let mut rows = vec![
        row("a RST", linux(flag::RST)).dropped(Reason::RstUnknown),
        row("a RST with ACK", linux(flag::RST | flag::ACK)).dropped(Reason::RstUnknown),
        row("a RST without anything, as from a spoofed host", stray(client4(), flag::RST))
            .dropped(Reason::RstUnknown),
        row("a RST without anything, IPv6", stray(client6(), flag::RST)).dropped(Reason::RstUnknown),
        row("a SYN-ACK", linux(flag::SYN | flag::ACK)).dropped(Reason::SynAckUnknown),
        row("a SYN-ACK, IPv6", stray(client6(), flag::SYN | flag::ACK)).dropped(Reason::SynAckUnknown),
        row("a SYN-ACK with ECE", linux(flag::SYN | flag::ACK | flag::ECE)).dropped(Reason::SynAckUnknown),
    ];
    for (what, flags) in [
        ("no flags (null scan)", 0),
        ("FIN alone", flag::FIN),
        ("FIN, PSH and URG (Xmas scan)", flag::FIN | flag::PSH | flag::URG),
        ("PSH alone", flag::PSH),
        ("SYN and FIN", flag::SYN | flag::FIN),
        ("SYN and RST", flag::SYN | flag::RST),
        ("SYN, FIN and ACK", flag::SYN | flag::FIN | flag::ACK),
        ("RST and FIN", flag::RST | flag::FIN),
        ("all flags", 0xff),
    ] {
        rows.push(row(what, linux(flags)).dropped(Reason::BadFlags));
        rows.push(row(format!("{what}, IPv6"), stray(client6(), flags)).dropped(Reason::BadFlags));
    }
    rows
}

/// What else comes of a connection before its socket is there.
fn bursts() -> Vec<Row> {
    let world = World::default();
    let after = |what: &str, next: fn(TcpFrame) -> TcpFrame| {
        let frame = proof(&world, client4(), 0, &LINUX4);
        row(what, next(frame.clone())).after(frame)
    };
    let client = client6();
    vec![
        after("the second segment", |frame| frame.seq(ISN + 1 + 1448).payload(&[1; 1448]))
            .passes(Reason::CookieRecent),
        after("a segment that acknowledges the greeting", |frame| frame.ack(77)).passes(Reason::CookieRecent),
        after("a FIN behind data", |frame| frame.seq(ISN + 900).flags(flag::ACK | flag::FIN))
            .passes(Reason::CookieRecent),
        after("a RST", |frame| frame.flags(flag::RST)).passes(Reason::CookieRecent),
        after("flags no TCP sends", |frame| frame.flags(0)).passes(Reason::CookieRecent),
        after("a segment below a tag", |frame| frame.seq(ISN + 2).vlan(5)).passes(Reason::CookieRecent),
        after("a retransmission of the first", |frame| frame).proves(LINUX4).uncertain(),
        after("data behind the acknowledgement, damaged", |frame| {
            frame.payload(b"GET /").checksum(Checksum::Wrong)
        })
        .proves(LINUX4)
        .uncertain(),
        after("a SYN of the same tuple", |frame| {
            frame.flags(flag::SYN).options(&super::frames::options(Some(1460), Some(STAMP), true, Some(7)))
        })
        .challenged(NegotiatedOptions { ..LINUX4 }),
        row("the second segment, IPv6", proof(&world, client, 0, &LINUX6).seq(ISN + 500))
            .after(proof(&world, client, 0, &LINUX6))
            .passes(Reason::CookieRecent),
        row("a segment of another connection", stray(client4(), flag::ACK).ack(5))
            .after(proof(&world, client4(), 0, &LINUX4))
            .dropped(Reason::AckBadCookie),
        row("after a cookie that was none", stray(at(client.ip(), 9), flag::ACK).seq(ISN + 9).ack(5))
            .after(stray(at(client.ip(), 9), flag::ACK).ack(5))
            .dropped(Reason::AckBadCookie),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    [valid(), unsound(), rotation(), forged(), not_acknowledgements(), bursts()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn valid_cookies() -> Result<()> {
    check(&valid())?;
    check(&rotation())
}

#[test]
fn cookies_that_the_kernel_will_not_take() -> Result<()> {
    check(&unsound())
}

#[test]
fn forged_cookies() -> Result<()> {
    check(&forged())?;
    check(&not_acknowledgements())
}

#[test]
fn bursts_behind_a_cookie() -> Result<()> {
    check(&bursts())
}
