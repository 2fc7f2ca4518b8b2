//! Events of the defence: an attack began, went a step further, ended. As a line of JSON, and in words. Pure.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use defender_common::{
    abi::ServiceCounters,
    mitigation::{Level, Trigger},
};
use serde::{Deserialize, Serialize};

use crate::model::{
    evidence::Network,
    mode::Mode,
    number::{counted, rounded, thousands},
};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// An attack began.
    Began,
    /// The defence took another level.
    Step,
    /// The attack ended.
    Ended,
    /// A service can no longer be protected: its SYNs pass.
    #[serde(rename = "protection_lost")]
    ProtectionLost,
    /// It can again.
    #[serde(rename = "protection_regained")]
    ProtectionRegained,
}

impl Transition {
    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::Step => "step",
            Self::Ended => "ended",
            Self::ProtectionLost => "protection_lost",
            Self::ProtectionRegained => "protection_regained",
        }
    }
}

/// What an attack consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// SYNs that lead to nothing.
    #[default]
    SynFlood,
    /// ACKs, and others but RSTs, of no connection.
    AckFlood,
    /// RSTs of no connection that answer nothing of ours.
    RstFlood,
    /// It is no attack: what the defence can do for a service has changed.
    Protection,
}

impl EventKind {
    /// By the packets that were counted most.
    pub fn of(counted: &Totals) -> Self {
        let syns = counted.syns.saturating_sub(counted.established);
        // Spoofed hosts answer a SYN-ACK with a RST: that is no attack.
        let rsts = counted.out_of_state_rsts.saturating_sub(counted.syns.saturating_sub(counted.limited));
        if syns >= counted.out_of_state_acks.max(rsts) {
            Self::SynFlood
        } else if counted.out_of_state_acks >= rsts {
            Self::AckFlood
        } else {
            Self::RstFlood
        }
    }

    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynFlood => "syn_flood",
            Self::AckFlood => "ack_flood",
            Self::RstFlood => "rst_flood",
            Self::Protection => "protection",
        }
    }

    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::SynFlood => "SYN flood",
            Self::AckFlood => "ACK flood",
            Self::RstFlood => "RST flood",
            Self::Protection => "change of protection",
        }
    }

    const fn article(self) -> &'static str {
        match self {
            Self::SynFlood | Self::Protection => "a",
            Self::AckFlood | Self::RstFlood => "an",
        }
    }
}

