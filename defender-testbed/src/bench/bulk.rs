//! Bulk data through an established connection: iperf3.

use std::{
    fs,
    net::SocketAddr,
    ops::Range,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use defender_testbed::{
    controller::Controller,
    flood::{Flood, Kind, MAX_PACKETS},
    interface,
    programs::{Attached, Program},
    topology::{SERVER_INTERFACE, Topology},
};
use serde_json::Value;

use crate::rounds::{self, Figure};

const PORT: u16 = 5201;
/// SYNs per second of the flood.
pub(super) const RATE: u64 = 200_000;
const SECONDS: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(5);

/// What is attached to the server's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    /// Nothing.
    Nothing,
    /// An XDP program that passes everything: the cost of any program on a veth.
    Pass,
    /// The defender in mode `auto`.
    Defender,
}

/// Throughput of data, in bits per second.
#[derive(Clone, Debug)]
pub(super) struct Bulk {
    pub(super) between: Between,
    pub(super) flooded: bool,
    pub(super) rate: Figure,
    /// By round.
    pub(super) rates: Vec<f64>,
}

impl Between {
    const ALL: [Self; 3] = [Self::Nothing, Self::Pass, Self::Defender];

    /// Its name in tables.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Nothing => "no program",
            Self::Pass => "a program that passes",
            Self::Defender => "defender auto",
        }
    }

    /// Its name in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Pass => "pass",
            Self::Defender => "defender_auto",
        }
    }
}

#[expect(dead_code, reason = "held until it is over")]
enum ProgramInPlace<'a> {
    Nothing,
    Pass(Attached),
    Defender(Controller<'a>),
}

/// Measures all, taking turns.
pub(super) fn measure(program: &Path, count: u32, tell: impl Fn(&str)) -> Result<Vec<Bulk>> {
    let bed = rounds::topology()?;
    let cells: Vec<_> =
        Between::ALL.into_iter().flat_map(|between| [(between, false), (between, true)]).collect();
    let mut rates = vec![Vec::new(); cells.len()];
    for round in 1..=count {
        let mut turns: Vec<_> = cells.iter().zip(&mut rates).collect();
        if round % 2 == 0 {
            // Alternates who comes after a flood, or last.
            turns.reverse();
        }
        for ((between, flooded), rates) in turns {
            let rate = once(&bed, program, *between, *flooded)?;
            let flood = if *flooded { "flooded" } else { "no flood" };
            tell(&format!(
                "round {round} of {count}: {}, {flood}: {:.2} Gbit/s",
                between.title(),
                rate / 1e9
            ));
            rates.push(rate);
        }
    }
    let rows = cells.into_iter().zip(rates);
    Ok(rows
        .map(|((between, flooded), rates)| Bulk { between, flooded, rate: Figure::of(&rates), rates })
        .collect())
}

fn once(bed: &Topology, program: &Path, between: Between, flooded: bool) -> Result<f64> {
    let mut server = Iperf::serve(bed)?;
    let _standing = match between {
        Between::Nothing => ProgramInPlace::Nothing,
        Between::Pass => ProgramInPlace::Pass(bed.attach_server_end(Program::Pass)?),
        Between::Defender => {
            let controller = Controller::start(&bed.server, program, SERVER_INTERFACE, &["--mode", "auto"])?;
            controller.wait_for_listener(PORT)?;
            ProgramInPlace::Defender(controller)
        }
    };
    let flood = flooded.then(|| {
        let time = Duration::from_secs(SECONDS) + 2 * PATIENCE;
        let flood = Flood {
            rate: Some(RATE),
            max_packets: MAX_PACKETS,
            max_time: time,
            ..Flood::new(Kind::LinuxSyn, target(bed))
        };
        flood.start(bed)
    });
    let flood = flood.transpose()?;
    let read = || Ok(interface::own_statistics(SERVER_INTERFACE)?.rx_bytes);
    let (received, readings) = rounds::during(bed, read, || server.client(bed))?;
    drop(flood);
    let received = received?;
    let whole = readings.whole().map_or(0, |span| span.after - span.before);
    let spans = readings.at_full_speed();
    let spans: Vec<_> = spans.iter().map(|span| (span.from..span.to, span.after - span.before)).collect();
    // This share of the bytes on the link is data that the server receives.
    let link = rate(&spans).map(|rate| rate * received.bytes / whole as f64);
    Ok(link.filter(|rate| rate.is_normal()).unwrap_or(received.rate))
}

