//! Controllers come and go; connections stay.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use defender_testbed::{
    controller::Controller,
    topology::{SERVER_INTERFACE, Topology},
};

use super::{
    CheckMachine, CheckOutcome,
    scene::{CheckScene, GreetedConnection, eventually},
};

/// The prefix of our programs' names in the kernel.
const PROGRAMS: &str = "defender_";

/// The controller is killed; the next one resumes its state.
pub(crate) fn takeover(machine: &CheckMachine) -> Result<CheckOutcome> {
    let scene = CheckScene::new(Topology::new()?)?;
    let [to, _] = scene.addresses();
    let mut connections = vec![scene.undefended(to)?];
    let first = scene.defend(machine, &["--mode", "always"])?;
    connections.extend(scene.challenged(&first, to, &connections[0])?);
    first.kill()?;
    talk(&mut connections).context("after kill -9")?;
    connections.push(scene.connect(to).context("with nobody in control")?);

    let pins = first.pin_root().to_owned();
    let always = ["--mode", "always"];
    let second = Controller::start_at(&scene.bed.server, &machine.defender, SERVER_INTERFACE, &always, pins)?;
    let own = u64::from(second.id());
    eventually("the second controller is in control", || {
        Ok(second.status()?["controller"].as_u64() == Some(own))
    })?;
    talk(&mut connections).context("after the takeover")?;
    scene.challenged(&second, to, &connections[0]).context("after the takeover")?;
    Ok(CheckOutcome::Fine)
}

/// Nothing remains after `detach`.
pub(crate) fn detach(machine: &CheckMachine) -> Result<CheckOutcome> {
    let scene = CheckScene::new(Topology::new()?)?;
    let [to, _] = scene.addresses();
    let others = programs()?;
    let mut connections = vec![scene.undefended(to)?];
    let defender = scene.defend(machine, &["--mode", "always"])?;
    connections.extend(scene.challenged(&defender, to, &connections[0])?);
    ensure!(!programs()?.is_subset(&others), "none of its programs is loaded");
    ensure!(link(&scene)?.contains("xdp"), "no XDP program is attached: {}", link(&scene)?);

    defender.ask(&["detach"])?;
    eventually("the pins are gone", || Ok(!defender.pin_root().exists()))?;
    eventually("its programs are unloaded", || Ok(programs()?.is_subset(&others)))?;
    ensure!(!link(&scene)?.contains("xdp"), "an XDP program is left: {}", link(&scene)?);
    talk(&mut connections).context("after detaching")?;
    scene.connect(to).context("after detaching")?.talk()?;
    Ok(CheckOutcome::Fine)
}

fn talk(connections: &mut [GreetedConnection]) -> Result<()> {
    connections.iter_mut().try_for_each(GreetedConnection::talk)
}

fn link(scene: &CheckScene) -> Result<String> {
    scene.bed.server.ip(&format!("-details link show {SERVER_INTERFACE}"))
}

/// The ids of the defender's loaded programs.
fn programs() -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    // A program that was unloaded meanwhile cannot be queried.
    for program in loaded_programs().filter_map(Result::ok) {
        if program.name_as_str().is_some_and(|name| name.starts_with(PROGRAMS)) {
            found.insert(program.id());
        }
    }
    Ok(found)
}
