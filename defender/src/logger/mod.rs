//! Messages for the operator: one line each, on standard error, as text or JSON. Where that leads to systemd's journal, they go
//! there with priority and fields. If they cannot be written, they are lost, and the defence continues.

mod journal;

use std::{
    io,
    os::fd::AsFd,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use self::journal::{Entry, Journal};

/// How long to wait for a slow reader, in milliseconds. After one such wait, messages do not wait again
/// until a complete write succeeded.
const PATIENCE: u16 = 200;
/// A pipe that has room takes this many bytes without blocking (`PIPE_BUF`, pipe(7)).
const PIECE: usize = 4096;

/// Messages lost since the last successful write.
static LOST: Mutex<u64> = Mutex::new(0);

/// Whether messages are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

struct Stderr;

/// A message as JSON.
#[derive(Serialize)]
struct Message<'a> {
    /// Version of the shape: 1.
    version: u32,
    /// `error`, `warning`, `info` or `debug`.
    level: &'static str,
    /// What happened, why, and what to do, as in the text.
    message: &'a str,
    /// With the error that ended the command: its exit status.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<u8>,
}

impl Message<'_> {
    fn line(&self) -> String {
        if JSON.load(Ordering::Relaxed) { self.json() } else { self.text() }
    }

    fn json(&self) -> String {
        // Numbers and strings: there is nothing that JSON could not hold.
        serde_json::to_string(self).unwrap_or_else(|_| self.text())
    }

    fn text(&self) -> String {
        let Self { level, message, .. } = self;
        match (*level, self.exit_status) {
            ("error" | "warning", None) => format!("defender: {level}: {message}"),
            _ => format!("defender: {message}"),
        }
    }
}

/// Says why the command ends with this exit status.
pub fn failure(message: &str, exit_status: u8) {
    if is_sent(|| Entry::new(Level::Error, message)) {
        return;
    }
    say(&Message { version: 1, level: "error", message, exit_status: Some(exit_status) }.line());
}

/// Messages are JSON from now on.
pub fn use_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// The journal, if standard error leads there.
fn journal() -> Option<&'static Journal> {
    static JOURNAL: OnceLock<Option<Journal>> = OnceLock::new();
    JOURNAL.get_or_init(|| Journal::behind(io::stderr(), Duration::from_millis(PATIENCE.into()))).as_ref()
}

/// Sends an entry to the journal. Returns whether that is where messages go; if not, they go to standard error.
fn is_sent(entry: impl FnOnce() -> Entry) -> bool {
    let Some(journal) = journal() else { return false };
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    if *lost != 0 {
        let note = Entry::new(Level::Warn, &format!("{lost} messages could not be written here"));
        if journal.send(&note, false).is_ok() {
            *lost = 0;
        }
    }
    match journal.send(&entry(), *lost == 0) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            *lost += 1;
            true
        }
        Err(_) => false,
    }
}

/// Logs a message with fields for the journal.
pub fn log_with(level: Level, fields: &[(&str, String)], message: &str) {
    let mut builder = Record::builder();
    let builder = builder.level(level).target(module_path!()).key_values(&fields);
    log::logger().log(&builder.args(format_args!("{message}")).build());
}

/// Writes a line to standard error if possible.
fn say(line: &str) {
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    let (patience, text) = match *lost {
        0 => (PATIENCE, format!("{line}\n")),
        lost => {
            let message = format!("{lost} messages could not be written here");
            let gap = Message { version: 1, level: "warning", message: &message, exit_status: None };
            (0, format!("{}\n{line}\n", gap.line()))
        }
    };
    match write(&mut io::stderr().lock(), text.as_bytes(), patience) {
        Ok(()) => *lost = 0,
        Err(_) => *lost += 1,
    }
}

/// Writes everything, or fails if a piece takes longer than `patience` milliseconds.
fn write(output: &mut (impl io::Write + AsFd), bytes: &[u8], patience: u16) -> io::Result<()> {
    for piece in bytes.chunks(PIECE) {
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut fds, PollTimeout::from(patience))? == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        output.write_all(piece)?;
    }
    Ok(())
}

/// Enables logging. `DEFENDER_LOG` (error, warn, info, debug or trace) overrides `verbose`.
pub fn install(verbose: bool) {
    let usual = if verbose { LevelFilter::Debug } else { LevelFilter::Info };
    let level = std::env::var("DEFENDER_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(usual);
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries log only warnings and errors, unless asked for more.
        let ours = metadata.target().starts_with("defender");
        ours || metadata.level() <= Level::Warn || log::max_level() == LevelFilter::Trace
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if is_sent(|| Entry::of(record)) {
            return;
        }
        let (level, message) = match record.level() {
            Level::Error => ("error", record.args().to_string()),
            Level::Warn => ("warning", record.args().to_string()),
            Level::Info => ("info", record.args().to_string()),
            Level::Debug | Level::Trace => ("debug", format!("{}: {}", record.target(), record.args())),
        };
        say(&Message { version: 1, level, message: &message, exit_status: None }.line());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _, os::fd::OwnedFd};

    use super::*;

    #[test]
    fn messages_are_a_line_of_text_or_json() {
        let warning = Message { version: 1, level: "warning", message: "odd \"x\"\n", exit_status: None };
        assert_eq!(warning.text(), "defender: warning: odd \"x\"\n");
        assert_eq!(warning.json(), r#"{"version":1,"level":"warning","message":"odd \"x\"\n"}"#);
        let failure = Message { level: "error", message: "no", exit_status: Some(3), ..warning };
        assert_eq!(failure.text(), "defender: no");
        assert_eq!(failure.json(), r#"{"version":1,"level":"error","message":"no","exit_status":3}"#);
        assert_eq!(Message { level: "info", exit_status: None, ..failure }.text(), "defender: no");
    }

    #[test]
    fn a_slow_reader_is_not_waited_for_and_no_message_is_torn() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut writer = File::from(OwnedFd::from(writer));
        let line = format!("{}\n", "x".repeat(99));
        let mut written = 0;
        while write(&mut writer, line.as_bytes(), 1).is_ok() {
            written += 1;
        }
        assert!(written > 10, "{written}");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        assert_eq!(text, line.repeat(written));
    }

    #[test]
    fn a_closed_or_full_pipe_is_an_error_and_no_panic() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        assert!(write(&mut File::from(OwnedFd::from(writer)), b"x", 1).is_err());
        let mut full = File::options().write(true).open("/dev/full").expect("a device");
        assert!(write(&mut full, b"x", 1).is_err());
    }
}
