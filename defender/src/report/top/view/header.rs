//! The first line: mode, interfaces, controller, time.

use ratatui::text::{Line, Span};

use super::text::cut;
use crate::report::{
    snapshot::InterfaceStatus,
    top::{
        look::{Health, Look},
        state::Top,
    },
};

/// Left: what is defended; right: the time of the data, and whether they stand still.
pub(super) fn line(top: &Top, width: u16) -> Line<'static> {
    let width = usize::from(width);
    let time = time(top);
    let room = width.saturating_sub(time.chars().count() + 1);
    let what = cut(&what(top), room, top.look);
    let gap = " ".repeat(width.saturating_sub(what.chars().count() + time.chars().count()));
    let late = top.is_paused() || top.data().failure.is_some();
    let style = if late { top.look.health(Health::Bad) } else { Look::head() };
    Line::from(vec![Span::styled(what, Look::head()), Span::raw(gap), Span::styled(time, style)])
}

fn what(top: &Top) -> String {
    let snapshot = &top.data().snapshot;
    let interfaces: Vec<String> = snapshot.interfaces.iter().map(interface).collect();
    let controller = match snapshot.control.pid() {
        Some(pid) => format!("controller {pid}"),
        None => "no controller".to_owned(),
    };
    format!("defender  mode {}  {}  {controller}", snapshot.settings.mode(), interfaces.join(", "))
}

fn interface(interface: &InterfaceStatus) -> String {
    let link = if interface.up { "" } else { " down" };
    format!("{} {}{link}", interface.name, interface.xdp_mode)
}

fn time(top: &Top) -> String {
    // 2026-01-31T23:59:59.123Z
    let time = top.data().time.get(11..19).unwrap_or_default();
    match (top.is_paused(), &top.data().failure) {
        (true, _) => format!("PAUSED {time}Z"),
        (_, Some(_)) => format!("AS OF {time}Z"),
        _ => format!("{time}Z"),
    }
}
