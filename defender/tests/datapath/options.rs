//! What a SYN offers and what it is answered: layouts of real stacks, every combination, odd and broken options, ECN, data.

use anyhow::Result;
use defender_common::{
    abi::{CONFIG_ECN, CONFIG_REFLECT_TOS, CONFIG_SACK, CONFIG_TIMESTAMPS, CONFIG_WINDOW_SCALING},
    verdict::Reason,
};
use defender_testbed::frame::{TcpFrame, flag};

use super::{
    expected::NegotiatedOptions,
    frames::{
        LINUX4, LINUX6, STAMP, WINDOWS4, WINDOWS6, client4, client6, options, repair, server_of, syn_to,
        syn4, syn6,
    },
    row::{Frame, Row, check, row},
    world::{DUAL, World},
};

/// The timestamp option of [`STAMP`].
const STAMP_OPTION: [u8; 10] = [8, 10, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0];
const MSS_1460: [u8; 4] = [2, 4, 5, 0xb4];

/// No option at all.
const NOTHING: NegotiatedOptions =
    NegotiatedOptions { index: 15, mss: 536, scale: None, sack: false, stamp: None, ecn: false };

fn offering4(mss: Option<u16>, stamp: Option<u32>, sack: bool, scale: Option<u8>) -> TcpFrame {
    syn4().options(&options(mss, stamp, sack, scale))
}

fn offering6(mss: Option<u16>, stamp: Option<u32>, sack: bool, scale: Option<u8>) -> TcpFrame {
    syn6().options(&options(mss, stamp, sack, scale))
}

fn raw(parts: &[&[u8]]) -> TcpFrame {
    syn4().raw_options(&parts.concat())
}

fn layouts() -> Vec<Row> {
    let macos = [&MSS_1460[..], &[1, 3, 3, 6, 1, 1], &STAMP_OPTION, &[4, 2, 0, 0]].concat();
    let freebsd = [&MSS_1460[..], &[1, 3, 3, 6, 4, 2], &STAMP_OPTION].concat();
    let windows = |client| TcpFrame::windows_syn(client, server_of(client, DUAL), 1);
    vec![
        row("Linux", syn4()).challenged(LINUX4),
        row("Linux, IPv6", syn6()).challenged(LINUX6),
        row("Windows", windows(client4())).challenged(WINDOWS4),
        row("Windows, IPv6", windows(client6())).challenged(WINDOWS6),
        row("macOS", raw(&[&macos])).challenged(NegotiatedOptions { scale: Some(6), ..LINUX4 }),
        row("FreeBSD", raw(&[&freebsd])).challenged(NegotiatedOptions { scale: Some(6), ..LINUX4 }),
        row("nothing but the MSS", raw(&[&MSS_1460])).challenged(NegotiatedOptions {
            index: 3,
            mss: 1460,
            ..NOTHING
        }),
        row("nothing but the MSS, IPv6", offering6(Some(1440), None, false, None))
            .challenged(NegotiatedOptions { index: 3, mss: 1440, ..NOTHING }),
        row("no options at all", raw(&[])).challenged(NOTHING),
        row("no options at all, IPv6", syn6().raw_options(&[]))
            .challenged(NegotiatedOptions { mss: 1220, ..NOTHING }),
        row("an end of options and padding only", raw(&[&[0, 0, 0, 0]])).challenged(NOTHING),
        row("forty bytes of NOP", raw(&[&[1; 40]])).challenged(NOTHING),
        row("Linux's options the other way round, with NOPs", {
            raw(&[&[1, 1, 3, 3, 7], &STAMP_OPTION, &[1, 4, 2, 1, 1], &MSS_1460])
        })
        .challenged(LINUX4),
        row("a first SYN and one that is sent again, ISN 0", syn4().seq(0)).challenged(LINUX4),
        row("ISN 2³² - 1", syn4().seq(u32::MAX)).challenged(LINUX4),
        row("an acknowledgement number that does not count", {
            let mut frame = syn4().build();
            frame[42..46].fill(0);
            frame
        })
        .challenged(LINUX4),
    ]
}

