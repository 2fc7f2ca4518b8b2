//! The listener's queue never overflows: what the kernel holds is counted, whoever tries to hide it.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Result, ensure};
use defender::dataplane::{clock, maps::Maps, pins::PinRoot};
use defender_common::{ladder::Step, load};
use defender_testbed::{
    flood::Kind,
    frame::{Checksum, TcpFrame, flag, timestamp_options},
    server::{self, Server},
    topology::Topology,
};

use crate::{
    bed::{Ladder, PORT, Room, flood, half_open, serve, set, short_memory, start_auto, topology},
    hand::{self, Wire},
    support::Counts,
};

const BACKLOG: u32 = 128;

fn spoofed(number: u16) -> SocketAddr {
    SocketAddr::new([198, 18, (number >> 8) as u8, number as u8].into(), 10_000 + number)
}

/// Each SYN is followed by a RST that the kernel does not take; the queue must not fill behind the defender's back.
fn resets(bed: &Topology, name: &str, rst: impl Fn(TcpFrame) -> TcpFrame) -> Result<()> {
    let address = bed.server_v4(PORT);
    let _server = serve(bed, address, BACKLOG)?;
    let defender = start_auto(bed, &[PORT])?;
    let ladder = Ladder::of(&defender, PORT)?;
    let room = Room::now(bed)?;
    let wire = Wire::new(bed)?;
    let mut most = 0;
    for chunk in (0..300u16).collect::<Vec<_>>().chunks(6) {
        let mut frames = Vec::new();
        for number in chunk {
            let (from, isn) = (spoofed(*number), 1_000_000 + u32::from(*number) * 7);
            frames.push(TcpFrame::linux_syn(from, address, isn));
            frames.push(rst(TcpFrame::new(from, address).flags(flag::RST).seq(isn.wrapping_add(1))));
        }
        wire.send(&frames)?;
        most = most.max(half_open(bed)?);
    }
    let counted = load::half_open(&ladder.load()?);
    let step = ladder.posture()?.step;
    let counts = Counts::of(&defender)?;
    ensure!(
        most <= ladder.most_passed()?,
        "{name}: the kernel held {most} half open of {BACKLOG}, {counted} counted, step {}: {counts}",
        step.name()
    );
    room.was_always_there()
}

#[test]
fn a_reset_with_a_wrong_checksum_ends_nothing() -> Result<()> {
    resets(&topology()?, "wrong checksum", |rst| rst.checksum(Checksum::Wrong))
}

#[test]
fn a_reset_from_the_past_ends_nothing() -> Result<()> {
    // The SYN's stamp is 0x12345678: PAWS drops this.
    resets(&topology()?, "PAWS", |rst| rst.options(&timestamp_options(1, 0)))
}

#[test]
fn a_reset_that_is_half_a_datagram_ends_nothing() -> Result<()> {
    resets(&topology()?, "fragment", |rst| rst.dont_fragment(false).payload(&[0; 36]).fragment(0, true))
}

#[test]
fn a_reset_with_a_wrong_ip_checksum_ends_nothing() -> Result<()> {
    resets(&topology()?, "IP checksum", TcpFrame::wrong_ip_checksum)
}

/// A kernel without TCP-AO takes such SYNs as any other.
#[test]
fn signed_syns_do_not_fill_the_queue() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address, BACKLOG)?;
    let defender = start_auto(&bed, &[PORT])?;
    let ladder = Ladder::of(&defender, PORT)?;
    let room = Room::now(&bed)?;
    let wire = Wire::new(&bed)?;
    let mut most = 0;
    for chunk in (0..400u16).collect::<Vec<_>>().chunks(16) {
        let syn = |number: &u16| {
            TcpFrame::new(spoofed(*number), address)
                .flags(flag::SYN)
                .seq(7)
                .raw_options(&[29, 16, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        };
        wire.send(&chunk.iter().map(syn).collect::<Vec<_>>())?;
        most = most.max(half_open(&bed)?);
    }
    let counts = Counts::of(&defender)?;
    ensure!(
        most <= ladder.most_passed()?,
        "the kernel held {most} half open of {BACKLOG}, step {}: {counts}",
        ladder.posture()?.step.name()
    );
    room.was_always_there()
}

/// The same acknowledgement again and again is one client.
#[test]
fn a_cookie_that_is_proven_again_takes_out_nobody_else() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address, 512)?;
    let defender = start_auto(&bed, &[PORT])?;
    let ladder = Ladder::of(&defender, PORT)?;
    let handle = flood(Kind::LinuxSyn, address, 20_000, 1).start(&bed)?;
    ladder.wait_for(Step::Challenge)?;
    handle.wait()?;
    let wire = Wire::new(&bed)?;
    let client = wire.client(address, hand::Kind::Linux)?;
    let mut client = client;
    client.insist_on_greeting()?;
    wire.send(
        &(0..60u16).map(|number| TcpFrame::linux_syn(spoofed(number), address, 9)).collect::<Vec<_>>(),
    )?;
    let before = load::half_open(&ladder.load()?);
    wire.send(&vec![client.ack(); 60])?;
    let after = load::half_open(&ladder.load()?);
    ensure!(before - after <= 1, "{} were taken out by one client", before - after);
    Ok(())
}

