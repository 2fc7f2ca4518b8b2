//! Reports as text.

use std::fmt::Write as _;

use defender_common::{mitigation::Level, verdict::Verdict};

use crate::{
    model::{
        evidence::per_second,
        lists::plan::ListCounts,
        mode::Mode,
        number::{counted, rounded, thousands},
        paint,
        prose::paragraph,
    },
    report::{
        connection_list,
        snapshot::{ServiceStatus, Snapshot},
        table,
    },
};

/// `status`: the current state and its reasons, in words.
pub fn status(snapshot: &Snapshot, width: usize) -> String {
    let mut text = headline(snapshot, width);
    text.push('\n');
    text.push_str(&interfaces(snapshot, width));
    text.push('\n');
    text.push_str(&services(snapshot, Report::Status, width));
    for service in &snapshot.services {
        if let Some(sentence) = attack(service) {
            let _ = write!(text, "\n{}", paragraph(&sentence, 2, width));
        }
    }
    text.push_str(&lists(snapshot.listed, width));
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
        text.push_str(&paragraph(&format!("{} {note}", paint::busy("!")), 2, width));
    }
    text
}

/// The faults, if any, and a one-sentence summary.
fn headline(snapshot: &Snapshot, width: usize) -> String {
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
    let faults = if faults.is_empty() {
        String::new()
    } else {
        paragraph(&format!("{} {}", paint::bad("degraded:"), faults.join("; ")), 2, width)
    };
    let control = match snapshot.control.pid() {
        Some(pid) => format!("controller: process {pid}"),
        None => "no controller".to_owned(),
    };
    faults + &paragraph(&format!("{what}; mode {}; {control}", snapshot.settings.mode()), 2, width)
}

fn interfaces(snapshot: &Snapshot, width: usize) -> String {
    let rows: Vec<Vec<String>> = snapshot
        .interfaces
        .iter()
        .map(|interface| {
            vec![
                interface.name.clone(),
                interface.xdp_mode.to_owned(),
                if interface.up { paint::good("up") } else { paint::bad("down") },
                if interface.vlans.is_empty() { "-".to_owned() } else { interface.vlans.join(" ") },
            ]
        })
        .collect();
    table::fit(&["interface", "xdp", "link", "vlan devices"], &rows, width)
}

/// Who shows a table of services.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Report {
    Status,
    Stats,
}

/// A column of a table of services.
struct Column {
    head: &'static str,
    /// The same in two lines, where there is little room.
    narrow: &'static str,
    /// Where there is little room, only this report has it.
    only: Option<Report>,
    cell: fn(&ServiceStatus) -> String,
}

const fn column(
    head: &'static str,
    narrow: &'static str,
    only: Option<Report>,
    cell: fn(&ServiceStatus) -> String,
) -> Column {
    Column { head, narrow, only, cell }
}

const SERVICE_COLUMNS: [Column; 9] = [
    column("service", "service", None, |service| service.endpoint.to_string()),
    column("mode", "mode", Some(Report::Status), |service| service.mode.to_string()),
    column("syn/s", "syn/s", None, |service| service.syn_rate.to_string()),
    column("half-open", "half-\nopen", None, |service| service.half_open().to_string()),
    column("unanswered/s", "unanswered\n/s", None, |service| service.evidence.unanswered_rate.to_string()),
    column("challenged", "challenged", Some(Report::Stats), |service| {
        service.counters.syn_challenged.to_string()
    }),
    column("accepted", "accepted", Some(Report::Stats), |service| service.counters.ack_accepted.to_string()),
    column("rejected", "rejected", Some(Report::Stats), |service| service.counters.ack_rejected.to_string()),
    column("action", "action", Some(Report::Status), |service| painted(doing(service), service)),
];

fn services(snapshot: &Snapshot, report: Report, width: usize) -> String {
    let head = SERVICE_COLUMNS.map(|column| column.head);
    let rows = rows_of(snapshot, &SERVICE_COLUMNS.iter().collect::<Vec<_>>());
    if table::fits(&head, &rows, width) {
        return table::render(&head, &rows);
    }
    let kept = SERVICE_COLUMNS.iter().filter(|column| column.only.is_none_or(|only| only == report));
    let kept: Vec<_> = kept.collect();
    let head: Vec<_> = kept.iter().map(|column| column.narrow).collect();
    table::fit(&head, &rows_of(snapshot, &kept), width)
}

fn rows_of(snapshot: &Snapshot, columns: &[&Column]) -> Vec<Vec<String>> {
    let row = |service: &ServiceStatus| columns.iter().map(|column| (column.cell)(service)).collect();
    snapshot.services.iter().map(row).collect()
}

/// What is done to a service's SYNs, in the colour of how things are.
fn painted(action: &str, service: &ServiceStatus) -> String {
    match (&service.unprotectable, service.active) {
        (Some(_), _) => paint::bad(action),
        (None, true) if service.level > Level::Pass => paint::busy(action),
        (None, true) => paint::good(action),
        (None, false) => action.to_owned(),
    }
}

