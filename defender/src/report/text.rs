//! Reports for people.

use std::{collections::BTreeMap, fmt::Write as _};

use defender_common::{ladder::Step, tcp_state::State, verdict::Verdict};

use crate::{
    control::{lists::plan::Tally, settings::Mode},
    report::{
        connections::STATES,
        snapshot::{Service, Snapshot},
        table,
    },
};

/// `status`: in words what is going on, and why.
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

/// One sentence that says it all.
fn headline(snapshot: &Snapshot) -> String {
    let active = snapshot.services.iter().filter(|service| service.active).count();
    let what = match (active, snapshot.services.len()) {
        (_, 0) => "nothing listens here that could be defended; all packets pass".to_owned(),
        (0, all) => format!("watching {}; no SYN is challenged", count(all, "service")),
        (active, all) if active == all => format!("every SYN to {} is challenged", count(all, "service")),
        (active, all) => format!("every SYN to {active} of {} is challenged", count(all, "service")),
    };
    let control = match snapshot.controller {
        Some(pid) => format!("process {pid} is in control"),
        None => "attached, with nothing in control".to_owned(),
    };
    format!("{what}; mode {}; {control}\n", snapshot.settings.mode())
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
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
            "half open",
            "unanswered/s",
            "challenged",
            "accepted",
            "rejected",
            "what is done",
        ],
        &rows,
    )
}

/// What an attack looks like.
fn attack(service: &Service) -> Option<String> {
    let seconds = service.attack_seconds?;
    let evidence = &service.evidence;
    let mut sentence = format!(
        "port {}: under attack for {seconds} s ({}): {} SYN/s from about {} sources",
        service.endpoint.port,
        service.because.describe(),
        thousands(service.syn_rate),
        thousands(rounded(evidence.sources)),
    );
    if let Some(completed) = evidence.completed {
        let _ = write!(sentence, ", {:.1} % complete", completed * 100.0);
    }
    let _ = write!(sentence, ", {} half open", thousands(service.half_open()));
    for network in &evidence.networks {
        let _ = write!(sentence, ", {:.0} % from {}", network.share * 100.0, network.prefix);
    }
    Some(sentence)
}

/// How many prefixes are on the lists, if any are.
fn lists(tally: Tally) -> String {
    if tally.total() == 0 {
        return String::new();
    }
    let prefixes = if tally.allowed == 1 { "prefix" } else { "prefixes" };
    let (allowed, denied) = (thousands(tally.allowed), thousands(tally.denied));
    format!("\nlists: {allowed} {prefixes} allowed, {denied} denied; mode always and auto heed them\n")
}

/// To two digits: an estimate has no more.
pub(super) fn rounded(number: u64) -> u64 {
    let unit = 10_u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    (number + unit / 2) / unit * unit
}

/// A number with a comma before every three digits.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn doing(service: &Service) -> &'static str {
    match (service.mode, service.active, &service.unprotectable) {
        (_, _, Some(_)) => "SYNs pass: unprotectable, see below",
        (Mode::Off, ..) => "left alone",
        (_, true, _) => service.step.max(Step::Challenge).describe(),
        (Mode::Auto, ..) if service.step == Step::Pass => "calm: SYNs pass",
        (Mode::Always | Mode::Auto, ..) => "SYNs pass: suspended, see below",
        (Mode::Monitor, ..) if service.step == Step::Pass => "watched",
        (Mode::Monitor, ..) => "watched; auto would challenge",
    }
}

/// Outcomes of hand-offs that are shown even if they have not happened.
const USUAL: [&str; 3] = ["handoff_assigned", "handoff_established", "handoff_failed"];

/// `stats`: the counters that are not zero, with what they mean.
pub fn stats(snapshot: &Snapshot) -> String {
    let mut text = services(snapshot);
    text.push('\n');
    text.push_str(&verdicts(snapshot));
    text.push('\n');
    let told =
        |(name, value): &(&str, u64)| *value != 0 || !name.starts_with("handoff_") || USUAL.contains(name);
    let counters = snapshot.totals().into_iter().filter(told);
    let counters = counters.map(|(name, value)| vec![name.to_owned(), value.to_string()]);
    text.push_str(&table::render(&["counter", "value"], &counters.collect::<Vec<_>>()));
    text.push('\n');
    text.push_str(&states(snapshot));
    text
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
    use defender_common::ladder::Because;

    use super::*;
    use crate::report::{
        evidence::{Evidence, Network},
        snapshot::tests::example,
    };

    #[test]
    fn status_says_what_and_why() {
        let status = status(&example());
        assert!(
            status.starts_with("every SYN to 1 of 2 services is challenged; mode always; process 42"),
            "{status}"
        );
        assert!(status.contains("! something is odd\n"), "{status}");
        assert!(status.contains("! port 443 (192.0.2.1): unprotectable: it is MPTCP\n"), "{status}");
    }

    #[test]
    fn an_attack_is_told_in_a_sentence() {
        let mut snapshot = example();
        assert_eq!(attack(&snapshot.services[0]), None);
        let service = &mut snapshot.services[0];
        (service.attack_seconds, service.syn_rate) = (Some(12), 41_200);
        (service.step, service.because) = (Step::Challenge, Because::HalfOpen);
        service.evidence = Evidence {
            sources: 38_321,
            completed: Some(0.003),
            networks: vec![Network { prefix: "192.0.2.0/24".into(), share: 0.21 }],
            ..Evidence::default()
        };
        assert!(status(&snapshot).contains(
            "port 80: under attack for 12 s (connections stay half open): 41,200 SYN/s from about 38,000 sources, 0.3 % complete, 3 half open, \
             21 % from 192.0.2.0/24\n"
        ));
    }

    #[test]
    fn lists_are_told_of_if_there_is_something_on_them() {
        assert!(status(&example()).contains("\nlists: 2 prefixes allowed, 1,200,000 denied"));
        assert_eq!(lists(Tally::default()), "");
    }

    #[test]
    fn what_is_done_depends_on_mode_and_step() {
        let mut service = example().services.remove(0);
        let mut doing = |mode, active, step| {
            (service.mode, service.active, service.step) = (mode, active, step);
            doing(&service)
        };
        assert_eq!(doing(Mode::Auto, false, Step::Pass), "calm: SYNs pass");
        for step in [Step::Challenge, Step::Limit, Step::KnownSources] {
            assert_eq!(doing(Mode::Auto, true, step), step.describe());
            assert_eq!(doing(Mode::Monitor, false, step), "watched; auto would challenge");
        }
        assert_eq!(doing(Mode::Always, true, Step::Pass), "every SYN is challenged");
        assert_eq!(doing(Mode::Auto, false, Step::Challenge), "SYNs pass: suspended, see below");
        assert_eq!(doing(Mode::Monitor, false, Step::Pass), "watched");
        assert_eq!(doing(Mode::Off, false, Step::Challenge), "left alone");
    }

    #[test]
    fn estimates_are_rounded() {
        let rounds = [(0, 0), (7, 7), (99, 99), (104, 100), (105, 110), (38_321, 38_000)];
        for (number, expected) in rounds {
            assert_eq!(rounded(number), expected);
        }
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn stats_leave_out_what_did_not_happen() {
        let stats = stats(&example());
        assert!(stats.contains("tx.syn_challenged"), "{stats}");
        assert!(!stats.contains("drop.syn_fragment"), "{stats}");
    }
}
