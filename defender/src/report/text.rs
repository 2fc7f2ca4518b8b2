//! Reports as text.

use std::{collections::BTreeMap, fmt::Write as _};

use defender_common::{mitigation::Level, tcp_state::State, verdict::Verdict};

use crate::{
    model::{
        lists::plan::ListCounts,
        mode::Mode,
        number::{counted, rounded, thousands},
    },
    report::{
        connections::STATES,
        snapshot::{ServiceStatus, Snapshot},
        table,
    },
};

/// `status`: the current state and its reasons, in words.
pub fn status(snapshot: &Snapshot) -> String {
    let mut text = headline(snapshot);
    text.push('\n');
    text.push_str(&interfaces(snapshot));
    text.push('\n');
    text.push_str(&services(snapshot));
    for service in &snapshot.services {
        if let Some(sentence) = attack(service) {
            let _ = writeln!(text, "\n{sentence}");
        }
    }
    text.push_str(&lists(snapshot.listed));
    let unprotectable = snapshot.services.iter().filter_map(|service| {
        let reason = service.unprotectable.as_ref()?;
        Some(format!(
            "port {} ({}): unprotectable: {reason}",
            service.endpoint.port, service.endpoint.address
        ))
    });
    let notes: Vec<String> = snapshot.warnings.iter().cloned().chain(unprotectable).collect();
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        let _ = writeln!(text, "! {note}");
    }
    text
}

/// The faults, if any, and a one-sentence summary.
fn headline(snapshot: &Snapshot) -> String {
    let active = snapshot.services.iter().filter(|service| service.active).count();
    let what = match (active, snapshot.services.len()) {
        (_, 0) => "no service listens here; all packets pass".to_owned(),
        (0, all) => format!("watching {}; no SYN is challenged", counted(all as u64, "service")),
        (active, all) if active == all => {
            format!("every SYN to {} is challenged", counted(all as u64, "service"))
        }
        (active, all) => format!("every SYN to {active} of {} is challenged", counted(all as u64, "service")),
    };
    let faults = snapshot.faults();
    let faults = if faults.is_empty() { String::new() } else { format!("degraded: {}\n", faults.join("; ")) };
    let control = match snapshot.control.pid() {
        Some(pid) => format!("controller: process {pid}"),
        None => "no controller".to_owned(),
    };
    format!("{faults}{what}; mode {}; {control}\n", snapshot.settings.mode())
}

fn interfaces(snapshot: &Snapshot) -> String {
    let rows: Vec<Vec<String>> = snapshot
        .interfaces
        .iter()
        .map(|interface| {
            vec![
                interface.name.clone(),
                interface.xdp_mode.to_owned(),
                if interface.up { "up" } else { "down" }.to_owned(),
                if interface.vlans.is_empty() { "-".to_owned() } else { interface.vlans.join(" ") },
            ]
        })
        .collect();
    table::render(&["interface", "xdp", "link", "vlan devices"], &rows)
}

fn services(snapshot: &Snapshot) -> String {
    let rows: Vec<Vec<String>> = snapshot
        .services
        .iter()
        .map(|service| {
            vec![
                service.endpoint.to_string(),
                service.mode.to_string(),
                service.syn_rate.to_string(),
                service.half_open().to_string(),
                service.evidence.unanswered_rate.to_string(),
                service.counters.syn_challenged.to_string(),
                service.counters.ack_accepted.to_string(),
                service.counters.ack_rejected.to_string(),
                doing(service).to_owned(),
            ]
        })
        .collect();
    table::render(
        &[
            "service",
            "mode",
            "syn/s",
            "half-open",
            "unanswered/s",
            "challenged",
            "accepted",
            "rejected",
            "action",
        ],
        &rows,
    )
}

