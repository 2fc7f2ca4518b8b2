//! A server with two services, a defender in mode `auto`, connections that are kept alive, and the questions that are asked
//! after every fault.

use std::{
    any::Any,
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, tc::TcAttachType};
use defender::dataplane::{maps::Maps, pins::PinRoot};
use defender_testbed::{
    controller::{Controller, fresh_pin_root},
    programs::Program,
    server::{self, Server},
    topology::{Options, SERVER_INTERFACE, Topology},
};

use crate::harness::{
    Counts, PROGRAM, clients_connect, connect_in_flood, eventually, services, status, talk,
};

/// The services' port.
pub(crate) const PORT: u16 = 80;

/// How many half-open connections the listeners take: challenges start at three quarters of it.
const BACKLOG: u32 = 256;

/// Greatest receive buffers, each with another window scale than the one before and than what hosts have by default.
const BUFFERS: [u32; 3] = [1 << 26, 1 << 27, 1 << 28];

/// Whether there is a flood besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Situation {
    Normal,
    Flood,
}

/// What link there is.
pub(crate) fn link() -> Options {
    Options { client_end: Some(Program::AbsorbFlood), ..Options::default() }
}

/// Both ends of a link. What goes to the flood's sources ends at the client's end.
pub(crate) fn topology() -> Result<Topology> {
    Topology::with(&link())
}

pub(crate) struct Scene<'a> {
    pub(crate) bed: &'a Topology,
    pub(crate) situation: Situation,
    servers: Vec<Server>,
    /// Those that were begun, the last of which is in control. Dropping one removes what it pinned.
    defenders: Vec<Controller<'a>>,
    kept: Vec<TcpStream>,
    /// Which of [`BUFFERS`] is next.
    buffer: usize,
    /// What has to last until the end.
    things: Vec<Box<dyn Any>>,
}

impl<'a> Scene<'a> {
    /// One connection of each family is there before the defender is, one comes after.
    pub(crate) fn begin(bed: &'a Topology, situation: Situation) -> Result<Self> {
        let mut scene = Self {
            bed,
            situation,
            servers: Vec::new(),
            defenders: Vec::new(),
            kept: Vec::new(),
            buffer: 0,
            things: Vec::new(),
        };
        scene.listen()?;
        scene.keep_connections()?;
        scene.defend(fresh_pin_root(), &[])?;
        scene.keep_connections()?;
        Ok(scene)
    }

    /// Begins a defender, which takes over what is pinned there.
    fn defend(&mut self, pins: PathBuf, environment: &[(&str, &str)]) -> Result<()> {
        self.begin_defender(Path::new(PROGRAM), pins, environment)
    }

    fn begin_defender(&mut self, program: &Path, pins: PathBuf, environment: &[(&str, &str)]) -> Result<()> {
        let namespace = &self.bed.server;
        let auto = ["--mode", "auto"];
        let defender = Controller::start_in(namespace, program, SERVER_INTERFACE, &auto, pins, environment)?;
        self.defenders.push(defender);
        self.is_attached()?;
        self.is_challenged_if_flooded()
    }

    /// The same again at the same pins.
    pub(crate) fn defend_again(&mut self) -> Result<()> {
        self.defend(self.defender().pin_root().to_owned(), &[])
    }

    /// Ends the defender, and begins another with these pins and this environment.
    pub(crate) fn defend_anew(&mut self, pins: PathBuf, environment: &[(&str, &str)]) -> Result<()> {
        self.defender().stop()?;
        self.defenders.clear();
        self.defend(pins, environment)
    }

    /// Ends the defender, and begins another by this program, which calls it.
    pub(crate) fn defend_by(&mut self, program: &Path) -> Result<()> {
        self.defender().stop()?;
        self.defenders.clear();
        self.begin_defender(program, fresh_pin_root(), &[])
    }

    /// Has something last until the end.
    pub(crate) fn keep(&mut self, thing: impl Any) {
        self.things.push(Box::new(thing));
    }