/// Timestamps × SACK × window scale. Without timestamps the nearest profile counts: with SACK there is one for each of the
/// scales 7, 8, 14 and this host's own (10), without SACK only for this host's own.
fn combinations() -> Vec<Row> {
    let profiles = |sack, scale| match (sack, scale) {
        (true, Some(10)) => (0, Some(10)),
        (true, Some(8)) => (4, Some(8)),
        (true, Some(7)) => (5, Some(7)),
        (true, Some(14 | 15)) => (6, Some(14)),
        (true, _) => (1, None),
        (false, Some(10)) => (2, Some(10)),
        (false, _) => (3, None),
    };
    let mut rows = Vec::new();
    for stamp in [None, Some(STAMP), Some(0), Some(u32::MAX)] {
        for sack in [false, true] {
            for scale in [None, Some(0), Some(2), Some(7), Some(8), Some(10), Some(14), Some(15)] {
                let (index, kept) = match stamp {
                    Some(_) => (7, scale.map(|scale| scale.min(14))),
                    None => profiles(sack, scale),
                };
                let negotiated = NegotiatedOptions { index, mss: 1460, scale: kept, sack, stamp, ecn: false };
                let what = format!("timestamp {stamp:?}, SACK {sack}, scale {scale:?}");
                rows.push(row(&what, offering4(Some(1460), stamp, sack, scale)).challenged(negotiated));
                rows.push(
                    row(format!("{what}, IPv6"), offering6(Some(1440), stamp, sack, scale))
                        .challenged(NegotiatedOptions { mss: 1440, ..negotiated }),
                );
            }
        }
    }
    rows
}

