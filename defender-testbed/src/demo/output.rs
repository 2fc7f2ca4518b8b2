//! What people and programs see of the demo.

use defender_testbed::server::BACKLOG;
use serde_json::{Value, json};

use super::{
    Defence, Level, Plan, Row,
    measure::Sample,
    summary::{Figure, Kept},
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

/// One line about a measurement that was just made.
pub(super) fn progress(sample: &Sample) -> String {
    format!("{} of clients within 1 s", percent(sample.clients().success()))
}

/// The results as JSON.
pub(crate) fn json(plan: &Plan, rows: &[Row]) -> Value {
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

fn row_json(row: &Row) -> Value {
    json!({
        "defence": row.cell.defence.name(),
        "flood": row.cell.level.name(),
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

fn kept_json(kept: Kept) -> Value {
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
    window scales; kept, no TS: the same of clients without.";

/// Width of running text, in characters.
const WIDTH: usize = 110;

/// Prints the table and what it means.
pub(crate) fn print(plan: &Plan, rows: &[Row]) {
    let mut lines = vec![COLUMNS.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(cells));
    println!("{}\n", aligned(&lines));
    println!("{}", wrapped(&words(plan, rows).join(" ")));
    println!("\n{}", wrapped(LEGEND));
    println!(
        "\n{} rounds; a row shows medians. Accept queue and tcp_max_syn_backlog {BACKLOG}, tcp_no_metrics_save 1.",
        plan.rounds
    );
}

/// Breaks text into lines between words.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

fn cells(row: &Row) -> Vec<String> {
    let flooded = row.cell.level != Level::Calm;
    let rate = |figure: &Figure| if flooded { thousands(figure.median) } else { "-".to_owned() };
    let kept = |kept: Option<Kept>| kept.map_or("-".to_owned(), |kept| percent(kept.all));
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

/// Columns side by side: words to the left, numbers to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..COLUMNS.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What the table means, sentence by sentence.
fn words(plan: &Plan, rows: &[Row]) -> Vec<String> {
    let find =
        |defence, level| rows.iter().find(|row| row.cell.defence == defence && row.cell.level == level);
    let mut sentences = Vec::new();
    let rate = thousands(plan.rate as f64);
    for (defence, start) in [
        (Defence::Undefended, "Without a defence,"),
        (Defence::Cookies, "With the kernel's SYN cookies,"),
        (Defence::Defender, "With the defender,"),
        (Defence::Drop, "If the attacker's addresses were known beforehand,"),
    ] {
        if let (Some(paced), Some(full)) = (find(defence, Level::Paced), find(defence, Level::Full)) {
            sentences.push(format!(
                "{start} {} of the clients get through within a second while {rate} spoofed SYNs arrive per second, \
                 and {} at full speed ({}/s).",
                percent(paced.pooled_success()),
                percent(full.pooled_success()),
                thousands(full.offered.median),
            ));
        }
    }
    for (defence, subject) in
        [(Defence::Cookies, "The kernel's cookies keep"), (Defence::Defender, "The defender keeps")]
    {
        if let Some(kept) = find(defence, Level::Paced).and_then(|row| row.kept_windows) {
            sentences.push(format!(
                "{subject} the options of {} of the clients without timestamps.",
                percent(kept.all)
            ));
        }
    }
    let (calm, paced) = (find(Defence::Defender, Level::Calm), find(Defence::Defender, Level::Paced));
    if let (Some(calm), Some(paced)) = (calm.and_then(|row| row.p99), paced.and_then(|row| row.p99)) {
        sentences.push(format!(
            "The slowest hundredth of its handshakes takes {} and more, {} in calm.",
            duration(paced.median),
            duration(calm.median),
        ));
    }
    if let (Some(defender), Some(swap)) =
        (find(Defence::Defender, Level::Full), find(Defence::Swap, Level::Full))
    {
        sentences.push(format!(
            "At full speed it answers {} of what a program answers that only swaps addresses.",
            percent(defender.answered.median / swap.answered.median),
        ));
    }
    if plan.defender.is_none() {
        sentences.push("The defender's rows are missing: --defender PATH names the controller.".to_owned());
    }
    sentences
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A number with the thousands set apart, rounded to a thousand where it is that large.
fn thousands(number: f64) -> String {
    let rounded = if number >= 100_000.0 { (number / 1000.0).round() * 1000.0 } else { number.round() };
    let digits = format!("{rounded:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn duration(micros: f64) -> String {
    if micros < 1000.0 { format!("{micros:.0} us") } else { format!("{:.1} ms", micros / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::{duration, percent, thousands, wrapped};

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(0.0), "0");
        assert_eq!(thousands(999.4), "999");
        assert_eq!(thousands(12_345.0), "12,345");
        assert_eq!(thousands(4_123_456.0), "4,123,000");
        assert_eq!(percent(0.994), "99.4 %");
        assert_eq!(duration(85.4), "85 us");
        assert_eq!(duration(1234.0), "1.2 ms");
    }

    #[test]
    fn text_is_broken_between_words() {
        let text = wrapped(&"word ".repeat(50));
        assert!(
            text.lines()
                .all(|line| line.len() <= super::WIDTH && line.starts_with("word") && line.ends_with("word"))
        );
        assert_eq!(text.split_whitespace().count(), 50);
    }
}
