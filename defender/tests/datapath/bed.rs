//! Where frames meet the program: two namespaces, real listeners, the maps, `BPF_PROG_TEST_RUN`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    TestRun as _, TestRunOptions,
    programs::{ProgramInfo, loaded_programs},
};
use defender::{
    dataplane::{
        clock, features,
        loader::Programs,
        maps::Maps,
        pins::{PinRoot, Rollback},
    },
    host::links::XdpMode,
};
use defender_common::{
    abi::{
        self, BudgetLine, Counters, FilterBytes, FlowBucket, INTERFACE_SLOTS, Interface, Load, Port, Service,
        ServiceCounters, interface_slot,
    },
    presence_filter, validated_sources,
    verdict::Reason,
    wire::address::V4,
};
use defender_maps::{Slots, Table};
use defender_testbed::{
    cleanup::{BPF_DIR, PREFIX},
    client, interface, server,
    topology::{SERVER_INTERFACE, SERVER_V4, SERVER_V6, Topology},
};

use super::{
    expected::table_hash,
    world::{BOUND_V4, BOUND_V6, DUAL, ONLY_V4, ONLY_V6, SERVICE_IDS, World},
};

/// SYNs that each CPU has seen before: so many that the next is not the one by which it counts for others.
const SEEN: u64 = 1;

/// What becomes of the flow table is hardly tested here.
const FLOW_BUCKETS: u32 = 1;

/// The most bytes that a reply or metadata may add to a frame.
const ROOM: usize = 256;

/// The program on one interface of a server with listeners.
pub(super) struct Bed {
    pub(super) topology: Topology,
    pub(super) listeners: Listeners,
    programs: Programs,
    maps: Maps,
    filter: Table<FilterBytes>,
    flows: Slots<FlowBucket>,
    root: PinRoot,
    ifindex: u32,
    world: Option<World>,
    /// Removes the pinned maps at the end.
    _pins: Rollback,
}

/// The listeners that every world's services are.
pub(super) struct Listeners {
    pub(super) dual: TcpListener,
    _others: Vec<TcpListener>,
}

/// What became of a frame.
pub(super) struct Ran {
    /// What the program returned.
    pub(super) action: u32,
    /// Metadata, then the frame.
    pub(super) out: Vec<u8>,
    /// Every counter that moved, and by how much.
    pub(super) counted: Vec<(Reason, u64)>,
    /// The counters of all services together.
    pub(super) services: ServiceCounters,
    /// All counters, whatever they are of: those of packets, of hand-offs, of connections.
    pub(super) all: Counters,
}

impl Bed {
    /// Loads the program and makes the listeners.
    pub(super) fn new() -> Result<Self> {
        features::require_privilege().context("the datapath's tests load eBPF programs")?;
        let topology = Topology::new()?;
        let ifindex = interface::index(&topology.server, SERVER_INTERFACE)?;
        let mut pins = Rollback::default();
        let root = pin_root()?;
        let programs = Programs::load(&root, FLOW_BUCKETS, &mut pins)?;
        let maps = Maps::open(&root)?;
        let filter = Table::open(&root.maps(), abi::map::FILTER)?;
        let flows = Slots::open(&root.maps(), abi::map::FLOWS)?;
        let listeners = Listeners::new(&topology)?;
        Ok(Self {
            topology,
            listeners,
            programs,
            maps,
            filter,
            flows,
            root,
            ifindex,
            world: None,
            _pins: pins,
        })
    }

    /// The interface that frames come in by.
    pub(super) fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Where the maps are pinned.
    pub(super) fn pinned_maps(&self) -> PathBuf {
        self.root.maps()
    }

    /// Where everything is pinned.
    pub(super) fn root(&self) -> &PinRoot {
        &self.root
    }

    /// How many instructions the verifier walked for a program that is loaded onto these maps.
    pub(super) fn verified_instructions_of(&self, name: &str) -> Result<u32> {
        let config = defender_maps::pinned(&self.root.maps(), abi::map::CONFIG)?.info()?.id();
        let is_it = |info: &ProgramInfo| {
            info.name_as_str().is_some_and(|short| name.starts_with(short) && !short.is_empty())
                && info.map_ids().ok().flatten().is_some_and(|ids| ids.contains(&config))
        };
        let program = loaded_programs().flatten().find(is_it).context("it is not loaded")?;
        program.verified_instruction_count().context("the kernel does not say")
    }