/// Describes an attack.
pub(super) fn attack(service: &ServiceStatus) -> Option<String> {
    let seconds = service.attack_seconds?;
    let evidence = &service.evidence;
    let (state, unchallenged) = match unchallenged(service) {
        None => ("mitigating", String::new()),
        Some(why) => ("under attack", format!(", not challenged {why}")),
    };
    let mut sentence = format!(
        "port {}: {state} for {seconds} s ({}){unchallenged}: {} SYN/s from about {}",
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

/// Why SYNs of an attacked service are not challenged, if they are not.
fn unchallenged(service: &ServiceStatus) -> Option<String> {
    match (service.mode, &service.unprotectable) {
        (_, Some(_)) => Some("since it is unprotectable".to_owned()),
        (Mode::Monitor | Mode::Off, None) => Some(format!("in mode {}", service.mode)),
        (Mode::Auto | Mode::Always, None) => (!service.active).then(|| "while suspended".to_owned()),
    }
}

/// How many prefixes are on the lists, unless there are none.
fn lists(counts: ListCounts, width: usize) -> String {
    if counts.total() == 0 {
        return String::new();
    }
    let prefixes = if counts.allowed == 1 { "prefix" } else { "prefixes" };
    let (allowed, denied) = (thousands(counts.allowed), thousands(counts.denied));
    let sentence = format!("lists: {allowed} {prefixes} allowed, {denied} denied (in modes auto and always)");
    format!("\n{}", paragraph(&sentence, 2, width))
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

/// `stats`: the non-zero counters and their meaning; with a reading before, also what they grow by.
pub fn stats(snapshot: &Snapshot, before: Option<&Snapshot>, width: usize) -> String {
    let mut text = services(snapshot, Report::Stats, width);
    text.push('\n');
    text.push_str(&verdicts(snapshot, width));
    text.push('\n');
    text.push_str(&counters(snapshot, before, width));
    text.push('\n');
    text.push_str(&service_counters(snapshot, width));
    text.push_str(&states(snapshot, width));
    text
}

fn counters(snapshot: &Snapshot, before: Option<&Snapshot>, width: usize) -> String {
    let is_shown = |name: &str, value| value != 0 || !name.starts_with("handoff_") || USUAL.contains(&name);
    let rate = |before: &Snapshot, name, value: u64| {
        let value_before = before.totals().into_iter().find(|(other, _)| *other == name)?.1;
        Some(per_second(value.saturating_sub(value_before), snapshot.taken.duration_since(before.taken)))
    };
    let row = |(name, value): (&'static str, u64)| {
        let rate = before.map(|before| rate(before, name, value).unwrap_or(0).to_string());
        [name.to_owned(), value.to_string()].into_iter().chain(rate).collect()
    };
    let shown = snapshot.totals().into_iter().filter(|(name, value)| is_shown(name, *value));
    let rows: Vec<Vec<String>> = shown.map(row).collect();
    let head = ["counter", "value", "per second"];
    table::fit(&head[..if before.is_some() { 3 } else { 2 }], &rows, width)
}

/// The counters of each service that are not zero.
fn service_counters(snapshot: &Snapshot, width: usize) -> String {
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
    table::fit(&["service", "counter", "value"], &rows, width) + "\n"
}

/// Connections by service and state.
fn states(snapshot: &Snapshot, width: usize) -> String {
    let services = snapshot.services.iter().map(|service| (service.endpoint.to_string(), &service.states));
    let rows: Vec<_> = services.chain([("all".to_owned(), &snapshot.states)]).collect();
    connection_list::table("connections to", &rows, false, width)
}

fn verdicts(snapshot: &Snapshot, width: usize) -> String {
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
    table::fit(&["verdict", "packets", "per second", "meaning"], &rows, width)
}

#[cfg(test)]
mod tests {
    use defender_common::mitigation::Trigger;

    use super::*;
    use crate::{
        model::evidence::{Evidence, Network},
        report::snapshot::tests::example,
    };

    fn plain(text: &str) -> String {
        console::strip_ansi_codes(text).into_owned()
    }

    /// Long addresses, numbers of five digits, an attack from many networks, and long notes.
    fn crowded() -> Snapshot {
        let mut snapshot = example();
        let counters = &mut snapshot.counters;
        counters.verdicts.iter_mut().chain(&mut counters.handoff).for_each(|count| *count += 98_765_432);
        snapshot.rates.iter_mut().for_each(|rate| *rate = 76_543);
        for states in
            [&mut snapshot.states].into_iter().chain(snapshot.services.iter_mut().map(|it| &mut it.states))
        {
            *states = connection_list::STATES.map(|state| (state.name(), 54_321)).into();
        }
        let address = "2001:db8:1111:2222:3333:4444:5555:6666".parse().expect("an address");
        let service = &mut snapshot.services[0];
        (service.endpoint.address, service.endpoint.port) = (address, 65_535);
        (service.attack_seconds, service.syn_rate) = (Some(12_345), 41_200);
        let network = Network { prefix: "2001:db8:1111:2222::/64".into(), share: 0.21 };
        service.evidence.networks = vec![network.clone(), network.clone(), network];
        service.evidence.unanswered_rate = 41_200;
        service.counters.syn_challenged = 87_654_321;
        service.counters.ack_accepted = 87_654_321;
        let interface = &mut snapshot.interfaces[0];
        interface.vlans = (100..140).map(|tag| format!("eth0.{tag}")).collect();
        snapshot.warnings.push("net.ipv4.tcp_syncookies is 0 ".repeat(9));
        snapshot
    }

    #[test]
    fn reports_fit_80_columns() {
        let before = crowded();
        for snapshot in [example(), crowded()] {
            for text in
                [status(&snapshot, 80), stats(&snapshot, None, 80), stats(&snapshot, Some(&before), 80)]
            {
                for line in plain(&text).lines() {
                    assert!(line.chars().count() <= 80, "{line}\n{text}");
                }
            }
        }
        // The usual address does not need a second line.
        let mut snapshot = crowded();
        snapshot.services.truncate(1);
        snapshot.services[0].endpoint.address = "203.0.113.7".parse().expect("an address");
        snapshot.services[0].endpoint.port = 443;
        let text = plain(&stats(&snapshot, None, 80));
        let row = text.lines().find(|line| line.starts_with("  203.0.113.7:443")).expect("a row");
        assert!(row.ends_with("87654321         0"), "{text}");
    }

    #[test]
    fn with_two_readings_counters_have_a_rate() {
        let (before, mut now) = (example(), example());
        now.taken = before.taken + std::time::Duration::from_secs(2);
        now.counters.verdicts[defender_common::verdict::Reason::SynChallenged as usize] += 14;
        let text = stats(&now, Some(&before), usize::MAX);
        let line = text.lines().find(|line| line.starts_with("  syn_challenged")).expect("a line");
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["syn_challenged", "214", "7"]);
    }

    #[test]
    fn states_have_a_colour_as_well() {
        let text = status(&example(), usize::MAX);
        assert!(text.contains("\x1b["), "{text}");
        assert!(!plain(&text).contains('\x1b'));
    }

    #[test]
    fn status_says_what_and_why() {
        let status = plain(&status(&example(), usize::MAX));
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
        assert!(status(&snapshot, usize::MAX).contains(
            "port 80: mitigating for 12 s (connections stay half open): 41,200 SYN/s from about 38,000 sources, 0.3 % complete, 3 half-open, \
             21 % from 192.0.2.0/24\n"
        ));
    }

    #[test]
    fn an_attack_that_nothing_is_done_about_is_not_called_mitigated() {
        let mut service = example().services.remove(0);
        (service.attack_seconds, service.trigger) = (Some(12), Trigger::HalfOpen);
        let mut begins = |mode, active, unprotectable: Option<&str>, expected: &str| {
            (service.mode, service.active) = (mode, active);
            service.unprotectable = unprotectable.map(str::to_owned);
            let sentence = attack(&service).expect("an attack");
            assert!(sentence.starts_with(&format!("port 80: {expected}: 1,000 SYN/s")), "{sentence}");
        };
        let [mitigating, attacked] = ["mitigating", "under attack"]
            .map(|state| format!("{state} for 12 s (connections stay half open)"));
        begins(Mode::Auto, true, None, &mitigating);
        begins(Mode::Monitor, false, None, &format!("{attacked}, not challenged in mode monitor"));
        begins(Mode::Off, false, None, &format!("{attacked}, not challenged in mode off"));
        begins(Mode::Auto, false, None, &format!("{attacked}, not challenged while suspended"));
        let unprotectable = format!("{attacked}, not challenged since it is unprotectable");
        begins(Mode::Auto, true, Some("it is MPTCP"), &unprotectable);
    }

    #[test]
    fn lists_are_mentioned_unless_they_are_empty() {
        assert!(status(&example(), usize::MAX).contains("\nlists: 2 prefixes allowed, 1,200,000 denied"));
        assert_eq!(lists(ListCounts::default(), 80), "");
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
        let stats = stats(&snapshot, None, usize::MAX);
        assert!(!stats.contains("PER SECOND\n"), "{stats}");
        assert!(stats.contains("tx.syn_challenged"), "{stats}");
        assert!(!stats.contains("drop.syn_fragment"), "{stats}");
        assert!(stats.contains("syn_limited"), "{stats}");
        assert!(!stats.contains("out_of_state_rsts"), "{stats}");
    }
}
