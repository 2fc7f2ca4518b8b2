//! Valid frames, changed at random: whatever comes in, one counter moves, and what goes out is a proper SYN-ACK.

use anyhow::Result;
use defender_common::{abi::INTERFACE_PARTIAL_CHECKSUMS, verdict::Reason};
use defender_testbed::frame::{Extension, ParsedFrame, SumState, TcpFrame, flag};

use super::{
    bed::{Bed, Ran},
    expected::NegotiatedOptions,
    frames::{ISN, LINUX4, LINUX6, WINDOWS4, client4, proof, repair, server_of, stray, syn4, syn6},
    row::hex,
    world::{DUAL, World},
};

const ROUNDS: u32 = 6_000;
/// Fewer answers would mean that the changes leave nothing to answer.
const FEWEST_ANSWERS: u32 = 300;

/// Numbers without a pattern, the same in every run (xorshift64*, Vigna 2016).
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    fn byte(&mut self) -> u8 {
        // Ends of ranges more often than others.
        match self.below(4) {
            0 => [0, 1, 2, 4, 0x7f, 0x80, 0xfe, 0xff][self.below(8)],
            _ => (self.next() >> 40) as u8,
        }
    }
}

fn originals(world: &World) -> Vec<Vec<u8>> {
    let windows = client4();
    let frames = [
        syn4(),
        syn6(),
        TcpFrame::windows_syn(windows, server_of(windows, DUAL), ISN),
        syn4().raw_options(&[]).trailer(6),
        syn4().vlan(100),
        syn6().vlan(100).vlan(200),
        syn4().ip_options(&[1; 12]),
        syn4().raw_options(&[
            2, 4, 5, 0xb4, 3, 3, 7, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 34, 6, 1, 2, 3, 4, 1,
        ]),
        syn4().flags(flag::SYN | flag::ECE | flag::CWR).payload(b"an odd number"),
        syn6().extension(Extension::HopByHop(4)).extension(Extension::DestinationOptions(12)),
        syn6().extension(Extension::AtomicFragment).payload(&[9; 300]),
        proof(world, client4(), 0, &LINUX4),
        proof(world, client4(), 0, &WINDOWS4).payload(b"data"),
        proof(world, super::frames::client6(), 1, &NegotiatedOptions { ecn: true, ..LINUX6 }),
        stray(client4(), flag::RST),
        stray(client4(), flag::SYN | flag::ACK),
        syn4().fragment(0, true),
    ];
    frames.iter().map(TcpFrame::build).collect()
}

/// Changes a frame in one place.
pub(super) fn change(random: &mut Random, frame: &mut Vec<u8>) {
    let length = frame.len();
    match random.below(8) {
        0..3 => {
            let at = random.below(length);
            frame[at] ^= 1 << random.below(8);
        }
        3..5 => {
            let at = random.below(length);
            frame[at] = random.byte();
        }
        5 => {
            let at = random.below(length);
            let byte = random.byte();
            frame.insert(at, byte);
        }
        6 => {
            if length > 15 {
                frame.remove(random.below(length));
            }
        }
        _ => {
            if random.below(2) == 0 {
                frame.truncate((14 + random.below(length)).min(length));
            } else {
                frame.resize(length + random.below(200), 0x5a);
            }
        }
    }
}

#[test]
fn whatever_comes_in() -> Result<()> {
    let mut bed = Bed::new()?;
    let mut random = Random(0x0dd0_15ea_5e15_900d);
    let mut answers = 0;
    for partial in [false, true] {
        let mut world = World::default();
        world.interface.max_vlan_tags = 2;
        if partial {
            world.interface.flags |= INTERFACE_PARTIAL_CHECKSUMS;
        }
        bed.enter(&world)?;
        let originals = originals(&world);
        for _ in 0..ROUNDS / 2 {
            let mut frame = originals[random.below(originals.len())].clone();
            for _ in 0..1 + random.below(4) {
                change(&mut random, &mut frame);
            }
            if random.below(4) != 0 {
                repair(&mut frame);
            }
            let ran = bed.run(&frame)?;
            if let Err(complaint) = examine(&frame, &ran, &world) {
                panic!("{complaint}\n  in  {}\n  out {}", hex(&frame), hex(&ran.out));
            }
            answers += u32::from(ran.counted[0].0 == Reason::SynChallenged);
        }
    }
    assert!(answers >= FEWEST_ANSWERS, "only {answers} of {ROUNDS} frames were answered");
    Ok(())
}

fn examine(frame: &[u8], ran: &Ran, world: &World) -> Result<(), String> {
    let [(reason, 1)] = ran.counted[..] else { return Err(format!("counted {:?}", ran.counted)) };
    let named = match ran.action {
        1 => "drop.",
        2 => "pass.",
        3 => "tx.",
        other => return Err(format!("action {other}")),
    };
    if !reason.name().starts_with(named) {
        return Err(format!("action {} for {}", ran.action, reason.name()));
    }
    match reason {
        Reason::SynChallenged => examine_answer(frame, &ran.out, world),
        Reason::Cookie | Reason::CookieRecent => is(ran.out.ends_with(frame), "the segment changed"),
        _ => is(ran.out == frame, "the frame changed"),
    }
}

fn examine_answer(syn: &[u8], out: &[u8], world: &World) -> Result<(), String> {
    let reply = ParsedFrame::parse(out).ok_or("the reply cannot be read")?;
    is(reply.flags & !flag::ECE == flag::SYN | flag::ACK, "not the flags of a SYN-ACK")?;
    is(reply.ip_checksum_valid && reply.checksum == SumState::Valid, "a wrong checksum")?;
    is(out.len() == 14 + 4 * reply.vlans.len() + reply.ip_length, "bytes behind the packet")?;
    is(reply.payload.is_empty() && reply.raw_options.len() <= 20, "longer than a SYN-ACK is")?;
    let (header, ttl) =
        if reply.source.is_ipv4() { (20, world.interface.ttl) } else { (40, world.interface.hop_limit) };
    is(reply.ip_length == header + 20 + reply.raw_options.len(), "longer than a SYN-ACK is")?;
    is(reply.options.mss.is_some() && reply.ttl == ttl, "not what this host sends")?;
    is(reply.source == server_of(reply.destination, reply.source.port()), "not from this host")?;
    is(out[..6] == syn[6..12] && out[6..12] == syn[..6], "MAC addresses not swapped")?;
    is(syn[12..14 + 4 * reply.vlans.len()] == out[12..14 + 4 * reply.vlans.len()], "type or tags changed")
}

fn is(right: bool, complaint: &str) -> Result<(), String> {
    if right { Ok(()) } else { Err(complaint.to_owned()) }
}
