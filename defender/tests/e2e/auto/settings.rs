//! Settings and lists change while it runs: by command, and by file.

use std::fs;

use anyhow::{Result, ensure};
use defender_common::mitigation::{Level, Trigger};
use defender_testbed::{
    controller::Controller,
    flood::{Flood, Kind},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    auto::bed::{MitigationView, NEVER, PORT, Room, flood, half_open, serve, serve_defended, set, topology},
    harness::{Counts, clients_connect, counts_when, eventually, process::Scratch, start},
};

fn hang_up(defender: &Controller<'_>) -> Result<()> {
    Ok(kill(Pid::from_raw(defender.id() as i32), Signal::SIGHUP)?)
}

#[test]
fn a_line_that_is_set_counts_at_once() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let (_server, defender, mitigation) = serve_defended(&bed, address, 4096)?;
    set(&defender, &[("80.critical", "100%"), ("80.start", "100%")])?;
    let some = Flood { max_packets: 800, ..flood(Kind::LinuxSyn, address, 2000, 10) };
    some.run_to_end(&bed)?;
    clients_connect(&bed, address)?;
    assert_eq!(mitigation.mitigation()?, NEVER);
    set(&defender, &[("80.end", "1%"), ("80.start", "10%"), ("80.critical", "15%")])?;
    // The next who comes.
    clients_connect(&bed, address)?;
    let mitigation = mitigation.mitigation()?;
    assert_eq!((mitigation.level, mitigation.trigger), (Level::Challenge, Trigger::Queue));
    Counts::of(&defender)?.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn the_file_is_in_force_and_sighup_has_it_read_again() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address, 512)?;
    let scratch = Scratch::new()?;
    let file =
        scratch.write("config.toml", "mode = \"auto\"\n[port.80]\nstart = \"40%\"\ncritical = \"50%\"\n")?;
    let defender = start(&bed, &["--config", &file.display().to_string()])?;
    defender.wait_for_listener(PORT)?;
    let mitigation = MitigationView::of(&defender, PORT)?;
    let danger_is =
        |danger: u32| eventually("the line is drawn", || Ok(mitigation.triggers()?.critical == danger));
    danger_is(256)?;
    let room = Room::now(&bed)?;
    let handle = flood(Kind::LinuxSyn, address, 50_000, 30).start(&bed)?;
    mitigation.wait_for(Level::Challenge)?;
    clients_connect(&bed, address)?;
    let most = mitigation.most_passed()?;
    let counts = Counts::of(&defender)?;
    ensure!(counts.get("pass.syn_not_mitigating") <= most, "{counts}");
    ensure!(half_open(&bed)? <= most);

    // The lists of the file: clients pass, the flood is dropped.
    let lists = "allow = [\"10.208.0.0/12\"]\ndeny = [\"198.18.0.0/16\"]\n[port.80]\ncritical = \"25%\"\n";
    fs::write(&file, lists)?;
    hang_up(&defender)?;
    danger_is(128)?;
    let before = Counts::of(&defender)?;
    let clients = clients_connect(&bed, address)?;
    eventually("the flood is dropped", || {
        Ok((&Counts::of(&defender)? - &before).get("drop.syn_denied") > 1000)
    })?;
    let counts = &Counts::of(&defender)? - &before;
    ensure!(counts.get("pass.syn_allowed") >= clients.into(), "{counts}");
    counts.assert(&[("syn_challenged", 0)]);
    counts.assert_no_drops_but(&["drop.syn_denied"]);
    handle.stop()?;

    // A bad file changes nothing.
    fs::write(&file, "[port.80]\ncritical = \"110%\"\n")?;
    hang_up(&defender)?;
    set(&defender, &[("80.critical", "30%")])?;
    danger_is(153)?;
    ensure!(defender.ask(&["allow", "list"])?.contains("10.208.0.0/12"));
    set(&defender, &[("80.critical", "default")])?;
    danger_is(128)?;
    room.was_always_there()
}

/// Denied sources are dropped without a mitigation as well, and do not start one.
#[test]
fn a_flood_of_denied_sources_leaves_the_service_calm() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let (_server, defender, mitigation) = serve_defended(&bed, address, 512)?;
    defender.ask(&["deny", "add", "198.18.0.0/16"])?;
    let before = Counts::of(&defender)?;
    let handle = flood(Kind::LinuxSyn, address, 20_000, 4).start(&bed)?;
    handle.wait_until_running()?;
    let clients = clients_connect(&bed, address)?;
    handle.wait()?;
    let counts = counts_when(&defender, &before, "every SYN that came is dropped or passes", |counts| {
        counts.get("drop.syn_denied") + counts.get("pass.syn_not_mitigating") == counts.get("syn_received")
    })?;
    ensure!(counts.get("drop.syn_denied") > 1000, "{counts}");
    ensure!(counts.get("pass.syn_not_mitigating") >= clients.into(), "{counts}");
    counts.assert_no_drops_but(&["drop.syn_denied"]);
    assert_eq!(mitigation.mitigation()?, NEVER);
    assert_eq!(half_open(&bed)?, 0);
    Ok(())
}