macro_rules! totals {
    ($(#[doc = $doc:literal] $total:ident: $counter:ident;)*) => {
        /// What was counted of a service in some time.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Totals {
            $(#[doc = $doc] pub $total: u64,)*
        }

        impl From<&ServiceCounters> for Totals {
            fn from(counters: &ServiceCounters) -> Self {
                Self { $($total: counters.$counter,)* }
            }
        }

        impl Totals {
            /// What was counted since `before`.
            pub fn since(&self, before: &Self) -> Self {
                Self { $($total: self.$total.saturating_sub(before.$total),)* }
            }
        }
    };
}

totals! {
    /// SYNs that arrived.
    syns: syn_received;
    /// SYNs answered with a cookie.
    challenged: syn_challenged;
    /// Real clients that were challenged and let in.
    accepted: ack_accepted;
    /// SYNs dropped by the reply limit, or because their source is not known.
    limited: syn_limited;
    /// Out-of-state packets without a valid cookie.
    rejected: ack_rejected;
    /// Connections that reached ESTABLISHED.
    established: established;
    /// Out-of-state ACKs and others but RSTs.
    out_of_state_acks: out_of_state_acks;
    /// Out-of-state RSTs.
    out_of_state_rsts: out_of_state_rsts;
    /// SYNs that would have been challenged.
    would_have_challenged: syn_would_challenge;
    /// Of these: the handshake was completed, by a real client.
    real_clients: client_would_challenge;
}

/// A struct of public fields, each described once: the names and descriptions of JSON are `FIELDS`.
macro_rules! described {
    (
        $(#[$outer:meta])*
        pub struct $name:ident {
            $($(#[doc = $doc:literal])+ $(#[serde($($serde:tt)*)])? pub $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$outer])*
        pub struct $name {
            $($(#[doc = $doc])+ $(#[serde($($serde)*)])? pub $field: $type,)*
        }

        impl $name {
            /// Name and description of every field.
            pub const FIELDS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($field), concat!($($doc),+)),)*];
        }
    };
}

described! {
/// What was observed at the time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Connections that are half open, or would be if their SYNs had passed.
    pub half_open: u32,
    /// How many were let through before the challenge.
    pub half_open_then: u32,
    /// How many half-open connections the listeners take; none if they are gone.
    pub backlog: Option<u32>,
    /// SYNs per second.
    pub syn_rate: u64,
    /// How many sources sent SYNs in the last eight seconds: an estimate.
    pub sources: u64,
    /// The share of handshakes completed; none if there were none.
    pub completed: Option<f64>,
    /// Networks that send the most SYNs.
    pub networks: Vec<Network>,
    /// Out-of-state ACKs and others but RSTs, per second.
    pub out_of_state_ack_rate: u64,
    /// Out-of-state RSTs, per second.
    pub out_of_state_rst_rate: u64,
}
}

described! {
/// What a whole attack came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttackSummary {
    /// How long it was.
    pub duration_seconds: f64,
    /// The most SYNs per second.
    pub peak_syn_rate: u64,
    /// SYNs that arrived.
    pub syns: u64,
    /// SYNs answered with a cookie.
    pub challenged: u64,
    /// Real clients that were challenged and let in.
    pub accepted: u64,
    /// SYNs dropped by the reply limit, or because their source is not known.
    pub limited: u64,
    /// Out-of-state packets without a valid cookie.
    pub rejected: u64,
    /// Of a dry run: SYNs that would have been challenged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_have_challenged: Option<u64>,
    /// Of a dry run: those whose handshake was completed, by a real client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real_clients: Option<u64>,
}
}

impl AttackSummary {
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

described! {
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
    pub event: Transition,
    /// The service's port.
    pub port: u16,
    /// The service's address.
    pub address: String,
    /// The service's mode.
    pub mode: Mode,
    /// Nothing was done: this only says what mode `auto` would do.
    pub dry_run: bool,
    /// The mitigation level now.
    pub level: String,
    /// The level before.
    pub from: String,
    /// Why the level was taken; values below.
    pub trigger: String,
    /// What the attack consists of, as far as is known.
    pub kind: EventKind,
    /// All of this in a sentence.
    pub words: String,
    /// What was seen.
    pub evidence: Observation,
    /// Of an attack that ended.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub summary: Option<AttackSummary>,
}
}

impl Record {
    /// The line of JSON.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string(self).context("cannot write JSON")
    }

    /// The fields that it has in systemd's journal, besides the sentence.
    pub fn journal_fields(&self) -> [(&'static str, String); 8] {
        [
            ("DEFENDER_EVENT", self.event.name().to_owned()),
            ("DEFENDER_KIND", self.kind.name().to_owned()),
            ("DEFENDER_LEVEL", self.level.clone()),
            ("DEFENDER_FROM", self.from.clone()),
            ("DEFENDER_TRIGGER", self.trigger.clone()),
            ("DEFENDER_MODE", self.mode.name().to_owned()),
            ("ADDRESS", self.address.clone()),
            ("PORT", self.port.to_string()),
        ]
    }
}

/// What the words of a record are made of, besides itself.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    /// The level now.
    pub level: Level,
    /// The level before.
    pub from: Level,
    /// Why; none: everything is being detached.
    pub trigger: Option<Trigger>,
    /// SYNs pass whatever the level, since the service cannot be protected or challenging is suspended.
    pub hindered: bool,
}

/// A service, in words.
pub fn service(address: &str, port: u16) -> String {
    match address {
        "0.0.0.0" | "::" => format!("port {port}"),
        address => format!("port {port} ({address})"),
    }
}

/// The sentence that says what a record of an attack says.
pub fn words(record: &Record, cause: &Cause) -> String {
    let service = service(&record.address, record.port);
    let kind = record.kind.describe();
    let reason = reason(cause.trigger, &record.evidence);
    let done = done(record.mode, cause, record.summary.as_ref());
    match (record.event, &record.summary) {
        (Transition::Began, _) => {
            let article = record.kind.article();
            let traffic = traffic(record.kind, &record.evidence);
            format!("{service}: {article} {kind} has begun: {reason}; {traffic}; {done}")
        }
        (Transition::Step, _) => {
            let goes = if cause.level > cause.from { "grows" } else { "abates" };
            let traffic = traffic(record.kind, &record.evidence);
            format!("{service}: the {kind} {goes}: {reason}; {traffic}; {done}")
        }
        // Of no attack: their words are made where the reason is known.
        (Transition::ProtectionLost | Transition::ProtectionRegained, _) => record.words.clone(),
        (Transition::Ended, summary) => {
            let summary = summary.unwrap_or_default();
            let seconds = thousands(summary.duration_seconds.round() as u64);
            let came = came_to(&summary);
            match cause.trigger {
                Some(_) => format!("{service}: the {kind} has ended after {seconds} s: {came}; {done}"),
                None => format!(
                    "{service}: defender was detached during the {kind}, {seconds} s after it began: {came}; SYNs pass"
                ),
            }
        }
    }
}

/// Why, with the numbers that go with it.
fn reason(trigger: Option<Trigger>, seen: &Observation) -> String {
    let Some(trigger) = trigger else { return "everything is detached".to_owned() };
    let mut text = trigger.describe().to_owned();
    if matches!(trigger, Trigger::HalfOpen | Trigger::Queue | Trigger::Flood) {
        let half_open = thousands(seen.half_open_then.into());
        let _ = match seen.backlog {
            Some(backlog) => write!(text, " ({half_open} of a backlog of {})", thousands(backlog.into())),
            None => write!(text, " ({half_open})"),
        };
    }
    text
}

/// What arrives.
fn traffic(kind: EventKind, seen: &Observation) -> String {
    let mut text = String::new();
    match kind {
        EventKind::SynFlood | EventKind::Protection => {}
        EventKind::AckFlood => {
            let _ = write!(text, "{} out-of-state packets/s, ", thousands(seen.out_of_state_ack_rate));
        }
        EventKind::RstFlood => {
            let _ = write!(text, "{} out-of-state RST/s, ", thousands(seen.out_of_state_rst_rate));
        }
    }
    let _ = write!(text, "{} SYN/s", thousands(seen.syn_rate));
    // Only SYNs are noted by source.
    let by_source = kind == EventKind::SynFlood;
    if by_source && seen.sources != 0 {
        let _ = write!(text, " from about {}", counted(rounded(seen.sources), "source"));
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
fn done(mode: Mode, cause: &Cause, summary: Option<&AttackSummary>) -> String {
    let level = cause.level;
    match mode {
        Mode::Off => "the service is off".to_owned(),
        _ if cause.hindered => {
            "SYNs pass, since they cannot be challenged (`defender status` says why)".to_owned()
        }
        Mode::Monitor if level == Level::Pass && summary.is_some_and(|summary| summary.challenged != 0) => {
            "SYNs pass (mode monitor)".to_owned()
        }
        Mode::Monitor if level == Level::Pass => "nothing was done (mode monitor)".to_owned(),
        Mode::Monitor => format!("nothing is done (mode monitor); in mode auto: {}", level.describe()),
        Mode::Always if level == Level::Pass => "every SYN is challenged (mode always)".to_owned(),
        Mode::Auto if level == Level::Pass => "SYNs pass again".to_owned(),
        Mode::Always | Mode::Auto => level.describe().to_owned(),
    }
}

fn came_to(summary: &AttackSummary) -> String {
    let mut text = format!("{} SYNs", thousands(summary.syns));
    if summary.peak_syn_rate != 0 {
        let _ = write!(text, ", up to {} a second", thousands(summary.peak_syn_rate));
    }
    if summary.challenged != 0 || summary.would_have_challenged.is_none() {
        text.push_str(&acted(summary));
    }
    if let (Some(would), Some(real)) = (summary.would_have_challenged, summary.real_clients) {
        let _ = write!(
            text,
            "; mode auto would have challenged {}{}, of which {} were real clients'",
            thousands(would),
            // The mode was another one at first.
            if summary.challenged == 0 { "" } else { " more" },
            thousands(real)
        );
    }
    text
}

/// What was done.
fn acted(summary: &AttackSummary) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "; {} challenged, {} among them connected",
        thousands(summary.challenged),
        counted(summary.accepted, "real client")
    );
    if summary.limited != 0 {
        let _ = write!(text, ", {} dropped by the reply limit", thousands(summary.limited));
    }
    if summary.rejected != 0 {
        let _ = write!(text, "; {} packets without a valid cookie dropped", thousands(summary.rejected));
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn the_journal_has_the_names_of_json() {
        let json: serde_json::Value = serde_json::from_str(&example().json().expect("JSON")).expect("JSON");
        for (field, value) in example().journal_fields() {
            let name = field.trim_start_matches("DEFENDER_").to_ascii_lowercase();
            let expected =
                json[name.as_str()].as_str().map_or_else(|| json[name.as_str()].to_string(), str::to_owned);
            assert_eq!(value, expected, "{field}");
        }
    }

    /// A record of the beginning of an attack.
    pub(crate) fn example() -> Record {
        let mut record = Record {
            version: 1,
            time: "2026-01-31T23:59:59.123Z".into(),
            seconds: 1_769_903_999.123,
            event: Transition::Began,
            port: 443,
            address: "0.0.0.0".into(),
            mode: Mode::Auto,
            dry_run: false,
            level: "challenge".into(),
            from: "pass".into(),
            trigger: "half_open".into(),
            kind: EventKind::SynFlood,
            words: String::new(),
            evidence: Observation {
                half_open: 1024,
                half_open_then: 1024,
                backlog: Some(4096),
                syn_rate: 25_300,
                sources: 12_021,
                completed: Some(0.003),
                ..Observation::default()
            },
            summary: None,
        };
        record.words = words(&record, &CAUSE);
        record
    }

    const CAUSE: Cause = Cause {
        level: Level::Challenge,
        from: Level::Pass,
        trigger: Some(Trigger::HalfOpen),
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
        let reported = words(&elsewhere, &CAUSE);
        assert!(reported.starts_with("port 443 (192.0.2.1): a SYN flood has begun"), "{reported}");
        assert!(
            reported.ends_with("; nothing is done (mode monitor); in mode auto: every SYN is challenged"),
            "{reported}"
        );
        let reported = words(&example(), &Cause { hindered: true, ..CAUSE });
        assert!(reported.contains("SYNs pass, since they cannot be challenged"), "{reported}");
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
            let summary = Some(AttackSummary::new(95_400, 31_000, &counted, dry_run));
            let mode = if dry_run { Mode::Monitor } else { Mode::Auto };
            Record {
                event: Transition::Ended,
                level: "pass".into(),
                from: "challenge".into(),
                mode,
                summary,
                ..example()
            }
        };
        let cause =
            Cause { level: Level::Pass, from: Level::Challenge, trigger: Some(Trigger::Quiet), ..CAUSE };
        assert_eq!(
            words(&ended(false), &cause),
            "port 443: the SYN flood has ended after 95 s: 2,400,000 SYNs, up to 31,000 a second; 2,399,000 challenged, \
             812 real clients among them connected; SYNs pass again"
        );
        assert_eq!(
            words(&ended(true), &cause),
            "port 443: the SYN flood has ended after 95 s: 2,400,000 SYNs, up to 31,000 a second; 2,399,000 challenged, \
             812 real clients among them connected; mode auto would have challenged 2,398,000 more, of which 70 were real \
             clients'; SYNs pass (mode monitor)",
            "the mode was another one at first"
        );
        let mut watched = ended(true);
        watched.summary = watched.summary.map(|summary| AttackSummary { challenged: 0, ..summary });
        assert_eq!(
            words(&watched, &cause),
            "port 443: the SYN flood has ended after 95 s: 2,400,000 SYNs, up to 31,000 a second; mode auto would have \
             challenged 2,398,000, of which 70 were real clients'; nothing was done (mode monitor)"
        );
        let reported = words(&ended(false), &Cause { trigger: None, ..cause });
        assert!(
            reported.contains("defender was detached during the SYN flood, 95 s after it began"),
            "{reported}"
        );
    }

    #[test]
    fn other_floods_and_steps() {
        let seen = Observation {
            out_of_state_ack_rate: 30_000,
            out_of_state_rst_rate: 20_000,
            syn_rate: 7,
            ..Observation::default()
        };
        let cause = Cause { trigger: Some(Trigger::OutOfState), ..CAUSE };
        let acks = Record { kind: EventKind::AckFlood, evidence: seen.clone(), ..example() };
        let reported = words(&acks, &cause);
        assert!(
            reported.contains(": an ACK flood has begun: a flood of packets that belong to no connection;"),
            "{reported}"
        );
        assert!(reported.contains("; 30,000 out-of-state packets/s, 7 SYN/s;"), "{reported}");
        let rsts = Record { kind: EventKind::RstFlood, evidence: seen, ..example() };
        assert!(words(&rsts, &cause).contains("; 20,000 out-of-state RST/s, 7 SYN/s;"));
        let up =
            Cause { level: Level::Limit, from: Level::Challenge, trigger: Some(Trigger::Replies), ..CAUSE };
        let level = Record { event: Transition::Step, ..example() };
        let reported = words(&level, &up);
        assert!(
            reported.starts_with("port 443: the SYN flood grows: more SYNs than the reply limit"),
            "{reported}"
        );
        let down =
            Cause { level: Level::Limit, from: Level::KnownSources, trigger: Some(Trigger::Quiet), ..CAUSE };
        assert!(words(&level, &down).contains("the SYN flood abates: it has been quiet;"));
    }

    #[test]
    fn kinds_are_told_by_what_is_counted() {
        let kind = |syns, established, out_of_state_acks, out_of_state_rsts| {
            EventKind::of(&Totals {
                syns,
                established,
                out_of_state_acks,
                out_of_state_rsts,
                ..Totals::default()
            })
        };
        assert_eq!(kind(1000, 10, 5, 0), EventKind::SynFlood);
        assert_eq!(kind(1000, 10, 5, 1900), EventKind::SynFlood, "backscatter");
        assert_eq!(kind(1000, 1000, 500, 20), EventKind::AckFlood);
        assert_eq!(kind(1000, 1000, 20, 5000), EventKind::RstFlood);
        assert_eq!(kind(0, 0, 0, 0), EventKind::SynFlood);
    }

    #[test]
    fn every_field_of_the_json_is_described() {
        let line = Record { summary: Some(AttackSummary::default()), ..example() }.json().expect("JSON");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let names =
            |fields: &[(&'static str, &str)]| fields.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        let mut described = names(Record::FIELDS);
        // Its fields are among the record's.
        described.retain(|name| *name != "summary");
        described.extend(names(AttackSummary::FIELDS));
        let described = described.into_iter().filter(|name| !OF_DRY_RUNS.contains(name));
        let keys = |value: &serde_json::Value| {
            value.as_object().expect("an object").keys().cloned().collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(keys(&value), described.map(str::to_owned).collect());
        assert_eq!(
            keys(&value["evidence"]),
            names(Observation::FIELDS).into_iter().map(str::to_owned).collect()
        );
        assert!(Record::FIELDS.iter().all(|(_, description)| description.ends_with('.')));
    }

    const OF_DRY_RUNS: [&str; 2] = ["would_have_challenged", "real_clients"];

    #[test]
    fn names_are_a_contract() {
        let line = Record { summary: Some(AttackSummary::default()), ..example() }.json().expect("JSON");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["event"], "began");
        assert_eq!(value["kind"], "syn_flood");
        assert_eq!(value["mode"], "auto");
        assert_eq!(value["duration_seconds"], 0.0);
        assert_eq!(value["would_have_challenged"], serde_json::Value::Null);
        assert_eq!(value["evidence"]["half_open"], 1024);
    }
}