fn sizes() -> Vec<Row> {
    let mut rows = Vec::new();
    // Offered, index and MSS handed over; with timestamps.
    for (offered, index, mss) in [
        (None, 0, 536),
        (Some(0), 0, 536),
        (Some(1), 0, 536),
        (Some(535), 0, 536),
        (Some(536), 0, 536),
        (Some(1199), 0, 536),
        (Some(1200), 1, 1200),
        (Some(1240), 1, 1200),
        (Some(1299), 2, 1250),
        (Some(1300), 3, 1300),
        (Some(1380), 4, 1350),
        (Some(1400), 5, 1400),
        (Some(1440), 6, 1440),
        (Some(1452), 6, 1440),
        (Some(1459), 6, 1440),
        (Some(1460), 7, 1460),
        (Some(8960), 7, 1460),
        (Some(65_535), 7, 1460),
    ] {
        let frame = offering4(offered, Some(STAMP), true, Some(7));
        rows.push(row(format!("MSS {offered:?}"), frame).challenged(NegotiatedOptions {
            index,
            mss,
            ..LINUX4
        }));
    }
    for (offered, index, mss) in [
        (None, 0, 1220),
        (Some(100), 0, 1220),
        (Some(1259), 0, 1220),
        (Some(1299), 1, 1260),
        (Some(1310), 2, 1310),
        (Some(1380), 3, 1360),
        (Some(1400), 4, 1400),
        (Some(1432), 5, 1420),
        (Some(1439), 5, 1420),
        (Some(1440), 7, 1440),
        (Some(8940), 7, 1440),
    ] {
        let frame = offering6(offered, Some(STAMP), true, Some(7));
        rows.push(row(format!("MSS {offered:?}, IPv6"), frame).challenged(NegotiatedOptions {
            index,
            mss,
            ..LINUX6
        }));
    }
    // Without timestamps: the profile that takes least.
    for (offered, scale, negotiated) in [
        (1459, 8, NegotiatedOptions { index: 7, mss: 1402, ..WINDOWS4 }),
        (1452, 8, NegotiatedOptions { index: 7, mss: 1402, ..WINDOWS4 }),
        (1400, 8, NegotiatedOptions { index: 8, mss: 1350, ..WINDOWS4 }),
        (1300, 8, NegotiatedOptions { index: 9, mss: 1300, ..WINDOWS4 }),
        (1299, 8, NegotiatedOptions { index: 10, mss: 1250, ..WINDOWS4 }),
        (1220, 8, NegotiatedOptions { index: 11, mss: 1200, ..WINDOWS4 }),
        (1400, 7, NegotiatedOptions { index: 12, mss: 1300, scale: None, ..WINDOWS4 }),
        (1199, 8, NegotiatedOptions { index: 15, mss: 536, scale: None, sack: false, ..WINDOWS4 }),
        (1460, 9, WINDOWS4),
        (1460, 5, NegotiatedOptions { index: 1, scale: None, ..WINDOWS4 }),
    ] {
        let frame = offering4(Some(offered), None, true, Some(scale));
        rows.push(row(format!("MSS {offered}, scale {scale}, no timestamps"), frame).challenged(negotiated));
    }
    rows.extend([
        row("an interface of a larger MTU", offering4(Some(8960), Some(STAMP), true, Some(7)))
            .world(|world| world.interface.mss4 = 8960)
            .challenged(NegotiatedOptions { mss: 8960, ..LINUX4 }),
        row("a client of the usual MTU there", syn4())
            .world(|world| world.interface.mss4 = 8960)
            .challenged(NegotiatedOptions { index: 6, ..LINUX4 }),
        row("an interface of a smaller MTU", syn4())
            .world(|world| world.interface.mss4 = 1360)
            .challenged(NegotiatedOptions { mss: 1360, ..LINUX4 }),
        row("a listener's MSS, smaller than the interface's", syn4())
            .world(|world| world.service().mss = [1400; 2])
            .challenged(NegotiatedOptions { mss: 1400, ..LINUX4 }),
        row("a listener's MSS, greater than the interface's", syn6())
            .world(|world| world.service().mss = [9000; 2])
            .challenged(LINUX6),
        row("a route's MSS, smaller than the interface's", syn4())
            .world(|world| world.service().advertised = [1300, 0])
            .challenged(LINUX4),
        row("a route's MSS and a listener's, IPv6", syn6())
            .world(|world| {
                world.service().advertised = [0, 1300];
                world.service().mss = [1400; 2];
            })
            .challenged(NegotiatedOptions { mss: 1400, ..LINUX6 }),
        row("a listener's MSS of another key", syn4())
            .world(|world| {
                let other = 1 - (world.config.key_current as usize & 1);
                world.service().mss[other] = 1400;
            })
            .challenged(LINUX4),
    ]);
    rows
}

