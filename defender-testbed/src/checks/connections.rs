//! Clients connect: each family, with and without timestamps, and in a flood.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    client::Load,
    controller::Controller,
    programs::Program,
    small_flood,
    topology::{Options, Topology},
};

use super::{
    CheckMachine, CheckOutcome,
    scene::{CheckScene, CookieCounts, PATIENCE, eventually, services},
};

pub(crate) fn ipv4(machine: &CheckMachine) -> Result<CheckOutcome> {
    always(machine, 0)
}

pub(crate) fn ipv6(machine: &CheckMachine) -> Result<CheckOutcome> {
    always(machine, 1)
}

/// Clients of this family, 0 for IPv4, with and without timestamps.
fn always(machine: &CheckMachine, family: usize) -> Result<CheckOutcome> {
    let scene = CheckScene::new(Topology::new()?)?;
    let to = scene.addresses()[family];
    let with_timestamps = |on: bool| scene.bed.client.set_sysctl("net.ipv4.tcp_timestamps", u8::from(on));
    let mut undefended = Vec::new();
    for timestamps in [true, false] {
        with_timestamps(timestamps)?;
        undefended.push((timestamps, scene.undefended(to)?));
    }
    let defender = scene.defend(machine, &["--mode", "always"])?;
    for (timestamps, undefended) in undefended {
        with_timestamps(timestamps)?;
        let how = if timestamps { "with timestamps" } else { "without timestamps" };
        scene.challenged(&defender, to, &undefended).context(how)?;
    }
    Ok(CheckOutcome::Fine)
}

pub(crate) fn flood(machine: &CheckMachine) -> Result<CheckOutcome> {
    let options = Options { client_end: Some(Program::AbsorbFlood), ..Options::default() };
    let scene = CheckScene::new(Topology::with(&options)?)?;
    let defender = scene.defend(machine, &["--mode", "auto"])?;
    for to in scene.addresses() {
        small_flood::during(&scene.bed, &[to], || clients_in_a_flood(&scene, &defender, to))?;
    }
    Ok(CheckOutcome::Fine)
}

fn clients_in_a_flood(scene: &CheckScene, defender: &Controller<'_>, to: SocketAddr) -> Result<()> {
    eventually("the flood is challenged", || {
        let family = if to.is_ipv4() { "0.0.0.0" } else { "::" };
        let own = |address: &str| address == to.ip().to_string() || address == family;
        Ok(services(defender)?
            .iter()
            .any(|service| service["active"] == true && service["address"].as_str().is_some_and(own)))
    })?;
    let before = CookieCounts::of(defender)?;
    let load = Load { deadline: PATIENCE, ..Load::new(&scene.bed, to) };
    let report = load.with(&scene.bed, 10.0, Duration::from_secs(1)).run(&scene.bed.client)?;
    let (refused, timed_out) = report.failed();
    ensure!(
        refused + timed_out == 0,
        "in a flood of {to}, {refused} clients were refused and {timed_out} gave up"
    );
    ensure!(report.greeted().all(|one| one.info.has_all_options()), "options are lost: {report:?}");
    let counted = CookieCounts::of(defender)?.since(&before);
    ensure!(counted.established >= report.clients.len() as u64, "counted {counted}");
    Ok(())
}
