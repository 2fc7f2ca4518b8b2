//! Floods of SYNs: noticed before the listener's queue is full, whoever is in control.

use std::net::SocketAddr;

use anyhow::Result;
use defender::dataplane::maps::possible_cpus;
use defender_common::mitigation::{Level, Trigger};
use defender_testbed::{
    flood::{Flood, Kind},
    server::Server,
    simulated_clients::SimulatedClients,
    topology::Topology,
};

use crate::{
    auto::bed::{
        MitigationView, NEVER, PORT, Room, events, flood, half_open, serve, serve_defended, service_is, set,
        start_auto, start_knowing, summary, topology,
    },
    harness::{Counts, clients_connect, counts_when, eventually, traffic::Traffic},
};

#[test]
fn a_slow_flood_is_noticed_before_the_queue_is_full() -> Result<()> {
    for (backlog, trigger) in [(4096, Some(Trigger::HalfOpen)), (128, None)] {
        let bed = topology()?;
        let address = bed.server_v4(PORT);
        let (_server, defender, mitigation) = serve_defended(&bed, address, backlog)?;
        let room = Room::now(&bed)?;
        let handle = flood(Kind::LinuxSyn, address, 300, 30).start(&bed)?;
        let state = mitigation.wait_for(Level::Challenge)?;
        if let Some(trigger) = trigger {
            assert_eq!(state.trigger, trigger);
        }
        clients_connect(&bed, address)?;
        service_is(&defender, PORT, true)?;
        handle.stop()?;
        let counts = Counts::of(&defender)?;
        assert!(counts.get("pass.syn_not_mitigating") <= mitigation.most_passed()?, "{counts}");
        assert!(half_open(&bed)? <= mitigation.most_passed()?);
        counts.assert_no_drops_but(&[]);
        room.was_always_there()?;
    }
    Ok(())
}

/// The queue has room for all of it for minutes; but so many have never come, and nobody goes on.
#[test]
fn a_surge_that_leads_to_nothing_is_noticed() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v6(PORT);
    let (_server, defender, mitigation) = serve_defended(&bed, address, 4096)?;
    set(&defender, &[("80.critical", "100%"), ("80.start", "100%"), ("80.rate_floor", "100")])?;
    let report = SimulatedClients { at_once: 120, ..SimulatedClients::new(&bed, address) }
        .of(&bed, 4000, 1000)
        .run(&bed)?;
    assert_eq!((report.completed, mitigation.mitigation()?), (4000, NEVER), "{report:?}");
    let flood = Flood { max_packets: 3900, ..flood(Kind::WindowsSyn, address, 500, 40) };
    let handle = flood.start(&bed)?;
    assert_eq!(mitigation.wait_for(Level::Challenge)?.trigger, Trigger::SynRate);
    clients_connect(&bed, address)?;
    handle.stop()?;
    Counts::of(&defender)?.assert_no_drops_but(&[]);
    Ok(())
}

/// Where it is known how many SYNs are usual, what is far faster is told from clients by what it leaves in the queue, long
/// before `critical`.
#[test]
fn a_fast_flood_takes_little_of_a_long_queue() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let defender = start_knowing(&bed, address, 10, 100)?;
    let _server = serve(&bed, address, 4096)?;
    defender.wait_for_listener(PORT)?;
    let mitigation = MitigationView::of(&defender, PORT)?;
    let lines = mitigation.triggers()?;
    let handle = flood(Kind::LinuxSyn, address, 50_000, 10).start(&bed)?;
    assert_eq!(mitigation.wait_for(Level::Challenge)?.trigger, Trigger::Flood);
    handle.stop()?;
    let passed = Counts::of(&defender)?.get("pass.syn_not_mitigating");
    // Those of the second before may be as many as are too few.
    let most = u64::from(lines.start.max(lines.flood) + lines.flood - 1) + u64::from(possible_cpus()?) - 1;
    // On a busy machine some count twice for a moment: in the queue, and as on their way there.
    let least = u64::from(lines.start / 2);
    assert!(passed > least && passed <= most && most < lines.critical.into(), "{passed}, {lines:?}");
    eventually("it is told of", || Ok(!events(&defender)?.is_empty()))?;
    let events = events(&defender)?;
    assert_eq!(summary(&events), ["began challenge flood syn_flood"]);
    // Of a service that is new as well.
    assert!(events[0]["evidence"]["syn_rate"].as_u64() > Some(0), "{:?}", events[0]);
    Ok(())
}

