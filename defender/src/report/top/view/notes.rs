//! Notes: everything that needs a look, in words.

use ratatui::text::Line;

use super::text::wrap;
use crate::report::top::{look::Look, state::Top};

/// How many there are.
pub(super) fn count(top: &Top) -> usize {
    notes(top).count()
}

/// Its lines.
pub(super) fn lines(top: &Top, width: u16) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(" NOTES", Look::head())];
    if count(top) == 0 {
        lines.push(Line::raw("  none: all is well"));
    }
    for note in notes(top) {
        for (index, words) in
            wrap(&note, usize::from(width).saturating_sub(5).max(8), top.look).iter().enumerate()
        {
            lines.push(Line::raw(format!("  {} {words}", if index == 0 { '!' } else { ' ' })));
        }
    }
    lines
}

fn notes(top: &Top) -> impl Iterator<Item = String> {
    let snapshot = &top.data().snapshot;
    let unprotectable = snapshot.services.iter().filter_map(|service| {
        Some(format!("{}: unprotectable: {}", service.endpoint, service.unprotectable.as_ref()?))
    });
    snapshot.faults().into_iter().chain(snapshot.warnings.iter().cloned()).chain(unprotectable)
}
