//! Typed access to the pinned maps.

use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{HashMap, LpmTrie, MapData, MapError, RingBuf, lpm_trie::Key};
use defender_common::{
    abi::{self, map},
    load::{self, Alone, Time},
};
use defender_maps::{Bytes, PerCpuSlots, Slots, Table, open, pinned};
use tokio::io::{Interest, unix::AsyncFd};

use crate::dataplane::pins::PinRoot;

/// How many CPUs there may be.
pub fn possible_cpus() -> Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow!("cannot read {file}: {error}"))?;
    Ok(cpus.try_into().unwrap_or(u32::MAX))
}

/// A prefix of [`Local`] or [`Prefixes`]: 16 bytes, and how many leading bits count.
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

    /// Whether there is none.
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

    /// Adds a prefix, or replaces its bits; its length is noted in them.
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

/// What the datapath reports at once. Only one process may read it.
struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The events of the datapath, as they come.
pub struct Events(AsyncFd<Ring>);

impl Events {
    /// Opens the ring buffer pinned below `root`. To be called within the event loop.
    pub fn open(root: &PinRoot) -> Result<Self> {
        let ring = Ring(open(&root.maps(), map::EVENTS)?);
        // SAFETY: the ring buffer owns its map's descriptor, and neither closes nor changes it while it lives.
        let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        registered.map(Self).context("cannot wait for events of the datapath")
    }

    /// Waits until something is reported, and takes all of it: no more than the buffer holds.
    pub async fn next(&mut self) -> Result<Vec<abi::Event>> {
        let mut ready = self.0.readable_mut().await.context("cannot wait for events of the datapath")?;
        // First, so that what comes while the buffer is read wakes us again.
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
    /// [`map::LEARNT`].
    pub learnt: Slots<abi::Learnt>,
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
    /// [`map::KNOWN`].
    pub known: Table<abi::KnownBytes>,
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
            learnt: Slots::open(maps, map::LEARNT)?,
            service_counters: PerCpuSlots::open(maps, map::SERVICE_COUNTERS)?,
            sources: Table::open(maps, map::SOURCES)?,
            counters: PerCpuSlots::open(maps, map::COUNTERS)?,
            budget: Table::open(maps, map::BUDGET)?,
            trace: Table::open(maps, map::TRACE)?,
            loads: Table::open(maps, map::LOADS)?,
            known: Table::open(maps, map::KNOWN)?,
            prefixes: Prefixes(open(maps, map::PREFIXES)?),
        })
    }

    /// The version that the pinned maps below `root` were made by; none where they were never filled.
    pub fn pinned_version(root: &PinRoot) -> Result<Option<u32>> {
        if !root.map(map::CONFIG).exists() {
            return Ok(None);
        }
        // Another version's settings may be of another size.
        let config = pinned(&root.maps(), map::CONFIG)?;
        let Ok(config) = Slots::<abi::Config>::of(config, map::CONFIG) else { return Ok(Some(u32::MAX)) };
        Ok(Some(config.get(0)?.abi_version).filter(|version| *version != 0))
    }

    /// How many buckets the flow table has.
    pub fn flow_buckets(root: &PinRoot) -> Result<u32> {
        Ok(Slots::<abi::FlowBucket>::open(&root.maps(), map::FLOWS)?.len())
    }

    /// How much a service has to bear, brought to the present as the next packet would.
    pub fn load_at(&self, id: u32, lines: &abi::Lines, cohorts: u32, present: Time) -> Result<abi::Load> {
        let mut load = self.loads.get(id)?;
        load::advance::<Alone>(&mut load, lines, cohorts, present);
        Ok(load)
    }

    /// The sum of `id`'s counters over all CPUs.
    pub fn service_counters(&self, id: u32) -> Result<abi::ServiceCounters> {
        let mut sum = abi::ServiceCounters::default();
        for cpu in self.service_counters.get(id)? {
            sum.syn_received += cpu.syn_received;
            sum.syn_challenged += cpu.syn_challenged;
            sum.ack_accepted += cpu.ack_accepted;
            sum.ack_rejected += cpu.ack_rejected;
            sum.handoff_assigned += cpu.handoff_assigned;
            sum.handoff_failed += cpu.handoff_failed;
            sum.established += cpu.established;
            sum.syn_would_challenge += cpu.syn_would_challenge;
            sum.client_would_challenge += cpu.client_would_challenge;
            sum.stray_acks += cpu.stray_acks;
            sum.stray_rsts += cpu.stray_rsts;
            sum.syn_limited += cpu.syn_limited;
        }
        Ok(sum)
    }

    /// The sum of all counters over all CPUs.
    pub fn counters(&self) -> Result<abi::Counters> {
        let mut sum = abi::Counters::default();
        for cpu in self.counters.get(0)? {
            add(&mut sum.verdicts, &cpu.verdicts);
            add(&mut sum.handoff, &cpu.handoff);
            add(&mut sum.tracked, &cpu.tracked);
        }
        Ok(sum)
    }
}

fn add(sum: &mut [u64], more: &[u64]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum += more;
    }
}