fn odd() -> Vec<Row> {
    let linux = [&MSS_1460[..], &[4, 2], &STAMP_OPTION, &[1, 3, 3, 7]].concat();
    let stamped = |scale| NegotiatedOptions { scale, ..LINUX4 };
    let mss_only = NegotiatedOptions { index: 3, mss: 1460, ..NOTHING };
    vec![
        row("a scale of 15 counts as 14", offering4(Some(1460), Some(STAMP), true, Some(15)))
            .challenged(stamped(Some(14))),
        row("a scale of 255 counts as 14", offering4(Some(1460), Some(STAMP), true, Some(255)))
            .challenged(stamped(Some(14))),
        row("a scale of 15 without timestamps", offering4(Some(1460), None, true, Some(15)))
            .challenged(NegotiatedOptions { index: 6, scale: Some(14), ..WINDOWS4 }),
        row("Fast Open: a request for a cookie", raw(&[&linux, &[34, 2]])).challenged(LINUX4),
        row("Fast Open: a cookie and data", {
            raw(&[&linux, &[34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]]).payload(b"GET / HTTP/1.1\r\n\r\n")
        })
        .challenged(LINUX4),
        row("Fast Open: the experimental option", raw(&[&linux, &[254, 4, 0xf9, 0x89]])).challenged(LINUX4),
        row("Multipath TCP", raw(&[&linux, &[30, 12, 1, 0x81, 1, 2, 3, 4, 5, 6, 7, 8]])).challenged(LINUX4),
        row("an option nobody knows", raw(&[&linux, &[253, 6, 1, 2, 3, 4, 1, 1]])).challenged(LINUX4),
        row("an unknown option in front", raw(&[&[200, 3, 9, 1], &linux])).challenged(LINUX4),
        row("an unknown option whose data looks like others", {
            raw(&[&MSS_1460, &[253, 12, 3, 3, 9, 4, 2, 19, 18, 29, 4, 1]])
        })
        .challenged(mss_only),
        row("TCP-MD5", raw(&[&MSS_1460, &[19, 18], &[7; 16], &[1, 1]])).passes(Reason::SynSigned),
        row("TCP-MD5, IPv6", syn6().raw_options(&[&[19, 18][..], &[7; 16], &[1, 1]].concat()))
            .passes(Reason::SynSigned),
        row("TCP-AO", raw(&[&MSS_1460, &[29, 16, 1, 2], &[7; 12]])).passes(Reason::SynSigned),
        row("TCP-AO, IPv6", syn6().raw_options(&[&[29, 16, 1, 2][..], &[7; 12]].concat()))
            .passes(Reason::SynSigned),
        row("TCP-MD5 with a wrong checksum is the kernel's too", {
            raw(&[&[19, 18], &[7; 16], &[1, 1]]).checksum(defender_testbed::frame::Checksum::Wrong)
        })
        .passes(Reason::SynSigned),
        row("of an option given twice the last counts", raw(&[&[2, 4, 2, 0x18], &linux])).challenged(LINUX4),
        row("an option of length 0 ends the list", raw(&[&MSS_1460, &[3, 0, 7, 1], &[4, 2, 1, 1]]))
            .challenged(mss_only),
        row("an option of length 1 ends the list", raw(&[&MSS_1460, &[99, 1, 4, 2]])).challenged(mss_only),
        row("an option that reaches beyond the header", raw(&[&MSS_1460, &[1, 1, 4, 9]]))
            .challenged(mss_only),
        row("a kind without a length at the end", raw(&[&MSS_1460, &[1, 1, 1, 4]])).challenged(mss_only),
        row("options behind the end of the list do not count", raw(&[&MSS_1460, &[0, 4, 2, 1]]))
            .challenged(mss_only),
        row("options behind the header do not count", {
            raw(&[&MSS_1460]).payload(&[4, 2, 1, 3, 3, 7, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0])
        })
        .challenged(mss_only),
        row("an MSS option of a wrong length", raw(&[&[2, 3, 5, 4, 2, 1, 1, 1]])).challenged(NOTHING),
        row("an MSS at the very end of the packet", raw(&[&[1, 1, 4, 2], &MSS_1460]))
            .challenged(NegotiatedOptions { index: 1, mss: 1460, sack: true, ..NOTHING }),
        row("a scale at the very end of the packet", raw(&[&MSS_1460, &[4, 2, 3, 3, 8, 3, 3, 8]]))
            .challenged(WINDOWS4),
        row(
            "timestamps at the very end of the packet",
            raw(&[&MSS_1460, &[3, 3, 7, 4, 2, 1], &STAMP_OPTION]),
        )
        .challenged(LINUX4),
        row("a timestamp option of a wrong length", raw(&[&MSS_1460, &[8, 8, 0, 0, 0, 1, 0, 0]]))
            .challenged(mss_only),
        row("a scale option of a wrong length", raw(&[&MSS_1460, &[3, 4, 7, 7]])).challenged(mss_only),
    ]
}

