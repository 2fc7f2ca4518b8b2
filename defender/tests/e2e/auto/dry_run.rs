//! Mode `monitor`: what `auto` would do, and nothing done.

use anyhow::{Context as _, Result};
use defender_common::mitigation::Level;
use defender_testbed::{flood::Kind, simulated_clients::SimulatedClients};

use crate::{
    auto::bed::{MitigationView, PORT, Room, events, flood, serve, service_is, set, topology},
    harness::{Counts, counts_when, eventually, services, start},
};

#[test]
fn a_dry_run_does_nothing_and_counts_what_it_would_do() -> Result<()> {
    let bed = topology()?;
    for address in [bed.server_v4(PORT), bed.server_v6(PORT)] {
        let _server = serve(&bed, address, 4096)?;
        let defender = start(&bed, &["--mode", "monitor"])?;
        defender.wait_for_listener(PORT)?;
        set(&defender, &[("end", "1%"), ("start", "5%"), ("critical", "10%")])?;
        let mitigation = MitigationView::of(&defender, PORT)?;
        eventually("the lines are drawn", || Ok(mitigation.triggers()?.critical == 409))?;
        let room = Room::now(&bed)?;
        let before = Counts::of(&defender)?;
        // The queue takes all of it.
        let handle = flood(Kind::LinuxSyn, address, 500, 7).start(&bed)?;
        mitigation.wait_for(Level::Challenge)?;
        let report = SimulatedClients::new(&bed, address).of(&bed, 300, 100).run(&bed)?;
        assert_eq!((report.completed, report.reset), (300, 0), "{report:?}");
        handle.stop()?;
        let services = services(&defender, PORT)?;
        let would = &services.first().context("no service")?["would_have_challenged"];
        assert_eq!(would["clients"], 300);
        assert!(would["syns"].as_u64() > Some(300), "{would}");
        service_is(&defender, PORT, false)?;
        let counts = counts_when(&defender, &before, "every SYN that came passes", |counts| {
            counts.get("pass.syn_monitor_mode") == counts.get("syn_received")
        })?;
        counts.assert(&[("syn_challenged", 0), ("ack_accepted", 0)]);
        counts.assert_none_but("drop.", &[]);
        counts.assert_none_but("tx.", &[]);
        room.was_always_there()?;
        eventually("it is told", || Ok(!events(&defender)?.is_empty()))?;
        let told = events(&defender)?;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0]["event"] == "began" && told[0]["dry_run"] == true, "{told:?}");
    }
    Ok(())
}
