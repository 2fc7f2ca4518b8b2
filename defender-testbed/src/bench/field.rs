//! The environment for measurements: a server with listeners, the released defender attached, and its maps.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use defender_common::{
    abi::{
        CONFIG_PREFIXES, Config, FILTER_LEN, FLOW_ENTRIES, FilterBytes, FlowBucket, HalfOpenBucket,
        HalfOpenBuckets, KeySlot, Keys, Load, Loads, MODE_ALWAYS, MODE_AUTO, MODE_MONITOR, Port, Ports,
        SERVICE_IN_USE, Service, Services, TriggerLimits, ValidCookieBucket, ValidCookieBuckets, map,
    },
    cookie::{Host, Proposal},
    flow::{self, Admitted, FlowEntry},
    half_open,
    load::{MitigationState, Time},
    mitigation::{Level, Trigger},
    presence_filter::{self, Noted},
    profile,
    shared::Shared,
    tcp_state::{State, Track},
    validated_cookies,
    verdict::Reason,
    wire::{address::V4, options::Offer},
};
use defender_maps::{Slots, Table};
use defender_testbed::{
    defended::Defended,
    flood::source_cpu,
    meter::Meter,
    server,
    topology::{CLIENT_INTERFACE, Options, SERVER_INTERFACE, Topology},
};
use nix::time::{ClockId, clock_gettime};

use super::frames::{PORT, SCALE, STAMP, flow4};

/// The measured service.
pub(super) const SERVICE: u32 = 1;
/// How long the presence filter stays enabled, in milliseconds: longer than any measurement.
const FILTER_LASTS: u32 = 3_600_000;
/// The generation of entries in the presence filter and the flow table.
const GENERATION: u32 = 5;

/// Fixed values in place of random numbers.
const LOTS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

/// The service's mode and level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceMode {
    /// Mode `always`.
    Always,
    /// Mode `auto`, not mitigating.
    Normal,
    /// Mode `auto`, level challenge.
    Mitigating,
    /// Mode `monitor`.
    Monitor,
}

/// Which structure shows that the socket table has no entry for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sockets {
    /// The presence filter.
    Filter,
    /// The socket table itself.
    Table,
}

/// The topology. Keep it while measuring.
pub(super) fn topology() -> Result<Topology> {
    Topology::with(&Options { client_end: None, ..Options::default() })
}

/// A meter for the defender's packet costs. The first of several on one topology owns the client's end.
pub(super) fn meter(bed: &Topology, cpu: Option<usize>, first: bool) -> Result<Meter<'_>> {
    let cpu = cpu.or_else(source_cpu).unwrap_or(0);
    Meter::new(&bed.server, SERVER_INTERFACE, cpu, first.then_some((&bed.client, CLIENT_INTERFACE)))
}

/// The attached defender and its configuration.
pub(super) struct Field {
    pub(super) defended: Defended,
    config: Slots<Config>,
    keys: Slots<Keys>,
    services: Table<Services>,
    loads: Table<Loads>,
    ports: Table<Ports>,
    filter: Slots<FilterBytes>,
    flows: Slots<FlowBucket>,
    half_open: Table<HalfOpenBuckets>,
    recent: Table<ValidCookieBuckets>,
    /// The configuration when it was attached.
    begun: Config,
    /// The fixed time, if the clock is stopped.
    stands: Option<Time>,
    _listener: TcpListener,
}

