//! One measurement: one defence, one flood, some seconds of clients.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result};
use defender_testbed::{
    client::{DEADLINE, Load, LoadReport},
    flood::{Flood, FloodReport, Kind, MAX_PACKETS},
    programs::Counters,
    server::{Accepted, Server},
    topology::Topology,
};
use serde_json::Value;

use super::{Defence, Level, Plan, defence::Standing};

const PORT: u16 = 80;

/// What a flood lasts longer than its clients, at most.
const FLOOD_MARGIN: Duration = Duration::from_millis(1500);

/// One cell of the table.
#[derive(Clone, Copy, Debug)]
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
    /// What clients saw.
    pub(crate) clients: LoadReport,
    /// What the server saw.
    pub(crate) accepted: Vec<Accepted>,
    /// What the defender counted, if it stood there.
    pub(crate) defender: Option<Value>,
}

impl Cell {
    /// Measures once, with a listener of its own: what a flood left in the last one's queues must not count.
    pub(super) fn measure(self, bed: &Topology, plan: &Plan, standing: &mut Standing) -> Result<Sample> {
        let server = Server::start(&bed.server, bed.server_v4(PORT))?;
        if let Standing::Defender(defender) = standing {
            defender.wait_for_listener(PORT)?;
        }
        let duration = Duration::from_secs_f64(plan.seconds);
        let load = Load::new(bed, server.address()).with(bed, plan.clients, duration);
        let before = answers(bed)?;
        let (clients, flood) = self.under_flood(bed, plan, &load)?;
        let answered = answers(bed)?.spoofed() - before.spoofed();
        let defender = match standing {
            Standing::Defender(defender) => Some(defender.statistics()?),
            _ => None,
        };
        let per_second = |count| flood.map_or(0.0, |flood| count as f64 / flood.elapsed.as_secs_f64());
        Ok(Sample {
            offered: flood.map_or(0.0, |flood| flood.sent_per_second()),
            taken: flood.map_or(0.0, |flood| flood.taken_per_second()),
            answered: per_second(answered),
            clients,
            accepted: server.take_accepted(),
            defender,
        })
    }

    /// Runs the clients while the flood lasts.
    fn under_flood(
        self,
        bed: &Topology,
        plan: &Plan,
        load: &Load,
    ) -> Result<(LoadReport, Option<FloodReport>)> {
        if self.level == Level::Calm {
            return Ok((load.run(&bed.client)?, None));
        }
        let flood = Flood {
            rate: (self.level == Level::Paced).then_some(plan.rate),
            max_packets: MAX_PACKETS,
            max_time: load.duration + DEADLINE + FLOOD_MARGIN,
            ..Flood::new(Kind::LinuxSyn, load.target)
        };
        let flood = flood.start(bed)?;
        flood.wait_until_running()?;
        let clients = load.run(&bed.client)?;
        Ok((clients, Some(flood.stop()?)))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, {}", self.defence, self.level.name())
    }
}

fn answers(bed: &Topology) -> Result<Counters> {
    bed.client_end().context("nothing counts at the client end")?.counters()
}
