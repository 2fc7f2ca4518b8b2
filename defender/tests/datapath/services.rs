//! Which service a segment is to, and what its mode and state make of it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use defender_common::{
    abi::{
        self, CONFIG_SUSPENDED, KeySlot, Load, MODE_ALWAYS, MODE_AUTO, MODE_MONITOR, MODE_OFF, Port, SECONDS,
        SERVICE_UNPROTECTABLE, Service, ServiceKey, TriggerLimits,
    },
    load::MitigationState,
    mitigation::{Level, Trigger},
    verdict::Reason,
};
use defender_testbed::{
    frame::{Checksum, TcpFrame, flag},
    topology::{SERVER_V4, SERVER_V6},
};

use super::{
    bed::Bed,
    frames::{
        ISN, LINUX4, LINUX6, address, at, client4, client6, proof, server_of, stray, syn_to, syn4, syn6,
    },
    row::{Row, check, row},
    world::{BOUND_V4, BOUND_V6, DEAD, DUAL, ONLY_V4, ONLY_V6, UNKNOWN, World, challenged},
};

fn listeners() -> Vec<Row> {
    let ack_to = |client: SocketAddr, port| {
        TcpFrame::new(client, server_of(client, port)).flags(flag::ACK).seq(9).ack(9)
    };
    // A port with a wildcard listener that the map does not have, but one of the other family that it has.
    vec![
        row("0.0.0.0", syn_to(client4(), ONLY_V4)).challenged(LINUX4),
        row("0.0.0.0, IPv6", syn_to(client6(), ONLY_V4)).passes(Reason::Unprotected),
        row("[::] for IPv6 only", syn_to(client6(), ONLY_V6)).challenged(LINUX6),
        row("[::] for IPv6 only, IPv4", syn_to(client4(), ONLY_V6)).passes(Reason::Unprotected),
        row("[::] for both", syn_to(client4(), DUAL)).challenged(LINUX4),
        row("[::] for both, IPv6", syn_to(client6(), DUAL)).challenged(LINUX6),
        row("bound to its address", syn_to(client4(), BOUND_V4)).challenged(LINUX4),
        row("bound to its address, IPv6", syn_to(client6(), BOUND_V6)).challenged(LINUX6),
        row("bound to an address, packet to another of this host", {
            TcpFrame::linux_syn(client4(), at(address("203.0.113.5"), BOUND_V4), ISN)
        })
        .world(|world| world.add_local4([203, 0, 113, 0], 24))
        .passes(Reason::Unprotected),
        row("bound to an address, packet of the other family", syn_to(client6(), BOUND_V4))
            .passes(Reason::Unprotected),
        row("bound to an address, with a wildcard beside it whose mode is off", syn_to(client4(), BOUND_V4))
            .world(wildcard_off)
            .challenged(LINUX4),
        row("the wildcard, with a bound one beside it", {
            TcpFrame::linux_syn(client4(), at(address("203.0.113.5"), BOUND_V4), ISN)
        })
        .world(wildcard_off)
        .world(|world| world.add_local4([203, 0, 113, 0], 24))
        .passes(Reason::ServiceOff),
        row("bound to two addresses: the first", syn_to(client4(), BOUND_V4))
            .world(bound_twice)
            .challenged(LINUX4),
        row("bound to two addresses: the second, whose mode is off", {
            TcpFrame::linux_syn(client4(), at(address("203.0.113.5"), BOUND_V4), ISN)
        })
        .world(bound_twice)
        .passes(Reason::ServiceOff),
        row("bound to two addresses: another", {
            TcpFrame::linux_syn(client4(), at(address("203.0.113.6"), BOUND_V4), ISN)
        })
        .world(bound_twice)
        .passes(Reason::Unprotected),
        row("bound to two addresses: the other family", syn_to(client6(), BOUND_V4))
            .world(bound_twice)
            .passes(Reason::Unprotected),
        row("bound to an address of each family", syn_to(client6(), BOUND_V6))
            .world(|world| {
                let port = world.port(BOUND_V6);
                (port.bound, port.bound_id) = (2, 0);
                let key = ServiceKey { address: SERVER_V6.octets(), port: BOUND_V6, reserved: 0 };
                world.addresses.push((key, 5));
            })
            .challenged(LINUX6),
        row("an entry for an address is not asked for where none is said to be", syn_to(client4(), BOUND_V4))
            .world(|world| world.ports.retain(|(port, _)| *port != BOUND_V4))
            .passes(Reason::Unprotected),
        row("no service", syn_to(client4(), UNKNOWN)).passes(Reason::Unprotected),
        row("no service, IPv6", syn_to(client6(), UNKNOWN)).passes(Reason::Unprotected),
        row("no service: an acknowledgement", ack_to(client4(), UNKNOWN)).passes(Reason::Unprotected),
        row("no service: a reset", stray_to(client4(), UNKNOWN, flag::RST)).passes(Reason::Unprotected),
        row("no service: a SYN-ACK, as to this host's own clients", {
            stray_to(client4(), 45_678, flag::SYN | flag::ACK)
        })
        .passes(Reason::Unprotected),
        row("port 0", syn_to(client4(), 0)).passes(Reason::Unprotected),
        row("port 65535", syn_to(client4(), 65_535)).passes(Reason::Unprotected),
        row("port 65535 with a service that has no listener", syn_to(client4(), 65_535))
            .world(|world| world.ports.push((65_535, Port { wildcard4: 6, ..Port::default() })))
            .passes(Reason::SynNoListener),
        row("a listener that has gone", syn_to(client4(), DEAD)).passes(Reason::SynNoListener),
        row("a listener that has gone, IPv6", syn_to(client6(), DEAD)).passes(Reason::SynNoListener),
        row("a listener that has gone: an acknowledgement", ack_to(client4(), DEAD))
            .passes(Reason::NoListener),
        row("a listener that has gone: a reset", stray_to(client6(), DEAD, flag::RST))
            .passes(Reason::NoListener),
    ]
}

