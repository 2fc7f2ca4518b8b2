//! What is kept from one reading to the next, because it costs more than to see that it has not changed.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result};
use defender_common::abi::map;

use super::own_series::OwnSeries;
use crate::{
    dataplane::{maps::Maps, pins::PinRoot},
    state::{directory::StateDirectory, findings::Findings},
};

/// All of it.
#[derive(Default)]
pub(super) struct Kept {
    pub maps: OpenMaps,
    pub limits: KnownLimits,
    pub own: OwnSeries,
}

/// How many half-open connections each service's listeners take together, by the service's id.
pub(super) type Limits = BTreeMap<u32, u32>;

/// Which file something was read from: another one, or one written anew, has another identity.
type Identity = (u64, i64, i64);

fn identity(path: &Path) -> io::Result<Identity> {
    let found = fs::metadata(path)?;
    Ok((found.ino(), found.mtime(), found.mtime_nsec()))
}

/// The maps, as they were opened by their pins.
#[derive(Default)]
pub(super) struct OpenMaps(Option<(Identity, Maps)>);

impl OpenMaps {
    /// Those that are pinned now.
    pub(super) fn of(&mut self, root: &PinRoot) -> Result<&Maps> {
        let pin = root.map(map::CONFIG);
        let now = identity(&pin).with_context(|| format!("cannot look at {}", pin.display()))?;
        let (_, maps) = match self.0.take().filter(|(then, _)| *then == now) {
            Some(open) => self.0.insert(open),
            None => self.0.insert((now, Maps::open(root)?)),
        };
        Ok(maps)
    }
}

/// The limits, as the controller has found them out.
#[derive(Default)]
pub(super) struct KnownLimits {
    read: Option<Identity>,
    limits: Limits,
}

impl KnownLimits {
    /// Those that it has written now. Where there are none, the rest is worth having.
    pub(super) fn of(&mut self, root: &PinRoot) -> &Limits {
        let directory = StateDirectory::of(root);
        let now = identity(&directory.findings()).ok();
        if now.is_none() || self.read != now {
            let findings = Findings::read(&directory).ok().flatten().unwrap_or_default();
            self.limits = findings.inputs.into_iter().map(|(id, inputs)| (id, inputs.backlog)).collect();
            self.read = now;
        }
        &self.limits
    }
}
