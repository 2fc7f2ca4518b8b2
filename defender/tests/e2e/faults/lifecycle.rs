//! The controller comes, goes, stops, and meets another.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    faults::scene::{PORT, Scene},
    harness::{eventually, run, services},
};

/// Without a fault every question has the same answer.
pub(crate) fn nothing(_scene: &mut Scene<'_>) -> Result<()> {
    Ok(())
}

/// What is pinned defends alone, until the next one takes over.
pub(crate) fn killed_and_begun_again(scene: &mut Scene<'_>) -> Result<()> {
    scene.defender().kill()?;
    scene.connections_live().context("with nobody in control")?;
    scene.clients_get_in().context("with nobody in control")?;
    scene.defend_again()
}

pub(crate) fn stopped_for_a_while(scene: &mut Scene<'_>) -> Result<()> {
    let process = Pid::from_raw(scene.defender().id() as i32);
    kill(process, Signal::SIGSTOP)?;
    let while_stopped = scene.connections_live().and_then(|()| scene.clients_get_in());
    kill(process, Signal::SIGCONT)?;
    while_stopped.context("while it is stopped")
}

pub(crate) fn ended_and_begun_again(scene: &mut Scene<'_>) -> Result<()> {
    let status = scene.defender().stop()?;
    ensure!(status.success(), "{status}");
    scene.connections_live().context("with nothing attached")?;
    scene.defend_again()
}

/// The second refuses, and changes nothing.
pub(crate) fn two_at_once(scene: &mut Scene<'_>) -> Result<()> {
    let pins = scene.defender().pin_root();
    let output = run(scene.bed, pins, &["run", "--no-allow-ssh", "--iface", "srv0"])?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && told.lines().count() == 1, "{told}");
    ensure!(told.contains(&scene.defender().id().to_string()), "it does not say who: {told}");
    Ok(())
}

/// Whoever comes first, each says what it did, and nothing is half done.
pub(crate) fn set_and_detach_race(scene: &mut Scene<'_>) -> Result<()> {
    let (bed, pins) = (scene.bed, scene.defender().pin_root().to_owned());
    let outputs = thread::scope(|scope| {
        let commands = [
            &["set", "critical", "80%"][..],
            &["detach"],
            &["deny", "add", "203.0.113.7"],
            &["set", "mode", "monitor"],
            &["detach"],
        ];
        let threads = commands.map(|command| {
            let pins = pins.clone();
            scope.spawn(move || run(bed, &pins, command).map(|output| (command, output)))
        });
        threads.map(|thread| thread.join().expect("no panic"))
    });
    for output in outputs {
        let (command, output) = output?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(matches!(output.status.code(), Some(0 | 1)), "{command:?}: {} {told}", output.status);
        ensure!(output.status.success() || told.contains("defender: "), "{command:?}: {told}");
    }
    eventually("its pins are gone", || Ok(!pins.exists()))?;
    scene.connections_live().context("with nothing attached")?;
    scene.defend_again()?;
    eventually("its services are there", || Ok(services(scene.defender(), PORT)?.len() == 2))
}
