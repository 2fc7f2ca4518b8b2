//! One measurement: one defence, one flood, some seconds of clients.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use defender_testbed::{
    client::{DEADLINE, Load, LoadReport},
    flood::{Flood, FloodHandle, Kind, MAX_PACKETS},
    programs::Counters,
    server::{self, Accepted, Server},
    topology::Topology,
};
use serde_json::Value;

use super::{Defence, Level, Plan, SERVER_CPU, defence::Standing, spent};

const PORT: u16 = 80;

/// What a flood lasts longer than its clients, at most.
const FLOOD_MARGIN: Duration = Duration::from_millis(1500);

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) defence: Defence,
    pub(crate) level: Level,
}

/// What one measurement found.
#[derive(Debug)]
pub(crate) struct Sample {
    /// SYNs of the flood, per second: sent, taken by the server end, answered.
    pub(crate) offered: f64,
    pub(crate) taken: f64,
    pub(crate) answered: f64,
    /// Time of the thread that takes packets at the server end, in nanoseconds for each packet taken.
    pub(crate) nanoseconds: f64,
    /// Clients like Linux, which use timestamps, and like Windows, which do not.
    pub(crate) linux: Half,
    pub(crate) windows: Half,
    /// What the defender counted, if it stood there.
    pub(crate) defender: Option<Value>,
}

/// What one kind of clients saw, and the server of them.
#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) clients: LoadReport,
    pub(crate) accepted: Vec<Accepted>,
}

impl Sample {
    /// What clients of both kinds saw.
    pub(crate) fn clients(&self) -> LoadReport {
        let mut clients = self.linux.clients.clone();
        clients.merge(self.windows.clients.clone());
        clients
    }
}

impl Cell {
    /// Measures once, with a listener of its own: what a flood left in the last one's queues must not count.
    pub(super) fn measure(self, bed: &Topology, plan: &Plan, standing: &Standing<'_>) -> Result<Sample> {
        let options = server::Options { cpu: Some(SERVER_CPU), urgent: true, ..server::Options::default() };
        let server = Server::with(&bed.server, bed.server_v4(PORT), options)?;
        if let Standing::Defender(controller) = standing {
            controller.wait_for_listener(PORT)?;
        }
        bed.poll_client_end(self.level.client_cpu())?;
        let before = answers(bed)?;
        let spent_before = spent::by_receiver(bed)?;
        let flood = self.start_flood(bed, plan, server.address())?;
        let linux = half(bed, plan, &server, true)?;
        let windows = half(bed, plan, &server, false)?;
        let flood = flood.map(FloodHandle::stop).transpose()?;
        let spent = spent::by_receiver(bed)?.saturating_sub(spent_before);
        let answered = answers(bed)?.spoofed() - before.spoofed();
        let defender = match standing {
            Standing::Defender(controller) => Some(controller.statistics()?),
            Standing::Program { .. } | Standing::Rules { .. } => None,
        };
        Ok(Sample {
            offered: flood.map_or(0.0, |flood| flood.sent_per_second()),
            taken: flood.map_or(0.0, |flood| flood.taken_per_second()),
            nanoseconds: flood.map_or(0.0, |flood| spent.as_nanos() as f64 / (flood.taken.max(1)) as f64),
            answered: flood.map_or(0.0, |flood| answered as f64 / flood.elapsed.as_secs_f64()),
            linux,
            windows,
            defender,
        })
    }

    /// Starts the flood of this cell, if it has one, and waits until it comes.
    fn start_flood<'a>(
        self,
        bed: &'a Topology,
        plan: &Plan,
        target: SocketAddr,
    ) -> Result<Option<FloodHandle<'a>>> {
        if self.level == Level::Calm {
            return Ok(None);
        }
        let clients = Duration::from_secs_f64(plan.seconds);
        let flood = Flood {
            rate: if let Level::Paced(rate) = self.level { Some(rate) } else { None },
            max_packets: MAX_PACKETS,
            max_time: clients + 2 * DEADLINE + FLOOD_MARGIN,
            ..Flood::new(Kind::LinuxSyn, target)
        };
        let flood = flood.start(bed)?;
        flood.wait_until_running()?;
        Ok(Some(flood))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, {}", self.defence, self.level.rate())
    }
}

/// Lets clients of one kind come for half of the time. The kind is a sysctl of the clients' namespace, so one kind must
/// be done before the other begins.
fn half(bed: &Topology, plan: &Plan, server: &Server, timestamps: bool) -> Result<Half> {
    bed.client.set_sysctl("net.ipv4.tcp_timestamps", u8::from(timestamps))?;
    let duration = Duration::from_secs_f64(plan.seconds / 2.0);
    let load = Load::new(bed, server.address()).with(bed, plan.clients, duration);
    let clients = Load { cpu: Some(SERVER_CPU), urgent: true, ..load }.run(&bed.client)?;
    Ok(Half { clients, accepted: server.take_accepted() })
}

fn answers(bed: &Topology) -> Result<Counters> {
    bed.client_end().context("nothing counts at the client end")?.counters()
}
