//! `--watch`: a report again and again, in place on a terminal.

use std::{
    fmt::Write as _,
    os::fd::AsFd as _,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use clap::Args;
use console::Term;
use humantime::format_rfc3339_seconds;
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use super::output::{Format, is_screen, painted, pause, show, show_text};

/// `--watch`, of the commands that show what is going on.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct WatchArguments {
    /// Repeat every SECS seconds until Ctrl-C, in place on a terminal
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
}

impl WatchArguments {
    /// Whether the report is repeated.
    pub(super) const fn repeats(self) -> bool {
        self.watch.is_some()
    }

    /// Prints a report, once or until Ctrl-C.
    pub(super) fn run(self, format: Format, mut report: impl FnMut() -> Result<String>) -> Result<()> {
        let Some(seconds) = self.watch else { return print(format, &report()?) };
        let interrupt = Interrupt::new()?;
        loop {
            let report = report()?;
            match format {
                Format::Json => show(&report)?,
                Format::Text if is_screen() => show(&frame(&painted(&report), &heading(seconds), size()))?,
                Format::Text => show_text(&format!("{}\n{report}\n", time()))?,
            }
            if interrupt.within(Duration::from_secs(seconds.into())) {
                return Ok(());
            }
        }
    }
}

fn print(format: Format, report: &str) -> Result<()> {
    match format {
        Format::Json => show(report),
        Format::Text => show_text(report),
    }
}

fn heading(seconds: u32) -> String {
    format!("{}, every {seconds} s; Ctrl-C ends", time())
}

fn time() -> String {
    format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    let (rows, columns) = Term::stdout().size();
    (rows.into(), columns.into())
}

/// A screen: each line ends what was in its place before. What has no room is counted.
fn frame(report: &str, heading: &str, (rows, columns): (usize, usize)) -> String {
    const HOME: &str = "\x1b[H";
    const CLEAR_LINE: &str = "\x1b[K";
    const CLEAR_BELOW: &str = "\x1b[J";
    let lines: Vec<&str> = [heading, ""].into_iter().chain(report.lines()).collect();
    // The last row stays free for the cursor.
    let room = rows.saturating_sub(1);
    let taken = |line: &str| console::measure_text_width(line).div_ceil(columns.max(1)).max(1);
    let mut shown = fitting(&lines, room, taken);
    let left = if shown < lines.len() {
        // One row less, for the count.
        shown = fitting(&lines, room.saturating_sub(1), taken);
        Some(format!("… {} more lines; a taller terminal shows them", lines.len() - shown))
    } else {
        None
    };
    let mut text = HOME.to_owned();
    for line in lines[..shown].iter().copied().chain(left.as_deref()) {
        let _ = write!(text, "{line}{CLEAR_LINE}\r\n");
    }
    text + CLEAR_BELOW
}

/// How many lines from the first fit into so many rows.
fn fitting(lines: &[&str], rows: usize, taken: impl Fn(&str) -> usize) -> usize {
    let ends = lines.iter().scan(0, |end, line| {
        *end += taken(line);
        Some(*end)
    });
    ends.take_while(|end| *end <= rows).count()
}

/// Ctrl-C and SIGTERM, which end what repeats as if it were done. They wait while a report is made.
struct Interrupt(SignalFd);

impl Interrupt {
    fn new() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().context("cannot block signals")?;
        let interrupt = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC);
        interrupt.map(Self).context("cannot wait for signals")
    }

    /// Whether one comes before that time has passed.
    fn within(&self, time: Duration) -> bool {
        pause(time, Some(self.0.as_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "now";

    fn rows(text: &str) -> Vec<&str> {
        text.trim_start_matches("\x1b[H").trim_end_matches("\x1b[J").split("\x1b[K\r\n").collect()
    }

    #[test]
    fn a_frame_begins_at_the_top_and_clears_what_was_there() {
        let text = frame("a\nb\n", HEADING, (24, 80));
        assert_eq!(text, "\x1b[Hnow\x1b[K\r\n\x1b[K\r\na\x1b[K\r\nb\x1b[K\r\n\x1b[J");
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let report = "a\nb\nc\nd\n";
        assert_eq!(rows(&frame(report, HEADING, (7, 80))), ["now", "", "a", "b", "c", "d", ""]);
        let more = "… 3 more lines; a taller terminal shows them";
        assert_eq!(rows(&frame(report, HEADING, (5, 80))), ["now", "", "a", more, ""]);
        // A long line takes several rows, its colours none.
        let long = format!("\x1b[31m{}\x1b[0m\nb\n", "x".repeat(25));
        assert_eq!(rows(&frame(&long, HEADING, (6, 10))).len(), 4, "{long}");
        assert!(frame(&long, HEADING, (8, 10)).contains("b\x1b[K"));
        assert!(frame(report, HEADING, (0, 0)).contains("more lines"));
    }
}
