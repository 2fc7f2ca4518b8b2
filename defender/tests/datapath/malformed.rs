//! Headers that are cut short or contradict themselves.

use anyhow::Result;
use defender_common::verdict::Reason;
use defender_testbed::frame::{Extension, TcpFrame, flag};

use super::{
    bed::Bed,
    frames::{ISN, address, at, client4, stray, syn_to, syn4, syn6},
    network::cut4,
    row::{Frame, Row, check, hex, row},
    world::{DUAL, UNKNOWN, World},
};

/// The frame with some of its bytes replaced.
fn patched(frame: impl Frame, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.bytes();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Where the IP header begins.
const IP: usize = 14;

fn ipv4() -> Vec<Row> {
    let bad = |what: &str, frame: Vec<u8>| row(what, frame).dropped(Reason::MalformedIp);
    let total = |length: u16| patched(syn4(), IP + 2, &length.to_be_bytes());
    vec![
        bad("version 5", patched(syn4(), IP, &[0x55])),
        bad("version 6 in a frame of type IPv4", patched(syn4(), IP, &[0x65])),
        bad("a header of 16 bytes", patched(syn4(), IP, &[0x44])),
        bad("a header of nothing", patched(syn4(), IP, &[0x40])),
        bad("a total length of 0", total(0)),
        bad("a total length below the header's", total(19)),
        bad("a total length below a header with options", patched(syn4(), IP, &[0x4f, 0, 0, 59])),
        bad("one byte missing", total(61)),
        bad("a total length far beyond the frame", total(65_535)),
        bad("the frame ends within the header", syn4().build()[..IP + 19].to_vec()),
        bad("the frame ends within the data", {
            let mut frame = syn4().payload(b"data").build();
            frame.pop();
            frame
        }),
        bad("below a tag", patched(syn4().vlan(6), IP + 4, &[0x44])),
        bad("for another host: it cannot be read", {
            let elsewhere = TcpFrame::linux_syn(client4(), at(address("10.203.0.9"), DUAL), ISN);
            patched(elsewhere, IP, &[0x44])
        }),
        row("a header as long as the packet", patched(syn4(), IP, &[0x4f])).dropped(Reason::MalformedTcp),
        row("UDP, a byte missing, is not ours to judge", {
            let frame = patched(syn4(), IP + 9, &[17]);
            frame[..frame.len() - 1].to_vec()
        })
        .passes(Reason::NotTcp),
    ]
}

fn ipv6() -> Vec<Row> {
    let bad = |what: &str, frame: Vec<u8>| row(what, frame).dropped(Reason::MalformedIp);
    let payload = |length: u16| patched(syn6(), IP + 4, &length.to_be_bytes());
    let hop_by_hop = || syn6().extension(Extension::HopByHop(4));
    vec![
        bad("version 4 in a frame of type IPv6", patched(syn6(), IP, &[0x40])),
        bad("version 7", patched(syn6(), IP, &[0x70])),
        bad("one byte missing, IPv6", payload(41)),
        bad("a payload far beyond the frame, IPv6", payload(65_535)),
        bad("the frame ends within the header, IPv6", syn6().build()[..IP + 39].to_vec()),
        bad("an extension header beyond the frame", patched(hop_by_hop(), IP + 41, &[255])),
        bad("a payload below its extension headers", patched(hop_by_hop(), IP + 4, &[0, 7])),
        bad("the frame ends before an extension header", hop_by_hop().build()[..IP + 40].to_vec()),
        bad("the frame ends within an extension header", {
            let frame = hop_by_hop().build()[..IP + 46].to_vec();
            patched(frame, IP + 4, &[0, 6])
        }),
        row("no payload at all, IPv6", payload(0)).dropped(Reason::MalformedTcp),
        row("a payload of extension headers only", patched(hop_by_hop(), IP + 4, &[0, 8]))
            .dropped(Reason::MalformedTcp),
    ]
}

fn tcp() -> Vec<Row> {
    let bad = |what: &str, frame: Vec<u8>| row(what, frame).dropped(Reason::MalformedTcp);
    let elsewhere = TcpFrame::linux_syn(client4(), at(address("10.203.0.9"), DUAL), ISN);
    vec![
        bad("a data offset of 4", syn4().data_offset(4).build()),
        bad("a data offset of 0", syn4().data_offset(0).build()),
        bad("a data offset of 0, IPv6", syn6().data_offset(0).build()),
        bad("a data offset beyond the packet", syn4().data_offset(11).build()),
        bad("a data offset beyond the packet, IPv6", syn6().data_offset(15).build()),
        bad("a data offset beyond the packet, in the trailer", syn4().data_offset(11).trailer(40).build()),
        bad("a header cut short", cut4(syn4(), 19)),
        bad("a header cut short, padded", {
            let mut frame = cut4(syn4(), 19);
            frame.resize(60, 0);
            frame
        }),
        bad("options cut short", cut4(syn4(), 39)),
        bad("nothing but ports", cut4(syn4(), 4)),
        bad("no header at all", cut4(syn4(), 0)),
        bad("an acknowledgement with a data offset of 4", {
            stray(client4(), flag::ACK).ack(1).data_offset(4).build()
        }),
        row("a data offset of 4, to another host", elsewhere.clone().data_offset(4)).passes(Reason::NotLocal),
        row("a header cut short, to another host", cut4(elsewhere, 19)).passes(Reason::NotLocal),
        row("a data offset of 4, to a port without a service", syn_to(client4(), UNKNOWN).data_offset(4))
            .dropped(Reason::MalformedTcp),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    [ipv4(), ipv6(), tcp()].into_iter().flatten().collect()
}

#[test]
fn malformed() -> Result<()> {
    check(&rows())
}

/// The shortest frame that `BPF_PROG_TEST_RUN` takes: an Ethernet header.
const SHORTEST: usize = 14;

/// Cut at any byte, with lengths that say so or do not, a SYN is never answered.
#[test]
fn cut_at_any_byte() -> Result<()> {
    let mut bed = Bed::new()?;
    let mut world = World::default();
    world.interface.max_vlan_tags = 2;
    bed.enter(&world)?;
    let extended = syn6().extension(Extension::HopByHop(12)).extension(Extension::DestinationOptions(4));
    for whole in [
        syn4(),
        syn6(),
        syn4().vlan(1).vlan(2),
        syn6().vlan(1).vlan(2),
        syn4().ip_options(&[1; 12]).payload(b"data"),
        extended.clone(),
        extended.vlan(1).payload(b"more data"),
        syn6().extension(Extension::AtomicFragment),
        syn4().raw_options(&[29, 16, 1, 2, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 2, 4, 5, 0xb4]),
    ] {
        let whole = whole.build();
        for length in SHORTEST..whole.len() {
            let cut = whole[..length].to_vec();
            is_never_answered(&mut bed, &with_length(&cut))?;
            is_never_answered(&mut bed, &cut)?;
        }
    }
    Ok(())
}

fn is_never_answered(bed: &mut Bed, frame: &[u8]) -> Result<()> {
    let ran = bed.run(frame)?;
    let counted: u64 = ran.counted.iter().map(|(_, count)| count).sum();
    assert_eq!(counted, 1, "{:?}: {}", ran.counted, hex(frame));
    assert_ne!(ran.counted[0].0, Reason::SynChallenged, "{}", hex(frame));
    assert_eq!(ran.out, frame, "{:?}", ran.counted);
    Ok(())
}

/// The frame with its IP header's length as it is.
fn with_length(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let mut at = 12;
    while frame.get(at..at + 2) == Some(&[0x81, 0]) {
        at += 4;
    }
    let (field, header) = match frame.get(at..at + 2) {
        Some([0x08, 0]) => (at + 4, 0),
        Some([0x86, 0xdd]) => (at + 6, 40),
        _ => return frame,
    };
    let length = frame.len().saturating_sub(at + 2 + header) as u16;
    if let Some(bytes) = frame.get_mut(field..field + 2) {
        bytes.copy_from_slice(&length.to_be_bytes());
    }
    frame
}
