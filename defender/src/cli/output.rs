//! Output of commands.

use std::{
    borrow::Cow,
    env,
    ffi::OsString,
    io::{self, IsTerminal as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use console::Term;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Words and tables, for people.
    #[default]
    #[value(help = "words and tables")]
    Text,
    /// For programs: objects with a `version`.
    #[value(help = "for programs; messages on standard error are JSON as well")]
    Json,
}

/// `-o` and its short form, of every command that prints something.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct OutputArguments {
    /// What to print
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Format,
    /// Print JSON, as with `--output json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl OutputArguments {
    /// What is asked for.
    pub(super) const fn format(self) -> Format {
        if self.json { Format::Json } else { self.output }
    }

    /// Whether JSON is asked for.
    pub(super) fn is_json(self) -> bool {
        self.format() == Format::Json
    }
}

/// Whether a command line asks for JSON, whatever else it says: who does so reads errors as JSON as well.
pub(super) fn asks_for_json(words: impl IntoIterator<Item = OsString>) -> bool {
    let mut words =
        words.into_iter().map(|word| word.to_string_lossy().into_owned()).take_while(|word| word != "--");
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--") {
            Some("json") => return true,
            Some("output") => words.next(),
            Some(long) => long.strip_prefix("output=").map(str::to_owned),
            // Short options may share a dash, and a value may follow its option at once.
            None => match word.strip_prefix('-').and_then(|short| short.split_once('o')) {
                Some((_, "")) => words.next(),
                Some((_, value)) => Some(value.trim_start_matches('=').to_owned()),
                None => None,
            },
        };
        if value.as_deref() == Some("json") {
            return true;
        }
    }
    false
}

/// How many columns there are for tables: those of the terminal, or of `COLUMNS`. Elsewhere, lines are as long as they are: who
/// reads them by program wants them whole.
pub(super) fn width() -> usize {
    let given = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || Some(usize::from(Term::stdout().size_checked()?.1));
    given.or_else(terminal).filter(|columns| *columns != 0).unwrap_or(usize::MAX)
}

/// Whether standard output is a terminal whose cursor can be moved.
pub(super) fn is_screen() -> bool {
    io::stdout().is_terminal() && is_cursor_movable()
}

/// Whether the terminal, if there is one, moves its cursor when asked to.
pub(super) fn is_cursor_movable() -> bool {
    env::var_os("TERM").is_some_and(|kind| !kind.is_empty() && kind != "dumb")
}

/// Waits, and tells whether `until` has become readable. Exits once the reader of standard output is gone.
pub(super) fn pause(time: Duration, until: Option<BorrowedFd<'_>>) -> bool {
    let deadline = Instant::now() + time;
    loop {
        let output = io::stdout();
        let reader = PollFd::new(output.as_fd(), PollFlags::empty());
        let mut fds: Vec<_> =
            [reader].into_iter().chain(until.map(|fd| PollFd::new(fd, PollFlags::POLLIN))).collect();
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let left = u16::try_from(left).unwrap_or(u16::MAX);
        let _ = poll(&mut fds, PollTimeout::from(left));
        if fds[0].any() == Some(true) {
            std::process::exit(0);
        }
        if fds.get(1).and_then(PollFd::any) == Some(true) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

/// Prints words and tables. Colours are left out in a pipe, with NO_COLOR, and on a terminal without them.
pub(super) fn show_text(text: &str) -> Result<()> {
    show(&painted(text))
}

/// A text with its colours if standard output takes them.
pub(super) fn painted(text: &str) -> Cow<'_, str> {
    if console::colors_enabled() { Cow::Borrowed(text) } else { console::strip_ansi_codes(text) }
}

/// A reader such as `head` may close the pipe early; that is not an error.
pub(super) fn show(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("cannot write the report"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_json_is_known_before_the_command_line_is_understood() {
        let asks = |line: &str| asks_for_json(line.split(' ').map(OsString::from));
        for line in [
            "status --json",
            "x -o json",
            "x -ojson",
            "x -o=json",
            "x --output json",
            "--output=json",
            "-no json",
        ] {
            assert!(asks(line), "{line}");
        }
        for line in
            ["status", "x -o text", "x -o", "x --output text json", "x -- --json", "x json", "-n json"]
        {
            assert!(!asks(line), "{line}");
        }
    }
}