/// Service 8, off, is a wildcard at the port of the bound one.
fn wildcard_off(world: &mut World) {
    world.services.push((8, off()));
    let port = world.port(BOUND_V4);
    (port.wildcard4, port.wildcard6) = (8, 8);
}

/// Service 8, off, is bound to another address of the same port.
fn bound_twice(world: &mut World) {
    world.services.push((8, off()));
    world.add_local4([203, 0, 113, 0], 24);
    let port = world.port(BOUND_V4);
    (port.bound, port.bound_id, port.bound_address) = (2, 0, [0; 4]);
    for (address, id) in [(SERVER_V4.octets(), 4), ([203, 0, 113, 5], 8)] {
        world.addresses.push((ServiceKey { address: abi::mapped(address), port: BOUND_V4, reserved: 0 }, id));
    }
}

fn off() -> Service {
    Service { mode: MODE_OFF, ..challenged() }
}

fn stray_to(client: SocketAddr, port: u16, flags: u8) -> TcpFrame {
    TcpFrame::new(client, server_of(client, port)).flags(flags).seq(ISN)
}

/// The presence filter has a generation, and does not know the connection.
pub(super) fn unknown(row: Row) -> Row {
    row.world(|world| (world.config.filter_newest, world.config.filter_oldest) = (1, 1)).stray()
}

fn modes() -> Vec<Row> {
    let off = |row: Row| row.world(|world| world.service().mode = MODE_OFF);
    let monitor = |row: Row| row.world(|world| world.service().mode = MODE_MONITOR);
    let auto = |row: Row| row.world(|world| world.service().mode = MODE_AUTO);
    let ack = || stray(client4(), flag::ACK).ack(1);
    vec![
        off(row("off", syn4())).passes(Reason::ServiceOff),
        off(row("off, IPv6", syn6())).passes(Reason::ServiceOff),
        off(row("off: an acknowledgement", ack())).passes(Reason::ServiceOff),
        off(row("off: flags no TCP sends", stray(client4(), 0))).passes(Reason::ServiceOff),
        off(row("off comes before whose address it is", {
            TcpFrame::linux_syn(client4(), at(address("10.203.0.9"), DUAL), ISN)
        }))
        .passes(Reason::ServiceOff),
        monitor(row("monitor", syn4())).passes(Reason::SynMonitorMode),
        monitor(row("monitor, IPv6", syn6())).passes(Reason::SynMonitorMode),
        unknown(monitor(row("monitor: an acknowledgement", ack()))).passes(Reason::MonitorMode),
        monitor(row("monitor: a reset", stray(client4(), flag::RST))).passes(Reason::MonitorMode),
        monitor(row("monitor: a SYN-ACK", stray(client4(), flag::SYN | flag::ACK)))
            .passes(Reason::MonitorMode),
        monitor(row("monitor: flags no TCP sends", stray(client4(), 0))).passes(Reason::MonitorMode),
        monitor(row("monitor: a SYN with a wrong checksum", syn4().checksum(Checksum::Wrong)))
            .passes(Reason::SynMonitorMode),
        monitor(row("monitor: a SYN in a fragment", syn4().fragment(0, true))).passes(Reason::SynMonitorMode),
        monitor(row("monitor: for another host", {
            TcpFrame::linux_syn(client4(), at(address("10.203.0.9"), DUAL), ISN)
        }))
        .passes(Reason::NotLocal),
        auto(row("auto, calm", syn4())).passes(Reason::SynNotMitigating),
        auto(row("auto, calm, IPv6", syn6())).passes(Reason::SynNotMitigating),
        unknown(auto(row("auto, calm: an acknowledgement", ack()))).passes(Reason::NotMitigating),
    ]
}

