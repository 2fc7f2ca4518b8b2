//! Verdicts by how many packets get them each second.

use std::cmp::Reverse;

use ratatui::{layout::Rect, text::Line};

use super::text::cut;
use crate::{
    model::number::thousands,
    report::top::{look::Look, state::Top},
};

/// Width of a rate.
const RATE: usize = 11;

/// An empty line, the head, and the verdicts that most packets get.
pub(super) fn lines(top: &Top, place: Rect) -> Vec<Line<'static>> {
    let mut rates: Vec<_> = top.data().snapshot.rates().filter(|(_, rate)| *rate != 0).collect();
    rates.sort_by_key(|(_, rate)| Reverse(*rate));
    let all: u64 = rates.iter().map(|(_, rate)| rate).sum();
    let width = usize::from(place.width).saturating_sub(RATE + 3);
    let row =
        |name: &str, rate: u64| format!(" {:<width$}{:>RATE$}", cut(name, width, top.look), thousands(rate));
    let mut lines = vec![Line::default(), Line::styled(row("VERDICTS A SECOND", all), Look::head())];
    if rates.is_empty() {
        lines.push(Line::raw(" no packets"));
    }
    lines.extend(rates.into_iter().map(|(reason, rate)| Line::raw(row(reason.name(), rate))));
    lines
}
