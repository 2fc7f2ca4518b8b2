//! The recording of `defender top`: a flood comes and goes in a namespace, and a real terminal is drawn as it is seen.

mod ansi;
mod picture;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::{Controller, STATE_DIRECTORY, state_directory},
    flood::{Flood, Kind, Range},
    programs::Program,
    server::{self, Server},
    simulated_clients::SimulatedClients,
    tmux::Tmux,
    topology::{Options, SERVER_INTERFACE, Topology},
};

use self::{ansi::parse, picture::Frame};

/// What is recorded.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The defender.
    pub(crate) defender: PathBuf,
    /// SYNs per second of the flood.
    pub(crate) rate: u64,
}

/// Size of the terminal.
const SIZE: (u16, u16) = (100, 24);
/// The services; the first one is flooded.
const PORTS: [u16; 3] = [443, 80, 22];
/// Queue of each.
const BACKLOG: u32 = 1024;
/// Time between two frames.
const FRAME: Duration = Duration::from_secs(1);
/// How long it lasts, when the flood comes, and how long it lasts, in frames.
const FRAMES: usize = 32;
const FLOOD_AT: usize = 6;
const FLOOD_FRAMES: u64 = 16;
/// Keys, and at which frame each is pressed.
const KEYS: [(usize, &str); 3] = [(1, "s"), (14, "Enter"), (19, "Escape")];
/// The frame that is seen where nothing moves: in the flood.
const STILL: usize = 12;
/// Clients of each service in a second.
const CLIENTS: u32 = 30;
/// No picture in a document is larger.
const LARGEST: usize = 150_000;

/// Records, and returns the picture.
pub(crate) fn run(plan: &Plan) -> Result<String> {
    let bed = Topology::with(&Options { client_end: Some(Program::AbsorbFlood), ..Options::default() })?;
    // Half-open connections are gone after some seconds, so that the end is recorded as well.
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 1)?;
    let listen = |port| {
        let options = server::Options { backlog: BACKLOG, ..server::Options::default() };
        Server::with(&bed.server, bed.server_v4(port), options)
    };
    let servers = PORTS.map(listen).into_iter().collect::<Result<Vec<_>>>()?;
    let defender = Controller::start(&bed.server, &plan.defender, SERVER_INTERFACE, &["--mode", "auto"])?;
    PORTS.into_iter().try_for_each(|port| defender.wait_for_listener(port))?;
    defender.ask(&["set", "min_active", "2"])?;
    let frames = thread::scope(|scope| {
        let clients = scope.spawn(|| clients(&bed, &servers));
        let frames = record(&bed, &defender, &plan.defender, &servers[0], plan.rate);
        clients.join().expect("no panic")?;
        frames
    })?;
    let svg =
        picture::draw("defender top while a SYN flood comes and goes", &frames, FRAME.as_secs_f64(), STILL);
    ensure!(svg.len() <= LARGEST, "the picture has {} bytes, more than {LARGEST}", svg.len());
    Ok(svg)
}

/// Some clients of every service, for as long as it is recorded.
fn clients(bed: &Topology, servers: &[Server]) -> Result<()> {
    let count = (FRAMES as u32 + 4) * CLIENTS;
    thread::scope(|scope| {
        let run =
            |server: &Server| SimulatedClients::new(bed, server.address()).of(bed, count, CLIENTS).run(bed);
        let all: Vec<_> = servers.iter().map(|server| scope.spawn(move || run(server))).collect();
        all.into_iter().try_for_each(|one| one.join().expect("no panic").map(drop))
    })
}

fn record(
    bed: &Topology,
    defender: &Controller<'_>,
    program: &Path,
    target: &Server,
    rate: u64,
) -> Result<Vec<Frame>> {
    let state = state_directory(defender.pin_root()).display().to_string();
    let tmux = Tmux::start(&bed.server, SIZE, &[(STATE_DIRECTORY, &state)])?;
    let program = program.canonicalize().with_context(|| format!("there is no {}", program.display()))?;
    tmux.line(&format!("{} --pin-root {} top", program.display(), defender.pin_root().display()))?;
    tmux.wait_for("top is there", |screen| screen.contains("q quit  ? help"))?;
    let began = Instant::now();
    let mut flood = None;
    let mut frames = Vec::new();
    for number in 0..FRAMES {
        if number == FLOOD_AT {
            let time = FRAME * FLOOD_FRAMES as u32;
            flood = Some(of_rate(target, rate, time).start(bed)?);
        }
        for (_, key) in KEYS.iter().filter(|(at, _)| *at == number) {
            tmux.key(key)?;
        }
        thread::sleep((FRAME * (number as u32 + 1)).saturating_sub(began.elapsed()));
        frames.push(parse(&tmux.styled()?));
    }
    drop(flood);
    tmux.key("q")?;
    Ok(frames)
}

/// From a /16 that no client is of, and bounded.
fn of_rate(target: &Server, rate: u64, time: Duration) -> Flood {
    Flood {
        source: Range::V4([198, 18, 0, 0].into(), 16),
        rate: Some(rate),
        max_time: time,
        max_packets: rate * time.as_secs(),
        ..Flood::new(Kind::LinuxSyn, target.address())
    }
}
