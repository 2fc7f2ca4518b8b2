//! Events of the defence: an attack began, went a step further, ended. As a line of JSON, and in words. Pure.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use defender_common::{
    abi::ServiceCounters,
    ladder::{Because, Step},
};
use serde::{Deserialize, Serialize};

use crate::{
    control::settings::Mode,
    report::{
        evidence::Network,
        table,
        text::{rounded, thousands},
    },
};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// An attack began.
    Began,
    /// The defence took another step.
    Step,
    /// The attack ended.
    Ended,
}

/// What an attack consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// SYNs that lead to nothing.
    #[default]
    SynFlood,
    /// ACKs, and others but RSTs, of no connection.
    AckFlood,
    /// RSTs of no connection that answer nothing of ours.
    RstFlood,
}

impl Kind {
    /// What was counted tells: which packets are the most.
    pub fn of(counted: &Totals) -> Self {
        let syns = counted.syns.saturating_sub(counted.established);
        // Spoofed hosts answer a SYN-ACK with a RST: that is no attack.
        let rsts = counted.stray_rsts.saturating_sub(counted.syns.saturating_sub(counted.limited));
        if syns >= counted.stray_acks.max(rsts) {
            Self::SynFlood
        } else if counted.stray_acks >= rsts {
            Self::AckFlood
        } else {
            Self::RstFlood
        }
    }

    /// In words.
    const fn describe(self) -> &'static str {
        match self {
            Self::SynFlood => "SYN flood",
            Self::AckFlood => "ACK flood",
            Self::RstFlood => "RST flood",
        }
    }

    const fn article(self) -> &'static str {
        match self {
            Self::SynFlood => "a",
            Self::AckFlood | Self::RstFlood => "an",
        }
    }
}

/// What was counted of a service in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// SYNs that arrived.
    pub syns: u64,
    /// SYNs answered with a cookie.
    pub challenged: u64,
    /// Real clients that were challenged and let in.
    pub accepted: u64,
    /// SYNs dropped by the reply limit, or because their source is not known.
    pub limited: u64,
    /// Packets of no connection without a valid cookie.
    pub rejected: u64,
    /// Connections that reached ESTABLISHED.
    pub established: u64,
    /// ACKs and others of no connection.
    pub stray_acks: u64,
    /// RSTs of no connection.
    pub stray_rsts: u64,
    /// SYNs that would have been challenged.
    pub would_have_challenged: u64,
    /// Of these: the handshake was completed, by a real client.
    pub real_clients: u64,
}

impl From<&ServiceCounters> for Totals {
    fn from(counters: &ServiceCounters) -> Self {
        Self {
            syns: counters.syn_received,
            challenged: counters.syn_challenged,
            accepted: counters.ack_accepted,
            limited: counters.syn_limited,
            rejected: counters.ack_rejected,
            established: counters.established,
            stray_acks: counters.stray_acks,
            stray_rsts: counters.stray_rsts,
            would_have_challenged: counters.syn_would_challenge,
            real_clients: counters.client_would_challenge,
        }
    }
}

impl Totals {
    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            syns: self.syns.saturating_sub(before.syns),
            challenged: self.challenged.saturating_sub(before.challenged),
            accepted: self.accepted.saturating_sub(before.accepted),
            limited: self.limited.saturating_sub(before.limited),
            rejected: self.rejected.saturating_sub(before.rejected),
            established: self.established.saturating_sub(before.established),
            stray_acks: self.stray_acks.saturating_sub(before.stray_acks),
            stray_rsts: self.stray_rsts.saturating_sub(before.stray_rsts),
            would_have_challenged: self.would_have_challenged.saturating_sub(before.would_have_challenged),
            real_clients: self.real_clients.saturating_sub(before.real_clients),
        }
    }
}

