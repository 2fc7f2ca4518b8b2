//! One measurement: one defence, one flood, some seconds of clients.

use std::{fmt, net::SocketAddr, sync::OnceLock, time::Duration};

use anyhow::Result;
use defender_testbed::{
    client::{DEADLINE, Load, LoadReport, Outcome},
    flood::{Flood, FloodHandle, Kind, MAX_PACKETS},
    server::{self, Accepted, Server},
    speed::Speeds,
    topology::Topology,
};
use serde_json::Value;

use super::{
    Defence, Level, Plan, SERVER_CPU,
    defence::Standing,
    rates::{self, Counts, Rates},
    readings,
    spent::Receiver,
};

pub(super) const PORT: u16 = 80;

/// What a flood lasts longer than its clients, at most.
const FLOOD_MARGIN: Duration = Duration::from_millis(1500);

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) defence: Defence,
    pub(crate) level: Level,
}

/// Around the moment in which a client begins, when the processor must run at full speed: what a packet finds in a full ring
/// is of the last milliseconds, and a handshake takes one or two, or until the SYN is repeated after a second.
const BEFORE: Duration = Duration::from_millis(5);
const AFTER: Duration = Duration::from_millis(10);

/// What one measurement found.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Share of the time in which the processor of the server end ran at full speed, 0 to 1. All else is of that time, or of
    /// all if there is none.
    pub(crate) full_speed: f64,
    /// SYNs of the flood.
    pub(crate) rates: Rates,
    /// The same of short times.
    pub(crate) short: Vec<Rates>,
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
        let both = [&self.linux, &self.windows].into_iter();
        LoadReport { clients: both.flat_map(|half| half.clients.clients.clone()).collect() }
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
        let (receiver, flood) = (Receiver::of(bed)?, OnceLock::new());
        let read = || Counts::read(bed, flood.get(), &receiver);
        let clients_come = || -> Result<[Half; 2]> {
            if let Some(started) = self.start_flood(bed, plan, server.address())? {
                flood.get_or_init(|| started).wait_until_running()?;
            }
            Ok([half(bed, plan, &server, true)?, half(bed, plan, &server, false)?])
        };
        let (halves, readings) = readings::during(bed, read, clients_come)?;
        flood.into_inner().map(FloodHandle::stop).transpose()?;
        let [linux, windows] = halves?.map(|half| half.at_full_speed(&readings.speeds));
        let defender = match standing {
            Standing::Defender(controller) => Some(controller.statistics()?),
            Standing::Program { .. } | Standing::Rules { .. } => None,
        };
        let flooded = rates::flooded(&readings);
        Ok(Sample {
            full_speed: readings.speeds.full_share(),
            rates: Rates::of(&flooded),
            short: Rates::of_each(&flooded),
            linux,
            windows,
            defender,
        })
    }

    /// Starts the flood of this cell, if it has one.
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
        flood.start(bed).map(Some)
    }
}

impl Half {
    /// Leaves out the clients that came while the processor was throttled; none if all did.
    fn at_full_speed(mut self, speeds: &Speeds) -> Self {
        let came = |client: &Outcome| speeds.were_full(client.begun - BEFORE..client.begun + AFTER);
        if self.clients.clients.iter().any(came) {
            self.clients.clients.retain(came);
        }
        self
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
