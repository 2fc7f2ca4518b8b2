//! `defender-testbed flood`.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use defender_testbed::{
    cpu::{self, Undisturbed},
    flood::{self, Kind},
    programs::Program,
    topology::{Options, Topology},
};

/// Floods one of the testbed's own programs inside namespaces of its own, to see how fast this machine is.
#[derive(Debug, Args)]
pub(crate) struct Flood {
    /// Receiver of the flood
    #[arg(long, value_enum, default_value = "drop")]
    at: At,
    /// Kind of packets
    #[arg(long, value_enum, default_value = "linux-syn")]
    kind: FloodKind,
    /// Flood over IPv6
    #[arg(long)]
    ipv6: bool,
    /// Packets per second (default: as fast as possible)
    #[arg(long)]
    rate: Option<u64>,
    /// Seconds, at most 60
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Packets at most
    #[arg(long, default_value_t = 50_000_000)]
    packets: u64,
    /// Packets sent back to back when there is a rate
    #[arg(long, default_value_t = 16)]
    burst: u64,
    /// Packets handed to the interface together
    #[arg(long, default_value_t = 64)]
    batch: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum At {
    /// The kernel without a listener
    Kernel,
    /// A program that drops the spoofed range
    Drop,
    /// A program that sends SYNs back
    Swap,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FloodKind {
    LinuxSyn,
    WindowsSyn,
    PlainSyn,
    Ack,
    PlainAck,
    Rst,
    SynAck,
}

impl Flood {
    /// Runs the flood and prints what was sent, taken and answered.
    pub(crate) fn run(self) -> Result<()> {
        let _undisturbed = Undisturbed::new();
        cpu::prioritise(0)?;
        let bed = Topology::with(&Options {
            client_end: Some(Program::Absorb),
            server_cpu: Some(0),
            urgent: true,
            ..Options::default()
        })?;
        let program = match self.at {
            At::Kernel => None,
            At::Drop => Some(Program::DropRange),
            At::Swap => Some(Program::SwapTx),
        };
        let _attached = program.map(|program| bed.attach_server_end(program)).transpose()?;
        let target = if self.ipv6 { bed.server_v6(80) } else { bed.server_v4(80) };
        let report = flood::Flood {
            rate: self.rate,
            max_packets: self.packets,
            max_time: Duration::from_secs_f64(self.seconds),
            burst: self.burst,
            batch: self.batch,
            ..flood::Flood::new(self.kind.into(), target)
        }
        .run_to_end(&bed)?;
        let seconds = report.elapsed.as_secs_f64();
        let answers =
            bed.client_end().map_or(Ok(0), |end| end.counters().map(|counters| counters.spoofed()))?;
        println!("sent     {:>12.0} packets/s ({} in {seconds:.3} s)", report.sent_per_second(), report.sent);
        println!("taken    {:>12.0} packets/s", report.taken_per_second());
        println!("answered {:>12.0} packets/s", answers as f64 / seconds);
        if report.forgiven > 0 {
            println!("the source fell behind by {} packets", report.forgiven);
        }
        Ok(())
    }
}

impl From<FloodKind> for Kind {
    fn from(kind: FloodKind) -> Self {
        match kind {
            FloodKind::LinuxSyn => Self::LinuxSyn,
            FloodKind::WindowsSyn => Self::WindowsSyn,
            FloodKind::PlainSyn => Self::PlainSyn,
            FloodKind::Ack => Self::Ack,
            FloodKind::PlainAck => Self::PlainAck,
            FloodKind::Rst => Self::Rst,
            FloodKind::SynAck => Self::SynAck,
        }
    }
}