/// What was seen at the time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Connections that are half open, or would be if their SYNs had passed.
    pub half_open: u32,
    /// How many were let through before the challenge.
    pub half_open_then: u32,
    /// How many half-open connections the listeners take; none if they are gone.
    pub backlog: Option<u32>,
    /// SYNs a second.
    pub syn_rate: u64,
    /// How many sources sent SYNs in the last eight seconds: an estimate.
    pub sources: u64,
    /// The share of handshakes completed; none if there were none.
    pub completed: Option<f64>,
    /// Networks that send the most SYNs.
    pub networks: Vec<Network>,
    /// ACKs and others of no connection, a second.
    pub stray_ack_rate: u64,
    /// RSTs of no connection, a second.
    pub stray_rst_rate: u64,
}

/// What a whole attack came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How long it was.
    pub duration_seconds: f64,
    /// The most SYNs a second.
    pub peak_syn_rate: u64,
    /// SYNs that arrived.
    pub syns: u64,
    /// SYNs answered with a cookie.
    pub challenged: u64,
    /// Real clients that were challenged and let in.
    pub accepted: u64,
    /// SYNs dropped by the reply limit, or because their source is not known.
    pub limited: u64,
    /// Packets of no connection without a valid cookie.
    pub rejected: u64,
    /// Of a dry run: SYNs that would have been challenged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_have_challenged: Option<u64>,
    /// Of a dry run: those whose handshake was completed, by a real client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real_clients: Option<u64>,
}

impl Summary {
    /// From what was counted.
    pub fn new(milliseconds: u64, peak_syn_rate: u64, counted: &Totals, dry_run: bool) -> Self {
        Self {
            duration_seconds: milliseconds as f64 / 1000.0,
            peak_syn_rate,
            syns: counted.syns,
            challenged: counted.challenged,
            accepted: counted.accepted,
            limited: counted.limited,
            rejected: counted.rejected,
            would_have_challenged: dry_run.then_some(counted.would_have_challenged),
            real_clients: dry_run.then_some(counted.real_clients),
        }
    }
}

/// An event, as files and programs have it. The shape is a contract: names are added, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the shape: 1.
    pub version: u32,
    /// When, by RFC 3339, in UTC.
    pub time: String,
    /// When, in seconds since the epoch.
    pub seconds: f64,
    /// What happened.
    pub event: What,
    /// The service's port.
    pub port: u16,
    /// The service's address.
    pub address: String,
    /// The service's mode.
    pub mode: Mode,
    /// Nothing was done: this only says what mode `auto` would do.
    pub dry_run: bool,
    /// The step of the ladder now ([`Step::name`]).
    pub step: String,
    /// The one before.
    pub from: String,
    /// Why: [`Because::name`], or `detached`.
    pub because: String,
    /// What the attack consists of, as far as is known.
    pub kind: Kind,
    /// All of this in a sentence.
    pub words: String,
    /// What was seen.
    pub evidence: Seen,
    /// Of an attack that ended.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

impl Record {
    /// The line of JSON.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string(self).context("cannot write JSON")
    }
}

/// What the words of a record are made of, besides itself.
#[derive(Clone, Copy, Debug)]
pub struct Grounds {
    /// The step now.
    pub step: Step,
    /// The one before.
    pub from: Step,
    /// Why; none: everything is being detached.
    pub because: Option<Because>,
    /// SYNs pass whatever the step, since the service cannot be protected or challenging is suspended.
    pub hindered: bool,
}

/// The sentence that says what a record says.
pub fn words(record: &Record, grounds: &Grounds) -> String {
    let service = match record.address.as_str() {
        "0.0.0.0" | "::" => format!("port {}", record.port),
        address => format!("port {} ({address})", record.port),
    };
    let kind = record.kind.describe();
    let reason = reason(grounds.because, &record.evidence);
    let done = done(record.mode, grounds);
    match (record.event, &record.summary) {
        (What::Began, _) => {
            let article = record.kind.article();
            let traffic = traffic(record.kind, &record.evidence);
            format!("{service}: {article} {kind} has begun: {reason}; {traffic}; {done}")
        }
        (What::Step, _) => {
            let goes = if grounds.step > grounds.from { "grows" } else { "abates" };
            let traffic = traffic(record.kind, &record.evidence);
            format!("{service}: the {kind} {goes}: {reason}; {traffic}; {done}")
        }
        (What::Ended, summary) => {
            let summary = summary.unwrap_or_default();
            let seconds = thousands(summary.duration_seconds.round() as u64);
            let came = came_to(&summary);
            match grounds.because {
                Some(_) => format!("{service}: the {kind} has ended after {seconds} s: {came}; {done}"),
                None => format!(
                    "{service}: everything is detached during the {kind}, {seconds} s after it began: {came}; SYNs pass"
                ),
            }
        }
    }
}

