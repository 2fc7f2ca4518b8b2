//! The latest events.

use std::ops::Range;

use ratatui::{layout::Rect, text::Line};

use super::text::{cut, wrap};
use crate::report::top::{data::Happened, look::Look, state::Top};

/// Times are so wide, with the gap after them.
const INDENT: usize = 11;

/// An empty line, the head, and as many events as there is room for, the latest first.
pub(super) fn lines(top: &Top, place: Rect) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default(), Line::styled(" EVENTS", Look::head())];
    if top.data().events.is_empty() {
        lines.push(Line::raw(" none yet"));
    }
    let room = usize::from(place.height).saturating_sub(lines.len());
    lines.extend(latest(top, |_| true, place.width.into()).take(room));
    lines
}

/// Events that are wanted, the latest first. Each is wrapped.
pub(super) fn latest(
    top: &Top,
    wanted: impl Fn(&Happened) -> bool,
    width: usize,
) -> impl Iterator<Item = Line<'static>> {
    let data = top.data();
    let events = data.events.iter().rev().filter(move |event| wanted(event));
    events.flat_map(move |event| {
        let when = when(&event.time, &data.time);
        let words =
            wrap(&format!("{}: {}", event.name, event.words), width.saturating_sub(INDENT).max(8), top.look);
        words.into_iter().enumerate().map(move |(index, words)| {
            let when = if index == 0 { when.as_str() } else { "" };
            Line::raw(cut(&format!(" {when:<9} {words}"), width, top.look))
        })
    })
}

/// The time of day of an event, or its day if that is not today.
fn when(time: &str, now: &str) -> String {
    let part = |text: &str, range: Range<usize>| text.get(range).unwrap_or_default().to_owned();
    if part(time, 0..10) == part(now, 0..10) { part(time, 11..19) + "Z" } else { part(time, 5..10) }
}
