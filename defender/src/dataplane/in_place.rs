//! Patches the addresses of map values into the object file, so that programs read them without a lookup.
//!
//! The kernel resolves such an address where an instruction names a map and an offset in its value. aya
//! emits these instructions only for global variables. It also initialises those on each load, which would
//! erase the settings of running programs. So the programs load a placeholder number ([`abi::in_place`]),
//! which this module replaces by the address.

use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use aya_obj::Object;
use defender_common::abi;
use defender_maps::pinned;

use crate::dataplane::{
    kfunc::{INSTRUCTION, LOAD_IMMEDIATE_64, program_sections},
    pins::{PinRoot, Rollback},
};

/// `src_reg` of a 64-bit immediate load whose value is an address within a map value.
const PSEUDO_MAP_VALUE: u8 = 2;

/// Replaces every number of [`abi::in_place`] in `object` by the address of its map's value. The maps are
/// pinned below `root`. Keep the returned maps open while loading the programs.
pub fn patch(object: &mut [u8], root: &PinRoot, rollback: &mut Rollback) -> Result<Vec<MapData>> {
    patch_with(object, |object, name| open(object, name, root, rollback))
}

/// The same with unpinned maps.
pub fn patch_unpinned(object: &mut [u8]) -> Result<Vec<MapData>> {
    patch_with(object, create)
}

fn patch_with(
    object: &mut [u8],
    mut map_of: impl FnMut(&[u8], &str) -> Result<MapData>,
) -> Result<Vec<MapData>> {
    let mut maps = Vec::new();
    for (name, number) in abi::in_place::ALL {
        let map = map_of(object, name)?;
        let fd = map.fd().as_fd().as_raw_fd();
        ensure!(replace(object, number, fd)? > 0, "the eBPF object inside this binary does not use {name}");
        maps.push(map);
    }
    Ok(maps)
}

/// The pinned map, created if missing.
fn open(object: &[u8], name: &str, root: &PinRoot, rollback: &mut Rollback) -> Result<MapData> {
    let pin = root.map(name);
    if pin.exists() {
        return pinned(&root.maps(), name);
    }
    let map = create(object, name)?;
    rollback.note(pin.clone());
    map.pin(&pin).with_context(|| format!("cannot pin the map {}", pin.display()))?;
    Ok(map)
}

fn create(object: &[u8], name: &str) -> Result<MapData> {
    let mut object = Object::parse(object).context("the eBPF object inside this binary cannot be read")?;
    let map = object
        .maps
        .remove(name)
        .with_context(|| format!("the eBPF object inside this binary has no {name}"))?;
    MapData::create(map, name, None).with_context(|| format!("cannot make the map {name}"))
}

/// Replaces every load of `number` by a load of the address of the value of map `fd`. Returns the number of
/// replacements.
fn replace(object: &mut [u8], number: u64, fd: RawFd) -> Result<usize> {
    let mut replaced = 0;
    for (offset, size) in program_sections(object)? {
        let code =
            object.get_mut(offset..offset + size).context("a section reaches beyond the object file")?;
        replaced += replace_in(code, number, fd);
    }
    Ok(replaced)
}

fn replace_in(code: &mut [u8], number: u64, fd: RawFd) -> usize {
    let mut replaced = 0;
    let mut slots = code.chunks_exact_mut(INSTRUCTION);
    while let Some(first) = slots.next() {
        if first[0] != LOAD_IMMEDIATE_64 {
            continue;
        }
        let Some(second) = slots.next() else { break };
        if first[1] >> 4 == 0
            && first[4..] == (number as u32).to_ne_bytes()
            && second[4..] == ((number >> 32) as u32).to_ne_bytes()
        {
            first[1] |= PSEUDO_MAP_VALUE << 4;
            first[4..].copy_from_slice(&fd.to_ne_bytes());
            // Offset 0 in the value.
            second[4..].fill(0);
            replaced += 1;
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(src_reg: u8, low: i32, high: i32) -> Vec<u8> {
        let mut code = vec![LOAD_IMMEDIATE_64, src_reg << 4 | 3, 0, 0];
        code.extend(low.to_ne_bytes());
        code.extend([0; 4]);
        code.extend(high.to_ne_bytes());
        code
    }

    #[test]
    fn only_loads_of_the_placeholder_change() {
        let number = 0x0000_0002_0000_0001;
        let others = [load(0, 1, 3), load(0, 2, 2), load(1, 1, 2)].concat();
        let mut code = [others.clone(), load(0, 1, 2)].concat();
        assert_eq!(replace_in(&mut code, number, 7), 1);
        assert_eq!(code, [others, load(PSEUDO_MAP_VALUE, 7, 0)].concat());
    }

    #[test]
    fn the_embedded_object_uses_each_map() {
        for (name, number) in abi::in_place::ALL {
            let mut object = crate::dataplane::OBJECT.to_vec();
            assert!(replace(&mut object, number, 7).expect("readable") > 0, "{name}");
            assert_eq!(replace(&mut object, number, 7).expect("readable"), 0, "{name}");
        }
    }
}