/// Describes an attack.
pub(super) fn attack(service: &ServiceStatus) -> Option<String> {
    let seconds = service.attack_seconds?;
    let evidence = &service.evidence;
    let mut sentence = format!(
        "port {}: mitigating for {seconds} s ({}): {} SYN/s from about {}",
        service.endpoint.port,
        service.trigger.describe(),
        thousands(service.syn_rate),
        counted(rounded(evidence.sources), "source"),
    );
    if let Some(completed) = evidence.completed {
        let _ = write!(sentence, ", {:.1} % complete", completed * 100.0);
    }
    let _ = write!(sentence, ", {} half-open", thousands(service.half_open()));
    for network in &evidence.networks {
        let _ = write!(sentence, ", {:.0} % from {}", network.share * 100.0, network.prefix);
    }
    Some(sentence)
}

/// How many prefixes are on the lists, unless there are none.
fn lists(counts: ListCounts) -> String {
    if counts.total() == 0 {
        return String::new();
    }
    let prefixes = if counts.allowed == 1 { "prefix" } else { "prefixes" };
    let (allowed, denied) = (thousands(counts.allowed), thousands(counts.denied));
    format!("\nlists: {allowed} {prefixes} allowed, {denied} denied (in modes auto and always)\n")
}

fn doing(service: &ServiceStatus) -> &'static str {
    match (service.mode, service.active, &service.unprotectable) {
        (_, _, Some(_)) => "SYNs pass: unprotectable, see below",
        (Mode::Off, ..) => "off",
        (_, true, _) => service.level.max(Level::Challenge).describe(),
        (Mode::Auto, ..) if service.level == Level::Pass => "not mitigating: SYNs pass",
        (Mode::Always | Mode::Auto, ..) => "SYNs pass: suspended, see below",
        (Mode::Monitor, ..) if service.level == Level::Pass => "watching",
        (Mode::Monitor, ..) => "watching; auto would challenge",
    }
}

/// Hand-off outcomes that are shown even if they are zero.
const USUAL: [&str; 3] = ["handoff_assigned", "handoff_established", "handoff_failed"];

/// `stats`: the non-zero counters and their meaning.
pub fn stats(snapshot: &Snapshot) -> String {
    let mut text = services(snapshot);
    text.push('\n');
    text.push_str(&verdicts(snapshot));
    text.push('\n');
    let shown =
        |(name, value): &(&str, u64)| *value != 0 || !name.starts_with("handoff_") || USUAL.contains(name);
    let counters = snapshot.totals().into_iter().filter(shown);
    let counters = counters.map(|(name, value)| vec![name.to_owned(), value.to_string()]);
    text.push_str(&table::render(&["counter", "value"], &counters.collect::<Vec<_>>()));
    text.push('\n');
    text.push_str(&service_counters(snapshot));
    text.push_str(&states(snapshot));
    text
}

/// The counters of each service that are not zero.
fn service_counters(snapshot: &Snapshot) -> String {
    let rows: Vec<_> = snapshot
        .services
        .iter()
        .flat_map(|service| service.counters.named().map(|counter| (service.endpoint.to_string(), counter)))
        .filter(|(_, (_, value))| *value != 0)
        .map(|(endpoint, (name, value))| vec![endpoint, name.to_owned(), value.to_string()])
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    table::render(&["service", "counter", "value"], &rows) + "\n"
}

/// Connections by service and state.
fn states(snapshot: &Snapshot) -> String {
    let mut head = vec!["connections to"];
    head.extend(STATES.map(State::name));
    let row = |what: String, counts: &BTreeMap<&str, u64>| {
        let count = |state: State| counts.get(state.name()).copied().unwrap_or(0).to_string();
        std::iter::once(what).chain(STATES.map(count)).collect::<Vec<_>>()
    };
    let mut rows: Vec<_> =
        snapshot.services.iter().map(|service| row(service.endpoint.to_string(), &service.states)).collect();
    rows.push(row("all".to_owned(), &snapshot.states));
    table::render(&head, &rows)
}

