//! The counters of all services, in one system call: one for each service costs more than all else that a scrape reads.

use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use defender_common::abi::{SERVICE_SLOTS, ServiceCounters, map};
use defender_maps::pinned;

use crate::dataplane::{bpf, maps::possible_cpus, pins::PinRoot};

/// `BPF_MAP_LOOKUP_BATCH` (include/uapi/linux/bpf.h, `enum bpf_cmd`).
const MAP_LOOKUP_BATCH: u32 = 24;
/// How many counters a service has.
const COUNTERS: usize = ServiceCounters::ALL.len();

/// `union bpf_attr` for commands on several entries of a map.
#[repr(C)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// [`map::SERVICE_COUNTERS`], as a whole.
pub struct AllServiceCounters {
    map: MapData,
    cpus: usize,
}

impl AllServiceCounters {
    /// Opens the map pinned below `root`.
    pub fn open(root: &PinRoot) -> Result<Self> {
        let map = pinned(&root.maps(), map::SERVICE_COUNTERS)?;
        let info = map.info()?;
        let is_ours =
            info.value_size() as usize == size_of::<ServiceCounters>() && info.max_entries() == SERVICE_SLOTS;
        ensure!(is_ours, "the pinned map {} is not laid out as this version expects", map::SERVICE_COUNTERS);
        Ok(Self { map, cpus: possible_cpus()? as usize })
    }

    /// The sums over all CPUs, by the services' ids.
    pub fn read(&self) -> Result<Vec<ServiceCounters>> {
        let slots = SERVICE_SLOTS as usize;
        // The kernel rounds a CPU's value up to eight bytes: it has as many already.
        let mut values = vec![[0_u64; COUNTERS]; slots * self.cpus];
        let mut keys = vec![0_u32; slots];
        let mut next = 0_u32;
        let mut batch = MapBatch {
            in_batch: 0,
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: SERVICE_SLOTS,
            map_fd: self.map.fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        bpf::command(MAP_LOOKUP_BATCH, &mut batch)
            .with_context(|| format!("cannot read {}", map::SERVICE_COUNTERS))?;
        ensure!(batch.count == SERVICE_SLOTS, "{} is cut short", map::SERVICE_COUNTERS);
        Ok(values.chunks_exact(self.cpus).map(sum).collect())
    }
}

fn sum(cpus: &[[u64; COUNTERS]]) -> ServiceCounters {
    let mut sum = ServiceCounters::default();
    cpus.iter().for_each(|cpu| sum.add(&ServiceCounters::of(*cpu)));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_all_cpus_are_summed() {
        let [mut first, mut second] = [[0; COUNTERS]; 2];
        (first[0], second[0], second[COUNTERS - 1]) = (1, 2, 5);
        let sum = sum(&[first, second]);
        assert_eq!((sum.syn_received, sum.refused_other), (3, 5));
    }
}