/// What the sysctls forbid is not offered, whatever the client does.
fn sysctls() -> Vec<Row> {
    let without = |what: &str, bits| row(what, syn4()).world(|world| world.configure(bits, false));
    vec![
        without("no timestamps here", CONFIG_TIMESTAMPS).challenged(NegotiatedOptions {
            index: 5,
            stamp: None,
            ..LINUX4
        }),
        without("no SACK here", CONFIG_SACK).challenged(NegotiatedOptions { sack: false, ..LINUX4 }),
        without("no window scaling here", CONFIG_WINDOW_SCALING)
            .challenged(NegotiatedOptions { scale: None, ..LINUX4 }),
        without("nothing here", CONFIG_TIMESTAMPS | CONFIG_SACK | CONFIG_WINDOW_SCALING)
            .challenged(NegotiatedOptions { index: 3, mss: 1460, ..NOTHING }),
        row("no timestamps here, IPv6", syn6())
            .world(|world| world.configure(CONFIG_TIMESTAMPS, false))
            .challenged(NegotiatedOptions { index: 5, stamp: None, ..LINUX6 }),
    ]
}

fn ecn() -> Vec<Row> {
    let set_up = |frame: TcpFrame| frame.flags(flag::SYN | flag::ECE | flag::CWR);
    let with_ecn = NegotiatedOptions { ecn: true, ..LINUX4 };
    let client = client4();
    vec![
        row("ECN set-up", set_up(syn4())).challenged(with_ecn),
        row("ECN set-up, IPv6", set_up(syn6())).challenged(NegotiatedOptions { ecn: true, ..LINUX6 }),
        row("ECN set-up where tcp_ecn forbids it", set_up(syn4()))
            .world(|world| world.configure(CONFIG_ECN, false))
            .challenged(LINUX4),
        row(
            "ECN set-up without timestamps",
            set_up(TcpFrame::windows_syn(client, server_of(client, DUAL), 1)),
        )
        .challenged(WINDOWS4),
        row("ECN set-up where timestamps are forbidden", set_up(syn4()))
            .world(|world| world.configure(CONFIG_TIMESTAMPS, false))
            .challenged(NegotiatedOptions { index: 5, stamp: None, ..LINUX4 }),
        row("ECN set-up in a packet that is ECT(0)", set_up(syn4()).tos(2)).challenged(LINUX4),
        row("ECN set-up in a packet that is ECT(1)", set_up(syn4()).tos(1)).challenged(LINUX4),
        row("ECN set-up in a packet that is CE", set_up(syn4()).tos(3)).challenged(LINUX4),
        row("ECN set-up in a packet that is ECT(0), IPv6", set_up(syn6()).tos(2)).challenged(LINUX6),
        row("ECN set-up with a DSCP", set_up(syn4()).tos(0xb8)).challenged(with_ecn),
        row("ECN set-up that would rather be accurate (AE too)", accurate(set_up(syn4())))
            .challenged(with_ecn),
        row("the same in a packet that is ECT(0)", accurate(set_up(syn4()).tos(2))).challenged(with_ecn),
        row("the same in a packet that is CE, IPv6", accurate6(set_up(syn6()).tos(3)))
            .challenged(NegotiatedOptions { ecn: true, ..LINUX6 }),
        row("ECE alone", syn4().flags(flag::SYN | flag::ECE)).challenged(LINUX4),
        row("CWR alone", syn4().flags(flag::SYN | flag::CWR)).challenged(LINUX4),
        row("ECN set-up without SACK or scale", set_up(offering4(Some(1460), Some(STAMP), false, None)))
            .challenged(NegotiatedOptions { sack: false, scale: None, ..with_ecn }),
        row("a SYN with PSH and URG", syn4().flags(flag::SYN | flag::PSH | flag::URG)).challenged(LINUX4),
    ]
}

/// With the flag that Accurate ECN has beside CWR and ECE (RFC 9768, section 3.1.1).
fn accurate(frame: impl Frame) -> Vec<u8> {
    with_ae(frame, 46)
}

fn accurate6(frame: impl Frame) -> Vec<u8> {
    with_ae(frame, 66)
}

fn with_ae(frame: impl Frame, at: usize) -> Vec<u8> {
    let mut frame = frame.bytes();
    frame[at] |= 1;
    repair(&mut frame);
    frame
}

