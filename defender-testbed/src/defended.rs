//! The defender attached to an interface without a controller: its programs and maps, as they are shipped.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{LpmTrie, MapData},
    programs::{ProgramFd, ProgramInfo, loaded_programs},
};
use defender_common::abi::{Counters, Plain, map, program};
use defender_maps::{Entries, PerCpuSlots, Slots, Table, pinned};

use crate::{
    cleanup::{self, Guard},
    controller::fresh_pin_root,
    netns::Namespace,
};

/// Names of programs, as the kernel keeps them, are cut off here.
const NAME_LENGTH: usize = 15;

/// An attached defender; dropping it detaches it.
#[derive(Debug)]
pub struct Defended {
    pins: PathBuf,
    _detach: Guard,
}

/// Memory that a map takes, in bytes.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// The map.
    pub map: &'static str,
    /// Bytes, as the kernel accounts for them.
    pub bytes: u64,
}

impl Defended {
    /// Runs `PROGRAM attach --iface INTERFACE` with more arguments inside the namespace.
    pub fn attach(
        namespace: &Namespace,
        program: &Path,
        interface: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        let program = program.canonicalize().with_context(|| format!("there is no {}", program.display()))?;
        let pins = fresh_pin_root();
        let command = || -> Result<_> {
            let mut command = namespace.command(&program)?;
            command.arg("--pin-root").arg(&pins);
            Ok(command)
        };
        let mut detach = command()?;
        detach.arg("detach");
        let left = pins.clone();
        let guard = Guard::new(move || {
            let _ = detach.output();
            cleanup::remove_pins(&left);
        });
        let output = command()?.args(["attach", "--iface", interface]).args(arguments).output()?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the defender does not attach: {}", complaint.trim());
        Ok(Self { pins, _detach: guard })
    }

    /// One of its arrays.
    pub fn slots<T: Plain>(&self, name: &'static str) -> Result<Slots<T>> {
        Slots::open(&self.maps(), name)
    }

    /// One of its tables.
    pub fn table<A: Entries>(&self, name: &'static str) -> Result<Table<A>> {
        Table::open(&self.maps(), name)
    }

    /// The lists of prefixes.
    pub fn prefixes(&self) -> Result<LpmTrie<MapData, [u8; 16], u32>> {
        defender_maps::open(&self.maps(), map::PREFIXES)
    }

    /// Its counters, the sum of all processors.
    pub fn counters(&self) -> Result<Counters> {
        let counters = PerCpuSlots::<Counters>::open(&self.maps(), map::COUNTERS)?;
        let mut sum = Counters::default();
        for cpu in counters.get(0)? {
            for (sum, count) in sum.verdicts.iter_mut().zip(cpu.verdicts) {
                *sum += count;
            }
        }
        Ok(sum)
    }

    /// The XDP program.
    pub fn xdp(&self) -> Result<ProgramFd> {
        let programs = self.programs()?;
        let xdp = programs.iter().find(|info| is_called(info, program::XDP));
        Ok(xdp.context("the defender's XDP program is not loaded")?.fd()?)
    }

    /// How many instructions the verifier walked for each program.
    pub fn verified_instructions(&self) -> Result<Vec<(&'static str, u32)>> {
        let names = [
            program::XDP,
            program::XDP_SKB,
            program::HANDOFF,
            program::CONNTRACK,
            program::EGRESS,
            program::SOCK_STATE,
            program::SOCKETS,
            program::FLOWS,
        ];
        let programs = self.programs()?;
        let count = |name| {
            let info = programs.iter().find(|info| is_called(info, name))?;
            Some((name, info.verified_instruction_count()?))
        };
        Ok(names.into_iter().filter_map(count).collect())
    }

    /// What its maps take.
    pub fn footprint(&self) -> Result<Vec<Footprint>> {
        map::ALL
            .into_iter()
            .map(|map| Ok(Footprint { map, bytes: memory(&pinned(&self.maps(), map)?)? }))
            .collect()
    }

    /// The programs that use its settings.
    fn programs(&self) -> Result<Vec<ProgramInfo>> {
        let config = pinned(&self.maps(), map::CONFIG)?.info()?.id();
        // Others load and unload programs meanwhile; what is gone is none of ours.
        let all = loaded_programs().filter_map(Result::ok);
        Ok(all
            .filter(|info| info.map_ids().ok().flatten().is_some_and(|ids| ids.contains(&config)))
            .collect())
    }

    /// Where its maps are pinned.
    pub fn maps(&self) -> PathBuf {
        self.pins.join("maps")
    }
}

/// Whether this program has this name, as far as the kernel keeps names.
fn is_called(info: &ProgramInfo, name: &str) -> bool {
    info.name_as_str().is_some_and(|short| short == &name[..name.len().min(NAME_LENGTH)])
}

/// What the kernel says a map takes (`memlock` in its fdinfo).
fn memory(map: &MapData) -> Result<u64> {
    let fd = map.fd().as_fd().as_raw_fd();
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let line =
        about.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock in fdinfo")?;
    Ok(line.trim().parse()?)
}
