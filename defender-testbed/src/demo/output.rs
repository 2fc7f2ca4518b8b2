//! The demo's output, as text and JSON.

use defender_testbed::server::BACKLOG;
use serde_json::{Value, json};

use super::{DefenceRow, DemoPlan, words};
use crate::{
    format::{aligned, duration, percent, thousands, wrapped},
    rounds::{Figure, FloodLevel, KeptOptions, Sample},
};

/// Version of the JSON.
const VERSION: u32 = 1;

const COLUMNS: [&str; 10] = [
    "",
    "flood",
    "offered/s",
    "taken/s",
    "answered/s",
    "clients in 1 s",
    "p50",
    "p99",
    "kept",
    "kept, no TS",
];

/// One line about the last measurement.
pub(super) fn progress(sample: &Sample) -> String {
    format!("{} of clients within 1 s", percent(sample.clients().success()))
}

/// The results as JSON.
pub(crate) fn json(plan: &DemoPlan, rows: &[DefenceRow]) -> Value {
    json!({
        "version": VERSION,
        "seconds": plan.seconds,
        "rounds": plan.rounds,
        "rate": plan.rate,
        "clients_per_second": plan.clients,
        "backlog": BACKLOG,
        "rows": rows.iter().map(row_json).collect::<Vec<_>>(),
    })
}

fn row_json(row: &DefenceRow) -> Value {
    json!({
        "defence": row.cell.defence.name(),
        "flood": row.cell.level.name(),
        "full_speed": figure_json(&row.full_speed),
        "offered_per_second": figure_json(&row.offered),
        "taken_per_second": figure_json(&row.taken),
        "answered_per_second": figure_json(&row.answered),
        "clients": row.attempts,
        "clients_succeeded": row.succeeded,
        "success": row.pooled_success(),
        "success_by_round": figure_json(&row.success),
        "connect_p50_us": row.p50.as_ref().map(figure_json),
        "connect_p99_us": row.p99.as_ref().map(figure_json),
        "options_kept": {
            "clients_with_timestamps": row.kept_linux.map(kept_json),
            "clients_without_timestamps": row.kept_windows.map(kept_json),
        },
        "defender": row.defender,
    })
}

fn figure_json(figure: &Figure) -> Value {
    json!({ "median": figure.median, "min": figure.least, "max": figure.most })
}

fn kept_json(kept: KeptOptions) -> Value {
    json!({
        "all": kept.all,
        "sack": kept.sack,
        "window_scaling": kept.window_scaling,
        "mss": kept.mss,
    })
}

/// What the columns are.
const LEGEND: &str = "offered, taken, answered: SYNs of the flood per second, as sent by the source, received by the \
    server's interface, and answered. clients in 1 s: clients, each from an address of its own, that had the server's \
    first byte within a second; half of them use timestamps as Linux does, half do not as Windows does. p50, p99: how \
    long their handshakes took. kept: connections of clients with timestamps that kept these, SACK, MSS and both \
    window scales; kept, no TS: the same of clients without. At full speed the flood overflows the link itself, so \
    clients lose packets before any program sees them: compare answered there, not clients. The source's processor \
    then takes the answers as well, as the attacker's host would, and sends less where it gets more of them. Moments \
    in which the host throttles the processor are left out, with the clients that came then.";

/// Prints the table and its meaning.
pub(crate) fn print(plan: &DemoPlan, rows: &[DefenceRow]) {
    let mut lines = vec![COLUMNS.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(cells));
    println!("{}\n", aligned(&lines, 2));
    println!("{}", wrapped(&words::paragraph(plan, rows)));
    println!("\n{}", wrapped(LEGEND));
    println!(
        "\n{} rounds; a row shows medians. Accept queue and tcp_max_syn_backlog {BACKLOG}, tcp_no_metrics_save 1.",
        plan.rounds
    );
}

fn cells(row: &DefenceRow) -> Vec<String> {
    let flooded = row.cell.level != FloodLevel::NoFlood;
    let rate = |figure: &Figure| if flooded { thousands(figure.median) } else { "-".to_owned() };
    let kept = |kept: Option<KeptOptions>| kept.map_or("-".to_owned(), |kept| percent(kept.all));
    let time = |figure: Option<&Figure>| figure.map_or("-".to_owned(), |figure| duration(figure.median));
    vec![
        row.cell.defence.title().to_owned(),
        row.cell.level.name().to_owned(),
        rate(&row.offered),
        rate(&row.taken),
        rate(&row.answered),
        percent(row.pooled_success()),
        time(row.p50.as_ref()),
        time(row.p99.as_ref()),
        kept(row.kept_linux),
        kept(row.kept_windows),
    ]
}