/// Bits per second of the test, from bytes in consecutive time spans. The test begins with the first span
/// that has many.
fn rate(spans: &[(Range<Instant>, u64)]) -> Option<f64> {
    let most = spans.iter().map(|(_, bytes)| *bytes).max()?;
    let (first, _) = spans.iter().find(|(_, bytes)| *bytes > most / 10)?;
    let end = first.start + Duration::from_secs(SECONDS);
    let test = spans.iter().filter(|(span, _)| span.start >= first.end && span.end <= end);
    let (time, bytes) = test.fold((Duration::ZERO, 0), |(time, sum), (span, bytes)| {
        (time + (span.end - span.start), sum + bytes)
    });
    Some(bytes as f64 * 8.0 / time.as_secs_f64())
}

fn target(bed: &Topology) -> SocketAddr {
    bed.server_v4(PORT)
}

/// What iperf3's server received: bytes, and bits per second of the whole test.
struct Received {
    bytes: f64,
    rate: f64,
}

/// An iperf3 server for one test.
struct Iperf(Child);

impl Iperf {
    fn serve(bed: &Topology) -> Result<Self> {
        // The kernel ends it if the thread that started it ends.
        let mut command = bed.server.command("iperf3")?;
        command.args(["--server", "--one-off", "--port", &PORT.to_string()]).stdout(Stdio::null());
        let server = Self(command.spawn().context("cannot start iperf3")?);
        let deadline = Instant::now() + PATIENCE;
        let listeners = || bed.server.run(|| Ok(fs::read_to_string("/proc/thread-self/net/tcp6")?));
        while !listeners()?.contains(&format!(":{PORT:04X} ")) {
            ensure!(Instant::now() < deadline, "iperf3 does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Sends as much as possible. Returns what the server received.
    fn client(&mut self, bed: &Topology) -> Result<Received> {
        let mut client = bed.client.command("iperf3")?;
        let to = target(bed);
        client.args(["--client", &to.ip().to_string(), "--port", &to.port().to_string(), "--json"]);
        client.args(["--time", &SECONDS.to_string(), "--connect-timeout", "4000"]);
        let output = client.output().context("cannot start iperf3")?;
        let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 printed no JSON")?;
        if let Some(error) = report["error"].as_str() {
            bail!("iperf3: {error}");
        }
        let number = |name| {
            report["end"]["sum_received"][name].as_f64().with_context(|| format!("iperf3 tells no {name}"))
        };
        Ok(Received { bytes: number("bytes")?, rate: number("bits_per_second")? })
    }
}

impl Drop for Iperf {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_test_alone() {
        let begun = Instant::now();
        let half = |number: u32| begun + Duration::from_millis(500) * number;
        let spans = |bytes: &[u64]| -> Vec<_> {
            (0..).zip(bytes).map(|(number, bytes)| (half(number)..half(number + 1), *bytes)).collect()
        };
        // The control connection, the start, two and a half seconds of the test with a stall at its end,
        // and the rest.
        let with_stall = spans(&[3, 400, 1000, 2000, 1000, 1000, 0, 70, 5]);
        assert_eq!(rate(&with_stall), Some(5000.0 * 8.0 / 2.5));
        assert_eq!(rate(&[]), None);
        assert!(!rate(&spans(&[0, 0, 0])).unwrap_or(f64::NAN).is_normal());
        assert!(!rate(&spans(&[7])).unwrap_or(f64::NAN).is_normal());
    }
}
