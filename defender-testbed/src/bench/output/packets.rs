//! What packets cost, as a table.

use defender_testbed::{budget, meter::Subject};

use super::{figure, words};
use crate::{
    bench::{BenchReport, limits, packets::Cost},
    format::{aligned, thousands_exact, wrapped},
};

const PACKETS: &str = "Nanoseconds a packet, net of what the method itself takes (its own line). Few flows: 8, or 2,048 \
    where a packet is the first of its flow; many: 1,048,576, so that caches are cold. Aims are for the minimum with few and \
    the median with many flows, on a CPU like the one README.md names; peers as measured there. Ratio: to a bare swap and \
    send, the method included in both.";

pub(super) fn print(report: &BenchReport) {
    println!("{}\n\n{}\n", packets(report), wrapped(PACKETS));
    println!("{}\n", instructions(report));
}

fn packets(report: &BenchReport) -> String {
    let mut lines = vec![words(&[
        "packet",
        "few: min",
        "median",
        "max",
        "many: min",
        "median",
        "max",
        "aim few",
        "",
        "aim many",
        "",
        "xdp_synproxy",
        "xdpcookie",
        "ratio",
        "limit",
    ])];
    for subject in Subject::FLOORS {
        let of = |many: bool| {
            report
                .floors
                .iter()
                .find(|(of, flows, _)| *of == subject && flows.is_some() == many)
                .map(|(_, _, cost)| cost)
        };
        let shown = |cost: Option<&Cost>| match subject {
            Subject::Method => figure(cost.map(|cost| cost.method)),
            _ => figure(cost.map(|cost| cost.net)),
        };
        let mut line = vec![floor(subject).to_owned()];
        line.extend(shown(of(false)));
        line.extend(shown(of(true)));
        line.extend((0..8).map(|_| String::new()));
        lines.push(line);
    }
    for priced in &report.packets {
        let [few, many] = priced.case.aims;
        let mut line = vec![priced.case.title.to_owned()];
        line.extend(figure(Some(priced.few.net)));
        line.extend(figure(priced.many.map(|cost| cost.net)));
        line.extend(aim(few, Some(priced.few.net.least)));
        line.extend(aim(many, priced.many.map(|cost| cost.net.median)));
        let peer = |peer: Option<f64>| peer.map_or(String::new(), |peer| format!("({peer:.0})"));
        line.push(peer(priced.case.peers.map(|(synproxy, _)| synproxy)));
        line.push(peer(priced.case.peers.map(|(_, xdpcookie)| xdpcookie)));
        line.push(limits::ratio(report, &priced.few).map_or(String::new(), |ratio| format!("{ratio:.1}")));
        line.push(format!("{:.1}", priced.case.most));
        lines.push(line);
    }
    aligned(&lines, 1)
}

/// A floor's name in tables.
fn floor(subject: Subject) -> &'static str {
    match subject {
        Subject::Method => "the method itself, with XDP_DROP",
        Subject::ParseDrop => "floor: parse and drop",
        Subject::Read => "floor: one read of 64 MiB",
        Subject::Swap => "floor: swap and XDP_TX",
        Subject::Program => "the program",
    }
}

/// The aim, and whether it is met.
fn aim(aim: Option<f64>, found: Option<f64>) -> [String; 2] {
    match (aim, found) {
        (Some(aim), Some(found)) => [format!("{aim:.0}"), if found <= aim { "met" } else { "no" }.to_owned()],
        (Some(aim), None) => [format!("{aim:.0}"), String::new()],
        (None, _) => [String::new(), String::new()],
    }
}

fn instructions(report: &BenchReport) -> String {
    let mut lines = vec![words(&["verified instructions", "walked", "budget"])];
    for (name, count) in &report.instructions {
        let budget = budget::verified_instructions(name);
        let budget = budget.map_or("-".to_owned(), |budget| thousands_exact(budget.into()));
        lines.push(vec![(*name).to_owned(), thousands_exact((*count).into()), budget]);
    }
    aligned(&lines, 1)
}
