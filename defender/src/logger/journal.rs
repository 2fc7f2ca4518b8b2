//! systemd's journal, spoken to in its own protocol, so that messages keep their priority and have fields.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

use std::{
    env, io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt as _, net::UnixDatagram},
    },
    path::PathBuf,
    time::Duration,
};

use log::{
    Level, Record,
    kv::{Error, Key, Value, VisitSource},
};
use nix::sys::stat::fstat;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Says which file standard error is if it leads to the journal: `DEVICE:INODE` (systemd.exec(5)).
const STREAM: &str = "JOURNAL_STREAM";
/// Longer messages are cut: a datagram has room for about 200 KiB.
const LONGEST: usize = 64 << 10;

/// A way to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// The journal, if `output` leads there.
    pub(super) fn behind(output: impl AsFd, patience: Duration) -> Option<Self> {
        let stream = env::var_os(STREAM)?;
        let file = fstat(output).ok()?;
        is_stream(stream.as_bytes(), file.st_dev, file.st_ino).then_some(())?;
        Self::at(SOCKET.into(), patience).ok()
    }

    fn at(path: PathBuf, patience: Duration) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Self { socket, path })
    }

    /// Sends an entry. Waits for a slow journal only if it `may_wait`.
    pub(super) fn send(&self, entry: &Entry, may_wait: bool) -> io::Result<()> {
        self.socket.set_nonblocking(!may_wait)?;
        // By path: a journal that was started anew has another socket.
        self.socket.send_to(&entry.0, &self.path).map(drop)
    }
}

/// Whether the text of `JOURNAL_STREAM` means this file.
fn is_stream(text: &[u8], device: u64, inode: u64) -> bool {
    text == format!("{device}:{inode}").as_bytes()
}

/// An entry of the journal, as it is sent.
#[derive(Debug, Default)]
pub(super) struct Entry(Vec<u8>);

impl Entry {
    /// A message and its priority.
    pub(super) fn new(level: Level, message: &str) -> Self {
        let mut entry = Self::default();
        entry.push("MESSAGE", cut(message, LONGEST));
        entry.push("PRIORITY", priority(level));
        entry.push("SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
        entry
    }

    /// A record, with the place in the source, and every value that it carries as a field.
    pub(super) fn of(record: &Record<'_>) -> Self {
        let mut entry = Self::new(record.level(), &record.args().to_string());
        if let Some(file) = record.file() {
            entry.push("CODE_FILE", file);
        }
        if let Some(line) = record.line() {
            entry.push("CODE_LINE", &line.to_string());
        }
        // Visiting fails only where the visitor does.
        let _ = record.key_values().visit(&mut entry);
        entry
    }

    fn push(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl<'kvs> VisitSource<'kvs> for Entry {
    fn visit_pair(&mut self, name: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.push(&name.as_str().to_ascii_uppercase(), &value.to_string());
        Ok(())
    }
}

/// As syslog counts (RFC 5424, section 6.2.1).
const fn priority(level: Level) -> &'static str {
    match level {
        Level::Error => "3",
        Level::Warn => "4",
        Level::Info => "6",
        Level::Debug | Level::Trace => "7",
    }
}

/// The beginning of a text, in whole letters.
fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

#[cfg(test)]
mod tests {
    use std::{fs, process};

    use super::*;

    fn record<T>(fields: &[(&str, &str)], then: impl FnOnce(&Record<'_>) -> T) -> T {
        let mut builder = Record::builder();
        let builder = builder.level(Level::Warn).file(Some("src/a.rs")).line(Some(7)).key_values(&fields);
        then(&builder.args(format_args!("a flood")).build())
    }

    #[test]
    fn an_entry_is_encoded_as_documented() {
        let entry = record(&[("PORT", "443"), ("interface", "eth0\neth1")], Entry::of);
        let expected = [
            &b"MESSAGE=a flood\nPRIORITY=4\nSYSLOG_IDENTIFIER=defender\nCODE_FILE=src/a.rs\nCODE_LINE=7\nPORT=443\n"[..],
            b"INTERFACE\n\x09\0\0\0\0\0\0\0eth0\neth1\n",
        ];
        assert_eq!(entry.0, expected.concat());
        let priorities = [Level::Error, Level::Warn, Level::Info, Level::Debug].map(priority);
        assert_eq!(priorities, ["3", "4", "6", "7"]);
        assert_eq!((cut("aäb", 2), cut("aäb", 3), cut("a", 9)), ("a", "aä", "a"));
    }

    #[test]
    fn only_the_stream_that_is_named_is_the_journal() {
        assert!(is_stream(b"8:12345", 8, 12345));
        for text in [&b"8:1234"[..], b"8", b"", b"12345:8", b"\xff"] {
            assert!(!is_stream(text, 8, 12345));
        }
    }

    #[test]
    fn a_journal_that_is_full_or_gone_is_an_error_and_no_wait() {
        let path = env::temp_dir().join(format!("defender-journal-{}", process::id()));
        let _ = fs::remove_file(&path);
        let reader = UnixDatagram::bind(&path).expect("a socket");
        let journal = Journal::at(path.clone(), Duration::from_millis(50)).expect("a socket");
        let entry = Entry::new(Level::Info, "x");
        journal.send(&entry, true).expect("sent");
        let mut bytes = [0; 100];
        let length = reader.recv(&mut bytes).expect("received");
        assert_eq!(bytes[..length], entry.0);
        while journal.send(&entry, false).is_ok() {}
        let full = journal.send(&entry, true).expect_err("full");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(reader);
        assert_eq!(journal.send(&entry, true).expect_err("gone").kind(), io::ErrorKind::ConnectionRefused);
        fs::remove_file(&path).expect("removed");
        assert_eq!(journal.send(&entry, true).expect_err("missing").kind(), io::ErrorKind::NotFound);
    }
}
