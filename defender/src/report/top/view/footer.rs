//! The last line: the keys, and what is set by them.

use ratatui::text::Line;

use crate::report::top::{look::Look, state::Top};

/// Its line.
pub(super) fn line(top: &Top) -> Line<'static> {
    let text = if top.filter.editing {
        format!("filter: {}_   Enter keeps it  Esc removes it", top.filter.text)
    } else if top.overlay.is_some() {
        "Esc back  up/down scroll  q quit".to_owned()
    } else if top.opened.is_some() {
        "Esc back  up/down scroll  p pause  n notes  ? help  q quit".to_owned()
    } else {
        list(top)
    };
    Line::styled(text, Look::head())
}

fn list(top: &Top) -> String {
    let notes = super::notes::count(top);
    let notes = if notes == 0 { String::new() } else { format!(" ({notes})") };
    let filter = match top.filter.text.as_str() {
        "" => "/ filter".to_owned(),
        text => format!("/ filter: {text}"),
    };
    let order = top.order.name();
    format!("q quit  ? help  Enter open  s sort: {order}  {filter}  p pause  n notes{notes}")
}
