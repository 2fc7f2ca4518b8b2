//! `run --replace`: another controller takes over from a living one, and nobody notices.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use defender_common::abi::{ABI_VERSION, Config, map};
use defender_maps::Slots;
use defender_testbed::{
    client::Load,
    controller::{Controller, fresh_pin_root},
    flood::{Flood, FloodHandle, Kind},
    server::Server,
    topology::{SERVER_INTERFACE, Topology},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    harness::{Counts, PATIENCE, PROGRAM, eventually, process::Scratch, run, start, status, wait_active},
    lifecycle::bed::{Scene, addresses, names, state_directory},
};

/// Has another controller take over, and waits until it has. The one before must live as long: it removes the pins.
fn replace<'a>(bed: &'a Topology, before: &Controller<'_>, arguments: &[&str]) -> Result<Controller<'a>> {
    let arguments = [&["--replace"], arguments].concat();
    let pins = before.pin_root().to_owned();
    let next = Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &arguments, pins)?;
    eventually("the next is in control", || Ok(status(&next)?["controller"] == next.id()))?;
    ensure!(before.stop()?.code() == Some(0), "the one before complained");
    Ok(next)
}

/// The numbers of the links to devices.
fn links(pins: &Path) -> Result<Vec<u32>> {
    let directory = pins.join("links");
    let mut links = Vec::new();
    for name in names(&directory)?.iter().filter(|name| name.contains('-')) {
        links.push(FdLink::from(PinnedLink::from_pin(directory.join(name))?).info()?.id());
    }
    ensure!(links.len() == 3, "{links:?}");
    Ok(links)
}

#[test]
fn nobody_notices_in_a_flood() -> Result<()> {
    for mode in ["always", "auto"] {
        replace_in_flood(&Topology::new()?, mode).with_context(|| format!("mode {mode}"))?;
    }
    Ok(())
}

const FLOOD_PACKETS: u64 = 500_000;

fn flood(to: SocketAddr) -> Flood {
    Flood {
        rate: Some(10_000),
        max_packets: FLOOD_PACKETS,
        max_time: Duration::from_secs(50),
        ..Flood::new(Kind::LinuxSyn, to)
    }
}

/// Floods, clients and a connection of both families, while another controller takes over.
fn replace_in_flood(bed: &Topology, mode: &str) -> Result<()> {
    let mut scene = Scene::with(bed, |bed| start(bed, &["--mode", mode]))?;
    let [v4, v6] = addresses(bed);
    let floods = [flood(v4).start(bed)?, flood(v6).start(bed)?];
    floods.iter().try_for_each(FloodHandle::wait_until_running)?;
    wait_active(&scene.defender, 80)?;
    for arguments in [
        &["set", "out_of_state_budget", "77"][..],
        &["set", "80.min_active", "50"],
        &["deny", "add", "192.0.2.0/24"],
    ] {
        scene.defender.ask(arguments)?;
    }
    let (before, links_before) = (Counts::of(&scene.defender)?, links(scene.pins())?);
    let load = |to| Load { deadline: PATIENCE, ..Load::new(bed, to) }.with(bed, 30.0, Duration::from_secs(4));
    let loads = [load(v4), load(v6)];
    let second = thread::scope(|scope| -> Result<_> {
        let clients = loads.map(|load| scope.spawn(move || load.run(&bed.client)));
        let second = replace(bed, &scene.defender, &[])?;
        for clients in clients {
            let report = clients.join().expect("no panic")?;
            ensure!(report.failed() == (0, 0) && report.clients.len() == 120, "{:?} failed", report.failed());
        }
        Ok(second)
    })?;
    for flood in floods {
        ensure!(flood.stop()?.sent < FLOOD_PACKETS, "the flood was over too early to show anything");
    }
    scene.require_service()?;
    let mut counts = &Counts::of(&second)? - &before;
    eventually("every SYN that came is challenged", || {
        counts = &Counts::of(&second)? - &before;
        Ok(counts.get("syn_challenged") == counts.get("syn_received"))
    })
    .with_context(|| counts.to_string())?;
    counts.assert(&[("syn_passed", 0), ("handoff_failed", 0), ("malformed", 0)]);
    ensure!(counts.get("handoff_established") >= 240, "{counts}");
    ensure!(links(second.pin_root())? == links_before, "a link is another one");
    ensure!(second.ask(&["get", "out_of_state_budget"])?.trim() == "77");
    ensure!(second.ask(&["get", "80.min_active"])?.trim() == "50");
    ensure!(second.ask(&["get", "mode"])?.trim() == mode);
    ensure!(second.ask(&["deny", "list"])?.contains("192.0.2.0/24"));
    if mode == "auto" {
        let events = second.ask(&["events", "--json"])?;
        ensure!(events.matches(r#""event":"began""#).count() == 2 && !events.contains("ended"), "{events}");
    }
    Ok(())
}

#[test]
fn what_a_file_says_and_what_is_new_on_the_command_line() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let scratch = Scratch::new()?;
    let file = scratch.write("config.toml", "start = \"33%\"\ndeny = [\"198.51.100.0/24\"]\n")?;
    // There is nobody to replace.
    let first = start(&bed, &["--replace", "--config", &file.display().to_string()])?;
    first.ask(&["allow", "add", "192.0.2.7"])?;
    // Pins that somebody has removed are no obstacle.
    fs::remove_dir_all(first.pin_root())?;
    let second = replace(&bed, &first, &["--mode", "monitor"])?;
    eventually("what is new is in force", || Ok(second.ask(&["get", "mode"])?.trim() == "monitor"))?;
    let told = [&["get"][..], &["deny", "list"], &["allow", "list"]].map(|asked| second.ask(asked));
    let told = told.into_iter().collect::<Result<Vec<_>>>()?.concat();
    for expected in ["mode monitor", "start 33%", "198.51.100.0/24  file", "192.0.2.7  hand"] {
        ensure!(told.contains(expected), "{expected}: {told}");
    }
    // An ordinary start does not know of the file.
    second.kill()?;
    let pins = second.pin_root().to_owned();
    let third = Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &[], pins)?;
    eventually("it is in control", || Ok(status(&third)?["controller"] == third.id()))?;
    eventually("the file's list is gone", || Ok(!third.ask(&["deny", "list"])?.contains("198.51.100.0/24")))?;
    Ok(())
}

