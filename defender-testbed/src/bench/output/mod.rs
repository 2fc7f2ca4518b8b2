//! The results as text.

mod count;
mod end_to_end;
mod growth;
mod packets;

use super::{
    BenchReport,
    aims::{self, Aim},
};
use crate::{
    format::{aligned, wrapped},
    rounds::{Figure, FloodLevel},
};

const BULK: &str = "iperf3, one connection. On a veth, any XDP program makes the kernel copy large segments: compare the \
    defender with a program that passes everything. What arrived while the host did not throttle the processor.";

/// Prints all results.
pub(crate) fn print(report: &BenchReport) {
    if !report.packets.is_empty() {
        packets::print(report);
    }
    if !report.counted.is_empty() {
        count::print(&report.counted);
    }
    if let Some(growth) = &report.growth {
        growth::print(growth);
    }
    if !report.end_to_end.is_empty() {
        end_to_end::print(&report.end_to_end);
    }
    if !report.bulk.is_empty() {
        println!("{}\n\n{}\n", bulk(report), wrapped(BULK));
    }
    let aims = aims::all(report);
    if !aims.is_empty() {
        println!("{}\n", aims_met(&aims));
    }
}

fn bulk(report: &BenchReport) -> String {
    let mut lines = vec![words(&["bulk", "flood", "Gbit/s", "least", "greatest"])];
    for bulk in &report.bulk {
        let flood =
            if bulk.flooded { FloodLevel::Paced(super::bulk::RATE).rate() } else { "no flood".to_owned() };
        let mut line = vec![bulk.between.title().to_owned(), flood];
        let rate = bulk.rate;
        line.extend([rate.median, rate.least, rate.most].map(|rate| format!("{:.2}", rate / 1e9)));
        lines.push(line);
    }
    aligned(&lines, 2)
}

/// Minimum, median, maximum.
fn figure(figure: Option<Figure>) -> [String; 3] {
    let Some(figure) = figure else { return ["-", "-", "-"].map(str::to_owned) };
    [figure.least, figure.median, figure.most].map(|number| format!("{:.0}", number.max(0.0)))
}

fn aims_met(aims: &[Aim]) -> String {
    let mut lines = vec![words(&["aims", "found", "least", "greatest", "aim", ""])];
    for aim in aims {
        let met = if aim.is_met() { "met" } else { "no" };
        let numbers = [aim.found.median, aim.found.least, aim.found.most, aim.aim()];
        let numbers = numbers.map(|number| format!("{number:.3}"));
        lines.push([aim.what.clone()].into_iter().chain(numbers).chain([met.to_owned()]).collect());
    }
    aligned(&lines, 1)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