impl Field {
    /// Attaches the defender with additional arguments.
    pub(super) fn new(bed: &Topology, program: &Path, arguments: &[&str]) -> Result<Self> {
        let everywhere = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT);
        let listener = bed.server.run(|| server::listen(everywhere, server::Options::default()))?;
        let defended = Defended::attach(&bed.server, program, SERVER_INTERFACE, arguments)?;
        let config = defended.slots::<Config>(map::CONFIG)?;
        let begun = config.get(0)?;
        Ok(Self {
            config,
            keys: defended.slots(map::KEYS)?,
            services: defended.table(map::SERVICES)?,
            loads: defended.table(map::LOADS)?,
            ports: defended.table(map::PORTS)?,
            filter: defended.slots(map::FILTER)?,
            flows: defended.slots(map::FLOWS)?,
            half_open: defended.table(map::HALF_OPEN)?,
            recent: defended.table(map::VALID_COOKIES)?,
            defended,
            begun,
            stands: None,
            _listener: listener,
        })
    }

    /// Makes runs reproducible. The keys decide which lines of tables a connection uses and are otherwise
    /// random; here they are constant. The time is fixed too, in nanoseconds.
    pub(super) fn fix(&mut self, now: u64) -> Result<()> {
        self.stands = Some(Time::at(now));
        self.begun.secret = LOTS;
        self.begun.table_keys =
            std::array::from_fn(|number| LOTS[number % 2].wrapping_mul(number as u64 * 2 + 1));
        self.config.set(0, self.begun)?;
        let keys = self.keys.get(0)?;
        self.keys.set(0, keys.map(|key| if key.filled == 0 { key } else { KeySlot::new(LOTS, key.epoch) }))
    }

    /// Sets the service's mode and level, and which structure knows the sockets. No limit and no trigger
    /// level is ever reached.
    pub(super) fn enter(&mut self, mode: ServiceMode, sockets: Sockets) -> Result<()> {
        let now = self.stands.map_or_else(clock, Ok)?;
        self.config.set(
            0,
            Config {
                // So few that they are negligible beside the dropped ones.
                out_of_state_budget: 1,
                filter_newest: GENERATION,
                filter_oldest: GENERATION,
                filter_until: if sockets == Sockets::Filter { (now.ms + FILTER_LASTS) | 1 } else { 0 },
                flags: self.begun.flags & !CONFIG_PREFIXES,
                ..self.begun
            },
        )?;
        let service = Service {
            mode: match mode {
                ServiceMode::Always => MODE_ALWAYS,
                ServiceMode::Normal | ServiceMode::Mitigating => MODE_AUTO,
                ServiceMode::Monitor => MODE_MONITOR,
            },
            flags: SERVICE_IN_USE,
            triggers: TriggerLimits { min_active: u32::MAX / 4, ..TriggerLimits::default() },
            ..self.services.get(SERVICE)?
        };
        self.services.set(SERVICE, service)?;
        self.loads.set(SERVICE, load(mode, now))
    }

    /// Forgets every connection left by a measurement's packets.
    pub(super) fn forget_connections(&mut self) -> Result<()> {
        self.filter.set(0, [0; FILTER_LEN])?;
        self.recent.fill(ValidCookieBucket::default())?;
        self.half_open.fill(HalfOpenBucket::default())
    }

    /// The same for the first flows only, which are then in this processor's caches.
    pub(super) fn forget_first(&mut self, flows: u32) -> Result<()> {
        let keys = self.begun.table_keys;
        self.filter.set(0, [0; FILTER_LEN])?;
        for (flow, _) in (0..flows).map(flow4) {
            self.recent
                .set(validated_cookies::slot(flow.hash(&keys)).bucket, ValidCookieBucket::default())?;
            self.half_open.set(half_open::slot(flow.hash(&keys)).bucket, HalfOpenBucket::default())?;
        }
        Ok(())
    }

    /// Enters flows in the presence filter and the flow table, as established connections.
    pub(super) fn establish(&mut self, numbers: impl Iterator<Item = u32>) -> Result<()> {
        let config = self.config.get(0)?;
        let mut bytes = [0; FILTER_LEN];
        let buckets: Vec<_> = (0..self.flows.len()).map(|_| Shared::new(FlowBucket::default())).collect();
        for number in numbers {
            let (flow, _) = flow4(number);
            bytes[presence_filter::place(flow.hash(&config.table_keys))] =
                presence_filter::noted(&config, Noted::Established);
            insert(&buckets, flow.hash(&config.table_keys), &config);
        }
        self.filter.set(0, bytes)?;
        let buckets = buckets.iter().map(Shared::get);
        let taken = (0..).zip(buckets).filter(|(_, bucket)| bucket.hot.iter().any(|hot| hot.tag != 0));
        taken.into_iter().try_for_each(|(number, bucket)| self.flows.set(number, bucket))
    }

    /// How many connections the flow table has room for.
    pub(super) fn flow_room(&self) -> u32 {
        // Two entries for each connection.
        self.flows.len() * FLOW_ENTRIES as u32 / 2
    }

    /// Forgets established connections.
    pub(super) fn forget_flows(&mut self) -> Result<()> {
        self.flows.fill(FlowBucket::default())
    }

    /// The acknowledgement numbers by which flows prove a cookie, and the matching timestamp echo.
    pub(super) fn answers(
        &self,
        numbers: impl Iterator<Item = u32>,
        interface_mss: u16,
    ) -> Result<(u32, Vec<u32>)> {
        let slot = self.config.get(0)?.key_current & 1;
        let key = self.keys.get(0)?[slot as usize];
        let scale = self.services.get(SERVICE)?.window_scale[slot as usize];
        let host = Host { mss: interface_mss, window_scale: scale };
        let offer = Offer { mss: 1460, window_scale: SCALE, timestamps: true, sack: true, ..Offer::NONE };
        let offer = Offer { timestamp: STAMP, ..offer };
        let index = profile::index(0, &offer, host.mss, scale);
        let proposal = Proposal::new::<V4>(&offer, index, false, host);
        let make = |number| {
            let (flow, sequence) = flow4(number);
            proposal.cookie(&flow, sequence.wrapping_sub(1), slot, &key)
        };
        let answers = numbers.map(|number| make(number).isn.wrapping_add(1)).collect();
        Ok((0x7654_3200 & !0x3f | make(0).timestamp_bits, answers))
    }

    /// Creates services on this many ports, from the first one on. All behave like the first.
    pub(super) fn add_services(&mut self, count: u32) -> Result<()> {
        let (service, load) = (self.services.get(SERVICE)?, self.loads.get(SERVICE)?);
        for id in SERVICE..SERVICE + count {
            self.services.set(id, service)?;
            self.loads.set(id, load)?;
            let port = Port { wildcard4: id as u16, wildcard6: id as u16, ..Port::default() };
            self.ports.set(u32::from(PORT) + id - SERVICE, port)?;
        }
        Ok(())
    }

    /// Enables the lists of prefixes.
    pub(super) fn use_prefixes(&mut self) -> Result<()> {
        let mut config = self.config.get(0)?;
        config.flags |= CONFIG_PREFIXES;
        self.config.set(0, config)
    }

    /// How many packets had this reason so far, and how many there were in total.
    pub(super) fn counted(&self, reason: Reason) -> Result<(u64, u64)> {
        let verdicts = self.defended.counters()?.verdicts;
        Ok((verdicts[reason as usize], verdicts.iter().sum()))
    }
}

