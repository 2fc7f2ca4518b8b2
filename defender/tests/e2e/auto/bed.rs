//! A server, floods that leave simulated clients alone, and a view of the mitigation.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use defender::{
    dataplane::{
        clock,
        maps::{Maps, possible_cpus},
        pins::PinRoot,
    },
    model::baseline::Baselines,
    state::directory::escape,
};
use defender_common::{
    abi::{self, SERVICE_IN_USE},
    load::{self, MitigationState},
    mitigation::{Level, Trigger},
};
use defender_testbed::{
    controller::{Controller, fresh_pin_root, state_directory},
    flood::{Flood, Kind, Range},
    programs::Program,
    server::{self, Server},
    simulated_clients::SimulatedClients,
    topology::{Options, SERVER_INTERFACE, Topology},
};

use serde_json::Value;

use crate::harness::{
    PATIENCE, PROGRAM,
    kernel::{kernel_counters, sockets},
    start,
};

/// The service's port.
pub(crate) const PORT: u16 = 80;

/// How often a wait checks.
const POLL: Duration = Duration::from_millis(5);

/// The kernel's counters of connections it could not take.
const OVERFLOWS: [&str; 4] =
    ["TcpExtTCPReqQFullDrop", "TcpExtTCPReqQFullDoCookies", "TcpExtListenOverflows", "TcpExtListenDrops"];

/// Why nothing has happened yet.
pub(crate) const NEVER: MitigationState =
    MitigationState { level: Level::Pass, trigger: Trigger::Nothing, since: 0 };

/// Both ends of a link. What goes to the flood's sources ends at the client's end.
pub(crate) fn topology() -> Result<Topology> {
    Topology::with(&Options { client_end: Some(Program::AbsorbFlood), ..Options::default() })
}

/// A server that greets, with this backlog.
pub(crate) fn serve(bed: &Topology, address: SocketAddr, backlog: u32) -> Result<Server> {
    Server::with(&bed.server, address, server::Options { backlog, ..server::Options::default() })
}

/// The defender in mode `auto`, which knows these ports.
pub(crate) fn start_auto<'a>(bed: &'a Topology, ports: &[u16]) -> Result<Controller<'a>> {
    let defender = start(bed, &["--mode", "auto"])?;
    ports.iter().try_for_each(|port| defender.wait_for_listener(*port))?;
    Ok(defender)
}

/// A defender in mode `auto` that has learned a baseline for this address: this many half-open connections, and this many
/// SYNs a second.
pub(crate) fn start_knowing<'a>(
    bed: &'a Topology,
    address: SocketAddr,
    half_open: u32,
    syns: u32,
) -> Result<Controller<'a>> {
    let mut usual = Baselines::default();
    let hour = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() / 3600;
    (0..100).for_each(|_| usual.observe(&address.to_string(), true, half_open, syns, hour));
    let pins = fresh_pin_root();
    let directory = state_directory(&pins).join(escape(&pins.to_string_lossy()));
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("baselines.json"), serde_json::to_string(&usual)?)?;
    let auto = ["--mode", "auto"];
    Controller::start_at(&bed.server, PROGRAM.as_ref(), SERVER_INTERFACE, &auto, pins)
}

/// A server that greets, defended in mode `auto`, and a view of its mitigation.
pub(crate) fn serve_defended<'a>(
    bed: &'a Topology,
    address: SocketAddr,
    backlog: u32,
) -> Result<(Server, Controller<'a>, MitigationView)> {
    let server = serve(bed, address, backlog)?;
    let defender = start_auto(bed, &[address.port()])?;
    let mitigation = MitigationView::of(&defender, address.port())?;
    Ok((server, defender, mitigation))
}

/// A flood from addresses that no client has, for this many seconds at most.
pub(crate) fn flood(kind: Kind, target: SocketAddr, rate: u64, seconds: u64) -> Flood {
    let flood = Flood::new(kind, target);
    let source = if target.is_ipv4() { Range::V4([198, 18, 0, 0].into(), 16) } else { flood.source };
    Flood {
        source,
        rate: Some(rate),
        max_time: Duration::from_secs(seconds),
        max_packets: rate * seconds,
        ..flood
    }
}

/// The mitigation of the service on a port.
pub(crate) struct MitigationView {
    maps: Maps,
    id: u32,
}

impl MitigationView {
    /// The only service on this port.
    pub(crate) fn of(defender: &Controller<'_>, port: u16) -> Result<Self> {
        let mut all = Self::all(defender, port)?;
        ensure!(all.len() == 1, "{} services on port {port}", all.len());
        all.pop().context("no service")
    }

    /// All services on this port, IPv4 first.
    pub(crate) fn all(defender: &Controller<'_>, port: u16) -> Result<Vec<Self>> {
        let root = PinRoot::new(defender.pin_root())?;
        let maps = Maps::open(&root)?;
        let mut found = Vec::new();
        for id in 1..maps.services.len() {
            let slot = maps.services.get(id)?;
            if slot.flags & SERVICE_IN_USE != 0 && slot.port == port {
                found.push((slot.families, id));
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, id)| Ok(Self { maps: Maps::open(&root)?, id })).collect()
    }

    /// Its state as of the last packet.
    pub(crate) fn mitigation(&self) -> Result<MitigationState> {
        Ok(load::mitigation(&self.load()?))
    }

    pub(crate) fn load(&self) -> Result<abi::Load> {
        self.maps.loads.get(self.id)
    }