    /// The one in control.
    pub(crate) fn defender(&self) -> &Controller<'a> {
        self.defenders.last().expect("one was begun")
    }

    fn listen(&mut self) -> Result<()> {
        let options = server::Options { backlog: BACKLOG, ..server::Options::default() };
        for address in [self.bed.server_v4(PORT), self.bed.server_v6(PORT)] {
            self.servers.push(Server::with(&self.bed.server, address, options)?);
        }
        Ok(())
    }

    fn keep_connections(&mut self) -> Result<()> {
        for address in [self.bed.server_v4(PORT), self.bed.server_v6(PORT)] {
            let (stream, _) = connect_in_flood(self.bed, self.bed.fresh_client(address), address)?;
            self.kept.push(stream);
        }
        Ok(())
    }

    /// What is asked after every fault.
    pub(crate) fn answers_every_question(&mut self) -> Result<()> {
        self.connections_live().context("connections from before")?;
        self.clients_get_in().context("new clients")?;
        self.is_attached()?;
        self.is_challenged_if_flooded()?;
        self.challenges_when_told().context("mode always")?;
        self.keys_rotate()?;
        self.tells_the_truth()?;
        self.connections_live().context("connections from before, once more")
    }

    /// Every connection that is kept says something and is answered.
    pub(crate) fn connections_live(&mut self) -> Result<()> {
        self.kept.iter_mut().try_for_each(talk)
    }

    /// Clients of both families come and are served.
    pub(crate) fn clients_get_in(&self) -> Result<()> {
        for address in [self.bed.server_v4(PORT), self.bed.server_v6(PORT)] {
            clients_connect(self.bed, address).with_context(|| address.to_string())?;
        }
        Ok(())
    }

    /// One client of each family comes and is served, with whatever options the host has just now.
    pub(crate) fn a_client_gets_in(&self) -> Result<()> {
        for address in [self.bed.server_v4(PORT), self.bed.server_v6(PORT)] {
            connect_in_flood(self.bed, self.bed.fresh_client(address), address)?;
        }
        Ok(())
    }

    fn is_attached(&self) -> Result<()> {
        eventually("it is attached", || {
            Ok(self.defender().statistics()?["interfaces"][0]["xdp_mode"] == "native")
        })
    }

    /// During a flood both services are challenged.
    fn is_challenged_if_flooded(&self) -> Result<()> {
        if self.situation == Situation::Normal {
            return Ok(());
        }
        eventually("both services are challenged", || {
            let services = services(self.defender(), PORT)?;
            Ok(services.len() == 2 && services.iter().all(|service| service["active"] == true))
        })
    }

    /// Both services can be defended, and the kernel takes what is handed over.
    fn challenges_when_told(&self) -> Result<()> {
        let defender = self.defender();
        defender.ask(&["set", "mode", "always"])?;
        eventually("it says so", || {
            let services = services(defender, PORT)?;
            Ok(services.len() == 2
                && services.iter().all(|it| it["active"] == true && it["unprotectable"].is_null()))
        })?;
        let before = Counts::of(defender)?;
        for address in [self.bed.server_v4(PORT), self.bed.server_v6(PORT)] {
            connect_in_flood(self.bed, self.bed.fresh_client(address), address)?;
        }
        eventually("cookies lead to connections", || {
            let counts = &Counts::of(defender)? - &before;
            Ok(counts.get("handoff_established") >= 2 && counts.get("syn_challenged") >= 2)
        })?;
        defender.ask(&["set", "mode", "auto"]).map(drop)
    }

    /// Another window scale asks for a new key within seconds: so it is seen that keys are drawn.
    pub(crate) fn keys_rotate(&mut self) -> Result<()> {
        let maps = Maps::open(&PinRoot::new(self.defender().pin_root())?)?;
        let newest =
            || -> Result<u32> { maps.keys.get(0)?.iter().map(|key| key.epoch).max().context("no key") };
        let before = newest()?;
        let buffer = BUFFERS[self.buffer % BUFFERS.len()];
        self.buffer += 1;
        self.bed.server.set_sysctl("net.ipv4.tcp_rmem", format!("4096 131072 {buffer}"))?;
        eventually("a new key is drawn", || Ok(newest()? > before))
    }

    /// The controller is the one that lives, and every packet has one verdict.
    fn tells_the_truth(&self) -> Result<()> {
        let (defender, own) = (self.defender(), u64::from(self.defender().id()));
        eventually("it is in control", || Ok(status(defender)?["controller"].as_u64() == Some(own)))?;
        let statistics = defender.statistics()?;
        let verdicts = statistics["verdicts"].as_object().context("no verdicts")?;
        let sum: u64 = verdicts.values().filter_map(serde_json::Value::as_u64).sum();
        ensure!(Some(sum) == statistics["counters"]["rx_packets"].as_u64(), "{statistics}");
        Ok(())
    }

    /// Nothing is left after `detach`, and connections live on.
    pub(crate) fn leaves_nothing(&mut self) -> Result<()> {
        self.defender().ask(&["detach"])?;
        let pins = self.defender().pin_root().to_owned();
        eventually("its pins are gone", || Ok(!pins.exists()))?;
        let link = self.bed.server.ip(&format!("-d link show dev {SERVER_INTERFACE}"))?;
        ensure!(!link.contains("xdp"), "XDP is left: {link}");
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, programs) =
                self.bed.server.run(|| Ok(SchedClassifier::query_tcx(SERVER_INTERFACE, direction)?))?;
            ensure!(programs.is_empty(), "{} tcx programs are left", programs.len());
        }
        let state =
            Path::new("/run/defender").join(defender::state::directory::escape(&pins.to_string_lossy()));
        ensure!(!fs::exists(&state)?, "{} is left", state.display());
        self.connections_live().context("after detaching")
    }
}
