//! How costs grow with the defender's state, and its memory use.

use std::{collections::HashSet, panic, path::Path, sync::Barrier, thread};

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::Key;
use defender_common::abi::{self, PREFIX_DENY, PREFIX_FROM_FILE};
use defender_testbed::{abi::Orders, cpu, defended::Footprint, meter::Meter, topology::Topology};

use super::{
    cases::{CASES, Case},
    field::{self, Field},
    packets::{self, Cost, MANY},
};

/// Capacity of the growing environment's flow table.
pub(super) const MOST_FLOWS: u32 = 1 << 22;
const FLOWS: [u32; 5] = [1, 1 << 10, 1 << 16, 1 << 20, MOST_FLOWS];
const SERVICES: [u32; 3] = [1, 100, 1000];
const PREFIXES: [u32; 5] = [0, 1, 1_000, 100_000, 1_000_000];
const RUNS: u32 = 20;
/// Packets of a run on several processors at once. It is long, so that the runs overlap.
const LONG: u32 = 400_000;
const LONG_RUNS: u32 = 5;

/// How the cost of one kind of packet grows with a quantity.
#[derive(Clone, Debug)]
pub(super) struct Growth {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) points: Vec<(f64, Cost)>,
}

/// All results about growth.
#[derive(Clone, Debug)]
pub(super) struct Grown {
    pub(super) costs: Vec<Growth>,
    pub(super) memory: MemoryUse,
}

/// Memory use of the maps, in bytes.
#[derive(Clone, Debug)]
pub(super) struct MemoryUse {
    /// Each map at start.
    pub(super) at_start: Vec<Footprint>,
    /// Per additional connection in the table's capacity.
    pub(super) per_flow: f64,
    /// Per prefix.
    pub(super) per_prefix: f64,
}

/// Measures all of it, and passes a message about each step to `tell`.
pub(super) fn measure(bed: &Topology, program: &Path, tell: impl Fn(&str)) -> Result<Grown> {
    tell("memory at start");
    let default = Field::new(bed, program, &[])?;
    let flows = default.flow_room();
    let at_start = default.defended.footprint()?;
    drop(default);

    let mut field = Field::new(bed, program, &["--flows", &MOST_FLOWS.to_string()])?;
    let table = |maps: &[Footprint]| bytes_of(maps, abi::map::FLOWS) as f64;
    let per_flow =
        (table(&field.defended.footprint()?) - table(&at_start)) / f64::from(field.flow_room() - flows);
    let mut meter = field::meter(bed, None, true)?;
    meter.set_program(&field.defended.xdp()?)?;

    tell("flows");
    let flows = by_flows(&mut field, &mut meter)?;
    tell("services");
    let services = by_services(&mut field, &mut meter)?;
    drop(meter);
    tell("processors");
    let processors = by_processors(bed, &mut field)?;
    let mut meter = field::meter(bed, None, true)?;
    meter.set_program(&field.defended.xdp()?)?;
    tell("prefixes");
    let (prefixes, per_prefix) = by_prefixes(&mut field, &mut meter)?;
    let costs = vec![flows, services, prefixes, processors];
    Ok(Grown { costs, memory: MemoryUse { at_start, per_flow, per_prefix } })
}

fn by_flows(field: &mut Field, meter: &mut Meter<'_>) -> Result<Growth> {
    let case = case("data_attacked")?;
    let points = FLOWS.into_iter().map(|flows| {
        let cost = case.measure(field, meter, RUNS, Some(flows))?;
        Ok((f64::from(flows), cost))
    });
    let points = points.collect::<Result<_>>()?;
    Ok(Growth { name: "flows", title: "data while mitigating, by connections in the table", points })
}

fn by_services(field: &mut Field, meter: &mut Meter<'_>) -> Result<Growth> {
    let case = case("syn")?;
    let points = SERVICES.into_iter().map(|services| {
        let mut orders = case.prepare(field, meter, MANY)?;
        field.add_services(services)?;
        orders.services = services;
        Ok((f64::from(services), packets::cost(meter, &orders, RUNS)?))
    });
    let points = points.collect::<Result<_>>()?;
    Ok(Growth { name: "services", title: "SYN → SYN-ACK, by services that it is for", points })
}