fn verdicts(snapshot: &Snapshot) -> String {
    let rows: Vec<Vec<String>> = [Verdict::Tx, Verdict::Drop, Verdict::Pass]
        .into_iter()
        .flat_map(|verdict| snapshot.verdicts().filter(move |(reason, _)| reason.verdict() == verdict))
        .filter(|(_, packets)| *packets != 0)
        .map(|(reason, packets)| {
            let rate = snapshot.rates[reason as usize].to_string();
            vec![reason.name().to_owned(), packets.to_string(), rate, reason.describe().to_owned()]
        })
        .collect();
    if rows.is_empty() {
        return "  no packet has arrived yet\n".to_owned();
    }
    table::render(&["verdict", "packets", "per second", "meaning"], &rows)
}

#[cfg(test)]
mod tests {
    use defender_common::mitigation::Trigger;

    use super::*;
    use crate::{
        model::evidence::{Evidence, Network},
        report::snapshot::tests::example,
    };

    #[test]
    fn status_says_what_and_why() {
        let status = status(&example());
        assert!(
            status.starts_with(
                "every SYN to 1 of 2 services is challenged; mode always; controller: process 42"
            ),
            "{status}"
        );
        assert!(status.contains("! something is odd\n"), "{status}");
        assert!(status.contains("! port 443 (192.0.2.1): unprotectable: it is MPTCP\n"), "{status}");
    }

    #[test]
    fn an_attack_is_described_in_a_sentence() {
        let mut snapshot = example();
        assert_eq!(attack(&snapshot.services[0]), None);
        let service = &mut snapshot.services[0];
        (service.attack_seconds, service.syn_rate) = (Some(12), 41_200);
        (service.level, service.trigger) = (Level::Challenge, Trigger::HalfOpen);
        service.evidence = Evidence {
            sources: 38_321,
            completed: Some(0.003),
            networks: vec![Network { prefix: "192.0.2.0/24".into(), share: 0.21 }],
            ..Evidence::default()
        };
        assert!(status(&snapshot).contains(
            "port 80: mitigating for 12 s (connections stay half open): 41,200 SYN/s from about 38,000 sources, 0.3 % complete, 3 half-open, \
             21 % from 192.0.2.0/24\n"
        ));
    }

    #[test]
    fn lists_are_mentioned_unless_they_are_empty() {
        assert!(status(&example()).contains("\nlists: 2 prefixes allowed, 1,200,000 denied"));
        assert_eq!(lists(ListCounts::default()), "");
    }

    #[test]
    fn the_action_depends_on_mode_and_level() {
        let mut service = example().services.remove(0);
        let mut doing = |mode, active, level| {
            (service.mode, service.active, service.level) = (mode, active, level);
            doing(&service)
        };
        assert_eq!(doing(Mode::Auto, false, Level::Pass), "not mitigating: SYNs pass");
        for level in [Level::Challenge, Level::Limit, Level::KnownSources] {
            assert_eq!(doing(Mode::Auto, true, level), level.describe());
            assert_eq!(doing(Mode::Monitor, false, level), "watching; auto would challenge");
        }
        assert_eq!(doing(Mode::Always, true, Level::Pass), "every SYN is challenged");
        assert_eq!(doing(Mode::Auto, false, Level::Challenge), "SYNs pass: suspended, see below");
        assert_eq!(doing(Mode::Monitor, false, Level::Pass), "watching");
        assert_eq!(doing(Mode::Off, false, Level::Challenge), "off");
    }

    #[test]
    fn stats_omit_counters_of_zero() {
        let mut snapshot = example();
        snapshot.services[0].counters.syn_limited = 7;
        let stats = stats(&snapshot);
        assert!(stats.contains("tx.syn_challenged"), "{stats}");
        assert!(!stats.contains("drop.syn_fragment"), "{stats}");
        assert!(stats.contains("syn_limited"), "{stats}");
        assert!(!stats.contains("out_of_state_rsts"), "{stats}");
    }
}
