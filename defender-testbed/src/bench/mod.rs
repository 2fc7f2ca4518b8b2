//! The benchmark: speed on this machine, compared with floors and peers. All compared numbers come from one
//! run.

mod aims;
mod bulk;
mod cases;
mod count;
mod field;
mod frames;
mod growth;
mod json;
mod limits;
mod output;
mod packets;
mod plots;

use std::{panic, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use defender_testbed::{
    cpu::{self, Undisturbed},
    flood::source_cpu,
    meter::{Meter, Subject},
};

pub(crate) use json::json;
pub(crate) use output::print;
pub(crate) use plots::write as write_plots;

use self::{
    bulk::Bulk,
    cases::{CASES, Case},
    count::PacketCount,
    growth::Grown,
    packets::{Cost, MANY},
};
pub(crate) use crate::rounds::Defence;
use crate::{
    progress::Progress,
    rounds::{self, DefenceRow, DefenceTurn, FloodLevel},
};

/// How often to repeat measurements beyond their limit, and the pause before each.
const TRIES: usize = 6;
const PAUSE: Duration = Duration::from_secs(3);
/// Runs of each kind of packet.
const RUNS: u32 = 60;
const QUICK_RUNS: u32 = 30;
/// Duration of each end-to-end measurement in seconds, and clients per second.
const SECONDS: f64 = 2.5;
const CLIENTS: f64 = 400.0;
/// How long the defender in mode `auto` watches clients first. It learns nothing from less than a minute.
const WATCHED: Duration = Duration::from_secs(75);
/// The paced floods, in SYNs per second.
const RATES: [u64; 3] = [50_000, 200_000, 1_000_000];

/// What to measure.
#[derive(Debug)]
pub(crate) struct BenchPlan {
    /// The defender.
    pub(crate) defender: PathBuf,
    /// Only the cost of packets with few flows.
    pub(crate) quick: bool,
    /// Number of end-to-end rounds.
    pub(crate) rounds: u32,
    /// The questions to answer; all if empty.
    pub(crate) only: Vec<Question>,
    /// The kinds of packets to measure, by name; all if empty.
    pub(crate) packets: Vec<String>,
    /// What to measure end to end; all if empty.
    pub(crate) defences: Vec<Defence>,
    /// Runs of each kind of packet, if not the usual number.
    pub(crate) runs: Option<u32>,
}

/// A question that the benchmark answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Question {
    /// What each kind of packet costs
    Packets,
    /// What each kind of packet executes and touches, counted by interpreting the program
    Count,
    /// What clients see of floods
    EndToEnd,
    /// How fast bulk data is
    Bulk,
    /// How costs and memory grow
    Growth,
}

/// The results.
pub(crate) struct BenchReport {
    packets: Vec<Priced>,
    floors: Vec<(Subject, Option<u32>, Cost)>,
    instructions: Vec<(&'static str, u32)>,
    counted: Vec<PacketCount>,
    end_to_end: Vec<DefenceRow>,
    bulk: Vec<Bulk>,
    growth: Option<Grown>,
}

/// A kind of packet and its cost.
struct Priced {
    case: Case,
    few: Cost,
    many: Option<Cost>,
}

impl BenchPlan {
    fn asks(&self, question: Question) -> bool {
        match question {
            Question::Packets | Question::Count => self.only.is_empty() || self.only.contains(&question),
            _ if self.quick => false,
            _ => self.only.is_empty() || self.only.contains(&question),
        }
    }

    fn cases(&self) -> Result<Vec<Case>> {
        let find = |name: &String| CASES.into_iter().find(|case| case.name == name);
        if self.packets.is_empty() {
            return Ok(CASES.into());
        }
        let chosen = |name| find(name).with_context(|| format!("there is no kind of packet {name}"));
        self.packets.iter().map(chosen).collect()
    }
}

impl BenchReport {
    /// What has become too slow or too large, as text. Empty if nothing has.
    pub(crate) fn complaints(&self) -> Vec<String> {
        limits::complaints(self)
    }

