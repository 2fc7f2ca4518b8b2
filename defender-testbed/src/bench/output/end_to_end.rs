//! What clients see of floods, as a table.

use super::words;
use crate::{
    format::{aligned, duration, percent, thousands, wrapped},
    rounds::{DefenceRow, FloodLevel},
};

const END_TO_END: &str = "Medians of all rounds, least and greatest behind. Best: what a tenth of all times of 20 ms reach or exceed; \
    neighbours on the same core may slow a machine down for minutes. CPU: time of the thread that takes packets at the \
    server's end, up to the socket, for each packet taken. At full speed the flood overflows the link itself: compare \
    answers there, not clients. Full speed: share of the time in which the host did not throttle the processor; all \
    else is of that time, or of all if there is none.";

pub(super) fn print(rows: &[DefenceRow]) {
    println!("{}\n\n{}\n", end_to_end(rows), wrapped(END_TO_END));
}

fn end_to_end(rows: &[DefenceRow]) -> String {
    let mut lines = vec![words(&[
        "",
        "flood",
        "taken/s",
        "answered/s",
        "least",
        "greatest",
        "best",
        "CPU ns",
        "best",
        "clients in 1 s",
        "p50",
        "p99",
        "p99 least",
        "p99 greatest",
        "full speed",
    ])];
    for row in rows {
        let flooded = row.cell.level != FloodLevel::NoFlood;
        let rate = |number: f64| if flooded { thousands(number) } else { "-".to_owned() };
        let time = |number: Option<f64>| number.map_or("-".to_owned(), duration);
        lines.push(vec![
            row.cell.defence.title().to_owned(),
            row.cell.level.rate(),
            rate(row.taken.median),
            rate(row.answered.median),
            rate(row.answered.least),
            rate(row.answered.most),
            row.best.map_or("-".to_owned(), |best| thousands(best.answered)),
            rate(row.nanoseconds.median),
            row.best.map_or("-".to_owned(), |best| thousands(best.nanoseconds)),
            percent(row.pooled_success()),
            time(row.p50.map(|figure| figure.median)),
            time(row.p99.map(|figure| figure.median)),
            time(row.p99.map(|figure| figure.least)),
            time(row.p99.map(|figure| figure.most)),
            percent(row.full_speed.median),
        ]);
    }
    aligned(&lines, 2)
}
