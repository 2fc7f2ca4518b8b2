//! Per-CPU arrays.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use defender_common::abi::Plain;

use crate::Bytes;

/// A per-CPU array map.
pub struct PerCpuSlots<T: Plain> {
    name: &'static str,
    array: PerCpuArray<MapData, Bytes<T>>,
}

impl<T: Plain> PerCpuSlots<T> {
    /// Opens the map `name` pinned in `directory`.
    pub fn open(directory: &Path, name: &'static str) -> Result<Self> {
        Ok(Self { name, array: crate::open(directory, name)? })
    }

    /// The values of all CPUs.
    pub fn get(&self, index: u32) -> Result<Vec<T>> {
        let values =
            self.array.get(&index, 0).with_context(|| format!("cannot read {}[{index}]", self.name))?;
        Ok(values.iter().map(|Bytes(value)| *value).collect())
    }

    /// Sets the value of every CPU.
    pub fn fill(&mut self, index: u32, value: T) -> Result<()> {
        let cpus = self.get(index)?.len();
        let values = PerCpuValues::try_from(vec![Bytes(value); cpus]).context("cannot count the CPUs")?;
        self.array.set(index, values, 0).with_context(|| format!("cannot write {}[{index}]", self.name))
    }
}