/// What listens, and where the flood goes.
fn scenes(bed: &Topology) -> [(SocketAddr, SocketAddr); 4] {
    let (v4, v6) = (bed.server_v4(PORT), bed.server_v6(PORT));
    let dual_stack = SocketAddr::new("::".parse().expect("an address"), PORT);
    [(v4, v4), (v6, v6), (dual_stack, v4), (dual_stack, v6)]
}

#[test]
fn a_fast_flood_is_noticed_with_nobody_in_control() -> Result<()> {
    let bed = topology()?;
    for (listening, target) in scenes(&bed) {
        let server = serve(&bed, listening, 512)?;
        fast_flood(&bed, &server, target)?;
    }
    Ok(())
}

fn fast_flood(bed: &Topology, server: &Server, target: SocketAddr) -> Result<()> {
    let defender = start_auto(bed, &[PORT])?;
    let mitigation = MitigationView::of(&defender, PORT)?;
    let traffic = Traffic::to(bed, &[target])?;
    let room = Room::now(bed)?;
    defender.kill()?;
    assert_eq!(mitigation.mitigation()?, NEVER);
    let before = Counts::of(&defender)?;
    // No faster: a veth's ring overflows when the machine stands still for a millisecond, and a client whose last
    // acknowledgement is lost there waits in vain for the server to speak.
    let handle = flood(Kind::LinuxSyn, target, 50_000, 15).start(bed)?;
    handle.wait_until_running()?;
    let most = mitigation.most_passed()?;
    let clients = clients_connect(bed, target)?;
    assert!(half_open(bed)? <= most);
    traffic.flows()?;
    assert!(half_open(bed)? <= most);
    mitigation.wait_for(Level::Challenge)?;
    handle.stop()?;
    let counts = counts_when(&defender, &before, "every SYN that came is challenged or passes", |counts| {
        counts.get("syn_challenged") + counts.get("pass.syn_not_mitigating") == counts.get("syn_received")
    })?;
    let passed = counts.get("pass.syn_not_mitigating");
    // Clients may come and be done before the flood is there.
    assert!(passed <= most + u64::from(clients), "{counts}");
    assert!(counts.get("syn_challenged") > u64::from(clients), "no flood to speak of: {counts}");
    counts.assert_no_drops_but(&[]);
    // Those from before, and each client.
    assert!(server.take_accepted().len() >= clients as usize);
    traffic.end()?;
    room.was_always_there()
}

#[test]
fn the_service_beside_one_under_attack_stays_calm() -> Result<()> {
    let bed = topology()?;
    let (attacked, quiet) = (bed.server_v4(PORT), bed.server_v4(PORT + 1));
    let _servers = [serve(&bed, attacked, 512)?, serve(&bed, quiet, 512)?];
    let defender = start_auto(&bed, &[PORT, PORT + 1])?;
    let ladders = [MitigationView::of(&defender, PORT)?, MitigationView::of(&defender, PORT + 1)?];
    let handle = flood(Kind::LinuxSyn, attacked, 50_000, 30).start(&bed)?;
    ladders[0].wait_for(Level::Challenge)?;
    let before = Counts::of(&defender)?;
    let clients = clients_connect(&bed, quiet)?;
    let counts = &Counts::of(&defender)? - &before;
    handle.stop()?;
    // Where the flood pushed a SYN out of the ring it came again.
    assert!(counts.get("pass.syn_not_mitigating") >= clients.into(), "{counts}");
    assert_eq!(ladders[1].mitigation()?, NEVER);
    service_is(&defender, PORT, true)?;
    service_is(&defender, PORT + 1, false)
}