    fn floor(&self, subject: Subject) -> Option<&Cost> {
        let with_few = self.floors.iter().find(|(of, many, _)| *of == subject && many.is_none());
        with_few.map(|(_, _, cost)| cost)
    }
}

/// Measures. Progress goes to standard error.
pub(crate) fn run(plan: &BenchPlan) -> Result<BenchReport> {
    let _undisturbed = Undisturbed::new();
    cpu::prioritise(0)?;
    let mut report = BenchReport {
        packets: Vec::new(),
        floors: Vec::new(),
        instructions: Vec::new(),
        counted: Vec::new(),
        end_to_end: Vec::new(),
        bulk: Vec::new(),
        growth: None,
    };
    if plan.asks(Question::Packets) {
        // In a thread, since it binds itself to one processor.
        let packets = thread::scope(|scope| scope.spawn(|| measure_packets(plan, &mut report)).join());
        packets.unwrap_or_else(|panic| panic::resume_unwind(panic))?;
    }
    if plan.asks(Question::Count) {
        report.counted = count::measure(plan, &plan.cases()?)?;
    }
    if plan.asks(Question::Growth) {
        let bed = field::topology()?;
        report.growth = Some(growth::measure(&bed, &plan.defender, |what| tell(&format!("growth: {what}")))?);
    }
    if plan.asks(Question::EndToEnd) {
        report.end_to_end = measure_end_to_end(plan)?;
    }
    if plan.asks(Question::Bulk) {
        report.bulk = bulk::measure(&plan.defender, plan.rounds, |what| tell(&format!("bulk: {what}")))?;
    }
    Ok(report)
}

fn measure_packets(plan: &BenchPlan, report: &mut BenchReport) -> Result<()> {
    let bed = field::topology()?;
    let mut field = field::Field::new(&bed, &plan.defender, &["--flows", &MANY.to_string()])?;
    let mut meter = field::meter(&bed, None, true)?;
    meter.set_program(&field.defended.xdp()?)?;
    report.instructions = field.defended.verified_instructions()?;
    // So that this thread's writes to maps end up in the caches of the processor that measures.
    cpu::pin_current(source_cpu().unwrap_or(0))?;
    let (usual, rounds) =
        if plan.quick { (QUICK_RUNS, &[None][..]) } else { (RUNS, &[None, Some(MANY)][..]) };
    let runs = plan.runs.unwrap_or(usual);
    let cases = plan.cases()?;
    let progress = Progress::of("packets", cases.len() * rounds.len());
    for many in rounds {
        for subject in Subject::FLOORS {
            report.floors.push((subject, *many, packets::floor(&mut meter, subject, runs, *many)?));
        }
        for (index, case) in cases.iter().enumerate() {
            let cost = case.measure(&mut field, &mut meter, runs, *many);
            let cost = cost.with_context(|| format!("cannot measure {}", case.name))?;
            progress.step(&format!("{}, {} flows: {:.0} ns", case.title, cost.flows, cost.net.least));
            match many {
                None => report.packets.push(Priced { case: *case, few: cost, many: None }),
                Some(_) => report.packets[index].many = Some(cost),
            }
        }
        if many.is_none() {
            measure_again(&cases, &mut field, &mut meter, runs, report, &progress)?;
        }
    }
    Ok(())
}

/// Repeats measurements beyond their limit: where two processors share a core, the other one's load may
/// double every cost for seconds.
fn measure_again(
    cases: &[Case],
    field: &mut field::Field,
    meter: &mut Meter<'_>,
    runs: u32,
    report: &mut BenchReport,
    progress: &Progress,
) -> Result<()> {
    for _ in 0..TRIES {
        let beyond = limits::beyond(report);
        if beyond.is_empty() {
            break;
        }
        thread::sleep(PAUSE);
        for (index, _) in beyond {
            let cost = cases[index].measure(field, meter, runs, None)?;
            progress.say(&format!("{}, again: {:.0} ns", cases[index].title, cost.net.least));
            let few = &mut report.packets[index].few;
            if cost.net.least < few.net.least {
                *few = cost;
            }
        }
    }
    Ok(())
}

fn measure_end_to_end(plan: &BenchPlan) -> Result<Vec<DefenceRow>> {
    let plan = rounds::RoundsPlan {
        defender: Some(plan.defender.clone()),
        seconds: SECONDS,
        rounds: plan.rounds,
        clients: CLIENTS,
        watched: Some(WATCHED),
        turns: turns(plan),
    };
    let progress = Progress::of("end to end", plan.measurements());
    let mut rows = rounds::run(&plan, |round, cell, sample| {
        let success = sample.clients().success() * 100.0;
        progress
            .step(&format!("round {round} of {}: {cell}: {success:.1} % of clients within 1 s", plan.rounds));
    })?;
    rows.sort_by_key(|row| (row.cell.defence, row.cell.level));
    Ok(rows)
}

/// Each flood meets all defences in turn, each set up anew. Defences to be compared run close together in
/// time, since a neighbour on the same core may slow this machine for minutes. Runs without a flood are
/// compared with those at the judged flood.
fn turns(plan: &BenchPlan) -> Vec<DefenceTurn> {
    let [slow, judged, fast] = RATES.map(FloodLevel::Paced);
    let wanted = |defence: &&Defence| plan.defences.is_empty() || plan.defences.contains(defence);
    let defences: Vec<_> = Defence::value_variants().iter().filter(wanted).collect();
    let of = |levels: Vec<FloodLevel>| {
        defences
            .iter()
            .map(move |defence| DefenceTurn { defence: **defence, levels: levels.clone() })
            .collect::<Vec<_>>()
    };
    [vec![slow], vec![FloodLevel::NoFlood, judged], vec![fast], vec![FloodLevel::Full]]
        .into_iter()
        .flat_map(of)
        .collect()
}

fn tell(what: &str) {
    eprintln!("{what}");
}