fn load(mode: ServiceMode, now: Time) -> Load {
    let level = if mode == ServiceMode::Mitigating { Level::Challenge } else { Level::Pass };
    let mitigation = MitigationState { level, trigger: Trigger::HalfOpen, since: now.ms };
    Load {
        mitigation: if mode == ServiceMode::Mitigating { mitigation.to_abi() } else { 0 },
        // Long ago, so that the kernel's own cookies are no longer looked for.
        began: if mode == ServiceMode::Mitigating { now.ms.wrapping_sub(600_000) } else { 0 },
        cookie_sent: if mode == ServiceMode::Mitigating { now.ms | 1 } else { 0 },
        second: now.second.into(),
        ..Load::default()
    }
}

/// As in the datapath.
fn insert(buckets: &[Shared<FlowBucket>], hash: u64, config: &Config) {
    let slot = flow::slot(hash, config.flow_mask);
    let numbers = slot.buckets.map(|number| number as usize);
    let (which, index) = flow::enters(numbers.map(|number| flow::room(&buckets[number], config, 0)));
    let bucket = numbers[which];
    let track = Track::known(State::Established, 0);
    let entry = FlowEntry { track, admitted: Admitted::Cookie, packets: 3, counted: Some(2), began: 0 };
    if index < FLOW_ENTRIES {
        flow::put(&buckets[bucket], index, &slot, &entry, config);
    }
}

/// The datapath's clock.
fn clock() -> Result<Time> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).context("cannot read the clock")?;
    Ok(Time::at(Duration::from(now).as_nanos() as u64))
}
