//! Another controller takes over in an attack.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::Controller,
    flood::{Flood, Kind, Range},
    programs::Program,
    topology::{Options, SERVER_INTERFACE, Topology},
};
use serde_json::Value;

use crate::{
    harness::{Counts, PROGRAM, eventually, start},
    operator::bed::{PORT, serve},
};

/// The first event of an attack that began while nobody was in control says how fast the flood is.
#[test]
fn the_first_event_has_a_rate() -> Result<()> {
    let bed = Topology::with(&Options { client_end: Some(Program::AbsorbFlood), ..Options::default() })?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address)?;
    let first = start(&bed, &["--mode", "auto"])?;
    first.wait_for_listener(PORT)?;
    first.kill()?;
    let flood = Flood {
        source: Range::V4([198, 18, 0, 0].into(), 16),
        rate: Some(5000),
        max_time: Duration::from_secs(30),
        max_packets: 150_000,
        ..Flood::new(Kind::LinuxSyn, address)
    };
    let handle = flood.start(&bed)?;
    eventually("SYNs are challenged", || Ok(Counts::of(&first)?.get("syn_challenged") > 5000))?;
    // A whole second of it.
    thread::sleep(Duration::from_millis(1200));
    let pins = first.pin_root().to_owned();
    let second =
        Controller::start_at(&bed.server, PROGRAM.as_ref(), SERVER_INTERFACE, &["--mode", "auto"], pins)?;
    let events = || -> Result<Vec<Value>> {
        let text = second.ask(&["events", "--json"])?;
        text.lines().map(|line| serde_json::from_str(line).context("no JSON")).collect()
    };
    eventually("the attack is told", || Ok(!events()?.is_empty()))?;
    handle.stop()?;
    let began = &events()?[0];
    ensure!(began["event"] == "began", "{began}");
    // A machine that does other things is slower than it should be.
    ensure!(
        began["evidence"]["syn_rate"].as_u64().is_some_and(|rate| (500..50_000).contains(&rate)),
        "{began}"
    );
    Ok(())
}
