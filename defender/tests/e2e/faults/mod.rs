//! Faults of hosts, users and files, each without and during a flood. Connections survive, clients get in, reports are true,
//! and nothing is left behind.

mod files;
mod host;
mod lifecycle;
mod network;
mod scene;

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::small_flood;

use crate::faults::scene::{PORT, Scene, Situation};

/// How many rows run at a time: they mostly wait.
const SIDE_BY_SIDE: usize = 5;

/// What goes wrong, and how it is put right.
#[derive(Clone, Copy)]
struct Fault {
    name: &'static str,
    inflict: fn(&mut Scene<'_>) -> Result<()>,
}

/// A row of a table.
macro_rules! fault {
    ($module:ident::$name:ident) => {
        Fault { name: stringify!($name), inflict: $module::$name }
    };
}

const LIFECYCLE: &[Fault] = &[
    fault!(lifecycle::nothing),
    fault!(lifecycle::killed_and_begun_again),
    fault!(lifecycle::stopped_for_a_while),
    fault!(lifecycle::ended_and_begun_again),
    fault!(lifecycle::two_at_once),
    fault!(lifecycle::set_and_detach_race),
];

const NETWORK: &[Fault] = &[
    fault!(network::link_down_and_up),
    fault!(network::interface_made_again),
    fault!(network::mtu_changed),
    fault!(network::address_changed),
    fault!(network::mac_changed),
];

const FILES: &[Fault] = &[
    fault!(files::map_pin_removed),
    fault!(files::pins_removed),
    fault!(files::bpffs_unmounted),
    fault!(files::state_removed),
    fault!(files::state_damaged),
    fault!(files::state_oversized),
    fault!(files::disk_full),
    fault!(files::run_read_only),
];

const HOST: &[Fault] = &[
    fault!(host::sysctls_flipped),
    fault!(host::listener_begun_500_times),
    fault!(host::two_thousand_listeners),
    fault!(host::many_prefixes),
    fault!(host::few_descriptors),
    fault!(host::little_memory),
    fault!(host::clock_steps),
    fault!(host::no_nft),
    fault!(host::hanging_nft),
    fault!(host::lock_held),
];

#[test]
fn lifecycle_without_a_flood() -> Result<()> {
    run(LIFECYCLE, Situation::Normal)
}

#[test]
fn lifecycle_during_a_flood() -> Result<()> {
    run(LIFECYCLE, Situation::Flood)
}

#[test]
fn network_without_a_flood() -> Result<()> {
    run(NETWORK, Situation::Normal)
}

#[test]
fn network_during_a_flood() -> Result<()> {
    run(NETWORK, Situation::Flood)
}

#[test]
fn files_without_a_flood() -> Result<()> {
    run(FILES, Situation::Normal)
}

#[test]
fn files_during_a_flood() -> Result<()> {
    run(FILES, Situation::Flood)
}

#[test]
fn host_without_a_flood() -> Result<()> {
    run(HOST, Situation::Normal)
}

#[test]
fn host_during_a_flood() -> Result<()> {
    run(HOST, Situation::Flood)
}

/// Runs every row, and fails with all that failed.
fn run(faults: &[Fault], situation: Situation) -> Result<()> {
    let only = std::env::var("FAULT").ok();
    let wanted = |fault: &&Fault| only.as_ref().is_none_or(|only| fault.name == only);
    let rows: Mutex<VecDeque<Fault>> = Mutex::new(faults.iter().filter(wanted).copied().collect());
    let next = || rows.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(fault) = next() {
                    let begun = Instant::now();
                    let result = row(&fault, situation);
                    let word = if result.is_ok() { "ok" } else { "FAILED" };
                    println!(
                        "{situation:?} {}: {word} after {:.1} s",
                        fault.name,
                        begun.elapsed().as_secs_f32()
                    );
                    if let Err(error) = result {
                        let text = format!("{}: {error:?}", fault.name);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "{situation:?}:\n{}", failed.join("\n"));
    Ok(())
}

/// A fault, and then the checks that follow every fault.
fn row(fault: &Fault, situation: Situation) -> Result<()> {
    let bed = scene::topology()?;
    let job = || {
        let mut scene = Scene::begin(&bed, situation)?;
        (fault.inflict)(&mut scene).context("the fault itself")?;
        scene.answers_every_question()?;
        scene.leaves_nothing()
    };
    match situation {
        Situation::Normal => job(),
        Situation::Flood => small_flood::during(&bed, &[bed.server_v4(PORT), bed.server_v6(PORT)], job),
    }
}