/// Hops and type of service: the interface's, or what the listener was told.
fn headers() -> Vec<Row> {
    let told = |world: &mut World| {
        world.service().ttl = [255, 254];
        world.service().tos = [0x10, 0xb8];
    };
    let reflects = move |world: &mut World| {
        told(world);
        world.configure(CONFIG_REFLECT_TOS, true);
    };
    vec![
        row("a listener with IP_TTL and IP_TOS", syn4()).world(told).challenged(LINUX4),
        row("a listener with IPV6_UNICAST_HOPS and IPV6_TCLASS", syn6()).world(told).challenged(LINUX6),
        row("a SYN with a DSCP", syn4().tos(0x28)).world(told).challenged(LINUX4),
        row("a SYN with a DSCP and tcp_reflect_tos", syn4().tos(0x28)).world(reflects).challenged(LINUX4),
        row("the same with ECN bits", syn4().tos(0x2b)).world(reflects).challenged(LINUX4),
        row("the same, IPv6", syn6().tos(0xe3)).world(reflects).challenged(LINUX6),
    ]
}

/// The reply has none of it.
fn data() -> Vec<Row> {
    let mut rows = Vec::new();
    for length in [1, 2, 3, 4, 5, 7, 8, 511, 512, 513, 1023, 1024, 1025, 1399, 1400] {
        let payload: Vec<u8> = (0..length).map(|byte: usize| (byte * 7 + 3) as u8).collect();
        let frame4 = syn4().payload(&payload);
        let frame6 = syn6().payload(&payload);
        let mut corrupt = frame4.build();
        *corrupt.last_mut().expect("data") ^= 0x10;
        rows.extend([
            row(format!("{length} bytes of data"), frame4.clone()).challenged(LINUX4),
            row(format!("{length} bytes of data, padding behind"), frame4.trailer(3)).challenged(LINUX4),
            row(format!("{length} bytes of data, IPv6"), frame6.vlan(2)).challenged(LINUX6),
            row(format!("{length} bytes of data, the last changed"), corrupt).dropped(Reason::SynBadChecksum),
        ]);
    }
    rows.push(
        row("data behind no options", syn_to(client4(), DUAL).raw_options(&[]).payload(b"odd"))
            .challenged(NOTHING),
    );
    rows
}

/// Frames of which only the headers, or not even all data, are in one piece.
fn jumbo() -> Vec<Row> {
    let data = |length: usize| (0..length).map(|byte| (byte * 7 + 3) as u8).collect::<Vec<_>>();
    let bare = |frame: TcpFrame| frame.raw_options(&[]);
    vec![
        row("4,000 bytes of data, 3,000 in one piece", syn4().payload(&data(4_000)))
            .linear(3_000)
            .challenged(LINUX4),
        row("8,900 bytes of data, IPv6", syn6().payload(&data(8_900))).linear(3_000).challenged(LINUX6),
        row("more than the headers in one piece", syn4().payload(&data(200))).linear(100).challenged(LINUX4),
        row("the headers alone in one piece", syn4().payload(&data(200))).linear(74).challenged(LINUX4),
        row("the reply is longer than what is in one piece", bare(syn4()).payload(&data(200)))
            .linear(54)
            .dropped(Reason::SynRewriteFailed),
        row("data in fragments, changed", {
            let mut frame = syn4().payload(&data(200)).build();
            frame[200] ^= 1;
            frame
        })
        .linear(100)
        .dropped(Reason::SynBadChecksum),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    [layouts(), combinations(), sizes(), odd(), sysctls(), ecn(), headers(), data(), jumbo()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn syn_options() -> Result<()> {
    check(
        &[layouts(), combinations(), sizes(), odd(), sysctls(), ecn()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>(),
    )
}

#[test]
fn syn_data() -> Result<()> {
    check(&data())
}

#[test]
fn syn_data_in_fragments() -> Result<()> {
    check(&jumbo())
}
