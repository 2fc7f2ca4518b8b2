//! Where metrics are served: from when on, after a reload, by a Unix socket, and where that cannot be.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::{STATE_DIRECTORY, fresh_pin_root, state_directory},
    http,
    topology::{SERVER_INTERFACE, Topology},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::bed::{METRICS, Scene, listen};
use crate::harness::{PATIENCE, PROGRAM, eventually, process::Scratch, run};

fn is_served(bed: &Topology) -> bool {
    http::get(&bed.server, METRICS, "/healthz", "").is_ok_and(|answer| answer.status == 200)
}

fn readiness(bed: &Topology) -> Option<u16> {
    http::get(&bed.server, METRICS, "/readyz", "").ok().map(|answer| answer.status)
}

#[test]
fn it_is_ready_once_it_is_attached_and_only_while_it_defends() -> Result<()> {
    let bed = Topology::new()?;
    let scratch = Scratch::new()?;
    let path = scratch.write("config.toml", listen(&METRICS.to_string()))?;
    let pins = fresh_pin_root();
    let mut command = bed.server.command(PROGRAM)?;
    command.env(STATE_DIRECTORY, state_directory(&pins)).args([
        "run",
        "--no-allow-ssh",
        "--iface",
        SERVER_INTERFACE,
    ]);
    command.arg("--config").arg(path).arg("--pin-root").arg(&pins).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut seen = Vec::new();
    let ready = eventually("it is ready", || {
        let status = readiness(&bed);
        if seen.last() != Some(&status) {
            seen.push(status);
        }
        Ok(status == Some(200))
    });
    let switched = ready.and_then(|()| {
        bed.server.ip(&format!("link set {SERVER_INTERFACE} down"))?;
        eventually("it is not ready while the interface is down", || Ok(readiness(&bed) == Some(503)))?;
        let answer = http::get(&bed.server, METRICS, "/readyz", "")?;
        ensure!(answer.body == format!("{SERVER_INTERFACE} is down\n"), "{answer:?}");
        ensure!(is_served(&bed), "the process is well");
        bed.server.ip(&format!("link set {SERVER_INTERFACE} up"))?;
        eventually("it is ready again", || Ok(readiness(&bed) == Some(200)))
    });
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
    ensure!(child.wait()?.success());
    let _ = fs::remove_dir_all(state_directory(&pins));
    switched?;
    // Nobody listens; not attached yet; attached.
    ensure!(seen == [None, Some(503), Some(200)] || seen == [Some(503), Some(200)], "{seen:?}");
    ensure!(!is_served(&bed), "it is served after the end");
    Ok(())
}

#[test]
fn a_reload_begins_moves_and_ends_it() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::with(&bed, "monitor", "")?;
    ensure!(!is_served(&bed), "it is served without being asked for");
    scene.reload(&listen(&METRICS.to_string()))?;
    scene.wait_served()?;
    let mut other = METRICS;
    other.set_port(METRICS.port() + 1);
    scene.reload(&listen(&other.to_string()))?;
    eventually("it is served elsewhere", || Ok(http::get(&bed.server, other, "/readyz", "").is_ok()))?;
    ensure!(!is_served(&bed), "it is served in both places");
    let export = scene.defender.ask(&["get", "--export"])?;
    ensure!(export.contains(&format!("metrics.listen = \"{other}\"\n")), "{export}");
    // A file that makes no sense changes nothing.
    scene.reload(&listen("nowhere"))?;
    scene.reload(&listen("nowhere"))?;
    ensure!(http::get(&bed.server, other, "/readyz", "")?.status == 200);
    scene.reload("mode = \"monitor\"\n")?;
    eventually("it is served no more", || Ok(http::get(&bed.server, other, "/readyz", "").is_err()))?;
    ensure!(scene.defender.ask(&["status"]).is_ok());
    Ok(())
}

#[test]
fn a_place_that_makes_no_sense_is_named() -> Result<()> {
    let bed = Topology::new()?;
    let scratch = Scratch::new()?;
    let path = scratch.write("config.toml", listen("localhost"))?;
    let pins = fresh_pin_root();
    let path = path.to_str().context("a path")?;
    for arguments in
        [vec!["config", "check", path], vec!["run", "--iface", SERVER_INTERFACE, "--config", path]]
    {
        let output = run(&bed, &pins, &arguments)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) || output.status.code() == Some(2), "{output:?}");
        let expected = format!("{path}:2:10: metrics.listen cannot be \"localhost\"; expected ADDRESS:PORT");
        ensure!(complaint.contains(&expected), "{complaint}");
    }
    Ok(())
}

