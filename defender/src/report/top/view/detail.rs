//! An opened service: what is going on, its limits, its sources, its connections, its events.

use defender_common::tcp_state::State;
use ratatui::text::Line;

use super::{
    events,
    text::{bar, cut, sparkline, wrap},
};
use crate::{
    model::number::{rounded, thousands},
    report::{
        connection_list::STATES,
        conns, explain,
        snapshot::ServiceStatus,
        top::{
            detail::Detail,
            look::Look,
            order::filled,
            state::{Opened, Top},
        },
    },
};

/// The queue is drawn so wide at the most.
const BAR: usize = 40;

/// Its lines.
pub(super) fn lines(top: &Top, width: u16) -> Vec<Line<'static>> {
    let Some(opened) = &top.opened else { return Vec::new() };
    let width = usize::from(width);
    let mut lines = title(top, opened, width);
    match top.opened_service() {
        Some(service) => lines.extend(now(top, service, width)),
        None => lines.push(Line::raw(format!(" nothing listens on {} any more", opened.endpoint))),
    }
    match &opened.detail {
        None => lines.push(Line::raw(" reading its limits and connections")),
        Some(Err(failure)) => lines.extend(wrapped(failure, width, top.look)),
        Some(Ok(detail)) => lines.extend(read(top, detail, width)),
    }
    lines.extend([Line::default(), head(" EVENTS")]);
    let mut events = events::latest(top, |event| event.port == Some(opened.endpoint.port), width).peekable();
    if events.peek().is_none() {
        lines.push(Line::raw(" none yet"));
    }
    lines.extend(events);
    lines
}

/// Mode, level and reason as `explain` says them.
fn title(top: &Top, opened: &Opened, width: usize) -> Vec<Line<'static>> {
    let text = match &opened.detail {
        Some(Ok(detail)) => explain::headline(&detail.defended, usize::MAX),
        _ => opened.endpoint.to_string(),
    };
    let mut lines: Vec<_> = text.lines().flat_map(|line| wrapped(line, width, top.look)).collect();
    lines[0] = lines[0].clone().style(Look::head());
    lines.push(Line::default());
    lines
}

fn wrapped(text: &str, width: usize, look: Look) -> Vec<Line<'static>> {
    let lines = wrap(text, width.saturating_sub(1).max(8), look);
    lines.into_iter().map(|line| Line::raw(format!(" {line}"))).collect()
}

/// What the snapshot says.
fn now(top: &Top, service: &ServiceStatus, width: usize) -> Vec<Line<'static>> {
    let look = top.look;
    let drawn = width.saturating_sub(35);
    let text = [
        format!(" SYN/s     {:>11}  {}", thousands(service.syn_rate), history(top, service, drawn)),
        format!(
            " half-open {:>11}  {} of {} (critical)",
            thousands(service.half_open()),
            bar(filled(service), drawn.saturating_sub(10).min(BAR), look),
            thousands(service.critical.into()),
        ),
        format!(
            " averted   {:>11}  would be half open, had their SYNs passed",
            thousands(service.averted.into())
        ),
        sources(service),
    ];
    text.into_iter().map(|line| Line::raw(cut(&line, width, look))).collect()
}

fn history(top: &Top, service: &ServiceStatus, width: usize) -> String {
    let rates = top.data().rates(service.endpoint);
    sparkline(rates, width, top.look).trim_start().to_owned()
}

fn sources(service: &ServiceStatus) -> String {
    let evidence = &service.evidence;
    let networks: Vec<String> = evidence
        .networks
        .iter()
        .map(|network| format!("; {:.0} % from {}", network.share * 100.0, network.prefix))
        .collect();
    let completed = evidence.completed.map(|share| format!("{:.1} % complete", share * 100.0));
    format!(
        " sources   {:>11}  {}{}",
        format!("~{}", thousands(rounded(evidence.sources))),
        completed.unwrap_or_else(|| "no SYNs now".to_owned()),
        networks.concat(),
    )
}

/// What was read of the service alone.
fn read(top: &Top, detail: &Detail, width: usize) -> Vec<Line<'static>> {
    let cut_to = |line: &str| cut(line, width, top.look);
    let cut = |line: &str| Line::raw(cut_to(line));
    let mut lines = vec![Line::default()];
    lines.extend(table(&explain::limits(&detail.defended), cut));
    lines.extend([Line::default(), head(cut_to(&states(detail)))]);
    lines.extend(table(&conns::text(&detail.connections, None, &|_| None, usize::MAX), cut));
    lines
}

/// How many connections there are, and in which states.
fn states(detail: &Detail) -> String {
    let count = |state: State| detail.states.get(state.name()).copied().unwrap_or(0);
    let all: u64 = STATES.map(count).iter().sum();
    let some = STATES.into_iter().filter(|state| count(*state) != 0);
    let some: Vec<_> = some.map(|state| format!("{} {}", thousands(count(state)), state.name())).collect();
    let colon = if some.is_empty() { "" } else { ": " };
    format!(" CONNECTIONS {}{colon}{}", thousands(all), some.join(", "))
}

/// A table of another report; its head stands out.
fn table(text: &str, cut: impl Fn(&str) -> Line<'static>) -> Vec<Line<'static>> {
    let mut lines: Vec<_> = text.lines().map(|line| cut(line.strip_prefix(' ').unwrap_or(line))).collect();
    if let Some(first) = lines.first_mut().filter(|_| text.lines().count() > 1) {
        *first = first.clone().style(Look::head());
    }
    lines
}

fn head(text: impl Into<String>) -> Line<'static> {
    Line::styled(text.into(), Look::head())
}
