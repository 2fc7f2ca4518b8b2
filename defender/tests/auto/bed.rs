//! What the scenes have in common: a server, floods that leave clients made of frames alone, and a look at the ladder.

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
    control::{baseline::Baselines, state::escape},
    dataplane::{
        clock,
        maps::{Maps, possible_cpus},
        pins::PinRoot,
    },
};
use defender_common::{
    abi::{self, SERVICE_IN_USE},
    ladder::{Because, Step},
    load::{self, Posture},
};
use defender_testbed::{
    controller::{Controller, fresh_pin_root, state_directory},
    crowd::Crowd,
    flood::{Flood, Kind, Range},
    programs::Program,
    server::{self, Server},
    topology::{Options, SERVER_INTERFACE, Topology},
};

use serde_json::Value;

use crate::{
    ground::{kernel_counters, sockets},
    support::{PATIENCE, PROGRAM, start},
};

/// The service's port.
pub(crate) const PORT: u16 = 80;

/// How often somebody looks who waits.
const POLL: Duration = Duration::from_millis(5);

/// The kernel's counters of connections it could not take.
const OVERFLOWS: [&str; 4] =
    ["TcpExtTCPReqQFullDrop", "TcpExtTCPReqQFullDoCookies", "TcpExtListenOverflows", "TcpExtListenDrops"];

/// Why nothing has happened yet.
pub(crate) const NEVER: Posture = Posture { step: Step::Pass, because: Because::Nothing, since: 0 };

/// Both ends of a link. What goes to the flood's sources ends at the client's end.
pub(crate) fn topology() -> Result<Topology> {
    Topology::with(&Options { client_end: Some(Program::AbsorbFlood), ..Options::default() })
}

/// A server that greets, with room for so many half-open connections.
pub(crate) fn serve(bed: &Topology, address: SocketAddr, backlog: u32) -> Result<Server> {
    Server::with(&bed.server, address, server::Options { backlog, ..server::Options::default() })
}

/// The defender in mode `auto`, which knows these ports.
pub(crate) fn start_auto<'a>(bed: &'a Topology, ports: &[u16]) -> Result<Controller<'a>> {
    let defender = start(bed, &["--mode", "auto"])?;
    ports.iter().try_for_each(|port| defender.wait_for_listener(*port))?;
    Ok(defender)
}

/// A defender in mode `auto` that has been at this address for some minutes of calm, with so many connections half open and
/// so many SYNs a second.
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

/// A server that greets, defended in mode `auto`, and where it stands.
pub(crate) fn serve_defended<'a>(
    bed: &'a Topology,
    address: SocketAddr,
    backlog: u32,
) -> Result<(Server, Controller<'a>, Ladder)> {
    let server = serve(bed, address, backlog)?;
    let defender = start_auto(bed, &[address.port()])?;
    let ladder = Ladder::of(&defender, address.port())?;
    Ok((server, defender, ladder))
}

/// A flood from addresses that no client has, for so many seconds at most.
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

/// Where the service on a port stands.
pub(crate) struct Ladder {
    maps: Maps,
    id: u32,
}

impl Ladder {
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

    /// The step it is on since the last packet.
    pub(crate) fn posture(&self) -> Result<Posture> {
        Ok(load::posture(&self.load()?))
    }

    pub(crate) fn load(&self) -> Result<abi::Load> {
        self.maps.loads.get(self.id)
    }

    /// What it has to bear now, though no packet came since.
    pub(crate) fn present_load(&self) -> Result<abi::Load> {
        self.maps.load_at(self.id, &self.lines()?, self.cohorts()?, clock::now()?)
    }

    /// How many seconds half-open connections are counted for.
    pub(crate) fn cohorts(&self) -> Result<u32> {
        Ok(self.maps.config.get(0)?.cohorts)
    }

    pub(crate) fn lines(&self) -> Result<abi::Lines> {
        Ok(self.maps.services.get(self.id)?.lines)
    }

    /// Waits until it is on this step. Floods are slow on a machine that does other things.
    pub(crate) fn wait_for(&self, step: Step) -> Result<Posture> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let posture = self.posture()?;
            if posture.step == step {
                return Ok(posture);
            }
            if Instant::now() > deadline {
                let (load, lines) = (self.load()?, self.lines()?);
                let measures = load::measures(&load, load.second as u32);
                anyhow::bail!("not on step {}: {posture:?}, {measures:?}, {lines:?}", step.name());
            }
            thread::sleep(POLL);
        }
    }

    /// How many SYNs may pass before the line `danger` is noticed: processors count at the same time, also those that this
    /// process may not use.
    pub(crate) fn most_passed(&self) -> Result<u64> {
        Ok(u64::from(self.lines()?.danger) + u64::from(possible_cpus()?) - 1)
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

/// Waits for something while a flood goes on.
pub(crate) fn service_is(defender: &Controller<'_>, port: u16, active: bool) -> Result<()> {
    let services = crate::support::services(defender, port)?;
    let service = services.first().context("no service")?;
    ensure!(service["active"] == active, "active is {}", service["active"]);
    Ok(())
}

/// Sets settings as people do, and waits until the datapath has the lines that come of them.
pub(crate) fn set(defender: &Controller<'_>, settings: &[(&str, &str)]) -> Result<()> {
    settings.iter().try_for_each(|(key, value)| defender.ask(&["set", key, value]).map(drop))
}

/// The same, where half-open connections are gone after four seconds.
pub(crate) fn short_memory() -> Result<Topology> {
    let bed = topology()?;
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 1)?;
    Ok(bed)
}

/// Waits until the service is calm; somebody comes now and then, or nobody would notice.
pub(crate) fn comes_down(bed: &Topology, ladder: &Ladder, server: SocketAddr) -> Result<()> {
    let crowd = Crowd::new(bed, server);
    for _ in 0..60 {
        let report = crowd.of(bed, 5, 10).run(bed)?;
        ensure!((report.completed, report.reset) == (5, 0), "{report:?}");
        if ladder.posture()?.step == Step::Pass {
            return Ok(());
        }
    }
    anyhow::bail!(
        "it does not come down: {:?}, {} half open",
        ladder.posture()?,
        load::half_open(&ladder.load()?)
    )
}

/// What the defender told so far.
pub(crate) fn events(defender: &Controller<'_>) -> Result<Vec<Value>> {
    let text = defender.ask(&["events", "--json", "--limit", "1000"])?;
    text.lines().map(|line| serde_json::from_str(line).context("an event is no JSON")).collect()
}

/// Event, step, reason and kind of each.
pub(crate) fn summary(events: &[Value]) -> Vec<String> {
    let one = |event: &Value| {
        ["event", "step", "because", "kind"].map(|name| event[name].as_str().unwrap_or("-")).join(" ")
    };
    events.iter().map(one).collect()
}

/// Every posture of a service, one after the other: whoever wants to see each looks often.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Posture>>>,
}

impl Watch {
    /// Looks until it is told to end.
    pub(crate) fn start(ladder: Ladder) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = vec![ladder.posture()?];
            while !told.load(Ordering::Relaxed) {
                let now = ladder.posture()?;
                if seen.last() != Some(&now) {
                    seen.push(now);
                }
                thread::sleep(POLL);
            }
            Ok(seen)
        });
        Self { stop, thread }
    }

    /// The steps taken, and why.
    pub(crate) fn end(self) -> Result<Vec<(Step, Because)>> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().expect("no panic")?;
        Ok(seen[1..].iter().map(|posture| (posture.step, posture.because)).collect())
    }
}
