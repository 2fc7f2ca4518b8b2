//! The listener's queue never overflows: what the kernel holds is counted, whoever tries to hide it.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use defender_common::mitigation::Level;
use defender_testbed::{
    flood::Kind,
    frame::{Checksum, TcpFrame, flag, timestamp_options},
    server::{self, Server},
    topology::Topology,
};

use crate::{
    auto::bed::{
        MitigationView, PORT, Room, flood, half_open, serve_defended, set, short_memory, start_auto, topology,
    },
    harness::{
        Counts, eventually,
        scripted_client::{self, Wire},
        services,
    },
};

const BACKLOG: u32 = 128;

fn spoofed(number: u16) -> SocketAddr {
    SocketAddr::new([198, 18, (number >> 8) as u8, number as u8].into(), 10_000 + number)
}

/// The listener's queue, of which somebody wants to have more than its room.
struct Queue<'a> {
    bed: &'a Topology,
    mitigation: &'a MitigationView,
    room: Room<'a>,
    most: u64,
}

impl<'a> Queue<'a> {
    fn watch(bed: &'a Topology, mitigation: &'a MitigationView) -> Result<Self> {
        Ok(Self { bed, mitigation, room: Room::now(bed)?, most: 0 })
    }

    /// Looks how full it is. It need not be empty again at the end.
    fn look(&mut self) -> Result<()> {
        self.most = self.most.max(half_open(self.bed)?);
        Ok(())
    }

    /// Whenever it was looked at, no more had passed than may; and the kernel never lacked room.
    fn never_overflowed(&self) -> Result<()> {
        let level = self.mitigation.mitigation()?.level;
        ensure!(
            self.most <= self.mitigation.most_passed()?,
            "the kernel held {} half open, {} counted, level {}",
            self.most,
            self.mitigation.half_open()?,
            level.name()
        );
        self.room.was_always_there()
    }
}

