//! A frame: what goes where. Every view is a function of the state and a place, and fits into any place.

pub mod action;
mod attacks;
mod detail;
mod events;
mod footer;
mod header;
mod help;
mod networks;
mod notes;
mod services;
mod text;
mod verdicts;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::Line,
    widgets::Paragraph,
};

use crate::report::top::state::{Overlay, Top};

/// Verdicts and networks take so many lines, with their heads and the empty line above.
const MIDDLE: u16 = 7;
/// Lower places show services only.
const LOW: u16 = 14;
/// Events get so many lines at the least, with their head and the empty line above.
const LEAST_EVENTS: u16 = 5;

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, top: &mut Top) {
    let banner = attacks::lines(top, frame.area().width);
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(banner.len() as u16),
        Constraint::Min(0),
        Constraint::Length(1),
    ]);
    let [head, above, body, foot] = rows.areas(frame.area());
    frame.render_widget(header::line(top, head.width), head);
    frame.render_widget(Paragraph::new(banner), above);
    match (top.overlay, &top.opened) {
        (Some(Overlay::Help), _) => scrolled(frame, top, help::lines(), body),
        (Some(Overlay::Notes), _) => scrolled(frame, top, notes::lines(top, body.width), body),
        (None, Some(_)) => scrolled(frame, top, detail::lines(top, body.width), body),
        (None, None) => overview(frame, top, body),
    }
    frame.render_widget(footer::line(top), foot);
}

/// Services, and below them what else there is room for.
fn overview(frame: &mut Frame<'_>, top: &mut Top, body: Rect) {
    let (services, middle) = heights(body.height, top.services().len());
    let rows =
        Layout::vertical([Constraint::Length(services), Constraint::Length(middle), Constraint::Min(0)]);
    let [services, middle, events] = rows.areas(body);
    top.page = usize::from(services.height.saturating_sub(1).max(1));
    frame.render_widget(Paragraph::new(services::lines(top, services)), services);
    let [verdicts, networks] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(middle);
    frame.render_widget(Paragraph::new(verdicts::lines(top, verdicts)), verdicts);
    frame.render_widget(Paragraph::new(networks::lines(top, networks)), networks);
    frame.render_widget(Paragraph::new(events::lines(top, events)), events);
}

/// How many lines services, and verdicts and networks get. Events get the rest.
fn heights(all: u16, services: usize) -> (u16, u16) {
    if all < LOW {
        return (all, 0);
    }
    let wanted = u16::try_from(services.max(1) + 1).unwrap_or(u16::MAX);
    (wanted.min(all - MIDDLE - LEAST_EVENTS), MIDDLE)
}

/// Lines of which as many are above the screen as the state says, but no more than leave the screen full.
fn scrolled(frame: &mut Frame<'_>, top: &mut Top, lines: Vec<Line<'static>>, place: Rect) {
    top.page = usize::from(place.height.max(1));
    top.scroll = top.scroll.min(lines.len().saturating_sub(top.page));
    let shown: Vec<_> = lines.into_iter().skip(top.scroll).take(top.page).collect();
    frame.render_widget(Paragraph::new(shown), place);
}
