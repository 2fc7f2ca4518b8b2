//! Typed access to the pinned maps.

use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::{
    Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf, lpm_trie::Key,
};
use defender_common::{
    abi::{self, Plain, map},
    load::{self, Alone, Time},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::dataplane::pins::PinRoot;

/// Lets aya move a [`Plain`] type.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Bytes<T: Plain>(T);

// SAFETY: `Plain` promises that the type is repr(C) without padding and that any bytes are a valid value.
unsafe impl<T: Plain> aya::Pod for Bytes<T> {}

/// How many CPUs there may be.
pub fn possible_cpus() -> Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow!("cannot read {file}: {error}"))?;
    Ok(cpus.try_into().unwrap_or(u32::MAX))
}

fn open(root: &PinRoot, name: &str) -> Result<Map> {
    let pin = root.map(name);
    let data =
        MapData::from_pin(&pin).with_context(|| format!("cannot open the pinned map {}", pin.display()))?;
    Map::from_map_data(data).with_context(|| format!("the pinned map {} is of another kind", pin.display()))
}

fn wrong_layout(name: &str) -> String {
    format!("the pinned map {name} is not laid out as this version expects")
}

/// An array map.
pub struct Slots<T: Plain> {
    name: &'static str,
    array: Array<MapData, Bytes<T>>,
}

impl<T: Plain> Slots<T> {
    fn open(root: &PinRoot, name: &'static str) -> Result<Self> {
        let array = open(root, name)?.try_into().with_context(|| wrong_layout(name))?;
        Ok(Self { name, array })
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
}

/// A per-CPU array map.
pub struct PerCpuSlots<T: Plain> {
    name: &'static str,
    array: PerCpuArray<MapData, Bytes<T>>,
}

impl<T: Plain> PerCpuSlots<T> {
    fn open(root: &PinRoot, name: &'static str) -> Result<Self> {
        let array = open(root, name)?.try_into().with_context(|| wrong_layout(name))?;
        Ok(Self { name, array })
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
        let ring = Ring(open(root, map::EVENTS)?.try_into().with_context(|| wrong_layout(map::EVENTS))?);
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
    pub ports: Slots<abi::Port>,
    /// [`map::ADDRESSES`].
    pub addresses: Addresses,
    /// [`map::SERVICES`].
    pub services: Slots<abi::Service>,
    /// [`map::LEARNT`].
    pub learnt: Slots<abi::Learnt>,
    /// [`map::SERVICE_COUNTERS`].
    pub service_counters: PerCpuSlots<abi::ServiceCounters>,
    /// [`map::SOURCES`].
    pub sources: Slots<abi::Sources>,
    /// [`map::COUNTERS`].
    pub counters: PerCpuSlots<abi::Counters>,
    /// [`map::BUDGET`].
    pub budget: Slots<abi::BudgetLine>,
    /// [`map::TRACE`].
    pub trace: Slots<abi::TraceLine>,
    /// [`map::LOADS`].
    pub loads: Slots<abi::Load>,
    /// [`map::KNOWN`].
    pub known: Slots<abi::KnownPage>,
    /// [`map::PREFIXES`].
    pub prefixes: Prefixes,
}

impl Maps {
    /// Opens the maps pinned below `root`.
    pub fn open(root: &PinRoot) -> Result<Self> {
        Ok(Self {
            config: Slots::open(root, map::CONFIG)?,
            keys: Slots::open(root, map::KEYS)?,
            interfaces: Slots::open(root, map::INTERFACES)?,
            local: Local(open(root, map::LOCAL)?.try_into().with_context(|| wrong_layout(map::LOCAL))?),
            ports: Slots::open(root, map::PORTS)?,
            addresses: Addresses(
                open(root, map::ADDRESSES)?.try_into().with_context(|| wrong_layout(map::ADDRESSES))?,
            ),
            services: Slots::open(root, map::SERVICES)?,
            learnt: Slots::open(root, map::LEARNT)?,
            service_counters: PerCpuSlots::open(root, map::SERVICE_COUNTERS)?,
            sources: Slots::open(root, map::SOURCES)?,
            counters: PerCpuSlots::open(root, map::COUNTERS)?,
            budget: Slots::open(root, map::BUDGET)?,
            trace: Slots::open(root, map::TRACE)?,
            loads: Slots::open(root, map::LOADS)?,
            known: Slots::open(root, map::KNOWN)?,
            prefixes: Prefixes(
                open(root, map::PREFIXES)?.try_into().with_context(|| wrong_layout(map::PREFIXES))?,
            ),
        })
    }

    /// The version that the pinned maps below `root` were made by; none where they were never filled.
    pub fn pinned_version(root: &PinRoot) -> Result<Option<u32>> {
        if !root.map(map::CONFIG).exists() {
            return Ok(None);
        }
        // Read as plain words: another version's Config may be of another size, but begins with its version.
        let config = open(root, map::CONFIG)?;
        let Map::Array(data) = &config else { return Ok(Some(u32::MAX)) };
        let size = data.info().context("cannot look at the pinned map CONFIG")?.value_size();
        if size as usize != size_of::<abi::Config>() {
            return Ok(Some(u32::MAX));
        }
        let version = Slots::<abi::Config>::open(root, map::CONFIG)?.get(0)?.abi_version;
        Ok(Some(version).filter(|version| *version != 0))
    }

    /// How many buckets the flow table has.
    pub fn flow_buckets(root: &PinRoot) -> Result<u32> {
        let Map::Array(data) = open(root, map::FLOWS)? else { bail!(wrong_layout(map::FLOWS)) };
        Ok(data.info().context("cannot look at the pinned map FLOWS")?.max_entries())
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
