//! One measurement: one defence, one flood, a few seconds of clients.

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
    Defence, FloodLevel, RoundsPlan, SERVER_CPU,
    defence::DefenceInPlace,
    rates::{self, FloodCounts, Rates},
    readings,
    spent::Receiver,
};

pub(super) const PORT: u16 = 80;

/// How much longer than its clients a flood lasts at most.
const FLOOD_MARGIN: Duration = Duration::from_millis(1500);

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) defence: Defence,
    pub(crate) level: FloodLevel,
}

/// The processor must run at full speed from this long before a client begins until this long after it: a
/// full ring holds packets of the last milliseconds. A handshake takes one or two milliseconds, or until the
/// SYN is retransmitted after a second.
const BEFORE: Duration = Duration::from_millis(5);
const AFTER: Duration = Duration::from_millis(10);

/// The result of one measurement.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Share of the time in which the server end's processor ran at full speed, 0 to 1. All other values
    /// are from that time, or from all of it if there is none.
    pub(crate) full_speed: f64,
    /// SYNs of the flood.
    pub(crate) rates: Rates,
    /// The same for short intervals.
    pub(crate) short: Vec<Rates>,
    /// Clients like Linux, with timestamps, and like Windows, without.
    pub(crate) linux: Half,
    pub(crate) windows: Half,
    /// The defender's counters, if it was the defence.
    pub(crate) defender: Option<Value>,
}

/// What one kind of clients observed, and what the server observed of them.
#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) clients: LoadReport,
    pub(crate) accepted: Vec<Accepted>,
}

impl Sample {
    /// What clients of both kinds observed.
    pub(crate) fn clients(&self) -> LoadReport {
        let both = [&self.linux, &self.windows].into_iter();
        LoadReport { clients: both.flat_map(|half| half.clients.clients.clone()).collect() }
    }
}

impl Cell {
    /// Measures once, with a new listener: a flood's remains in the last one's queues must not count.
    pub(super) fn measure(
        self,
        bed: &Topology,
        plan: &RoundsPlan,
        standing: &DefenceInPlace<'_>,
    ) -> Result<Sample> {
        let options = server::Options { cpu: Some(SERVER_CPU), urgent: true, ..server::Options::default() };
        let server = Server::with(&bed.server, bed.server_v4(PORT), options)?;
        if let DefenceInPlace::Defender(controller) = standing {
            controller.wait_for_listener(PORT)?;
        }
        bed.poll_client_end(self.level.client_cpu())?;
        let (receiver, flood) = (Receiver::of(bed)?, OnceLock::new());
        let read = || FloodCounts::read(bed, flood.get(), &receiver);
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
            DefenceInPlace::Defender(controller) => Some(controller.statistics()?),
            DefenceInPlace::Program { .. } | DefenceInPlace::Rules { .. } => None,
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
        plan: &RoundsPlan,
        target: SocketAddr,
    ) -> Result<Option<FloodHandle<'a>>> {
        if self.level == FloodLevel::NoFlood {
            return Ok(None);
        }
        let clients = Duration::from_secs_f64(plan.seconds);
        let flood = Flood {
            rate: if let FloodLevel::Paced(rate) = self.level { Some(rate) } else { None },
            max_packets: MAX_PACKETS,
            max_time: clients + 2 * DEADLINE + FLOOD_MARGIN,
            ..Flood::new(Kind::LinuxSyn, target)
        };
        flood.start(bed).map(Some)
    }
}

impl Half {
    /// Removes clients that connected while the processor was throttled. Removes none if all did.
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

/// Runs clients of one kind for half of the time. The kind is a sysctl of the clients' namespace, so one
/// kind must finish before the other begins.
fn half(bed: &Topology, plan: &RoundsPlan, server: &Server, timestamps: bool) -> Result<Half> {
    bed.client.set_sysctl("net.ipv4.tcp_timestamps", u8::from(timestamps))?;
    let duration = Duration::from_secs_f64(plan.seconds / 2.0);
    let load = Load::new(bed, server.address()).with(bed, plan.clients, duration);
    let clients = Load { cpu: Some(SERVER_CPU), urgent: true, ..load }.run(&bed.client)?;
    Ok(Half { clients, accepted: server.take_accepted() })
}