fn levels() -> Vec<Row> {
    let world = World::default();
    let on = |row: Row, mode, level| {
        row.world(|world| {
            world.service().mode = mode;
            world.load.mitigation = MitigationState { level, trigger: Trigger::Queue, since: 1 }.to_abi();
        })
    };
    let auto = |row, level| on(row, MODE_AUTO, level);
    let limited = |row, level, replies| {
        auto(row, level).world(|world| {
            world.service().triggers =
                TriggerLimits { replies: 3, min_active: u32::MAX >> 2, ..TriggerLimits::default() };
            world.load.replies = [replies; SECONDS];
        })
    };
    let known = |row: Row| row.world(|world| world.known = vec![Ipv4Addr::new(198, 18, 200, 1)]);
    let ack = || stray(client4(), flag::ACK).ack(1);
    let syn = || syn_to(at(address("198.18.200.1"), 4_000), DUAL);
    vec![
        auto(row("auto, under attack", syn4()), Level::Challenge).challenged(LINUX4),
        auto(row("auto, under attack, IPv6", syn6()), Level::Challenge).challenged(LINUX6),
        auto(row("auto, under attack: an acknowledgement", ack()), Level::Challenge)
            .dropped(Reason::AckBadCookie),
        auto(row("auto, under attack: a reset", stray(client4(), flag::RST)), Level::Challenge)
            .dropped(Reason::RstUnknown),
        auto(row("auto, under attack, unprotectable", syn4()), Level::Challenge)
            .world(|world| world.service().flags |= SERVICE_UNPROTECTABLE)
            .passes(Reason::SynUnprotectable),
        auto(row("auto, under attack, suspended", syn4()), Level::Challenge)
            .world(|world| world.configure(CONFIG_SUSPENDED, true))
            .passes(Reason::SynSuspended),
        auto(row("calm since a moment: a SYN", syn4()), Level::Pass)
            .world(World::sent_a_cookie)
            .passes(Reason::SynNotMitigating),
        auto(row("calm since a moment: a cookie", proof(&world, client4(), 0, &LINUX4)), Level::Pass)
            .world(World::sent_a_cookie)
            .proves(LINUX4),
        auto(row("calm since a moment: no cookie", ack()), Level::Pass)
            .world(World::sent_a_cookie)
            .passes(Reason::NotMitigating),
        on(row("monitor, under attack", syn4()), MODE_MONITOR, Level::KnownSources)
            .passes(Reason::SynMonitorMode),
        on(row("off, under attack", syn4()), MODE_OFF, Level::KnownSources).passes(Reason::ServiceOff),
        on(row("always, on the way up", syn4()), MODE_ALWAYS, Level::Challenge).challenged(LINUX4),
        limited(row("within the limit", syn()), Level::Limit, 2).challenged(LINUX4),
        limited(row("beyond the limit", syn()), Level::Limit, 3).dropped(Reason::SynOverLimit),
        known(limited(row("beyond the limit, a known source", syn()), Level::Limit, 3)).challenged(LINUX4),
        limited(
            row("within the limit, with a wrong checksum", syn().checksum(Checksum::Wrong)),
            Level::Limit,
            3,
        )
        .dropped(Reason::SynBadChecksum),
        limited(
            row("beyond the limit, signed: only the kernel can answer", signed_syn()),
            Level::KnownSources,
            9,
        )
        .passes(Reason::SynSigned),
        limited(row("strangers' part, where known sources come first", syn()), Level::KnownSources, 1)
            .challenged(LINUX4),
        limited(row("beyond strangers' part", syn()), Level::KnownSources, 2)
            .dropped(Reason::SynUnknownSource),
        limited(row("beyond strangers' part, IPv6", syn6()), Level::KnownSources, 2)
            .dropped(Reason::SynUnknownSource),
        on(row("beyond the limit in mode always", syn()), MODE_ALWAYS, Level::Limit)
            .world(|world| {
                world.service().triggers =
                    TriggerLimits { replies: 3, min_active: u32::MAX >> 2, ..TriggerLimits::default() };
                world.load.replies = [3; SECONDS];
            })
            .dropped(Reason::SynOverLimit),
        on(row("a level up from calm in mode always", syn()), MODE_ALWAYS, Level::Pass)
            .world(|world| {
                world.service().triggers =
                    TriggerLimits { replies: 3, min_active: u32::MAX >> 2, ..TriggerLimits::default() };
                world.load.replies = [3; SECONDS];
            })
            .dropped(Reason::SynOverLimit),
        known(limited(row("a known source", syn()), Level::KnownSources, 9)).challenged(LINUX4),
        known(limited(row("another source", syn6()), Level::KnownSources, 9))
            .dropped(Reason::SynUnknownSource),
        limited(row("a level up within the second", syn()), Level::Challenge, 3)
            .dropped(Reason::SynOverLimit),
    ]
}

