//! Maps whose only value is an array.

use std::{marker::PhantomData, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{MapData, MapInfo, MapType};
use defender_common::abi::Plain;
use memmap2::{MmapOptions, MmapRaw};

use crate::{pinned, wrong_layout};

/// A mapping begins at a multiple of this, on every architecture.
const PAGE: usize = 4096;

/// The type of a table: an array, such as [`defender_common::abi::Ports`].
pub trait Entries {
    /// The type of its entries.
    type Entry: Plain;
    /// The number of entries.
    const LEN: u32;
}

impl<T: Plain, const N: usize> Entries for [T; N] {
    type Entry = T;
    const LEN: u32 = {
        assert!(N <= u32::MAX as usize);
        N as u32
    };
}

/// The array in a map's only value, mapped into memory.
///
/// If programs or other processes write an entry while it is read, the result may be part old and part new.
/// A copy by a system call has the same limitation.
pub struct Table<A: Entries> {
    name: &'static str,
    mapping: MmapRaw,
    array: PhantomData<A>,
}

impl<A: Entries> Table<A> {
    /// Size of all entries, in bytes.
    const SIZE: usize = {
        assert!(align_of::<A::Entry>() <= PAGE);
        A::LEN as usize * size_of::<A::Entry>()
    };

    /// Opens the map `name` pinned in `directory`.
    pub fn open(directory: &Path, name: &'static str) -> Result<Self> {
        Self::of(&pinned(directory, name)?, name)
    }

    /// The table in the map `name`. The map lives as long as the table.
    pub fn of(map: &MapData, name: &'static str) -> Result<Self> {
        let info = map.info().with_context(|| format!("cannot look at the pinned map {name}"))?;
        ensure!(Self::fits(&info), wrong_layout(name));
        let mapping = MmapOptions::new()
            .len(Self::SIZE)
            .map_raw(&map.fd().as_fd())
            .with_context(|| format!("cannot map the pinned map {name} into memory"))?;
        Ok(Self { name, mapping, array: PhantomData })
    }

    /// Whether the map's only value is such an array.
    fn fits(map: &MapInfo) -> bool {
        matches!(map.map_type(), Ok(MapType::Array))
            && map.max_entries() == 1
            && map.value_size() as usize == Self::SIZE
    }

    /// How many entries there are.
    pub fn len(&self) -> u32 {
        A::LEN
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads an entry.
    pub fn get(&self, index: u32) -> Result<A::Entry> {
        let entry = self.entry(index).with_context(|| format!("cannot read {}[{index}]", self.name))?;
        // SAFETY: `entry` returns the address of an aligned entry in memory that stays mapped while `self`
        // lives; any bytes are a valid value. Volatile, since programs and other processes write it
        // meanwhile.
        Ok(unsafe { entry.read_volatile() })
    }

    /// Writes an entry.
    pub fn set(&mut self, index: u32, value: A::Entry) -> Result<()> {
        let entry = self.entry(index).with_context(|| format!("cannot write {}[{index}]", self.name))?;
        // SAFETY: as in `get`, and the memory is mapped for writing. Volatile, since programs and other processes read it.
        unsafe { entry.write_volatile(value) };
        Ok(())
    }

    /// Writes every entry.
    pub fn fill(&mut self, value: A::Entry) -> Result<()> {
        (0..self.len()).try_for_each(|index| self.set(index, value))
    }

    /// An entry's address. It is within the mapping, and aligned, since the mapping begins at a page.
    fn entry(&self, index: u32) -> Result<*mut A::Entry> {
        ensure!(index < self.len(), "it has {} entries", self.len());
        Ok(self.mapping.as_mut_ptr().cast::<A::Entry>().wrapping_add(index as usize))
    }
}

#[cfg(test)]
mod tests {
    use aya::maps::{Array, Map};
    use defender_common::abi::{Port, ServiceKey};

    use super::*;

    const ARRAY: u32 = 2;
    const PERCPU_ARRAY: u32 = 6;
    /// `BPF_F_MMAPABLE`.
    const MAPPED: u32 = 1 << 10;
    const LEN: usize = 300;

    type Ports = [Port; LEN];

    /// A new map.
    fn map(kind: u32, value_size: usize, values: u32, flags: u32) -> MapData {
        let map = aya_obj::Map::new_from_params(kind, 4, value_size as u32, values, flags);
        MapData::create(map, "table", None).expect("a new map needs root")
    }

    /// The table as system calls access it.
    fn by_system_call(map: &MapData) -> Array<MapData, [[u8; size_of::<Port>()]; LEN]> {
        let id = map.info().expect("there is such a map").id();
        let again = MapData::from_id(id).expect("there is such a map");
        Map::from_map_data(again).expect("known").try_into().expect("an array of that size")
    }

    fn port(number: u16) -> Port {
        Port { wildcard4: number, bound_address: [number.into(); 4], ..Port::default() }
    }

    #[test]
    fn mapping_and_system_calls_agree() {
        let map = map(ARRAY, size_of::<Ports>(), 1, MAPPED);
        let mut table = Table::<Ports>::of(&map, "PORTS").expect("it fits");
        let mut array = by_system_call(&map);
        assert_eq!(table.len() as usize, LEN);
        // The first entry, one that crosses a page boundary, the last.
        for index in [0, 170, LEN - 1] {
            table.set(index as u32, port(0x0101)).expect("within");
            let mut value = array.get(&0, 0).expect("readable");
            let written: Vec<_> = (0..LEN).filter(|at| value[*at] != [0; size_of::<Port>()]).collect();
            assert_eq!(written, [index]);
            assert_eq!(table.get(index as u32).expect("within"), port(0x0101));

            value[index].fill(2);
            array.set(0, value, 0).expect("writable");
            assert_eq!(table.get(index as u32).expect("within").wildcard4, 0x0202);
            table.fill(Port::default()).expect("writable");
            assert_eq!(array.get(&0, 0).expect("readable"), [[0; size_of::<Port>()]; LEN]);
        }
    }

    #[test]
    fn a_table_outlives_the_descriptor_and_is_shared() {
        let map = map(ARRAY, size_of::<Ports>(), 1, MAPPED);
        let [mut one, other] = [(); 2].map(|()| Table::<Ports>::of(&map, "PORTS").expect("it fits"));
        drop(map);
        one.set(7, port(9)).expect("within");
        assert_eq!(other.get(7).expect("within"), port(9));
    }

    #[test]
    fn there_is_nothing_beyond_the_end() {
        let map = map(ARRAY, size_of::<Ports>(), 1, MAPPED);
        let mut table = Table::<Ports>::of(&map, "PORTS").expect("it fits");
        let beyond = LEN as u32;
        let complaints = [table.get(beyond).map(drop), table.set(u32::MAX, port(1))]
            .map(|result| format!("{:#}", result.expect_err("there is none")));
        assert_eq!(
            complaints,
            [
                "cannot read PORTS[300]: it has 300 entries",
                "cannot write PORTS[4294967295]: it has 300 entries"
            ]
        );
    }

    #[test]
    fn maps_of_another_layout_are_refused() {
        let size = size_of::<Ports>();
        for (what, map) in [
            ("another version's", map(ARRAY, size_of::<Port>(), LEN as u32, 0)),
            ("an entry less", map(ARRAY, size - size_of::<Port>(), 1, MAPPED)),
            ("a byte more", map(ARRAY, size + 1, 1, MAPPED)),
            ("two values", map(ARRAY, size, 2, MAPPED)),
            ("of each CPU", map(PERCPU_ARRAY, size, 1, 0)),
        ] {
            let complaint = Table::<Ports>::of(&map, "PORTS").map(drop).expect_err(what).to_string();
            assert_eq!(complaint, "the pinned map PORTS is not laid out as this version expects", "{what}");
        }
        let unmapped = map(ARRAY, size, 1, 0);
        assert!(Table::<Ports>::of(&unmapped, "PORTS").is_err());
        let map = map(ARRAY, size, 1, MAPPED);
        assert!(Table::<[ServiceKey; LEN]>::of(&map, "ADDRESSES").is_err());
    }
}
