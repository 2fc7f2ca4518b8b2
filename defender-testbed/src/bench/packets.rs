//! What each kind of packet costs.

use anyhow::{Result, ensure};
use defender_testbed::{
    abi::Orders,
    meter::{Meter, Subject},
    statistics::{extremes, median},
};

use super::{
    cases::{Case, Frame},
    field::{Field, ServiceMode, Sockets},
    frames::{Kind, spread},
};
use crate::rounds::Figure;

/// Packets of one test run, where flows may repeat.
const PACKETS: u32 = 20_000;
/// Flows, and packets of a run, where each packet must be the first of its flow.
const FRESH: u32 = 2048;
/// Few flows: all of their state stays in the nearest caches.
const FEW: u32 = 8;
/// Many flows: hardly any of their state is in a cache.
pub(super) const MANY: u32 = 1 << 20;
/// More lookups than the presence filter's budget allows in a second.
const WARM_UP: u32 = 30_000;
/// The share of packets that must have the expected verdict.
const PURE: f64 = 0.98;
/// The interface's MSS.
const MSS: u16 = 1460;

impl Case {
    /// Whether a flow's state must be cleared before it repeats.
    pub(super) fn needs_fresh_flows(&self) -> bool {
        matches!(self.frame, Frame::NewCookie | Frame::Opening)
    }

    /// Measures it with few flows, or with `many`.
    pub(super) fn measure(
        &self,
        field: &mut Field,
        meter: &mut Meter<'_>,
        runs: u32,
        many: Option<u32>,
    ) -> Result<Cost> {
        let few = if self.needs_fresh_flows() { FRESH } else { FEW };
        let flows = many.unwrap_or(few);
        let orders = self.prepare(field, meter, flows)?;
        let forget_stale = self.needs_fresh_flows() && many.is_none();
        let packets = if forget_stale { FRESH } else { PACKETS };
        let mut samples = Samples::default();
        let mut share: f64 = 1.0;
        for _ in 0..runs {
            if forget_stale {
                self.begin_anew(field, meter)?;
            }
            let before = field.counted(self.reason)?;
            samples.take(meter, &orders, Subject::Program, packets)?;
            let after = field.counted(self.reason)?;
            share = share.min((after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64);
        }
        self.clean_up(field)?;
        ensure!(
            share >= PURE,
            "{}: only {:.1} % of the packets ended as {}",
            self.name,
            share * 100.0,
            self.reason.name()
        );
        Ok(samples.cost(flows))
    }

    /// Sets up its environment.
    pub(super) fn prepare(&self, field: &mut Field, meter: &mut Meter<'_>, flows: u32) -> Result<Orders> {
        // Flows come in this order.
        let numbers = (0..flows).map(|place| spread(place, flows));
        let (kind, answers) = self.bring_about(field, numbers)?;
        if !answers.is_empty() {
            meter.set_answers(answers.into_iter())?;
        }
        if self.sockets == Sockets::Filter {
            exhaust_lookups(meter)?;
        }
        Ok(kind.orders(flows))
    }

    /// Sets up the environment of flows with these numbers. Returns their frame, and the acknowledgement
    /// numbers of cookies.
    pub(super) fn bring_about(
        &self,
        field: &mut Field,
        numbers: impl Iterator<Item = u32>,
    ) -> Result<(Kind, Vec<u32>)> {
        field.enter(self.mode, self.sockets)?;
        field.forget_connections()?;
        Ok(match self.frame {
            Frame::Fixed(kind) => (kind, Vec::new()),
            Frame::Opening => (Kind::Syn, Vec::new()),
            Frame::Established => {
                field.establish(numbers)?;
                (Kind::Data, Vec::new())
            }
            Frame::Cookie | Frame::NewCookie => {
                let (echo, answers) = field.answers(numbers, MSS)?;
                (Kind::Answer(echo), answers)
            }
        })
    }

    fn begin_anew(&self, field: &mut Field, meter: &mut Meter<'_>) -> Result<()> {
        if self.mode == ServiceMode::Always {
            exhaust_lookups(meter)?;
        }
        field.forget_first(FRESH)
    }

    pub(super) fn clean_up(&self, field: &mut Field) -> Result<()> {
        if self.frame == Frame::Established { field.forget_flows() } else { Ok(()) }
    }
}

/// Looks up more unknown flows than the presence filter's budget allows, so that the program trusts the
/// filter for the rest of the second.
fn exhaust_lookups(meter: &mut Meter<'_>) -> Result<()> {
    meter.run(&Kind::Forged.orders(FEW), Subject::Program, WARM_UP, true).map(drop)
}

/// The cost of one kind of packet, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) flows: u32,
    /// The method's own cost.
    pub(super) method: Figure,
    /// Net of the method's cost: differences of medians and minima, and the maximum less the method's
    /// median.
    pub(super) net: Figure,
}

/// The cost of packets, twenty thousand per run.
pub(super) fn cost(meter: &mut Meter<'_>, orders: &Orders, runs: u32) -> Result<Cost> {
    cost_of_runs(meter, orders, PACKETS, runs, || ())
}

/// The same with this many packets per run. Calls `next` between the method's runs and the program's.
pub(super) fn cost_of_runs(
    meter: &mut Meter<'_>,
    orders: &Orders,
    packets: u32,
    runs: u32,
    next: impl FnOnce(),
) -> Result<Cost> {
    let mut measure = |subject, again| -> Result<Vec<f64>> {
        (0..runs).map(|_| Ok(meter.run(orders, subject, packets, again)?.nanoseconds)).collect()
    };
    let method = measure(Subject::Method, true)?;
    next();
    let program = measure(Subject::Program, false)?;
    Ok(Cost { flows: 1 << orders.flow_bits, method: Figure::of(&method), net: net(&method, &program) })
}

#[derive(Default)]
struct Samples {
    method: Vec<f64>,
    program: Vec<f64>,
}

impl Samples {
    /// The same packets, once without a program and once with the measured one.
    fn take(&mut self, meter: &mut Meter<'_>, orders: &Orders, subject: Subject, packets: u32) -> Result<()> {
        self.method.push(meter.run(orders, Subject::Method, packets, true)?.nanoseconds);
        self.program.push(meter.run(orders, subject, packets, false)?.nanoseconds);
        Ok(())
    }

    fn cost(&self, flows: u32) -> Cost {
        Cost { flows, method: Figure::of(&self.method), net: net(&self.method, &self.program) }
    }
}

/// Compares minimum with minimum and median with median, since times fall into two groups.
fn net(method: &[f64], program: &[f64]) -> Figure {
    let (least, most) = extremes(program).unwrap_or_default();
    let (method_least, _) = extremes(method).unwrap_or_default();
    let method_median = median(method).unwrap_or_default();
    Figure {
        median: median(program).unwrap_or_default() - method_median,
        least: least - method_least,
        most: most - method_median,
    }
}

/// The cost of the floors for a SYN frame.
pub(super) fn floor(meter: &mut Meter<'_>, subject: Subject, runs: u32, many: Option<u32>) -> Result<Cost> {
    let flows = many.unwrap_or(FEW);
    let orders = Kind::Syn.orders(flows);
    let mut samples = Samples::default();
    for _ in 0..runs {
        samples.take(meter, &orders, subject, PACKETS)?;
    }
    Ok(samples.cost(flows))
}