fn signed_syn() -> TcpFrame {
    syn4().raw_options(&[19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
}

fn states() -> Vec<Row> {
    let world = World::default();
    let flagged = |row: Row, flags| row.world(|world| world.service().flags |= flags);
    let left = |row: Row, mode| {
        row.world(|world| {
            world.service().mode = mode;
            world.sent_a_cookie();
        })
    };
    let suspended = |row: Row| row.world(|world| world.configure(CONFIG_SUSPENDED, true));
    let ack = || stray(client4(), flag::ACK).ack(1);
    let cookie = || proof(&world, client4(), 0, &LINUX4);
    let cookie6 = || proof(&world, client6(), 1, &LINUX6);
    vec![
        flagged(row("unprotectable", syn4()), SERVICE_UNPROTECTABLE).passes(Reason::SynUnprotectable),
        unknown(flagged(row("unprotectable: an acknowledgement", ack()), SERVICE_UNPROTECTABLE))
            .passes(Reason::NotMitigating),
        unknown(flagged(row("unprotectable: a cookie no longer counts", cookie()), SERVICE_UNPROTECTABLE))
            .passes(Reason::NotMitigating),
        flagged(row("unprotectable since a moment: a cookie", cookie()), SERVICE_UNPROTECTABLE)
            .world(World::sent_a_cookie)
            .proves(LINUX4),
        suspended(row("suspended", syn4())).passes(Reason::SynSuspended),
        unknown(suspended(row("suspended: an acknowledgement", ack()))).passes(Reason::NotMitigating),
        suspended(row("suspended since a moment: a cookie", cookie()))
            .world(World::sent_a_cookie)
            .proves(LINUX4),
        row("before there is a key", syn4())
            .world(|world| world.keys = [KeySlot::default(); 2])
            .passes(Reason::SynSuspended),
        row("before the other key is there", syn4())
            .world(|world| world.keys[1] = KeySlot::default())
            .challenged(LINUX4),
        left(row("monitor since a moment: a SYN", syn4()), MODE_MONITOR).passes(Reason::SynMonitorMode),
        left(row("monitor since a moment: a cookie", cookie()), MODE_MONITOR).proves(LINUX4),
        left(row("monitor since a moment: a cookie, IPv6", cookie6()), MODE_MONITOR).proves(LINUX6),
        left(row("monitor since a moment: no cookie", ack()), MODE_MONITOR).passes(Reason::MonitorMode),
        left(row("monitor since a moment: a reset", stray(client4(), flag::RST)), MODE_MONITOR)
            .passes(Reason::MonitorMode),
        left(row("off since a moment: a SYN", syn4()), MODE_OFF).passes(Reason::SynMonitorMode),
        left(row("off since a moment: a cookie", cookie()), MODE_OFF).proves(LINUX4),
        left(row("off since a moment: no cookie", ack()), MODE_OFF).passes(Reason::MonitorMode),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    [listeners(), modes(), levels(), states()].into_iter().flatten().collect()
}

/// Who answered the last SYN, see `Load::cookie_sent` and `Load::unchallenged_syn`.
#[test]
fn answered_syns_are_noted() -> Result<()> {
    let mut bed = Bed::new()?;
    for mode in [MODE_OFF, MODE_MONITOR, MODE_AUTO, MODE_ALWAYS] {
        let mut world = World::default();
        world.service().mode = mode;
        world.sent_an_expired_cookie();
        let expired = world.load.cookie_sent;
        bed.enter(&world)?;
        let deadline = Instant::now() + PATIENCE;
        // At the latest in the next second.
        while bed.load()?.cookie_sent == expired {
            ensure!(Instant::now() < deadline, "mode {mode}: {:?}", bed.load()?);
            bed.run(&syn4().build())?;
        }
        let Load { cookie_sent, unchallenged_syn, .. } = bed.load()?;
        let challenged = mode == MODE_ALWAYS;
        assert_eq!((cookie_sent != 0, unchallenged_syn != 0), (challenged, !challenged), "mode {mode}");
    }
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn services() -> Result<()> {
    check(&rows())
}
