//! Regression limits: costs as ratios to a floor of the same run, instructions, and the verifier's work.

use defender_testbed::{budget, meter::Subject};

use super::{BenchReport, count::PacketCount, packets::Cost};

/// Everything beyond its limit, as text.
pub(super) fn complaints(report: &BenchReport) -> Vec<String> {
    let mut complaints = too_slow(report);
    complaints.extend(too_long(report));
    complaints.extend(too_large(report));
    complaints
}

/// The cost with few flows as a ratio to the bare swap. Both include the method's own cost, which keeps the
/// ratios of the cheapest packets stable.
pub(super) fn ratio(report: &BenchReport, cost: &Cost) -> Option<f64> {
    let gross = |cost: &Cost| cost.method.least + cost.net.least;
    let floor = gross(report.floor(Subject::Swap)?);
    (floor > 0.0).then(|| gross(cost) / floor)
}

/// The positions in the report of kinds beyond their limit, with the ratios.
pub(super) fn beyond(report: &BenchReport) -> Vec<(usize, f64)> {
    let ratios = report.packets.iter().map(|priced| ratio(report, &priced.few).unwrap_or_default());
    ratios.enumerate().filter(|(index, ratio)| *ratio > report.packets[*index].case.most).collect()
}

fn too_slow(report: &BenchReport) -> Vec<String> {
    let complain = |(index, ratio): (usize, f64)| {
        let super::Priced { case, few, .. } = &report.packets[index];
        format!(
            "{}: {ratio:.1} times a bare swap-and-send ({:.0} ns net), and {:.1} times is the limit (`CASES` in \
             defender-testbed/src/bench/cases.rs)",
            case.title, few.net.least, case.most
        )
    };
    beyond(report).into_iter().map(complain).collect()
}

/// By what share the instructions of a packet may exceed the last check, since compilers differ.
const MARGIN: u64 = 10;

fn too_long(report: &BenchReport) -> Vec<String> {
    let complain = |counted: &PacketCount| {
        let PacketCount { case, instructions, .. } = counted;
        let most = case.instructions + case.instructions / MARGIN;
        (*instructions > most).then(|| {
            format!(
                "{}: it takes {instructions} instructions, and a tenth more than {} is the limit (`CASES` in \
                 defender-testbed/src/bench/cases.rs)",
                case.title, case.instructions
            )
        })
    };
    report.counted.iter().filter_map(complain).collect()
}

fn too_large(report: &BenchReport) -> Vec<String> {
    let complain = |(name, count): &(&'static str, u32)| {
        let most = budget::verified_instructions(name)?;
        (*count > most).then(|| {
            format!(
                "{name}: the verifier walks {count} instructions, and {most} is the budget \
                 (defender-testbed/budget.txt)"
            )
        })
    };
    report.instructions.iter().filter_map(complain).collect()
}
