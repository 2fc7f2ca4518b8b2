//! Typed access to the pinned maps.

use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{HashMap, LpmTrie, MapData, MapError, RingBuf, lpm_trie::Key};
use defender_common::{
    abi::{self, map},
    load::{self, Alone, Time},
    shared::Shared,
};
use defender_maps::{Bytes, PerCpuSlots, Slots, Table, open, pinned};
use tokio::io::{Interest, unix::AsyncFd};

use crate::dataplane::pins::PinRoot;

/// The maximum number of CPUs.
pub fn possible_cpus() -> Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow!("cannot read {file}: {error}"))?;
    Ok(cpus.try_into().unwrap_or(u32::MAX))
}

/// A prefix in [`Local`] or [`Prefixes`]: 16 bytes, and the number of leading bits.
pub type Prefix = ([u8; 16], u32);

/// The addresses of this host.
pub struct Local(LpmTrie<MapData, [u8; 16], u32>);

impl Local {
    /// Every prefix.
    pub fn all(&self) -> Result<Vec<Prefix>> {
        let keys = self.0.keys().map(|key| key.map(|key| (key.data(), key.prefix_len())));
        keys.collect::<Result<_, MapError>>().context("cannot read LOCAL")
    }

    /// Adds a prefix.
    pub fn insert(&mut self, (address, bits): Prefix) -> Result<()> {
        self.0.insert(&Key::new(bits, address), 1, 0).context("cannot write LOCAL")
    }

    /// Removes a prefix.
    pub fn remove(&mut self, (address, bits): Prefix) -> Result<()> {
        ignore_missing(self.0.remove(&Key::new(bits, address))).context("cannot write LOCAL")
    }
}

/// The prefixes on the lists, each with `PREFIX_*` bits.
pub struct Prefixes(LpmTrie<MapData, [u8; 16], u32>);

impl Prefixes {
    /// Every prefix and its bits. A million take about two seconds.
    pub fn all(&self) -> Result<Vec<(Prefix, u32)>> {
        let entries =
            self.0.iter().map(|entry| entry.map(|(key, bits)| ((key.data(), key.prefix_len()), bits)));
        entries.collect::<Result<_, MapError>>().context("cannot read PREFIXES")
    }

    /// Whether there are no prefixes.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.0.keys().next().transpose().context("cannot read PREFIXES")?.is_none())
    }

    /// The bits of the longest prefix that covers an address, as the datapath looks it up.
    pub fn longest(&self, address: [u8; 16]) -> Result<Option<u32>> {
        self.covering((address, 128))
    }

    /// The bits of exactly this prefix.
    pub fn get(&self, prefix: Prefix) -> Result<Option<u32>> {
        Ok(self.covering(prefix)?.filter(|bits| bits >> abi::PREFIX_LENGTH_SHIFT == prefix.1))
    }

    /// The bits of the longest prefix that covers this one.
    fn covering(&self, (address, length): Prefix) -> Result<Option<u32>> {
        match self.0.get(&Key::new(length, address), 0) {
            Ok(bits) => Ok(Some(bits)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("cannot read PREFIXES"),
        }
    }

    /// Adds a prefix or replaces its bits, which also record its length.
    pub fn insert(&mut self, (address, length): Prefix, bits: u32) -> Result<()> {
        let bits = bits | length << abi::PREFIX_LENGTH_SHIFT;
        self.0.insert(&Key::new(length, address), bits, 0).context("cannot write PREFIXES")
    }

    /// Removes a prefix.
    pub fn remove(&mut self, (address, length): Prefix) -> Result<()> {
        ignore_missing(self.0.remove(&Key::new(length, address))).context("cannot write PREFIXES")
    }
}

/// The services bound to an address.
pub struct Addresses(HashMap<MapData, Bytes<abi::ServiceKey>, u32>);

impl Addresses {
    /// Every entry.
    pub fn all(&self) -> Result<Vec<(abi::ServiceKey, u32)>> {
        let entries = self.0.iter().map(|entry| entry.map(|(Bytes(key), id)| (key, id)));
        entries.collect::<Result<_, MapError>>().context("cannot read ADDRESSES")
    }

    /// Adds or replaces an entry.
    pub fn insert(&mut self, key: abi::ServiceKey, id: u32) -> Result<()> {
        self.0.insert(Bytes(key), id, 0).context("cannot write ADDRESSES")
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: abi::ServiceKey) -> Result<()> {
        ignore_missing(self.0.remove(&Bytes(key))).context("cannot write ADDRESSES")
    }
}

fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(MapError::KeyNotFound) => Ok(()),
        result => result,
    }
}

/// Events that the datapath reports at once. Only one process may read them.
struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The datapath's events, in order.
pub struct Events(AsyncFd<Ring>);

impl Events {
    /// Opens the ring buffer pinned below `root`. Call it within the event loop.
    pub fn open(root: &PinRoot) -> Result<Self> {
        let ring = Ring(open(&root.maps(), map::EVENTS)?);
        // SAFETY: the ring buffer owns its map's descriptor, and neither closes nor changes it while it lives.
        let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        registered.map(Self).context("cannot wait for events of the datapath")
    }