/// Why, with the numbers that go with it.
fn reason(because: Option<Because>, seen: &Seen) -> String {
    let Some(because) = because else { return "everything is detached".to_owned() };
    let mut text = because.describe().to_owned();
    if matches!(because, Because::HalfOpen | Because::Queue | Because::Flood) {
        let half_open = thousands(seen.half_open_then.into());
        let _ = match seen.backlog {
            Some(backlog) => write!(text, " ({half_open} of a backlog of {})", thousands(backlog.into())),
            None => write!(text, " ({half_open})"),
        };
    }
    text
}

/// What arrives.
fn traffic(kind: Kind, seen: &Seen) -> String {
    let mut text = String::new();
    match kind {
        Kind::SynFlood => {}
        Kind::AckFlood => {
            let _ = write!(text, "{} packets/s of no connection, ", thousands(seen.stray_ack_rate));
        }
        Kind::RstFlood => {
            let _ = write!(text, "{} RST/s of no connection, ", thousands(seen.stray_rst_rate));
        }
    }
    let _ = write!(text, "{} SYN/s", thousands(seen.syn_rate));
    // Only SYNs are noted by source.
    let by_source = kind == Kind::SynFlood;
    if by_source && seen.sources != 0 {
        let _ = write!(text, " from about {} sources", thousands(rounded(seen.sources)));
    }
    if let Some(completed) = seen.completed {
        let _ = write!(text, ", {:.1} % complete", completed * 100.0);
    }
    for network in seen.networks.iter().filter(|_| by_source) {
        let _ = write!(text, ", {:.0} % from {}", network.share * 100.0, network.prefix);
    }
    text
}

/// What is done to SYNs from now on.
fn done(mode: Mode, grounds: &Grounds) -> String {
    let step = grounds.step;
    match mode {
        Mode::Off => "the service is left alone".to_owned(),
        _ if grounds.hindered => {
            "SYNs pass, since they cannot be challenged (`defender status` says why)".to_owned()
        }
        Mode::Monitor if step == Step::Pass => "nothing was done (mode monitor)".to_owned(),
        Mode::Monitor => format!("nothing is done (mode monitor); in mode auto: {}", step.describe()),
        Mode::Always if step == Step::Pass => "every SYN is challenged, as ever in mode always".to_owned(),
        Mode::Auto if step == Step::Pass => "SYNs pass again".to_owned(),
        Mode::Always | Mode::Auto => step.describe().to_owned(),
    }
}

fn came_to(summary: &Summary) -> String {
    let mut text = format!("{} SYNs", thousands(summary.syns));
    if summary.peak_syn_rate != 0 {
        let _ = write!(text, ", up to {} a second", thousands(summary.peak_syn_rate));
    }
    if let (Some(would), Some(real)) = (summary.would_have_challenged, summary.real_clients) {
        let _ = write!(
            text,
            "; mode auto would have challenged {}, of which {} were real clients'",
            thousands(would),
            thousands(real)
        );
        return text;
    }
    let _ = write!(
        text,
        "; {} challenged, {} real clients among them let in",
        thousands(summary.challenged),
        thousands(summary.accepted)
    );
    if summary.limited != 0 {
        let _ = write!(text, ", {} dropped by the reply limit", thousands(summary.limited));
    }
    if summary.rejected != 0 {
        let _ = write!(text, "; {} packets without a valid cookie dropped", thousands(summary.rejected));
    }
    text
}

