//! What must not get worse unseen: costs as ratios to a floor of the same run, instructions, and what the verifier has to
//! walk.

use defender_testbed::{budget, meter::Subject};

use super::{Report, count::Counted, packets::Cost};

/// Everything that is beyond its limit, in words.
pub(super) fn complaints(report: &Report) -> Vec<String> {
    let mut complaints = too_slow(report);
    complaints.extend(too_long(report));
    complaints.extend(too_large(report));
    complaints
}

/// The cost with few flows as a ratio to the bare swap, the method's own included in both: that makes the smallest numbers
/// steady.
pub(super) fn ratio(report: &Report, cost: &Cost) -> Option<f64> {
    let gross = |cost: &Cost| cost.method.least + cost.net.least;
    let floor = gross(report.floor(Subject::Swap)?);
    (floor > 0.0).then(|| gross(cost) / floor)
}

/// The places in the report of what is beyond its limit, with the ratio.
pub(super) fn beyond(report: &Report) -> Vec<(usize, f64)> {
    let ratios = report.packets.iter().map(|priced| ratio(report, &priced.few).unwrap_or_default());
    ratios.enumerate().filter(|(index, ratio)| *ratio > report.packets[*index].case.most).collect()
}

fn too_slow(report: &Report) -> Vec<String> {
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

/// The share by which a packet may take more instructions than when that was last looked at: compilers differ.
const MARGIN: u64 = 10;

fn too_long(report: &Report) -> Vec<String> {
    let complain = |counted: &Counted| {
        let Counted { case, instructions, .. } = counted;
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

fn too_large(report: &Report) -> Vec<String> {
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