/// Each SYN is followed by a RST that the kernel does not take; the queue must not fill behind the defender's back.
fn resets(bed: &Topology, name: &str, rst: impl Fn(TcpFrame) -> TcpFrame) -> Result<()> {
    let address = bed.server_v4(PORT);
    let (_server, defender, mitigation) = serve_defended(bed, address, BACKLOG)?;
    let mut queue = Queue::watch(bed, &mitigation)?;
    let wire = Wire::new(bed)?;
    for chunk in (0..300u16).collect::<Vec<_>>().chunks(6) {
        let mut frames = Vec::new();
        for number in chunk {
            let (from, isn) = (spoofed(*number), 1_000_000 + u32::from(*number) * 7);
            frames.push(TcpFrame::linux_syn(from, address, isn));
            frames.push(rst(TcpFrame::new(from, address).flags(flag::RST).seq(isn.wrapping_add(1))));
        }
        wire.send(&frames)?;
        queue.look()?;
    }
    let counts = Counts::of(&defender)?;
    queue.never_overflowed().with_context(|| format!("{name}: {counts}"))
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
    let (_server, defender, mitigation) = serve_defended(&bed, address, BACKLOG)?;
    let mut queue = Queue::watch(&bed, &mitigation)?;
    let wire = Wire::new(&bed)?;
    for chunk in (0..400u16).collect::<Vec<_>>().chunks(16) {
        let syn = |number: &u16| {
            TcpFrame::new(spoofed(*number), address)
                .flags(flag::SYN)
                .seq(7)
                .raw_options(&[29, 16, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        };
        wire.send(&chunk.iter().map(syn).collect::<Vec<_>>())?;
        queue.look()?;
    }
    let counts = Counts::of(&defender)?;
    queue.never_overflowed().with_context(|| counts.to_string())
}

/// A flood of a second, in which challenges begin.
fn flood_until_challenged(bed: &Topology, mitigation: &MitigationView, target: SocketAddr) -> Result<()> {
    let handle = flood(Kind::LinuxSyn, target, 20_000, 1).start(bed)?;
    mitigation.wait_for(Level::Challenge)?;
    handle.wait().map(drop)
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

/// The same acknowledgement again and again is one client.
#[test]
fn a_cookie_that_is_proven_again_takes_out_nobody_else() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let (_server, _defender, mitigation) = serve_defended(&bed, address, 512)?;
    flood_until_challenged(&bed, &mitigation, address)?;
    let wire = Wire::new(&bed)?;
    let mut client = wire.client(address, scripted_client::ClientKind::Linux)?;
    client.insist_on_greeting()?;
    syns(&wire, address, 0..60)?;
    let before = mitigation.half_open()?;
    wire.send(&vec![client.ack(); 60])?;
    let after = mitigation.half_open()?;
    let taken_out = before.saturating_sub(after);
    ensure!(taken_out <= 1, "{taken_out} were taken out by one client");
    Ok(())
}

/// A cookie of an earlier attack, proven again and again in the time of grace, hides a flood.
#[test]
fn cookies_from_before_hide_no_flood() -> Result<()> {
    let bed = short_memory()?;
    let address = bed.server_v4(PORT);
    let (_server, defender, mitigation) = serve_defended(&bed, address, BACKLOG)?;
    set(&defender, &[("80.min_active", "1")])?;
    let wire = Wire::new(&bed)?;
    flood(Kind::LinuxSyn, address, 2000, 1).run_to_end(&bed)?;
    mitigation.wait_for(Level::Challenge)?;
    let mut client = wire.client(address, scripted_client::ClientKind::Linux)?;
    client.insist_on_greeting()?;
    crate::auto::bed::comes_down(&bed, &mitigation, address)?;
    let short = mitigation.age_buckets()?;
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 5)?;
    eventually("the datapath has the longer memory", || Ok(mitigation.age_buckets()? != short))?;
    let mut queue = Queue::watch(&bed, &mitigation)?;
    let mut stepped = false;
    for chunk in (0..320u16).collect::<Vec<_>>().chunks(16) {
        let mut frames: Vec<_> =
            chunk.iter().map(|number| TcpFrame::linux_syn(spoofed(*number), address, 77)).collect();
        // Proofs in one poll, before the kernel has made the socket; then the client resets it.
        frames.extend(vec![client.ack(); 20]);
        frames.push(client.rst());
        wire.send(&frames)?;
        wire.send(&[client.rst()])?;
        queue.look()?;
        stepped |= mitigation.mitigation()?.level != Level::Pass;
    }
    queue.never_overflowed().with_context(|| format!("challenged: {stepped}"))
}

/// Cookies are accepted for a while after `auto` is left in an attack, however long it was on.
#[test]
fn cookies_are_accepted_after_auto_is_left() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let (_server, defender, mitigation) = serve_defended(&bed, address, 512)?;
    thread::sleep(Duration::from_secs(63));
    flood_until_challenged(&bed, &mitigation, address)?;
    let wire = Wire::new(&bed)?;
    let mut client = wire.client(address, scripted_client::ClientKind::Linux)?;
    client.insist_on_greeting()?;
    set(&defender, &[("80.mode", "monitor")])?;
    thread::sleep(Duration::from_millis(2500));
    client.finish_handshake()
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
    let mitigation = MitigationView::of(&defender, PORT)?;
    let room = Room::now(&bed)?;
    let wire = Wire::new(&bed)?;
    syns(&wire, bed.server_v4(PORT), 0..300)?;
    let held = half_open(&bed)?;
    ensure!(
        held < u64::from(BACKLOG),
        "the kernel held {held} half open of {BACKLOG}, danger {}, level {}",
        mitigation.triggers()?.critical,
        mitigation.mitigation()?.level.name()
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
    let mitigation = MitigationView::of(&defender, PORT)?;
    let room = Room::now(&bed)?;
    let wire = Wire::new(&bed)?;
    syns(&wire, address, 0..400)?;
    let (held, danger) = (half_open(&bed)?, mitigation.triggers()?.critical);
    room.was_always_there().map_err(|error| error.context(format!("{held} held, danger {danger}")))
}

/// One number: what the kernel holds. Without SYNs the datapath hears of it as well, by the next walk through the sockets.
#[test]
fn status_and_the_datapath_say_what_the_kernel_holds() -> Result<()> {
    let bed = short_memory()?;
    let address = bed.server_v4(PORT);
    let (_server, defender, mitigation) = serve_defended(&bed, address, 512)?;
    let wire = Wire::new(&bed)?;
    syns(&wire, address, 0..90)?;
    ensure!(mitigation.half_open()? > 0, "the datapath has seen none");
    eventually("status says what the kernel holds", || {
        let (before, status) = (half_open(&bed)?, services(&defender, PORT)?);
        let after = half_open(&bed)?;
        Ok(before == after && status[0]["half_open"].as_u64() == Some(after))
    })?;
    eventually("the kernel has given them up", || Ok(half_open(&bed)? == 0))?;
    eventually("the datapath has heard of it", || Ok(mitigation.half_open()? == 0))
}
