//! Userspace access to the pinned maps, for the controller, its reports and the testbed.
//!
//! Layouts are those of [`defender_common::abi`]. An array of many values is a [`Slots`] or
//! [`PerCpuSlots`], accessed by system calls. An array that is a single value, which programs read in
//! place, is a [`Table`]. It is mapped into memory, since a system call would copy all of it.

mod bytes;
mod per_cpu_slots;
mod slots;
mod table;

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, MapError};

pub use crate::{
    bytes::Bytes,
    per_cpu_slots::PerCpuSlots,
    slots::Slots,
    table::{Entries, Table},
};

/// The map `name` pinned in `directory`.
pub fn pinned(directory: &Path, name: &str) -> Result<MapData> {
    let pin = directory.join(name);
    MapData::from_pin(&pin).with_context(|| format!("cannot open the pinned map {}", pin.display()))
}

/// The same, as aya's type for its kind.
pub fn open<T: TryFrom<Map, Error = MapError>>(directory: &Path, name: &str) -> Result<T> {
    typed(pinned(directory, name)?, name)
}

fn typed<T: TryFrom<Map, Error = MapError>>(map: MapData, name: &str) -> Result<T> {
    Map::from_map_data(map).and_then(T::try_from).with_context(|| wrong_layout(name))
}

fn wrong_layout(name: &str) -> String {
    format!("the pinned map {name} is not laid out as this version expects")
}