    /// How many instructions the verifier walked for each program.
    pub(super) fn verified_instructions(&mut self) -> Result<Vec<(String, u32)>> {
        // Loaded on demand.
        self.programs.xdp(XdpMode::Generic)?;
        self.programs.verified_instructions()
    }

    /// Makes the listener at [`DUAL`] anew, with this backlog, and lets so many clients wait there to be accepted.
    pub(super) fn let_clients_wait(&mut self, backlog: u32, clients: u32) -> Result<Vec<TcpStream>> {
        let options = server::Options { backlog, ..server::Options::default() };
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DUAL);
        // The port is free once the listener before is closed.
        let free = self.topology.server.run(|| server::listen((Ipv6Addr::UNSPECIFIED, 0).into(), options))?;
        self.listeners.dual = free;
        self.listeners.dual = self.topology.server.run(|| server::listen(address, options))?;
        let (bed, to) = (&self.topology, self.topology.server_v4(DUAL));
        (0..clients)
            .map(|_| {
                client::connect_from(&bed.client, Some(bed.fresh_client(to)), to, Duration::from_secs(20))
            })
            .collect()
    }

    /// Fills the maps, and empties what the world before had filled.
    pub(super) fn enter(&mut self, world: &World) -> Result<()> {
        self.leave()?;
        let maps = &mut self.maps;
        maps.config.set(0, world.config)?;
        maps.keys.set(0, world.keys)?;
        let mut interface = world.interface;
        if interface.ifindex == 0 {
            interface.ifindex = self.ifindex;
        }
        let mut interfaces = [Interface::default(); INTERFACE_SLOTS as usize];
        interfaces[interface_slot(self.ifindex, world.probe) as usize] = interface;
        maps.interfaces.set(0, interfaces)?;
        for prefix in &world.local {
            maps.local.insert(*prefix)?;
        }
        for (port, entry) in &world.ports {
            maps.ports.set(u32::from(*port), *entry)?;
        }
        for (key, id) in &world.addresses {
            maps.addresses.insert(*key, *id)?;
        }
        for (id, service) in &world.services {
            maps.services.set(*id, *service)?;
        }
        for (prefix, list) in &world.prefixes {
            maps.prefixes.insert(*prefix, *list)?;
        }
        maps.loads.set(1, Load { second: clock::now()?.second.into(), ..world.load })?;
        for source in &world.known {
            let second = clock::now()?.second;
            for place in validated_sources::places(V4::from(*source), &world.config.table_keys) {
                maps.known.set(place, validated_sources::noted(second))?;
            }
        }
        self.world = Some(world.clone());
        self.note()
    }

    /// Fills the filter and the flow table as the world has them, whatever they have taken notice of since.
    pub(super) fn note(&mut self) -> Result<()> {
        let Some(world) = &self.world else { return Ok(()) };
        for (client, server, byte) in &world.noted {
            self.filter.set(place(world, *client, *server), *byte)?;
        }
        self.flows.set(0, world.flows)
    }

    /// What the filter holds of the world's connections now, and the flow table.
    pub(super) fn noted(&self) -> Result<(Vec<u8>, FlowBucket)> {
        let Some(world) = &self.world else { return Ok((Vec::new(), self.flows.get(0)?)) };
        let bytes =
            world.noted.iter().map(|(client, server, _)| self.filter.get(place(world, *client, *server)));
        Ok((bytes.collect::<Result<_>>()?, self.flows.get(0)?))
    }

    fn leave(&mut self) -> Result<()> {
        let Some(world) = self.world.take() else { return Ok(()) };
        let maps = &mut self.maps;
        maps.interfaces.set(0, [Interface::default(); INTERFACE_SLOTS as usize])?;
        for prefix in world.local {
            maps.local.remove(prefix)?;
        }
        for (port, _) in world.ports {
            maps.ports.set(u32::from(port), Port::default())?;
        }
        for (key, _) in world.addresses {
            maps.addresses.remove(key)?;
        }
        for (id, _) in world.services {
            maps.services.set(id, Service::default())?;
            maps.loads.set(id, Load::default())?;
        }
        for (prefix, _) in world.prefixes {
            maps.prefixes.remove(prefix)?;
        }
        if !world.known.is_empty() {
            maps.known.fill(0)?;
        }
        if !world.noted.is_empty() {
            self.filter.fill(0)?;
        }
        Ok(())
    }

    /// Nothing has been charged to anybody.
    pub(super) fn forget_budgets(&mut self) -> Result<()> {
        self.maps.budget.fill(BudgetLine::default())
    }

    /// Runs the program on a frame.
    pub(super) fn run(&mut self, frame: &[u8]) -> Result<Ran> {
        self.run_split(frame, frame.len())
    }

    /// The load of the service at [`DUAL`].
    pub(super) fn load(&self) -> Result<Load> {
        self.maps.loads.get(1)
    }

    /// Runs the program on a frame of which the first `linear` bytes are in one piece; the rest is in fragments, as
    /// drivers deliver jumbo frames.
    pub(super) fn run_split(&mut self, frame: &[u8], linear: usize) -> Result<Ran> {
        self.maps.counters.fill(0, Counters::default())?;
        for id in SERVICE_IDS {
            self.maps
                .service_counters
                .fill(id, ServiceCounters { syn_received: SEEN, ..ServiceCounters::default() })?;
        }
        let context = context(linear, self.ifindex);
        let mut out = vec![0; frame.len() + ROOM];
        let xdp = self.programs.xdp(XdpMode::Native)?;
        let result = self.topology.server.run(|| {
            let options = TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            };
            xdp.test_run(options).with_context(|| format!("cannot run a frame of {} bytes", frame.len()))
        })?;
        let length = result.data_size_out as usize;
        ensure!(length <= out.len(), "{length} bytes came out of {}", frame.len());
        out.truncate(length);
        let (counted, services) = (self.counted()?, self.services()?);
        Ok(Ran { action: result.return_value, out, counted, services, all: self.maps.counters()? })
    }

    fn counted(&self) -> Result<Vec<(Reason, u64)>> {
        let cpus = self.maps.counters.get(0)?;
        let sum = |reason: Reason| cpus.iter().map(|cpu| cpu.verdicts[reason as usize]).sum();
        let all = Reason::ALL.into_iter().map(|reason| (reason, sum(reason)));
        Ok(all.filter(|(_, count)| *count != 0).collect())
    }

    fn services(&self) -> Result<ServiceCounters> {
        let mut sum = ServiceCounters::default();
        let cpus = self.maps.counters.get(0)?.len() as u64;
        for id in SERVICE_IDS {
            let counters = self.maps.service_counters(id)?;
            sum.syn_received += counters.syn_received - SEEN * cpus;
            sum.syn_challenged += counters.syn_challenged;
            sum.ack_accepted += counters.ack_accepted;
            sum.proved += counters.proved;
            sum.ack_rejected += counters.ack_rejected;
            sum.out_of_state_acks += counters.out_of_state_acks;
            sum.out_of_state_rsts += counters.out_of_state_rsts;
        }
        Ok(sum)
    }
}

