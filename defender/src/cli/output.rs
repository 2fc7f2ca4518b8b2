//! Output of commands.

use std::{
    io::{self, Write as _},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
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

/// Waits. Exits once the reader of standard output is gone.
pub(super) fn pause(time: Duration) {
    let deadline = Instant::now() + time;
    loop {
        let output = io::stdout();
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::empty())];
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let left = u16::try_from(left).unwrap_or(u16::MAX);
        if matches!(poll(&mut fds, PollTimeout::from(left)), Ok(1..)) {
            std::process::exit(0);
        }
        if Instant::now() >= deadline {
            return;
        }
    }
}

/// A reader such as `head` may close the pipe early; that is not an error.
pub(super) fn show(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("cannot write the report"),
    }
}
