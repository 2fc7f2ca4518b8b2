//! What processes do that are not in control: change settings, detach. They and the controller take turns by the
//! write lock, and a controller notices what they did.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context as _, Result};
use defender_common::{abi, load, mitigation::Level};

use crate::{
    control::{attack_view, recovery},
    dataplane::{detach, maps::Maps, pins::PinRoot},
    logger,
    model::{attacks::Attacks, map_values, mode::Mode, settings::Settings, triggers},
    problem::Problem,
    state::{
        self,
        directory::StateDirectory,
        findings::Findings,
        journal::Journal,
        lock::{ControllerLock, WriteLock},
    },
};

/// How long clients that hold a SYN-ACK of ours are given to answer before the programs are detached.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(300);

/// Changes settings, for a controller to come and in the maps at once. Returns them, and the ports that have a service.
pub fn apply_settings(
    root: &PinRoot,
    change: impl FnOnce(&mut Settings) -> Result<(), Problem>,
) -> Result<(Settings, BTreeSet<u16>)> {
    root.require_attached()?;
    let directory = StateDirectory::of(root);
    directory.create()?;
    let (_write, mut settings) = settings_to_change(root, &directory)?;
    change(&mut settings)?;
    let findings = Findings::read(&directory)?.unwrap_or_default();
    state::settings::write(&directory, &settings)?;
    let mut maps = Maps::open(root).context("cannot change the running datapath")?;
    let config = maps.config.get(0)?;
    maps.config.set(0, map_values::with_settings(&config, &settings))?;
    let mut ports = BTreeSet::new();
    for id in 1..maps.services.len() {
        let slot = maps.services.get(id)?;
        if slot.flags & abi::SERVICE_IN_USE == 0 {
            continue;
        }
        ports.insert(slot.port);
        let mut wanted = map_values::with_mode(&slot, settings.mode_of(slot.port));
        if let Some(inputs) = findings.inputs.get(&id) {
            wanted.triggers = triggers::triggers(&settings, slot.port, inputs);
        }
        if wanted != slot {
            maps.services.set(id, wanted)?;
        }
    }
    Ok((settings, ports))
}

/// The settings in force, and the lock by which nobody else changes them.
fn settings_to_change(root: &PinRoot, directory: &StateDirectory) -> Result<(WriteLock, Settings)> {
    let write = WriteLock::take(directory)?;
    if let Some(settings) = state::settings::read(directory)? {
        return Ok((write, settings));
    }
    // Whoever is in control knows them, and needs the lock to write them again.
    drop(write);
    let settings = state::in_force(root, state::settings::read)?;
    let write = WriteLock::take(directory)?;
    Ok((write, state::settings::read(directory)?.unwrap_or(settings)))
}

/// Detaches everything, from outside of the process in control, which notices. Any version can be detached, and what has lost
/// its pins: the process in control has it open. Returns the interfaces; none: nothing was attached.
pub fn detach_all(root: &PinRoot) -> Result<Option<Vec<String>>> {
    if let Err(error) = recovery::recover(root) {
        log::debug!("{error:#}");
    }
    let directory = StateDirectory::of(root);
    let held = || ControllerLock::holder(&directory).map(detach::links_of).unwrap_or_default();
    // Maps without links are left where someone has removed the links by hand.
    let interfaces = root.interfaces()?;
    if interfaces.is_empty() && root.pinned_maps().is_empty() && held().is_empty() {
        return Ok(None);
    }
    directory.create()?;
    let _write = WriteLock::take(&directory)?;
    match Maps::pinned_version(root) {
        Ok(Some(abi::ABI_VERSION)) => match Maps::open(root) {
            Ok(mut maps) => drain(root, &directory, &mut maps, |_| {})?,
            Err(error) => log::warn!("not waiting for clients that hold a cookie: {error:#}"),
        },
        Ok(_) => {}
        Err(error) => log::warn!("not waiting for clients that hold a cookie: {error:#}"),
    }
    detach::everything(root, held())?;
    directory.remove()?;
    Ok(Some(interfaces))
}

/// Detaches one interface, likewise; with the last one, everything. Returns whether it was attached.
pub fn detach_interface(root: &PinRoot, interface: &str) -> Result<bool> {
    recovery::recover(root)?;
    let attached = root.interfaces()?;
    if !attached.iter().any(|name| name == interface) {
        return Ok(false);
    }
    if attached.len() == 1 {
        return Ok(detach_all(root)?.is_some());
    }
    let directory = StateDirectory::of(root);
    directory.create()?;
    let _write = WriteLock::take(&directory)?;
    detach::interface(root, interface)?;
    Ok(true)
}

/// Lets SYNs pass, and waits a moment for clients that hold a SYN-ACK of ours. `tell` is told the end of attacks, as JSON.
pub(super) fn drain(
    root: &PinRoot,
    directory: &StateDirectory,
    maps: &mut Maps,
    tell: impl Fn(String),
) -> Result<()> {
    if let Err(error) = end_attacks(root, directory, maps, tell) {
        log::warn!("cannot record the end of current attacks: {error:#}");
    }
    let mut challenged = false;
    for id in 1..maps.services.len() {
        let slot = maps.services.get(id)?;
        let auto = slot.mode == abi::MODE_AUTO && load::mitigation(&maps.loads.get(id)?).level != Level::Pass;
        if slot.mode == abi::MODE_ALWAYS || auto {
            challenged = true;
            maps.services.set(id, map_values::with_mode(&slot, Mode::Monitor))?;
        }
    }
    if challenged {
        thread::sleep(DRAIN_TIMEOUT);
    }
    Ok(())
}

/// Tells that the attacks under way are nobody's concern any more.
fn end_attacks(root: &PinRoot, directory: &StateDirectory, maps: &Maps, tell: impl Fn(String)) -> Result<()> {
    let left = Findings::read(directory)?.unwrap_or_default().attacks;
    let mut attacks = Attacks::restore(&left);
    let mut journal = Journal::of(root);
    for id in left.into_keys() {
        let (view, now) = attack_view::view(maps, id)?;
        if let Some(record) = attacks.abandon(id, &view, now) {
            logger::log_with(log::Level::Warn, &record.journal_fields(), &record.words);
            let line = record.json()?;
            journal.append(&line);
            tell(line);
        }
    }
    journal.warnings().for_each(|warning| log::warn!("{warning}"));
    Ok(())
}
