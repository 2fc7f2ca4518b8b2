//! What the maps show of a service, as the rules of [`attacks`](crate::model::attacks) take it.

use std::time::Duration;

use anyhow::Result;
use defender_common::{abi, load};

use crate::{
    dataplane::{clock, maps::Maps},
    host::wall_clock,
    model::{
        attacks::{By, Now, SynSources, View},
        evidence::{Evidence, Sample},
        mode::Mode,
    },
};

/// What the maps show of a service, brought to the present as the next packet would.
pub fn view(maps: &Maps, id: u32) -> Result<(View, Now)> {
    let (slot, config) = (maps.services.get(id)?, maps.config.get(0)?);
    let present = clock::now()?;
    let load = maps.load_at(id, &slot.triggers, config.age_buckets, present)?;
    let view = View {
        by: By::Look,
        mitigation: load::mitigation(&load),
        began: load.began,
        endpoint: None,
        mode: Mode::from_abi(slot.mode).unwrap_or_default(),
        hindered: slot.flags & abi::SERVICE_UNPROTECTABLE != 0 || config.flags & abi::CONFIG_SUSPENDED != 0,
        counters: maps.service_counters(id)?,
        syn_rate: load::syns(&load, present.second.wrapping_sub(1)).into(),
        half_open: load::half_open(&load, &slot.triggers),
        half_open_then: load.half_open_then,
        backlog: None,
    };
    Ok((view, Now { wall: wall_clock::now(), ms: present.ms }))
}

/// Who sends SYNs to a service.
pub fn syn_sources(maps: &Maps, id: u32, view: &View, now: Now) -> Result<SynSources> {
    let sample = Sample { before: view.counters, after: view.counters, elapsed: Duration::ZERO };
    let evidence = Evidence::of(&maps.sources.get(id)?, now.ms, &sample);
    Ok(SynSources { sources: evidence.sources, networks: evidence.networks })
}
