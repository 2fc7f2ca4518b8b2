//! The benchmark: how fast, compared with what, on this machine. The numbers of one run are compared with one another.

mod aims;
mod bulk;
mod cases;
mod count;
mod field;
mod frames;
mod growth;
mod guard;
mod json;
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
    count::Counted,
    growth::Grown,
    packets::{Cost, MANY},
};
pub(crate) use crate::rounds::Defence;
use crate::rounds::{self, Level, Row, Turn};

/// How often what is beyond its limit is measured again, and the pause before each time.
const TRIES: usize = 6;
const PAUSE: Duration = Duration::from_secs(3);
/// Runs of each kind of packet.
const RUNS: u32 = 60;
const QUICK_RUNS: u32 = 30;
/// Seconds that clients come in each measurement end to end, and how many a second.
const SECONDS: f64 = 2.5;
const CLIENTS: f64 = 400.0;
/// How long the defender in mode `auto` has watched them before; from less than a minute it learns nothing.
const WATCHED: Duration = Duration::from_secs(75);
/// The paced floods, in SYNs per second.
const RATES: [u64; 3] = [50_000, 200_000, 1_000_000];

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The defender.
    pub(crate) defender: PathBuf,
    /// Only what packets cost with few flows.
    pub(crate) quick: bool,
    /// How often everything end to end is measured.
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

/// What was found.
pub(crate) struct Report {
    packets: Vec<Priced>,
    floors: Vec<(Subject, Option<u32>, Cost)>,
    instructions: Vec<(&'static str, u32)>,
    counted: Vec<Counted>,
    end_to_end: Vec<Row>,
    bulk: Vec<Bulk>,
    growth: Option<Grown>,
}

/// A kind of packet and what it costs.
struct Priced {
    case: Case,
    few: Cost,
    many: Option<Cost>,
}

impl Plan {
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

impl Report {
    /// What has become too slow or too large, in words; nothing if all is well.
    pub(crate) fn complaints(&self) -> Vec<String> {
        guard::complaints(self)
    }

    fn floor(&self, subject: Subject) -> Option<&Cost> {
        let with_few = self.floors.iter().find(|(of, many, _)| *of == subject && many.is_none());
        with_few.map(|(_, _, cost)| cost)
    }
}

/// Measures; progress goes to the standard error.
pub(crate) fn run(plan: &Plan) -> Result<Report> {
    let _undisturbed = Undisturbed::new();
    cpu::prioritise(0)?;
    let mut report = Report {
        packets: Vec::new(),
        floors: Vec::new(),
        instructions: Vec::new(),
        counted: Vec::new(),
        end_to_end: Vec::new(),
        bulk: Vec::new(),
        growth: None,
    };
    if plan.asks(Question::Packets) {
        // In a thread, for it binds itself to one processor.
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

fn measure_packets(plan: &Plan, report: &mut Report) -> Result<()> {
    let bed = field::topology()?;
    let mut field = field::Field::new(&bed, &plan.defender, &["--flows", &MANY.to_string()])?;
    let mut meter = field::meter(&bed, None, true)?;
    meter.set_program(&field.defended.xdp()?)?;
    report.instructions = field.defended.verified_instructions()?;
    // What this thread writes into maps is then in the caches of the processor that measures.
    cpu::pin_current(source_cpu().unwrap_or(0))?;
    let (usual, rounds) =
        if plan.quick { (QUICK_RUNS, &[None][..]) } else { (RUNS, &[None, Some(MANY)][..]) };
    let runs = plan.runs.unwrap_or(usual);
    let cases = plan.cases()?;
    for many in rounds {
        for subject in Subject::FLOORS {
            report.floors.push((subject, *many, packets::floor(&mut meter, subject, runs, *many)?));
        }
        for (index, case) in cases.iter().enumerate() {
            let cost = case.measure(&mut field, &mut meter, runs, *many);
            let cost = cost.with_context(|| format!("cannot measure {}", case.name))?;
            tell(&format!("{}, {} flows: {:.0} ns", case.title, cost.flows, cost.net.least));
            match many {
                None => report.packets.push(Priced { case: *case, few: cost, many: None }),
                Some(_) => report.packets[index].many = Some(cost),
            }
        }
        if many.is_none() {
            measure_again(&cases, &mut field, &mut meter, runs, report)?;
        }
    }
    Ok(())
}

/// Measures again what is beyond its limit: where two processors share a core, what the other one does may double every
/// cost for seconds.
fn measure_again(
    cases: &[Case],
    field: &mut field::Field,
    meter: &mut Meter<'_>,
    runs: u32,
    report: &mut Report,
) -> Result<()> {
    for _ in 0..TRIES {
        let beyond = guard::beyond(report);
        if beyond.is_empty() {
            break;
        }
        thread::sleep(PAUSE);
        for (index, _) in beyond {
            let cost = cases[index].measure(field, meter, runs, None)?;
            tell(&format!("{}, again: {:.0} ns", cases[index].title, cost.net.least));
            let few = &mut report.packets[index].few;
            if cost.net.least < few.net.least {
                *few = cost;
            }
        }
    }
    Ok(())
}

fn measure_end_to_end(plan: &Plan) -> Result<Vec<Row>> {
    let plan = rounds::Plan {
        defender: Some(plan.defender.clone()),
        seconds: SECONDS,
        rounds: plan.rounds,
        clients: CLIENTS,
        watched: Some(WATCHED),
        turns: turns(plan),
    };
    let mut rows = rounds::run(&plan, |round, cell, sample| {
        let success = sample.clients().success() * 100.0;
        tell(&format!("round {round} of {}: {cell}: {success:.1} % of clients within 1 s", plan.rounds));
    })?;
    rows.sort_by_key(|row| (row.cell.defence, row.cell.level));
    Ok(rows)
}

/// Each flood meets all defences, each set up anew: those that are compared with one another come soon one after the other, for
/// a neighbour on the same core may slow this machine down for minutes. Calm and the flood at which handshakes are judged
/// are compared as well.
fn turns(plan: &Plan) -> Vec<Turn> {
    let [slow, judged, fast] = RATES.map(Level::Paced);
    let wanted = |defence: &&Defence| plan.defences.is_empty() || plan.defences.contains(defence);
    let defences: Vec<_> = Defence::value_variants().iter().filter(wanted).collect();
    let of = |levels: Vec<Level>| {
        defences
            .iter()
            .map(move |defence| Turn { defence: **defence, levels: levels.clone() })
            .collect::<Vec<_>>()
    };
    [vec![slow], vec![Level::Calm, judged], vec![fast], vec![Level::Full]].into_iter().flat_map(of).collect()
}

fn tell(what: &str) {
    eprintln!("{what}");
}
