//! Reports for people.

use std::fmt::Write as _;

use defender_common::verdict::Verdict;

use crate::{
    control::settings::Mode,
    report::{
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
    format!("{what}; mode {}; {control}\n", snapshot.settings.mode)
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
                service.half_open.to_string(),
                service.counters.syn_challenged.to_string(),
                service.counters.ack_accepted.to_string(),
                service.counters.ack_rejected.to_string(),
                doing(service).to_owned(),
            ]
        })
        .collect();
    table::render(
        &["service", "mode", "syn/s", "half open", "challenged", "accepted", "rejected", "what is done"],
        &rows,
    )
}

fn doing(service: &Service) -> &'static str {
    match (service.mode, service.active, &service.unprotectable) {
        (_, _, Some(_)) => "SYNs pass: unprotectable, see below",
        (_, true, _) => "every SYN is challenged",
        (Mode::Off, ..) => "left alone",
        (Mode::Always, ..) => "SYNs pass: suspended, see below",
        (Mode::Auto, ..) => "watched (auto does not challenge in this version)",
        (Mode::Monitor, ..) => "watched",
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
    let states = snapshot.states.iter().map(|(name, value)| vec![(*name).to_owned(), value.to_string()]);
    text.push_str(&table::render(&["kernel state", "connections"], &states.collect::<Vec<_>>()));
    text
}

fn verdicts(snapshot: &Snapshot) -> String {
    let rows: Vec<Vec<String>> = [Verdict::Tx, Verdict::Drop, Verdict::Pass]
        .into_iter()
        .flat_map(|verdict| snapshot.verdicts().filter(move |(reason, _)| reason.verdict() == verdict))
        .filter(|(_, packets)| *packets != 0)
        .map(|(reason, packets)| {
            vec![reason.name().to_owned(), packets.to_string(), reason.describe().to_owned()]
        })
        .collect();
    if rows.is_empty() {
        return "  no packet has arrived yet\n".to_owned();
    }
    table::render(&["verdict", "packets", "meaning"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::snapshot::tests::example;

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
    fn stats_leave_out_what_did_not_happen() {
        let stats = stats(&example());
        assert!(stats.contains("tx.syn_challenged"), "{stats}");
        assert!(!stats.contains("drop.syn_fragment"), "{stats}");
    }
}