impl Listeners {
    fn new(topology: &Topology) -> Result<Self> {
        let listen = |address: IpAddr, port, v6_only| {
            let options = server::Options { v6_only, ..server::Options::default() };
            let address = SocketAddr::new(address, port);
            topology
                .server
                .run(|| server::listen(address, options))
                .with_context(|| format!("cannot listen on {address}"))
        };
        let others = vec![
            listen(Ipv4Addr::UNSPECIFIED.into(), ONLY_V4, false)?,
            listen(Ipv6Addr::UNSPECIFIED.into(), ONLY_V6, true)?,
            listen(SERVER_V4.into(), BOUND_V4, false)?,
            listen(SERVER_V6.into(), BOUND_V6, false)?,
        ];
        Ok(Self { dual: listen(Ipv6Addr::UNSPECIFIED.into(), DUAL, false)?, _others: others })
    }
}

/// Where the filter has a connection's byte.
fn place(world: &World, client: SocketAddr, server: SocketAddr) -> u32 {
    presence_filter::place(table_hash(client, server, &world.config)) as u32
}

/// `struct xdp_md` (include/uapi/linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
fn context(linear: usize, ifindex: u32) -> Vec<u8> {
    [0, linear as u32, 0, ifindex, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn pin_root() -> Result<PinRoot> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    PinRoot::new(&Path::new(BPF_DIR).join(format!("{PREFIX}{}-datapath-{number}", process::id())))
}