/// An event as it was kept: the line, and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The line of JSON, with all that a newer version may have added.
    pub line: String,
    /// What is understood of it.
    pub record: Record,
}

impl Kept {
    /// Reads a line; none if it makes no sense, as one that was cut short by a full disk.
    pub fn read(line: String) -> Option<Self> {
        let record = serde_json::from_str(&line).ok()?;
        Some(Self { line, record })
    }
}

/// Past events as a table, one a line.
pub fn text<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    let rows: Vec<_> = records.map(row).collect();
    if rows.is_empty() {
        return "  nothing has happened yet\n".to_owned();
    }
    table::render(&["time", "event", "what happened"], &rows)
}

/// One event as a line of text.
pub fn line(record: &Record) -> String {
    row(record).join("  ") + "\n"
}

fn row(record: &Record) -> Vec<String> {
    let event = match record.event {
        What::Began => "began",
        What::Step => "step",
        What::Ended => "ended",
    };
    vec![record.time.clone(), event.to_owned(), record.words.clone()]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A record of the beginning of an attack.
    pub(crate) fn example() -> Record {
        let mut record = Record {
            version: 1,
            time: "2026-01-31T23:59:59.123Z".into(),
            seconds: 1_769_903_999.123,
            event: What::Began,
            port: 443,
            address: "0.0.0.0".into(),
            mode: Mode::Auto,
            dry_run: false,
            step: "challenge".into(),
            from: "pass".into(),
            because: "half_open".into(),
            kind: Kind::SynFlood,
            words: String::new(),
            evidence: Seen {
                half_open: 1024,
                half_open_then: 1024,
                backlog: Some(4096),
                syn_rate: 25_300,
                sources: 12_021,
                completed: Some(0.003),
                ..Seen::default()
            },
            summary: None,
        };
        record.words = words(&record, &GROUNDS);
        record
    }

    const GROUNDS: Grounds = Grounds {
        step: Step::Challenge,
        from: Step::Pass,
        because: Some(Because::HalfOpen),
        hindered: false,
    };

    #[test]
    fn the_beginning_in_a_sentence() {
        assert_eq!(
            example().words,
            "port 443: a SYN flood has begun: connections stay half open (1,024 of a backlog of 4,096); 25,300 SYN/s \
             from about 12,000 sources, 0.3 % complete; every SYN is challenged"
        );
        let elsewhere = Record { address: "192.0.2.1".into(), mode: Mode::Monitor, ..example() };
        let told = words(&elsewhere, &GROUNDS);
        assert!(told.starts_with("port 443 (192.0.2.1): a SYN flood has begun"), "{told}");
        assert!(
            told.ends_with("; nothing is done (mode monitor); in mode auto: every SYN is challenged"),
            "{told}"
        );
        let told = words(&example(), &Grounds { hindered: true, ..GROUNDS });
        assert!(told.contains("SYNs pass, since they cannot be challenged"), "{told}");
    }

    #[test]
    fn the_end_in_a_sentence() {
        let counted = Totals {
            syns: 2_400_000,
            challenged: 2_399_000,
            accepted: 812,
            would_have_challenged: 2_398_000,
            real_clients: 70,
            ..Totals::default()
        };
        let ended = |dry_run| {
            let summary = Some(Summary::new(95_400, 31_000, &counted, dry_run));
            let mode = if dry_run { Mode::Monitor } else { Mode::Auto };
            Record {
                event: What::Ended,
                step: "pass".into(),
                from: "challenge".into(),
                mode,
                summary,
                ..example()
            }
        };
        let grounds =
            Grounds { step: Step::Pass, from: Step::Challenge, because: Some(Because::Quiet), ..GROUNDS };
        assert_eq!(
            words(&ended(false), &grounds),
            "port 443: the SYN flood has ended after 95 s: 2,400,000 SYNs, up to 31,000 a second; 2,399,000 challenged, \
             812 real clients among them let in; SYNs pass again"
        );
        assert_eq!(
            words(&ended(true), &grounds),
            "port 443: the SYN flood has ended after 95 s: 2,400,000 SYNs, up to 31,000 a second; mode auto would have \
             challenged 2,398,000, of which 70 were real clients'; nothing was done (mode monitor)"
        );
        let told = words(&ended(false), &Grounds { because: None, ..grounds });
        assert!(told.contains("everything is detached during the SYN flood, 95 s after it began"), "{told}");
    }

    #[test]
    fn other_floods_and_steps() {
        let seen = Seen { stray_ack_rate: 30_000, stray_rst_rate: 20_000, syn_rate: 7, ..Seen::default() };
        let grounds = Grounds { because: Some(Because::Strays), ..GROUNDS };
        let acks = Record { kind: Kind::AckFlood, evidence: seen.clone(), ..example() };
        let told = words(&acks, &grounds);
        assert!(
            told.contains(": an ACK flood has begun: a flood of packets that belong to no connection;"),
            "{told}"
        );
        assert!(told.contains("; 30,000 packets/s of no connection, 7 SYN/s;"), "{told}");
        let rsts = Record { kind: Kind::RstFlood, evidence: seen, ..example() };
        assert!(words(&rsts, &grounds).contains("; 20,000 RST/s of no connection, 7 SYN/s;"));
        let up =
            Grounds { step: Step::Limit, from: Step::Challenge, because: Some(Because::Replies), ..GROUNDS };
        let step = Record { event: What::Step, ..example() };
        let told = words(&step, &up);
        assert!(told.starts_with("port 443: the SYN flood grows: more SYNs than the reply limit"), "{told}");
        let down =
            Grounds { step: Step::Limit, from: Step::KnownSources, because: Some(Because::Quiet), ..GROUNDS };
        assert!(words(&step, &down).contains("the SYN flood abates: it has been quiet;"));
    }

    #[test]
    fn kinds_are_told_by_what_is_counted() {
        let kind = |syns, established, stray_acks, stray_rsts| {
            Kind::of(&Totals { syns, established, stray_acks, stray_rsts, ..Totals::default() })
        };
        assert_eq!(kind(1000, 10, 5, 0), Kind::SynFlood);
        assert_eq!(kind(1000, 10, 5, 1900), Kind::SynFlood, "backscatter");
        assert_eq!(kind(1000, 1000, 500, 20), Kind::AckFlood);
        assert_eq!(kind(1000, 1000, 20, 5000), Kind::RstFlood);
        assert_eq!(kind(0, 0, 0, 0), Kind::SynFlood);
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for summary in [None, Some(Summary::new(1500, 7, &Totals::default(), true))] {
            let record = Record { summary, ..example() };
            let line = record.json().expect("JSON");
            assert!(!line.contains('\n'));
            assert_eq!(Kept::read(line.clone()).expect("a record"), Kept { line, record });
        }
        assert_eq!(Kept::read("{\"version\": 1".into()), None);
        let newer = example().json().expect("JSON").replacen('{', "{\"later\": 7, ", 1);
        assert!(Kept::read(newer).is_some());
    }

    #[test]
    fn names_are_a_contract() {
        let line = Record { summary: Some(Summary::default()), ..example() }.json().expect("JSON");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["event"], "began");
        assert_eq!(value["kind"], "syn_flood");
        assert_eq!(value["mode"], "auto");
        assert_eq!(value["duration_seconds"], 0.0);
        assert_eq!(value["would_have_challenged"], serde_json::Value::Null);
        assert_eq!(value["evidence"]["half_open"], 1024);
    }

    #[test]
    fn events_as_a_table() {
        let table = text([example()].iter());
        assert!(
            table.contains("  2026-01-31T23:59:59.123Z  began  port 443: a SYN flood has begun"),
            "{table}"
        );
        assert_eq!(text([].iter()), "  nothing has happened yet\n");
        assert!(line(&example()).starts_with("2026-01-31T23:59:59.123Z  began  port 443:"));
    }
}
