//! What is looked at every few seconds.

use std::{fmt, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use defender_common::abi::{KeySlot, map};
use defender_maps::Slots;
use defender_testbed::controller::Controller;
use serde_json::Value;

/// The controller and its maps at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Since the beginning.
    pub(crate) at: Duration,
    /// Resident memory of the controller, in bytes.
    pub(crate) memory: u64,
    /// Its open files.
    pub(crate) descriptors: u64,
    /// Connections in the flow table.
    pub(crate) flows: u64,
    /// Packets so far.
    pub(crate) packets: u64,
    /// SYNs challenged so far.
    pub(crate) challenged: u64,
    /// Keys drawn so far.
    pub(crate) keys: u64,
}

impl Sample {
    /// Above the lines.
    pub(crate) const HEADER: &str =
        "  time   memory  files   flows     packets  challenged  keys     served  failed";

    /// Takes one. Fails where a packet has no verdict, or two.
    pub(crate) fn take(defender: &Controller<'_>, at: Duration) -> Result<Self> {
        let statistics = defender.statistics()?;
        let packets = counter(&statistics, "rx_packets")?;
        let verdicts = statistics["verdicts"].as_object().context("no verdicts")?;
        let sum: u64 = verdicts.values().filter_map(Value::as_u64).sum();
        ensure!(sum == packets, "{packets} packets and {sum} verdicts");
        let states = statistics["states"].as_object().context("no states")?;
        let process = defender.id();
        Ok(Self {
            at,
            memory: memory(process)?,
            descriptors: fs::read_dir(format!("/proc/{process}/fd"))?.count() as u64,
            flows: states.values().filter_map(Value::as_u64).sum(),
            packets,
            challenged: counter(&statistics, "syn_challenged")?,
            keys: keys(defender)?,
        })
    }
}

fn counter(statistics: &Value, name: &str) -> Result<u64> {
    statistics["counters"][name].as_u64().with_context(|| format!("no counter {name}"))
}

fn memory(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}

/// Each key has an epoch, one after the other.
fn keys(defender: &Controller<'_>) -> Result<u64> {
    let maps = defender.pin_root().join("maps");
    let keys = Slots::<[KeySlot; 2]>::open(&maps, map::KEYS)?.get(0)?;
    Ok(keys.iter().map(|key| u64::from(key.epoch)).max().unwrap_or_default())
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>4} s  {:>4.1} MiB  {:>5}  {:>6}  {:>10}  {:>10}  {:>4}",
            self.at.as_secs(),
            self.memory as f64 / f64::from(1 << 20),
            self.descriptors,
            self.flows,
            self.packets,
            self.challenged,
            self.keys,
        )
    }
}
