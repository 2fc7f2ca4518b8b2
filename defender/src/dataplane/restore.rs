//! Restores removed pins. A map lives while a program uses it, and the kernel lists a program's maps.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::{maps::MapData, programs::loaded_programs};
use defender_common::abi;

use crate::dataplane::{open_link::OpenLink, pins::PinRoot};

/// How many characters of a name the kernel keeps (`BPF_OBJ_NAME_LEN` less the terminating zero).
const NAME_LENGTH: usize = 15;

/// Pins maps again that have no pin and that an attached program, or one of `programs`, uses. Returns their
/// names.
pub fn maps(root: &PinRoot, programs: &[u32]) -> Result<Vec<&'static str>> {
    let missing: Vec<&'static str> =
        abi::map::ALL.into_iter().filter(|name| !root.map(name).exists()).collect();
    if missing.is_empty() || !root.is_on_bpffs() {
        return Ok(Vec::new());
    }
    let programs: BTreeSet<u32> = programs.iter().copied().chain(attached(root)?).collect();
    let mut restored = Vec::new();
    for map in maps_of(&programs)? {
        let info = map.info().context("cannot look at a map")?;
        let is_it = |name: &&&str| info.name_as_str() == Some(&name[..name.len().min(NAME_LENGTH)]);
        let Some(name) = missing.iter().find(is_it).filter(|name| !root.map(name).exists()) else { continue };
        root.create_directories()?;
        map.pin(root.map(name)).with_context(|| format!("cannot pin the map {name} again"))?;
        restored.push(*name);
    }
    Ok(restored)
}

/// The programs behind the pinned links.
fn attached(root: &PinRoot) -> Result<Vec<u32>> {
    let links = root.link_files()?;
    let program = |name: &String| Some(OpenLink::from_pin(&root.link_file(name)).ok()?.about().ok()?.program);
    Ok(links.iter().filter_map(program).collect())
}

fn maps_of(programs: &BTreeSet<u32>) -> Result<Vec<MapData>> {
    let mut ids = BTreeSet::new();
    // A program that was unloaded meanwhile is not one of ours.
    for program in loaded_programs().flatten().filter(|program| programs.contains(&program.id())) {
        ids.extend(program.map_ids().context("cannot look at a program")?.unwrap_or_default());
    }
    Ok(ids.into_iter().filter_map(|id| MapData::from_id(id).ok()).collect())
}
