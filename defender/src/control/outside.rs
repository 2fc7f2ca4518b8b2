//! What processes do that are not in control: change settings, detach. They and the controller take turns by the
//! write lock, and a controller notices what they did.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use defender_common::{abi, ladder::Step, load};

use crate::{
    control::{
        attacks::Attacks,
        journal::Journal,
        lines,
        lock::WriteLock,
        policy, session,
        settings::{Mode, Settings},
        state::{Findings, StateDirectory},
    },
    dataplane::{maps::Maps, pins::PinRoot},
    problem::Problem,
};

/// How long clients that hold a SYN-ACK of ours are given to answer before the programs are detached.
const FAREWELL: Duration = Duration::from_millis(300);

/// Changes settings, for a controller to come and in the maps at once. Returns the ports that have a service.
pub fn apply_settings(
    root: &PinRoot,
    change: impl FnOnce(&mut Settings) -> Result<(), Problem>,
) -> Result<BTreeSet<u16>> {
    root.require_attached()?;
    let directory = StateDirectory::of(root);
    directory.create()?;
    let _write = WriteLock::take(&directory)?;
    let mut settings = Settings::read(&directory)?.unwrap_or_default();
    change(&mut settings)?;
    let findings = Findings::read(&directory)?;
    settings.write(&directory)?;
    let mut maps = Maps::open(root).context("cannot change the running datapath")?;
    let config = maps.config.get(0)?;
    maps.config.set(0, abi::Config { reply_budget: settings.reply_budget(), ..config })?;
    let mut ports = BTreeSet::new();
    for id in 1..maps.services.len() {
        let slot = maps.services.get(id)?;
        if slot.flags & abi::SERVICE_IN_USE == 0 {
            continue;
        }
        ports.insert(slot.port);
        let mut wanted = policy::with_mode(&slot, settings.mode_of(slot.port));
        if let Some(basis) = findings.basis.get(&id) {
            wanted.lines = lines::lines(&settings, slot.port, basis);
        }
        if wanted != slot {
            maps.services.set(id, wanted)?;
        }
    }
    Ok(ports)
}

/// Detaches everything, from outside of the process in control, which notices. Any version can be detached.
pub fn detach_all(root: &PinRoot) -> Result<()> {
    // Maps without links are left where someone has removed the links by hand.
    if root.pinned_maps().is_empty() {
        root.require_attached()?;
    }
    let directory = StateDirectory::of(root);
    directory.create()?;
    let _write = WriteLock::take(&directory)?;
    take_leave(root, &directory)?;
    root.remove_all()?;
    directory.remove()
}

/// Detaches one interface, likewise; with the last one, everything.
pub fn detach_interface(root: &PinRoot, interface: &str) -> Result<()> {
    root.require_attached()?;
    let attached = root.interfaces()?;
    if !attached.iter().any(|name| name == interface) {
        bail!("{interface} is not attached; attached: {}", attached.join(", "));
    }
    if attached.len() == 1 {
        return detach_all(root);
    }
    let directory = StateDirectory::of(root);
    directory.create()?;
    let _write = WriteLock::take(&directory)?;
    root.remove_links(interface)
}

/// Lets SYNs pass, and waits a moment for clients that hold a SYN-ACK of ours.
pub(super) fn take_leave(root: &PinRoot, directory: &StateDirectory) -> Result<()> {
    if Maps::pinned_version(root)? != Some(abi::ABI_VERSION) {
        return Ok(());
    }
    let mut maps = Maps::open(root)?;
    if let Err(error) = end_attacks(root, directory, &maps) {
        log::warn!("attacks under way are not told to end: {error:#}");
    }
    let mut challenged = false;
    for id in 1..maps.services.len() {
        let slot = maps.services.get(id)?;
        let auto = slot.mode == abi::MODE_AUTO && load::posture(&maps.loads.get(id)?).step != Step::Pass;
        if slot.mode == abi::MODE_ALWAYS || auto {
            challenged = true;
            maps.services.set(id, policy::with_mode(&slot, Mode::Monitor))?;
        }
    }
    if challenged {
        thread::sleep(FAREWELL);
    }
    Ok(())
}

/// Tells that the attacks under way are nobody's concern any more.
fn end_attacks(root: &PinRoot, directory: &StateDirectory, maps: &Maps) -> Result<()> {
    let left = Findings::read(directory)?.attacks;
    let mut attacks = Attacks::restore(&left);
    let mut journal = Journal::of(root);
    for id in left.into_keys() {
        let (view, now) = session::view(maps, id)?;
        if let Some(record) = attacks.abandon(id, &view, now) {
            log::warn!("{}", record.words);
            journal.append(&record.json()?);
        }
    }
    Ok(())
}