/// Whatever keeps the new one from starting, the old one goes on.
#[test]
fn who_cannot_start_replaces_nobody() -> Result<()> {
    let bed = Topology::new()?;
    let mut scene = Scene::new(&bed)?;
    let scratch = Scratch::new()?;
    let bad = scratch.write("bad.toml", "start = \"1000%\"\n")?.display().to_string();
    let attempt = |interface: &str, arguments: &[&str]| -> Result<String> {
        let arguments = [&["run", "--no-allow-ssh", "--iface", interface], arguments].concat();
        let (status, told) = scene.tell(&arguments)?;
        ensure!(status == 1, "{status}: {told}");
        ensure!(scene.status()?["controller"] == scene.defender.id(), "{told}");
        Ok(told)
    };
    let told = attempt(SERVER_INTERFACE, &[])?;
    ensure!(told.contains("run --replace") && told.contains(&scene.defender.id().to_string()), "{told}");
    attempt(SERVER_INTERFACE, &["--replace", "--config", &bad])?;
    attempt("none0", &["--replace"])?;
    let mut config = Slots::<Config>::open(&scene.pins().join("maps"), map::CONFIG)?;
    for abi_version in [ABI_VERSION - 1, ABI_VERSION] {
        config.set(0, Config { abi_version, ..config.get(0)? })?;
        if abi_version != ABI_VERSION {
            let told = attempt(SERVER_INTERFACE, &["--replace"])?;
            ensure!(told.contains("another version of defender"), "{told}");
        }
    }
    scene.require_service()
}

/// The number in the lock's file is a stranger's: who holds the lock is meant, and nobody else is signalled.
#[test]
fn a_stranger_is_not_signalled() -> Result<()> {
    let bed = Topology::new()?;
    let mut scene = Scene::new(&bed)?;
    let mut stranger = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?;
    let pins = scene.pins().to_owned();
    fs::write(state_directory(&pins).join("controller.lock"), stranger.id().to_string())?;
    let arguments = ["--replace"];
    let next = Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &arguments, pins);
    let lives = stranger.try_wait()?.is_none();
    stranger.kill()?;
    stranger.wait()?;
    ensure!(lives, "the stranger was ended");
    let next = next?;
    eventually("the next is in control", || Ok(scene.status()?["controller"] == next.id()))?;
    scene.require_service()?;
    ensure!(next.stop()?.code() == Some(0) && !scene.has_xdp()?);
    scene.require_service()
}

#[test]
fn one_that_is_stopped_is_replaced_too() -> Result<()> {
    let bed = Topology::new()?;
    let mut scene = Scene::new(&bed)?;
    kill(Pid::from_raw(scene.defender.id() as i32), Signal::SIGSTOP)?;
    let pins = scene.pins().to_owned();
    let arguments = ["--replace"];
    let next = Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &arguments, pins)?;
    eventually("the next is in control", || Ok(scene.status()?["controller"] == next.id()))?;
    scene.require_service()?;
    ensure!(next.stop()?.code() == Some(0) && !scene.has_xdp()?);
    scene.require_service()
}

/// Two want to take over at once: one does.
#[test]
fn there_is_one_successor() -> Result<()> {
    let bed = Topology::new()?;
    let mut scene = Scene::new(&bed)?;
    let first = scene.defender.id();
    let arguments = ["run", "--no-allow-ssh", "--iface", SERVER_INTERFACE, "--replace", "--keep"];
    let (bed, pins) = (&bed, scene.pins().to_owned());
    thread::scope(|scope| -> Result<()> {
        let rivals = [(); 2].map(|()| scope.spawn(|| run(bed, &pins, &arguments)));
        // Each that is in control is ended, so that both come to an end.
        let in_control = || -> Result<u32> { Ok(scene.status()?["controller"].as_u64().unwrap_or(0) as u32) };
        eventually("both have ended", || {
            let pid = in_control()?;
            if pid != 0 && pid != first {
                let seen = rivals.iter().filter(|rival| rival.is_finished()).count();
                // The winner stays until the other one has given up.
                if seen == 1 {
                    kill(Pid::from_raw(pid as i32), Signal::SIGTERM)?;
                }
            }
            Ok(rivals.iter().all(ScopedJoinHandle::is_finished))
        })?;
        let outputs = rivals.map(|rival| rival.join().expect("no panic"));
        let outputs = outputs.into_iter().collect::<Result<Vec<_>>>()?;
        let codes: Vec<_> = outputs.iter().map(|output| output.status.code()).collect();
        ensure!(codes.contains(&Some(0)), "{outputs:?}");
        Ok(())
    })?;
    ensure!(scene.has_xdp()? && scene.defender.stop()?.code() == Some(0));
    scene.require_service()
}

#[test]
fn nothing_is_made_for_a_replacement_that_fails() -> Result<()> {
    let bed = Topology::new()?;
    let pins = fresh_pin_root();
    let output = run(&bed, &pins, &["run", "--iface", "none0", "--replace"])?;
    ensure!(output.status.code() == Some(1) && !pins.exists(), "{output:?}");
    Ok(())
}