    /// Waits for events and takes all of them, at most one full buffer.
    pub async fn next(&mut self) -> Result<Vec<abi::Event>> {
        let mut ready = self.0.readable_mut().await.context("cannot wait for events of the datapath")?;
        // First, so that events that arrive while the buffer is read wake us again.
        ready.clear_ready();
        let ring = ready.get_inner_mut();
        let mut events = Vec::new();
        while let Some(item) = ring.0.next() {
            events.extend(parse_event(&item));
        }
        Ok(events)
    }
}

fn parse_event(bytes: &[u8]) -> Option<abi::Event> {
    let mut words =
        bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    Some(abi::Event { kind: words.next()?, subject: words.next()?, detail: words.next()?, at: words.next()? })
}

/// Every map that the controller and the reports use, except [`Events`].
pub struct Maps {
    /// [`map::CONFIG`].
    pub config: Slots<abi::Config>,
    /// [`map::KEYS`].
    pub keys: Slots<abi::Keys>,
    /// [`map::INTERFACES`].
    pub interfaces: Slots<abi::Interfaces>,
    /// [`map::LOCAL`].
    pub local: Local,
    /// [`map::PORTS`].
    pub ports: Table<abi::Ports>,
    /// [`map::ADDRESSES`].
    pub addresses: Addresses,
    /// [`map::SERVICES`].
    pub services: Table<abi::Services>,
    /// [`map::SERVICE_COUNTERS`].
    pub service_counters: PerCpuSlots<abi::ServiceCounters>,
    /// [`map::SOURCES`].
    pub sources: Table<abi::SourcesOfServices>,
    /// [`map::COUNTERS`].
    pub counters: PerCpuSlots<abi::Counters>,
    /// [`map::BUDGET`].
    pub budget: Table<abi::BudgetLines>,
    /// [`map::TRACE`].
    pub trace: Table<abi::TraceLines>,
    /// [`map::LOADS`].
    pub loads: Table<abi::Loads>,
    /// [`map::VALID_SOURCES`].
    pub known: Table<abi::ValidSourceBytes>,
    /// [`map::PREFIXES`].
    pub prefixes: Prefixes,
}

impl Maps {
    /// Opens the maps pinned below `root`.
    pub fn open(root: &PinRoot) -> Result<Self> {
        let maps = &root.maps();
        Ok(Self {
            config: Slots::open(maps, map::CONFIG)?,
            keys: Slots::open(maps, map::KEYS)?,
            interfaces: Slots::open(maps, map::INTERFACES)?,
            local: Local(open(maps, map::LOCAL)?),
            ports: Table::open(maps, map::PORTS)?,
            addresses: Addresses(open(maps, map::ADDRESSES)?),
            services: Table::open(maps, map::SERVICES)?,
            service_counters: PerCpuSlots::open(maps, map::SERVICE_COUNTERS)?,
            sources: Table::open(maps, map::SOURCES)?,
            counters: PerCpuSlots::open(maps, map::COUNTERS)?,
            budget: Table::open(maps, map::BUDGET)?,
            trace: Table::open(maps, map::TRACE)?,
            loads: Table::open(maps, map::LOADS)?,
            known: Table::open(maps, map::VALID_SOURCES)?,
            prefixes: Prefixes(open(maps, map::PREFIXES)?),
        })
    }

    /// The version that created the maps pinned below `root`, or `None` if they were never filled.
    pub fn pinned_version(root: &PinRoot) -> Result<Option<u32>> {
        if !root.map(map::CONFIG).exists() {
            return Ok(None);
        }
        // Another version's settings may differ in size.
        let config = pinned(&root.maps(), map::CONFIG)?;
        let Ok(config) = Slots::<abi::Config>::of(config, map::CONFIG) else { return Ok(Some(u32::MAX)) };
        Ok(Some(config.get(0)?.abi_version).filter(|version| *version != 0))
    }

    /// How many buckets the flow table has.
    pub fn flow_buckets(root: &PinRoot) -> Result<u32> {
        Ok(Slots::<abi::FlowBucket>::open(&root.maps(), map::FLOWS)?.len())
    }

    /// A service's load, brought up to date as the next packet would.
    pub fn load_at(
        &self,
        id: u32,
        triggers: &abi::TriggerLimits,
        age_buckets: u32,
        present: Time,
    ) -> Result<abi::Load> {
        let mut copy = self.loads.get(id)?;
        let load = Shared::from_mut(&mut copy);
        load::advance::<Alone>(load, triggers, age_buckets, present);
        load::forget_cookies(load, present.ms);
        Ok(copy)
    }

    /// The sum of `id`'s counters over all CPUs.
    pub fn service_counters(&self, id: u32) -> Result<abi::ServiceCounters> {
        let mut sum = abi::ServiceCounters::default();
        self.service_counters.get(id)?.iter().for_each(|cpu| sum.add(cpu));
        Ok(sum)
    }

    /// The sum of all counters over all CPUs.
    pub fn counters(&self) -> Result<abi::Counters> {
        let mut sum = abi::Counters::default();
        self.counters.get(0)?.iter().for_each(|cpu| sum.add(cpu));
        Ok(sum)
    }
}
