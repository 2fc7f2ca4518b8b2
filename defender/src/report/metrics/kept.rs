//! What is kept from one reading to the next, because it costs more than to see that it has not changed.

use std::collections::BTreeMap;

use anyhow::Result;

use super::own_series::OwnSeries;
use crate::{
    dataplane::{all_service_counters::AllServiceCounters, maps::Maps, pins::PinRoot},
    report::open_maps::{Identity, OpenMaps, identity},
    state::{directory::StateDirectory, findings::Findings},
};

/// All of it.
#[derive(Default)]
pub(super) struct Kept {
    pub maps: OpenMaps<(Maps, AllServiceCounters)>,
    pub limits: KnownLimits,
    pub own: OwnSeries,
}

/// The maps of a scrape.
pub(super) fn open(root: &PinRoot) -> Result<(Maps, AllServiceCounters)> {
    Ok((Maps::open(root)?, AllServiceCounters::open(root)?))
}

/// How many half-open connections each service's listeners take together, by the service's id.
pub(super) type Limits = BTreeMap<u32, u32>;

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
