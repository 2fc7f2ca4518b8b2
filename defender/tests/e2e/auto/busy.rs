//! Busy clients are no attack.

use std::net::SocketAddr;

use anyhow::Result;
use defender_common::mitigation::{Level, Trigger};
use defender_testbed::{
    simulated_clients::{SimulatedClients, SimulationReport},
    topology::Topology,
};

use crate::{
    auto::bed::{NEVER, PORT, Room, events, serve_defended, service_is, summary, topology},
    harness::Counts,
};

fn addresses(bed: &Topology) -> [SocketAddr; 2] {
    [bed.server_v4(PORT), bed.server_v6(PORT)]
}

/// Ten clients a second, then a thousand a second.
fn rush(bed: &Topology, target: SocketAddr, at_once: u32) -> Result<[SimulationReport; 2]> {
    let simulated = SimulatedClients { at_once, ..SimulatedClients::new(bed, target) };
    Ok([simulated.of(bed, 20, 10).run(bed)?, simulated.of(bed, 4000, 1000).run(bed)?])
}

fn assert_all_completed(reports: &[SimulationReport], clients: u32) {
    let completed: u32 = reports.iter().map(|report| report.completed).sum();
    assert_eq!(completed, clients, "{reports:?}");
    assert!(reports.iter().all(|report| report.reset == 0), "{reports:?}");
}

#[test]
fn a_hundred_times_as_many_clients_are_no_attack() -> Result<()> {
    let bed = topology()?;
    for address in addresses(&bed) {
        let (_server, defender, mitigation) = serve_defended(&bed, address, 512)?;
        let room = Room::now(&bed)?;
        let before = Counts::of(&defender)?;
        // Never a quarter of the backlog, not even if the machine stands still for seconds.
        let reports = rush(&bed, address, 120)?;
        assert_all_completed(&reports, 4020);
        let counts = &Counts::of(&defender)? - &before;
        let syns: u32 = reports.iter().map(|report| report.syns).sum();
        counts.assert(&[
            ("pass.syn_not_mitigating", syns.into()),
            ("syn_received", syns.into()),
            ("syn_challenged", 0),
        ]);
        counts.assert_no_drops_but(&[]);
        assert_eq!(mitigation.mitigation()?, NEVER);
        service_is(&defender, PORT, false)?;
        assert_eq!(summary(&events(&defender)?), [] as [&str; 0]);
        room.was_always_there()?;
    }
    Ok(())
}

/// A queue that a hundred clients at a time nearly fill is in danger, whoever they are. None of them is lost.
#[test]
fn a_queue_in_danger_is_saved_and_no_client_is_lost() -> Result<()> {
    let bed = topology()?;
    for address in addresses(&bed) {
        let (_server, defender, mitigation) = serve_defended(&bed, address, 64)?;
        let room = Room::now(&bed)?;
        let reports = rush(&bed, address, u32::MAX)?;
        assert_all_completed(&reports, 4020);
        let mitigation = mitigation.mitigation()?;
        assert_eq!(mitigation.level, Level::Challenge);
        assert!(matches!(mitigation.trigger, Trigger::Queue | Trigger::HalfOpen), "{mitigation:?}");
        service_is(&defender, PORT, true)?;
        let counts = Counts::of(&defender)?;
        assert!(counts.get("syn_challenged") > 0, "{counts}");
        counts.assert_no_drops_but(&[]);
        room.was_always_there()?;
    }
    Ok(())
}
