//! The first day with the .deb: installed, configured, flooded from a namespace, looked at where users look, and purged.

mod container;
mod programs;
mod seen;

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    flood::{Flood, Kind, Range},
    netns::Namespace,
    programs::Program,
    prometheus::Prometheus,
    server::{self, Server},
    simulated_clients::SimulatedClients,
    tmux::Tmux,
    topology::{CLIENT_V4, Options, SERVER_INTERFACE, Topology},
};

use self::seen::{Alert, Journal};
use crate::checks::eventually;

pub(crate) use self::container::Container;

const PACKAGE: &str = "syn-defender";
const CONFIGURATION: &str = "/etc/defender/config.toml";
const RULES: &str = "/usr/share/syn-defender/prometheus/defender.rules.yml";
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 9815);
const PORT: u16 = 80;

/// Few enough for a busy machine, and far more than the backlog holds.
const RATE: u64 = 4000;
const LONGEST: Duration = Duration::from_secs(60);
/// Challenged SYNs that show a defence and no accident.
const CHALLENGED: f64 = 1000.0;

/// Does all of it. The container needs nothing but Debian and systemd.
pub(crate) fn run(container: &Container, package: &str) -> Result<()> {
    let server = Namespace::of_process("server", container.first_process())?;
    let options = Options { client_end: Some(Program::AbsorbFlood), ..Options::default() };
    let bed = Topology::around(server, &options)?;
    // What is averted is forgotten after four seconds.
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 1)?;
    bed.server.ip(&format!("route add default via {CLIENT_V4}"))?;

    install(container, package)?;
    configure(container)?;
    attack(container, &bed)?;
    purge(container)
}

/// The service starts by itself, and finds the interface by its default route.
fn install(container: &Container, package: &str) -> Result<()> {
    container.shell(&format!("apt install --yes {package}"))?;
    eventually("the service runs", || active(container))?;
    container.shell("systemctl --quiet is-enabled defender")?;
    ensure!(xdp(container)?, "the service runs, and {SERVER_INTERFACE} has no XDP program");
    container.shell("defender doctor; defender status").map(drop)
}

/// Adds sections at the end of the file that came with the package.
fn configure(container: &Container) -> Result<()> {
    let path = container.path(CONFIGURATION);
    let defaults = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let ([a, b, c, d], port) = METRICS;
    let text = format!(
        "{defaults}\nmin_active = \"2s\"\n[interfaces]\nnames = [\"{SERVER_INTERFACE}\"]\n\
         [metrics]\nlisten = \"{a}.{b}.{c}.{d}:{port}\"\n"
    );
    fs::write(&path, text)?;
    container.shell(&format!("defender config check {CONFIGURATION}; systemctl restart defender"))?;
    eventually("the service runs again", || active(container))
}

/// A flood is seen in `top`, in Prometheus and in the journal, from its beginning to its end.
fn attack(container: &Container, bed: &Topology) -> Result<()> {
    let address = bed.server_v4(PORT);
    let _server = Server::with(&bed.server, address, server::Options { backlog: 128, ..Default::default() })?;
    let prometheus = Prometheus::start(&bed.server, METRICS.into(), &container.path(RULES))?;
    let alert = Alert { prometheus: &prometheus, service: address };
    let journal = Journal { container, port: PORT };
    let top = Tmux::start(&bed.server, (80, 24), &[])?;
    top.line(&container.typed("defender top"))?;
    top.wait_for("top shows the service", |screen| screen.contains("q quit") && screen.contains(":80"))?;
    eventually("the service is scraped", || Ok(alert.mitigating()? == Some(0.0)))?;
    journal.has_no_event()?;

    let flood = Flood {
        source: Range::V4([198, 18, 0, 0].into(), 16),
        rate: Some(RATE),
        max_time: LONGEST,
        max_packets: RATE * LONGEST.as_secs(),
        ..Flood::new(Kind::LinuxSyn, address)
    };
    let flood = flood.start(bed)?;
    top.wait_for("top shows the attack", |screen| {
        screen.contains("* ATTACK: port 80") && screen.contains("began: port 80")
    })?;
    eventually("Prometheus knows of the attack", || {
        Ok(alert.mitigating()? == Some(1.0) && alert.challenged()? > CHALLENGED && alert.fires()?)
    })?;
    journal.wait_for("began")?;
    flood.stop()?;

    eventually("the attack is over", || {
        // Levels fall on packets only.
        SimulatedClients::new(bed, address).of(bed, 3, 10).run(bed)?;
        Ok(alert.mitigating()? == Some(0.0) && !alert.fires()?)
    })?;
    journal.wait_for("ended")?;
    top.wait_for("top shows its end", |screen| screen.contains("ended: port 80"))?;
    top.key("q")
}

/// Takes everything off the interface. What is left in files is for others to see.
fn purge(container: &Container) -> Result<()> {
    let programs = programs::of(container)?;
    container.shell(&format!("apt purge --yes {PACKAGE}"))?;
    ensure!(!xdp(container)?, "purged, and {SERVER_INTERFACE} still has an XDP program");
    // The kernel unloads a program some time after its last user is gone.
    eventually("the programs are unloaded", || Ok(!programs::any_loaded(&programs)?))
}

fn active(container: &Container) -> Result<bool> {
    Ok(container.shell("systemctl is-active defender || true")?.trim() == "active")
}

fn xdp(container: &Container) -> Result<bool> {
    Ok(container.shell(&format!("ip link show {SERVER_INTERFACE}"))?.contains("xdp"))
}
