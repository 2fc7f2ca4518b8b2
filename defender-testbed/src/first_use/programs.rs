//! The programs that the service has loaded into the kernel.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use serde_json::Value;

use super::{Container, SERVER_INTERFACE};

/// Ids of the programs on the interface.
pub(super) fn of(container: &Container) -> Result<BTreeSet<u32>> {
    let text = container.shell(&format!("ip --json --details link show {SERVER_INTERFACE}"))?;
    let links: Value = serde_json::from_str(&text).context("ip prints JSON")?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64();
    let ids: BTreeSet<_> = id.into_iter().filter_map(|id| u32::try_from(id).ok()).collect();
    ensure!(!ids.is_empty(), "{SERVER_INTERFACE} has no program: {text}");
    Ok(ids)
}

/// Whether the kernel still has one of them.
pub(super) fn any_loaded(ids: &BTreeSet<u32>) -> Result<bool> {
    // One that is unloaded just now cannot be looked at.
    Ok(loaded_programs().flatten().any(|program| ids.contains(&program.id())))
}
