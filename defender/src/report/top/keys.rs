//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::{
    model::endpoint::Endpoint,
    report::top::state::{Opened, Overlay, Top},
};

/// Every key, for the help.
pub const KEYS: [(&str, &str); 12] = [
    ("up, down, k, j", "select a service, or scroll"),
    ("PgUp, PgDn, Home, End", "the same by pages, and to the ends"),
    ("Enter", "open the service: limits, sources, connections"),
    ("Esc, Backspace", "back"),
    ("s", "sort by port, SYN/s, half-open, level"),
    ("/", "show only services with these words"),
    ("p, Space", "pause, and go on"),
    ("n", "notes: faults, warnings, unprotectable services"),
    ("?, h", "this help"),
    ("Ctrl-L", "draw everything anew"),
    ("Ctrl-Z", "suspend; `fg` goes on"),
    ("q, Ctrl-C", "quit"),
];

/// What is left to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing has changed.
    Nothing,
    /// Draw what changed.
    Draw,
    /// Draw everything.
    DrawAnew,
    /// Read this service's limits and connections from now on, or none's.
    Open(Option<Endpoint>),
    /// Suspend the program.
    Suspend,
    /// End it.
    Quit,
}

/// Does what a key says.
pub fn press(top: &mut Top, key: KeyEvent) -> Outcome {
    if key.kind == KeyEventKind::Release {
        return Outcome::Nothing;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Outcome::Quit,
            KeyCode::Char('z') => Outcome::Suspend,
            KeyCode::Char('l') => Outcome::DrawAnew,
            _ => Outcome::Nothing,
        };
    }
    if top.filter.editing { edit(top, key.code) } else { command(top, key.code) }
}

/// A key while words are typed.
fn edit(top: &mut Top, key: KeyCode) -> Outcome {
    match key {
        KeyCode::Enter => top.filter.editing = false,
        KeyCode::Esc => top.filter = Default::default(),
        KeyCode::Backspace => drop(top.filter.text.pop()),
        KeyCode::Char(letter) => top.filter.push(letter),
        _ => return Outcome::Nothing,
    }
    Outcome::Draw
}

fn command(top: &mut Top, key: KeyCode) -> Outcome {
    let page = isize::try_from(top.page).unwrap_or(isize::MAX);
    match key {
        KeyCode::Up | KeyCode::Char('k') => top.go(-1),
        KeyCode::Down | KeyCode::Char('j') => top.go(1),
        KeyCode::PageUp => top.go(-page),
        KeyCode::PageDown => top.go(page),
        KeyCode::Home => top.go(isize::MIN),
        KeyCode::End => top.go(isize::MAX),
        KeyCode::Enter | KeyCode::Right => return open(top),
        KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => return back(top),
        KeyCode::Char('s') if top.is_list() => top.order = top.order.next(),
        KeyCode::Char('p' | ' ') => top.pause(),
        KeyCode::Char('/') if top.is_list() => top.filter.editing = true,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => lay_over(top, Overlay::Help),
        KeyCode::Char('n') => lay_over(top, Overlay::Notes),
        KeyCode::Char('q') => return Outcome::Quit,
        _ => return Outcome::Nothing,
    }
    Outcome::Draw
}

fn open(top: &mut Top) -> Outcome {
    let Some(endpoint) = top.selected_endpoint().filter(|_| top.is_list()) else {
        return Outcome::Nothing;
    };
    top.opened = Some(Opened { endpoint, detail: None });
    top.scroll = 0;
    Outcome::Open(Some(endpoint))
}

/// Out of what was entered last: the overlay, the service, the filter.
fn back(top: &mut Top) -> Outcome {
    top.scroll = 0;
    if top.overlay.take().is_some() {
        return Outcome::Draw;
    }
    if top.opened.take().is_some() {
        return Outcome::Open(None);
    }
    top.filter = Default::default();
    Outcome::Draw
}

/// The same key takes it away.
fn lay_over(top: &mut Top, overlay: Overlay) {
    top.scroll = 0;
    top.overlay = if top.overlay == Some(overlay) { None } else { Some(overlay) };
}
