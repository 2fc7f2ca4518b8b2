//! Arrays.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData};
use defender_common::abi::Plain;

use crate::{Bytes, pinned, typed};

/// An array map.
pub struct Slots<T: Plain> {
    name: &'static str,
    array: Array<MapData, Bytes<T>>,
}

impl<T: Plain> Slots<T> {
    /// Opens the map `name` pinned in `directory`.
    pub fn open(directory: &Path, name: &'static str) -> Result<Self> {
        Self::of(pinned(directory, name)?, name)
    }

    /// The slots of the map `name`.
    pub fn of(map: MapData, name: &'static str) -> Result<Self> {
        Ok(Self { name, array: typed(map, name)? })
    }

    /// How many slots there are.
    pub fn len(&self) -> u32 {
        self.array.len()
    }

    /// Whether there are no slots.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads a slot.
    pub fn get(&self, index: u32) -> Result<T> {
        let Bytes(value) =
            self.array.get(&index, 0).with_context(|| format!("cannot read {}[{index}]", self.name))?;
        Ok(value)
    }

    /// Writes a slot.
    pub fn set(&mut self, index: u32, value: T) -> Result<()> {
        self.array.set(index, Bytes(value), 0).with_context(|| format!("cannot write {}[{index}]", self.name))
    }

    /// Writes every slot.
    pub fn fill(&mut self, value: T) -> Result<()> {
        (0..self.len()).try_for_each(|index| self.set(index, value))
    }
}