#[test]
fn a_unix_socket_is_private_and_goes_with_the_controller() -> Result<()> {
    let bed = Topology::new()?;
    let scratch = Scratch::new()?;
    let socket = scratch.path("metrics.sock");
    // What a killed one has left is no obstacle.
    drop(UnixListener::bind(&socket)?);
    ensure!(socket.exists());
    let scene = Scene::with(&bed, "monitor", &listen(&format!("unix:{}", socket.display())))?;
    eventually("it is served", || {
        Ok(http::get_unix(&socket, "/readyz").is_ok_and(|answer| answer.status == 200))
    })?;
    ensure!(http::get_unix(&socket, "/metrics")?.body.contains("\ndefender_ready 1\n"));
    ensure!(fs::metadata(&socket)?.permissions().mode() & 0o077 == 0, "others can use it");
    ensure!(scene.defender.stop()?.success());
    ensure!(!socket.exists(), "it is left");
    Ok(())
}

/// What is somebody else's stays so, and the defence does not need it.
#[test]
fn a_place_in_use_is_waited_for_and_the_defence_goes_on() -> Result<()> {
    let bed = Topology::new()?;
    let scratch = Scratch::new()?;
    let file = scratch.write("a file", "of somebody")?;
    let owner = bed.server.run(|| Ok(TcpListener::bind(METRICS)?))?;
    let scene = Scene::with(&bed, "monitor", &listen(&METRICS.to_string()))?;
    std::thread::sleep(Duration::from_millis(100));
    ensure!(scene.defender.ask(&["status"]).is_ok(), "the defence has suffered");
    drop(owner);
    scene.wait_served()?;
    for place in [format!("unix:{}", file.display()), "unix:/does/not/exist".into(), "192.0.2.99:1".into()] {
        scene.reload(&listen(&place))?;
        eventually("the old place is free", || Ok(!is_served(&bed)))?;
        ensure!(scene.defender.ask(&["status"]).is_ok(), "the defence has suffered");
        scene.reload(&listen(&METRICS.to_string()))?;
        scene.wait_served()?;
    }
    ensure!(fs::read_to_string(&file)? == "of somebody");
    Ok(())
}

#[test]
fn a_place_in_use_is_a_warning_that_says_what_to_do() -> Result<()> {
    let bed = Topology::new()?;
    let scratch = Scratch::new()?;
    let _owner = bed.server.run(|| Ok(TcpListener::bind(METRICS)?))?;
    let path = scratch.write("config.toml", listen(&METRICS.to_string()))?;
    let pins = fresh_pin_root();
    let log = scratch.path("log");
    let mut command = bed.server.command(PROGRAM)?;
    command.env(STATE_DIRECTORY, state_directory(&pins)).args([
        "run",
        "--no-allow-ssh",
        "--iface",
        SERVER_INTERFACE,
    ]);
    command.arg("--config").arg(path).arg("--pin-root").arg(&pins).stderr(fs::File::create(&log)?);
    let mut child = command.spawn()?;
    let warned = eventually("it warns", || Ok(fs::read_to_string(&log)?.contains("no metrics")));
    let is_alive = child.try_wait()?.is_none();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
    let status = child.wait()?;
    let _ = fs::remove_dir_all(state_directory(&pins));
    let text = fs::read_to_string(&log)?;
    warned.with_context(|| text.clone())?;
    ensure!(is_alive && status.success(), "{text}");
    let warnings: Vec<_> = text.lines().filter(|line| line.contains("no metrics")).collect();
    ensure!(warnings.len() == 1, "{text}");
    for words in [
        "cannot listen at 127.0.0.1:9815",
        "in use",
        "choose another address",
        "metrics.listen",
        "the defence goes on",
    ] {
        ensure!(warnings[0].contains(words), "{words}: {text}");
    }
    Ok(())
}

/// The one that takes over serves in the same place, as soon as that is free.
#[test]
fn who_takes_over_serves_it() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, "monitor")?;
    let pins = scene.defender.pin_root().to_owned();
    let replace = ["--replace"];
    let next = defender_testbed::controller::Controller::start_at(
        &bed.server,
        Path::new(PROGRAM),
        SERVER_INTERFACE,
        &replace,
        pins,
    )?;
    eventually("the next is in control", || Ok(next.status()?["controller"] == next.id()))?;
    scene.wait_served()?;
    ensure!(!PATIENCE.is_zero() && readiness(&bed) == Some(200));
    Ok(())
}
