//! A plot for each question.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{BenchReport, bulk, growth::Grown};
use crate::{
    rounds::{DefenceRow, Figure, FloodLevel},
    svg::{Bars, Lines, Value},
};

/// Writes the plots into a folder, created if missing. Returns the number of plots.
pub(crate) fn write(report: &BenchReport, folder: &Path) -> Result<usize> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut plots = Vec::new();
    if !report.packets.is_empty() {
        plots.push(("packets.svg", packets(report)));
    }
    if let Some(growth) = &report.growth {
        plots.push(("growth.svg", growth_lines(growth)));
    }
    if !report.end_to_end.is_empty() {
        plots.push(("answers.svg", answers(&report.end_to_end)));
        plots.push(("clients.svg", clients(&report.end_to_end)));
        plots.push(("handshakes.svg", handshakes(&report.end_to_end)));
        plots.push(("cpu.svg", processor_time(&report.end_to_end)));
    }
    if !report.bulk.is_empty() {
        plots.push(("bulk.svg", bulk_rates(report)));
    }
    for (name, plot) in &plots {
        let path = folder.join(name);
        fs::write(&path, plot).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(plots.len())
}

fn packets(report: &BenchReport) -> String {
    let exact = |at: f64| Value { at, least: at, most: at };
    let groups = report.packets.iter().map(|priced| {
        let peers = priced.case.peers;
        let values = vec![
            Some(value(priced.few.net)),
            priced.many.map(|cost| value(cost.net)),
            priced.case.aims[0].map(exact),
            peers.map(|(synproxy, _)| exact(synproxy)),
            peers.map(|(_, xdpcookie)| exact(xdpcookie)),
        ];
        (priced.case.title.to_owned(), values)
    });
    let bars = Bars {
        title: "What a packet costs in the kernel: medians, least and greatest",
        axis: "nanoseconds, net of the method's own",
        series: ["few flows", "many flows", "aim, few flows", "xdp_synproxy", "xdpcookie"]
            .map(str::to_owned)
            .into(),
        groups: groups.collect(),
    };
    bars.draw()
}

fn growth_lines(growth: &Grown) -> String {
    let series = growth.costs.iter().map(|growth| {
        let points = growth.points.iter().map(|(at, cost)| (*at, cost.net.median.max(0.0)));
        (format!("by {}", growth.name), points.collect())
    });
    let lines = Lines {
        title: "How the cost of a packet grows: data while mitigating, by flows, SYN → SYN-ACK by all else",
        x_axis: "how many",
        y_axis: "nanoseconds, median",
        series: series.collect(),
    };
    lines.draw()
}

fn answers(rows: &[DefenceRow]) -> String {
    by_level(rows, "SYNs of the flood that are answered", "answers per second", |row| {
        (row.cell.level != FloodLevel::NoFlood).then(|| value(row.answered))
    })
}

fn clients(rows: &[DefenceRow]) -> String {
    by_level(rows, "Clients that get through within a second", "percent", |row| {
        let figure = row.success;
        Some(value(Figure {
            median: figure.median * 100.0,
            least: figure.least * 100.0,
            most: figure.most * 100.0,
        }))
    })
}

fn handshakes(rows: &[DefenceRow]) -> String {
    by_level(rows, "The slowest hundredth of handshakes (p99)", "microseconds", |row| row.p99.map(value))
}

fn processor_time(rows: &[DefenceRow]) -> String {
    by_level(rows, "Processor time at the server's end for each packet taken", "nanoseconds", |row| {
        (row.cell.level != FloodLevel::NoFlood).then(|| value(row.nanoseconds))
    })
}

/// A group per defence, a bar per flood.
fn by_level(
    rows: &[DefenceRow],
    title: &str,
    axis: &str,
    number: impl Fn(&DefenceRow) -> Option<Value>,
) -> String {
    let mut levels: Vec<FloodLevel> = Vec::new();
    for row in rows {
        if !levels.contains(&row.cell.level) {
            levels.push(row.cell.level);
        }
    }
    let groups = rows.chunk_by(|a, b| a.cell.defence == b.cell.defence).map(|same| {
        let of = |level: &FloodLevel| same.iter().find(|row| row.cell.level == *level).and_then(&number);
        (same[0].cell.defence.title().to_owned(), levels.iter().map(of).collect())
    });
    let groups = groups.collect();
    Bars { title, axis, series: levels.iter().map(|level| level.rate()).collect(), groups }.draw()
}

fn bulk_rates(report: &BenchReport) -> String {
    let groups = report.bulk.chunk_by(|a, b| a.between == b.between).map(|same| {
        let of = |flooded| same.iter().find(|bulk| bulk.flooded == flooded).map(|bulk| gigabits(bulk.rate));
        (same[0].between.title().to_owned(), vec![of(false), of(true)])
    });
    let bars = Bars {
        title: "Bulk data through one connection (iperf3)",
        axis: "Gbit/s",
        series: vec!["no flood".to_owned(), FloodLevel::Paced(bulk::RATE).rate()],
        groups: groups.collect(),
    };
    bars.draw()
}

fn gigabits(figure: Figure) -> Value {
    Value { at: figure.median / 1e9, least: figure.least / 1e9, most: figure.most / 1e9 }
}

fn value(figure: Figure) -> Value {
    Value { at: figure.median.max(0.0), least: figure.least.max(0.0), most: figure.most.max(0.0) }
}