/// A cookie of an earlier attack, proven again and again in the time of grace, hides a flood.
#[test]
fn cookies_from_before_hide_no_flood() -> Result<()> {
    let bed = short_memory()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address, BACKLOG)?;
    let defender = start_auto(&bed, &[PORT])?;
    set(&defender, &[("80.min_active", "1")])?;
    let ladder = Ladder::of(&defender, PORT)?;
    let wire = Wire::new(&bed)?;
    flood(Kind::LinuxSyn, address, 2000, 1).run_to_end(&bed)?;
    ladder.wait_for(Step::Challenge)?;
    let mut client = wire.client(address, hand::Kind::Linux)?;
    client.insist_on_greeting()?;
    crate::bed::comes_down(&bed, &ladder, address)?;
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 5)?;
    thread::sleep(Duration::from_millis(1500));
    let room = Room::now(&bed)?;
    let mut most = 0;
    let mut stepped = false;
    for chunk in (0..320u16).collect::<Vec<_>>().chunks(16) {
        let mut frames: Vec<_> =
            chunk.iter().map(|number| TcpFrame::linux_syn(spoofed(*number), address, 77)).collect();
        // Proofs in one poll, before the kernel has made the socket; then the client resets it.
        frames.extend(vec![client.ack(); 20]);
        frames.push(client.rst());
        wire.send(&frames)?;
        wire.send(&[client.rst()])?;
        most = most.max(half_open(&bed)?);
        stepped |= ladder.posture()?.step != Step::Pass;
    }
    ensure!(
        most <= ladder.most_passed()?,
        "the kernel held {most} half open of {BACKLOG}; challenged: {stepped}; {} counted",
        load::half_open(&ladder.load()?)
    );
    room.was_always_there()
}

/// Cookies are accepted for a while after `auto` is left in an attack, however long it was on.
#[test]
fn cookies_are_accepted_after_auto_is_left() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address, 512)?;
    let defender = start_auto(&bed, &[PORT])?;
    thread::sleep(Duration::from_secs(63));
    let ladder = Ladder::of(&defender, PORT)?;
    let handle = flood(Kind::LinuxSyn, address, 20_000, 1).start(&bed)?;
    ladder.wait_for(Step::Challenge)?;
    handle.wait()?;
    let wire = Wire::new(&bed)?;
    let mut client = wire.client(address, hand::Kind::Linux)?;
    client.insist_on_greeting()?;
    set(&defender, &[("80.mode", "monitor")])?;
    thread::sleep(Duration::from_millis(2500));
    client.finish_handshake()
}

/// Sends SYNs of nobody.
fn syns(wire: &Wire<'_>, to: SocketAddr, numbers: std::ops::Range<u16>) -> Result<()> {
    for chunk in numbers.collect::<Vec<_>>().chunks(16) {
        wire.send(
            &chunk.iter().map(|number| TcpFrame::linux_syn(spoofed(*number), to, 5)).collect::<Vec<_>>(),
        )?;
    }
    Ok(())
}

/// Two listeners on two devices have a queue each, and what comes by one device fills one of them.
#[test]
fn listeners_on_other_devices_have_queues_of_their_own() -> Result<()> {
    let bed = topology()?;
    let any = SocketAddr::new([0, 0, 0, 0].into(), PORT);
    let on = |device| {
        let options =
            server::Options { backlog: BACKLOG, device: Some(device), ..server::Options::default() };
        Server::with(&bed.server, any, options)
    };
    let _servers = [on("srv0")?, on("lo")?];
    let defender = start_auto(&bed, &[PORT])?;
    let ladder = Ladder::of(&defender, PORT)?;
    let room = Room::now(&bed)?;
    let wire = Wire::new(&bed)?;
    syns(&wire, bed.server_v4(PORT), 0..300)?;
    let held = half_open(&bed)?;
    ensure!(
        held < u64::from(BACKLOG),
        "the kernel held {held} half open of {BACKLOG}, danger {}, step {}",
        ladder.lines()?.danger,
        ladder.posture()?.step.name()
    );
    room.was_always_there()
}

/// Listeners that share a port by SO_REUSEPORT have a queue each, and chance does not fill them evenly.
#[test]
fn listeners_that_share_a_port_have_queues_of_their_own() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let one = || {
        let options = server::Options { backlog: 16, reuse_port: true, ..server::Options::default() };
        Server::with(&bed.server, address, options)
    };
    let _servers = (0..16).map(|_| one()).collect::<Result<Vec<_>>>()?;
    let defender = start_auto(&bed, &[PORT])?;
    let ladder = Ladder::of(&defender, PORT)?;
    let room = Room::now(&bed)?;
    let wire = Wire::new(&bed)?;
    syns(&wire, address, 0..400)?;
    let (held, danger) = (half_open(&bed)?, ladder.lines()?.danger);
    room.was_always_there().map_err(|error| error.context(format!("{held} held, danger {danger}")))
}

/// The count forgets nobody whom the kernel still holds: its timers are late rather than early.
#[test]
fn the_count_forgets_no_earlier_than_the_kernel() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address, 512)?;
    let defender = start_auto(&bed, &[PORT])?;
    let ladder = Ladder::of(&defender, PORT)?;
    let wire = Wire::new(&bed)?;
    syns(&wire, address, 0..90)?;
    let cohorts = Maps::open(&PinRoot::new(defender.pin_root())?)?.config.get(0)?.cohorts;
    loop {
        let mut load = ladder.load()?;
        load::advance::<load::Alone>(&mut load, &ladder.lines()?, cohorts, clock::now()?);
        let counted = u64::from(load::half_open(&load));
        if counted < 90 {
            let held = half_open(&bed)?;
            ensure!(held <= counted, "{counted} counted, and the kernel holds {held}");
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
}
