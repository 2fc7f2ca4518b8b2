//! SYNs to a listener in whose queues there are connections.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::Result;
use defender_common::{
    abi::{MODE_ALWAYS, MODE_AUTO, TriggerLimits},
    load::MitigationState,
    mitigation::{Level, Trigger},
    verdict::Reason,
};
use defender_testbed::{
    frame::TcpFrame,
    inject::Injector,
    topology::{CLIENT_INTERFACE, SERVER_V4},
};

use super::{
    bed::Bed,
    frames::{ISN, LINUX4, LINUX6, at, syn4, syn6},
    row::{Row, check_on, row},
    world::DUAL,
};

/// How many half-open connections the listener at [`DUAL`] has, all of them older than a second.
const HALF_OPEN: u32 = 7;
/// How many connections may wait to be accepted; one more does (`sk_acceptq_is_full`, include/net/sock.h).
const BACKLOG: u32 = 8;

fn on(row: Row, mode: u32, level: Level) -> Row {
    row.world(|world| {
        world.service().mode = mode;
        world.load.mitigation = MitigationState { level, trigger: Trigger::Queue, since: 1 }.to_abi();
    })
}

fn triggers(row: Row, triggers: TriggerLimits) -> Row {
    let triggers = TriggerLimits { min_active: 30_000, ..triggers };
    on(row, MODE_AUTO, Level::Pass).world(|world| world.service().triggers = triggers)
}

fn half_open() -> Vec<Row> {
    let critical = |row, critical| triggers(row, TriggerLimits { critical, ..TriggerLimits::default() });
    let shared =
        |row, critical| triggers(row, TriggerLimits { critical, listeners: 3, ..TriggerLimits::default() });
    let start = |row, start| triggers(row, TriggerLimits { start, ..TriggerLimits::default() });
    let signed = |name, critical| {
        let syn = syn4().raw_options(&[19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        on(row(name, syn), MODE_AUTO, Level::Challenge)
            .world(|world| world.service().triggers.critical = critical)
    };
    vec![
        critical(row("the SYN that crosses the line of the queue", syn4()), 7).challenged(LINUX4),
        critical(row("the same, IPv6", syn6()), 7).challenged(LINUX6),
        critical(row("the SYN before", syn4()), 8).passes(Reason::SynNotMitigating),
        critical(row("the same, IPv6, before", syn6()), 8).passes(Reason::SynNotMitigating),
        shared(row("one of three listeners' queues stands for all", syn4()), 21).challenged(LINUX4),
        shared(row("and one before", syn4()), 22).passes(Reason::SynNotMitigating),
        start(row("the SYN that finds too many half open for long", syn4()), 7).challenged(LINUX4),
        start(row("the SYN before it", syn4()), 8).passes(Reason::SynNotMitigating),
        signed("signed, with room in the queue", 8).passes(Reason::SynSigned),
        signed("signed, without room in the queue", 7).dropped(Reason::SynNoRoom),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    [half_open(), nearly_full(), full()].into_iter().flatten().collect()
}

#[test]
fn half_open_connections_count() -> Result<()> {
    let mut bed = Bed::new()?;
    let server = SocketAddr::new(SERVER_V4.into(), DUAL);
    let syn = |number: u32| {
        let client = Ipv4Addr::new(198, 18, 77, number as u8);
        TcpFrame::linux_syn(at(client, 4_000), server, ISN).build()
    };
    let frames: Vec<_> = (1..=HALF_OPEN).map(syn).collect();
    Injector::new(&bed.topology.client, CLIENT_INTERFACE)?.send(&frames)?;
    // Its SYN-ACK is sent again after a second.
    thread::sleep(Duration::from_millis(1_500));
    check_on(&mut bed, &half_open())
}

fn nearly_full() -> Vec<Row> {
    let of = |name, frame, mode, critical| {
        on(row(name, frame), mode, Level::Challenge)
            .world(|world| world.service().triggers.critical = critical)
    };
    vec![
        of("nearly full: the kernel answers", syn4(), MODE_ALWAYS, 1).passes(Reason::SynAcceptQueueShort),
        of("the same, IPv6, in a flood", syn6(), MODE_AUTO, 1).passes(Reason::SynAcceptQueueShort),
    ]
}

fn full() -> Vec<Row> {
    let of = |name, frame, mode| on(row(name, frame), mode, Level::Challenge);
    vec![
        of("full: nobody is answered", syn4(), MODE_ALWAYS).dropped(Reason::SynAcceptQueueFull),
        of("the same, IPv6, in a flood", syn6(), MODE_AUTO).dropped(Reason::SynAcceptQueueFull),
        on(row("full: not challenged", syn4()), MODE_AUTO, Level::Pass).passes(Reason::SynNotMitigating),
    ]
}

#[test]
fn connections_that_wait_to_be_accepted_count() -> Result<()> {
    for (waiting, rows) in [(BACKLOG, nearly_full()), (BACKLOG + 1, full())] {
        let mut bed = Bed::new()?;
        let _clients = bed.let_clients_wait(BACKLOG, waiting)?;
        check_on(&mut bed, &rows)?;
    }
    Ok(())
}