    /// How many connections are half open, or would be.
    pub(crate) fn half_open(&self) -> Result<u32> {
        Ok(load::half_open(&self.load()?, &self.triggers()?))
    }

    /// How many seconds half-open connections are counted for.
    pub(crate) fn age_buckets(&self) -> Result<u32> {
        Ok(self.maps.config.get(0)?.age_buckets)
    }

    pub(crate) fn triggers(&self) -> Result<abi::TriggerLimits> {
        Ok(self.maps.services.get(self.id)?.triggers)
    }

    /// Waits until it is on this level. Floods are slow on a machine that does other things.
    pub(crate) fn wait_for(&self, level: Level) -> Result<MitigationState> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mitigation = self.mitigation()?;
            if mitigation.level == level {
                return Ok(mitigation);
            }
            if Instant::now() > deadline {
                let (load, triggers) = (self.load()?, self.triggers()?);
                let measures = load::measures(&load, &triggers, clock::now()?);
                anyhow::bail!("not on level {}: {mitigation:?}, {measures:?}, {triggers:?}", level.name());
            }
            thread::sleep(POLL);
        }
    }

    /// How many SYNs may pass before `critical` triggers: all processors count at the same time, including those that this
    /// process may not use.
    pub(crate) fn most_passed(&self) -> Result<u64> {
        Ok(u64::from(self.triggers()?.critical) + u64::from(possible_cpus()?) - 1)
    }
}

/// The kernel took every connection that came to it.
pub(crate) struct Room<'a> {
    bed: &'a Topology,
    before: [i64; OVERFLOWS.len()],
}

impl<'a> Room<'a> {
    pub(crate) fn now(bed: &'a Topology) -> Result<Self> {
        Ok(Self { bed, before: overflows(bed)? })
    }

    /// Asserts that no queue was ever full since.
    pub(crate) fn was_always_there(&self) -> Result<()> {
        assert_eq!(overflows(self.bed)?, self.before, "{OVERFLOWS:?}");
        Ok(())
    }
}

fn overflows(bed: &Topology) -> Result<[i64; OVERFLOWS.len()]> {
    let counters = kernel_counters(&bed.server)?;
    Ok(OVERFLOWS.map(|name| counters[name]))
}

/// How many connections the server's kernel holds half open.
pub(crate) fn half_open(bed: &Topology) -> Result<u64> {
    Ok(sockets(&bed.server)?.get("SYN-RECV").copied().unwrap_or(0) as u64)
}

/// Asserts that the first service on this port is challenged, or that it is not.
pub(crate) fn service_is(defender: &Controller<'_>, port: u16, active: bool) -> Result<()> {
    let services = crate::harness::services(defender, port)?;
    let service = services.first().context("no service")?;
    ensure!(service["active"] == active, "active is {}", service["active"]);
    Ok(())
}

/// Changes settings by the command line, which returns once the datapath has the derived triggers.
pub(crate) fn set(defender: &Controller<'_>, settings: &[(&str, &str)]) -> Result<()> {
    settings.iter().try_for_each(|(key, value)| defender.ask(&["set", key, value]).map(drop))
}

/// The same, where half-open connections are gone after four seconds.
pub(crate) fn short_memory() -> Result<Topology> {
    let bed = topology()?;
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 1)?;
    Ok(bed)
}

/// Waits until the service is no longer mitigated. Clients come now and then: levels fall on packets only.
pub(crate) fn comes_down(bed: &Topology, mitigation: &MitigationView, server: SocketAddr) -> Result<()> {
    let simulated = SimulatedClients::new(bed, server);
    for _ in 0..60 {
        let report = simulated.of(bed, 5, 10).run(bed)?;
        ensure!((report.completed, report.reset) == (5, 0), "{report:?}");
        if mitigation.mitigation()?.level == Level::Pass {
            return Ok(());
        }
    }
    anyhow::bail!(
        "it does not come down: {:?}, {} half open",
        mitigation.mitigation()?,
        mitigation.half_open()?
    )
}

/// The events so far.
pub(crate) fn events(defender: &Controller<'_>) -> Result<Vec<Value>> {
    let text = defender.ask(&["events", "--json", "--limit", "1000"])?;
    text.lines().map(|line| serde_json::from_str(line).context("an event is no JSON")).collect()
}

/// Event, level, reason and kind of each.
pub(crate) fn summary(events: &[Value]) -> Vec<String> {
    let one = |event: &Value| {
        ["event", "level", "trigger", "kind"].map(|name| event[name].as_str().unwrap_or("-")).join(" ")
    };
    events.iter().map(one).collect()
}

/// Records every mitigation state of a service, by polling.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<MitigationState>>>,
}

impl Watch {
    /// Polls until [`end`](Self::end).
    pub(crate) fn start(mitigation: MitigationView) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = vec![mitigation.mitigation()?];
            while !told.load(Ordering::Relaxed) {
                let now = mitigation.mitigation()?;
                if seen.last() != Some(&now) {
                    seen.push(now);
                }
                thread::sleep(POLL);
            }
            Ok(seen)
        });
        Self { stop, thread }
    }

    /// The levels, and what triggered each.
    pub(crate) fn end(self) -> Result<Vec<(Level, Trigger)>> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().expect("no panic")?;
        Ok(seen[1..].iter().map(|mitigation| (mitigation.level, mitigation.trigger)).collect())
    }
}
