//! Segments of no connection: few pass, so that the kernel resets connections that this host has lost.

use std::net::SocketAddr;

use anyhow::Result;
use defender::dataplane::clock;
use defender_common::{
    abi::{MODE_ALWAYS, MODE_AUTO},
    load::MitigationState,
    mitigation::{Level, Trigger},
    verdict::Reason,
};
use defender_testbed::frame::{TcpFrame, flag, timestamp_options};

use super::{
    bed::{Bed, Ran},
    expected::offset,
    frames::{ISN, LINUX4, LINUX6, WINDOWS4, address, at, client4, client6, proof, server_of, stray},
    row::{Row, check, row},
    services::unknown,
    world::{DEAD, DUAL, World},
};

const BUDGET: u32 = 3;

fn limited(what: &str, frame: TcpFrame) -> Row {
    // Clients of other rows are of the same network.
    row(what, frame).world(|world| world.config.out_of_state_budget = 100)
}

fn from(source: &str) -> TcpFrame {
    TcpFrame::new(at(address(source), 4_000), server_of(at(address(source), 0), DUAL)).ack(1).seq(ISN)
}

/// An acknowledgement that echoes a timestamp which this host sent so many milliseconds ago, or will.
fn echoes(client: SocketAddr, ago: i32) -> TcpFrame {
    let now = clock::now().expect("a clock").ms;
    let offset = offset(client, server_of(client, DUAL), &World::default().config) as u32;
    let echo = now.wrapping_add(offset).wrapping_sub(ago as u32);
    stray(client, flag::ACK | flag::PSH).ack(7).options(&timestamp_options(1, echo)).payload(b"data")
}

pub(super) fn rows() -> Vec<Row> {
    let world = World::default();
    let ack = |client| stray(client, flag::ACK).ack(1);
    let attacked = |row: Row| {
        row.world(|world| {
            world.service().mode = MODE_AUTO;
            world.load.mitigation =
                MitigationState { level: Level::Challenge, trigger: Trigger::Queue, since: 1 }.to_abi();
        })
    };
    let after = |row: Row, sources: [&str; 3]| {
        let row = row.world(|world| world.config.out_of_state_budget = BUDGET);
        sources.into_iter().fold(row, |row, source| row.after(from(source)))
    };
    vec![
        limited("an acknowledgement", ack(client4())).passes(Reason::AckOutOfState),
        limited("an acknowledgement, IPv6", ack(client6())).passes(Reason::AckOutOfState),
        limited("data", ack(client4()).payload(b"data")).passes(Reason::AckOutOfState),
        limited("a FIN", stray(client4(), flag::ACK | flag::FIN).ack(1)).passes(Reason::AckOutOfState),
        limited("below a tag", ack(client4()).vlan(7)).passes(Reason::AckOutOfState),
        attacked(limited("an acknowledgement, auto under attack", ack(client4())))
            .passes(Reason::AckOutOfState),
        unknown(limited("an acknowledgement, auto in calm", ack(client4())))
            .world(|world| world.service().mode = MODE_AUTO)
            .passes(Reason::NotMitigating),
        limited("without a budget", ack(client4()))
            .world(|world| world.config.out_of_state_budget = 0)
            .dropped(Reason::AckBadCookie),
        // The kernel ignores these, or nobody waits for its answer.
        limited("a RST", stray(client4(), flag::RST)).dropped(Reason::RstUnknown),
        limited("a RST with ACK", stray(client4(), flag::RST | flag::ACK).ack(1)).dropped(Reason::RstUnknown),
        limited("a SYN-ACK", stray(client4(), flag::SYN | flag::ACK).ack(1)).dropped(Reason::SynAckUnknown),
        limited("a FIN alone", stray(client4(), flag::FIN)).dropped(Reason::BadFlags),
        limited("no flags, IPv6", stray(client6(), 0)).dropped(Reason::BadFlags),
        // Proofs are not out-of-state segments and use up nothing.
        limited("a cookie", proof(&world, client4(), 0, &LINUX4)).proves(LINUX4),
        limited("a cookie, IPv6", proof(&world, client6(), 1, &LINUX6)).proves(LINUX6),
        limited("a cookie without timestamps", proof(&world, client4(), 0, &WINDOWS4)).proves(WINDOWS4),
        limited("a listener that has gone", {
            TcpFrame::new(client4(), server_of(client4(), DEAD)).ack(1).seq(ISN)
        })
        .passes(Reason::NoListener),
        after(
            limited("the third of one /24", from("198.51.100.9")),
            ["198.51.100.1", "198.51.100.2", "203.0.113.1"],
        )
        .passes(Reason::AckOutOfState),
        after(
            limited("the fourth of one /24", from("198.51.101.9")),
            ["198.51.101.1", "198.51.101.255", "198.51.101.3"],
        )
        .dropped(Reason::AckBadCookie),
        after(limited("the fourth of one address", from("198.51.102.9")), ["198.51.102.9"; 3])
            .dropped(Reason::AckBadCookie),
        after(limited("the first of the next /24", from("198.51.104.1")), ["198.51.103.255"; 3])
            .passes(Reason::AckOutOfState),
        after(
            limited("the fourth of one /64", from("2001:db8:f:5::9")),
            ["2001:db8:f:5::1", "2001:db8:f:5:ffff::1", "2001:db8:f:5::2"],
        )
        .dropped(Reason::AckBadCookie),
        after(limited("the first of the next /64", from("2001:db8:f:6::1")), ["2001:db8:f:7::1"; 3])
            .passes(Reason::AckOutOfState),
        after(
            limited("the fourth of one /24, in mode always, of a known source", from("198.51.105.9")),
            ["198.51.105.1"; 3],
        )
        .world(|world| {
            world.service().mode = MODE_ALWAYS;
            world.known = vec![[198, 51, 105, 9].into()];
        })
        .dropped(Reason::AckBadCookie),
        limited("echoes what was sent some seconds ago", echoes(client4(), 3_000))
            .passes(Reason::AckOutOfState),
        limited("echoes what was sent some seconds ago, IPv6", echoes(client6(), 100_000))
            .passes(Reason::AckOutOfState),
        limited("echoes what was never sent", echoes(client4(), -1_000_000)).passes(Reason::AckOutOfState),
    ]
}

/// What a handshake under way may bring before its proof is not reset. The clock must not have moved on much meanwhile.
#[test]
fn handshakes_under_way() -> Result<()> {
    let mut bed = Bed::new()?;
    let mut world = World::default();
    world.config.out_of_state_budget = 100;
    bed.enter(&world)?;
    for (client, ago) in [(client4(), 0), (client6(), 0), (client4(), 70), (client4(), 500), (client6(), -30)]
    {
        let (ran, took) =
            (0..TRIES).find_map(|_| run_quickly(&mut bed, client, ago).transpose()).expect("once")?;
        assert_eq!(ran.counted, [(Reason::AckBadCookie, 1)], "{ago} ms ago, {took} ms later");
    }
    Ok(())
}

/// How often the machine may be slow.
const TRIES: u32 = 100;

/// What became of it and how long that took; none: too long.
fn run_quickly(bed: &mut Bed, client: SocketAddr, ago: i32) -> Result<Option<(Ran, u32)>> {
    let begun = clock::now()?.ms;
    let ran = bed.run(&echoes(client, ago).build())?;
    let took = clock::now()?.ms.wrapping_sub(begun);
    Ok((took < 300).then_some((ran, took)))
}

#[test]
fn out_of_state() -> Result<()> {
    check(&rows())
}