/// Half of the prefixes are spread anywhere, half among the flood's own sources. None of the latter is
/// denied.
fn by_prefixes(field: &mut Field, meter: &mut Meter<'_>) -> Result<(Growth, f64)> {
    let case = case("syn")?;
    let mut map = field.defended.prefixes()?;
    let empty = bytes_of(&field.defended.footprint()?, abi::map::PREFIXES);
    let mut source = RandomPrefixes::default();
    let mut points = Vec::new();
    let mut held = 0;
    for count in PREFIXES {
        for _ in held..count {
            let (address, value) = source.next();
            map.insert(&Key::new(128, abi::mapped(address.to_be_bytes())), value, 0)?;
        }
        held = count;
        let orders = case.prepare(field, meter, MANY)?;
        if count > 0 {
            field.use_prefixes()?;
        }
        points.push((f64::from(count), packets::cost(meter, &orders, RUNS)?));
    }
    let full = bytes_of(&field.defended.footprint()?, abi::map::PREFIXES);
    let per_prefix = (full - empty) as f64 / f64::from(held);
    Ok((Growth { name: "prefixes", title: "SYN → SYN-ACK, by prefixes on lists", points }, per_prefix))
}

/// All processors receive SYNs at once, each measured by its own meter.
fn by_processors(bed: &Topology, field: &mut Field) -> Result<Growth> {
    let case = case("syn_auto")?;
    let mut points = Vec::new();
    for count in 1..=cpu::count() {
        let program = field.defended.xdp()?;
        let mut meters =
            (0..count).map(|cpu| field::meter(bed, Some(cpu), false)).collect::<Result<Vec<_>>>()?;
        meters.iter_mut().try_for_each(|meter| meter.set_program(&program))?;
        let orders = case.prepare(field, &mut meters[0], MANY)?;
        points.push((count as f64, at_once(&mut meters, &orders)?));
    }
    Ok(Growth { name: "processors", title: "SYN → SYN-ACK, auto, by processors at once", points })
}

/// The median processor's result.
fn at_once(meters: &mut [Meter<'_>], orders: &Orders) -> Result<Cost> {
    let barrier = Barrier::new(meters.len());
    let together = || {
        barrier.wait();
    };
    let mut costs = thread::scope(|scope| {
        let one = |meter| {
            let together = &together;
            scope.spawn(move || {
                together();
                packets::cost_of_runs(meter, orders, LONG, LONG_RUNS, together)
            })
        };
        let threads: Vec<_> = meters.iter_mut().map(one).collect();
        let costs = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
        costs.collect::<Result<Vec<_>>>()
    })?;
    costs.sort_by(|a, b| a.net.median.total_cmp(&b.net.median));
    let middle = costs.len() / 2;
    costs.get(middle).copied().context("no processor")
}

fn case(name: &str) -> Result<Case> {
    CASES.into_iter().find(|case| case.name == name).with_context(|| format!("no case {name}"))
}

fn bytes_of(maps: &[Footprint], name: &str) -> u64 {
    maps.iter().filter(|map| map.map == name).map(|map| map.bytes).sum()
}

/// Single-address prefixes, all different.
#[derive(Default)]
struct RandomPrefixes {
    random: u64,
    taken: HashSet<u32>,
}

impl RandomPrefixes {
    /// An address and its list bits.
    fn next(&mut self) -> (u32, u32) {
        const FLOOD: u32 = 0xc612_0000;
        loop {
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let random = (self.random >> 32) as u32;
            let near = self.random & 1 << 31 != 0 && self.taken.len() < 1 << 16;
            let address = if near { FLOOD | random & 0xffff } else { random };
            let value = if address >> 17 == FLOOD >> 17 { PREFIX_FROM_FILE } else { PREFIX_DENY };
            if self.taken.insert(address) {
                return (address, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_differ_and_never_deny_the_flood() {
        let mut prefixes = RandomPrefixes::default();
        let all: Vec<_> = (0..10_000).map(|_| prefixes.next()).collect();
        assert_eq!(all.iter().map(|(address, _)| address).collect::<HashSet<_>>().len(), all.len());
        assert!(
            all.iter().all(|(address, value)| (address >> 17 == 0xc612 >> 1) == (*value == PREFIX_FROM_FILE))
        );
        assert!(all.iter().filter(|(_, value)| *value == PREFIX_FROM_FILE).count() > 3_000);
    }
}
