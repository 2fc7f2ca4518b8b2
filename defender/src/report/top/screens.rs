//! Frames as a terminal shows them, letter by letter; `screens` has what is expected.

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    style::Color,
};

use super::{
    example::{PLAIN, calm_top, detail, flood, quiet, reading, top},
    keys::{Outcome, press},
    look::Look,
    state::Top,
    view,
};
use crate::report::health::Control;

fn frame(top: &mut Top, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, top)).expect("a frame");
    terminal.backend().buffer().clone()
}

/// A frame's lines, without spaces at their ends.
fn screen(top: &mut Top, width: u16, height: u16) -> String {
    let frame = frame(top, width, height);
    let lines = frame.content().chunks(width.into());
    let lines = lines.map(|cells| cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>());
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[track_caller]
fn is(screen: &str, expected: &str) {
    assert!(screen == expected, "the screen is\n{screen}\nand not\n{expected}");
}

fn key(top: &mut Top, code: KeyCode) -> Outcome {
    press(top, KeyEvent::new(code, KeyModifiers::NONE))
}

fn keys(top: &mut Top, letters: &str) {
    for letter in letters.chars() {
        key(top, KeyCode::Char(letter));
    }
}

#[test]
fn quiet_at_80_by_24() {
    is(&screen(&mut calm_top(PLAIN), 80, 24), include_str!("screens/quiet.txt"));
}

#[test]
fn a_flood_at_80_by_24() {
    is(&screen(&mut top(PLAIN), 80, 24), include_str!("screens/flood.txt"));
}

#[test]
fn a_flood_on_a_wide_terminal_without_unicode() {
    let ascii = Look { unicode: false, ..PLAIN };
    let screen = screen(&mut top(ascii), 140, 30);
    assert!(screen.is_ascii(), "{screen}");
    is(&screen, include_str!("screens/wide.txt"));
}

#[test]
fn an_opened_service() {
    let mut top = top(PLAIN);
    let endpoint = top.selected_endpoint().expect("a service");
    assert_eq!(key(&mut top, KeyCode::Enter), Outcome::Open(Some(endpoint)));
    assert!(screen(&mut top, 80, 24).contains("reading its limits and connections"));
    assert!(top.show_detail(endpoint, Ok(detail(endpoint))));
    is(&screen(&mut top, 80, 40), include_str!("screens/service.txt"));
    assert_eq!(key(&mut top, KeyCode::Esc), Outcome::Open(None));
    is(&screen(&mut top, 80, 24), include_str!("screens/flood.txt"));
}

#[test]
fn help_and_notes_lie_over_it() {
    let mut top = top(PLAIN);
    keys(&mut top, "?");
    is(&screen(&mut top, 80, 24), include_str!("screens/help.txt"));
    keys(&mut top, "n");
    let notes = screen(&mut top, 80, 24);
    assert!(notes.contains("! 192.0.2.1:443: unprotectable: it is MPTCP"), "{notes}");
    keys(&mut top, "n");
    is(&screen(&mut top, 80, 24), include_str!("screens/flood.txt"));
}

#[test]
fn services_are_sorted_selected_and_filtered() {
    let mut top = top(PLAIN);
    assert!(screen(&mut top, 80, 24).contains("\n>[::]:80"));
    assert_eq!(key(&mut top, KeyCode::Down), Outcome::Draw);
    assert!(screen(&mut top, 80, 24).contains("\n>192.0.2.1:443"));
    // The selection stays with its service.
    keys(&mut top, "s");
    let sorted = screen(&mut top, 80, 24);
    assert!(sorted.contains("\n>192.0.2.1:443") && sorted.contains("s sort: syn/s"), "{sorted}");
    keys(&mut top, "/half_q");
    assert!(screen(&mut top, 80, 24).contains("no service matches"));
    assert!(screen(&mut top, 80, 24).contains("filter: half_q_"));
    keys(&mut top, "q");
    assert_eq!(top.filter.text, "half_qq");
    key(&mut top, KeyCode::Esc);
    keys(&mut top, "/stay");
    key(&mut top, KeyCode::Enter);
    let filtered = screen(&mut top, 80, 24);
    assert!(filtered.contains("\n>[::]:80") && !filtered.contains(":443 "), "{filtered}");
    assert_eq!(key(&mut top, KeyCode::Char('q')), Outcome::Quit);
}

#[test]
fn a_pause_holds_everything_but_keys() {
    let mut top = calm_top(PLAIN);
    keys(&mut top, "p");
    let paused = screen(&mut top, 80, 24);
    assert!(paused.contains("PAUSED 00:00:16Z"), "{paused}");
    assert!(!top.update(reading(Ok(flood()), 9, Vec::new())));
    assert_eq!(screen(&mut top, 80, 24), paused);
    keys(&mut top, "p");
    assert!(screen(&mut top, 80, 24).contains("* ATTACK: port 80"));
}

#[test]
fn it_says_so_if_the_controller_goes_and_comes_back() {
    let mut top = calm_top(PLAIN);
    top.update(reading(
        Ok(crate::report::snapshot::Snapshot { control: Control::Died(42), ..quiet() }),
        5,
        Vec::new(),
    ));
    let died = screen(&mut top, 80, 24);
    assert!(died.contains("! DEGRADED: the controller has ended without detaching"), "{died}");
    assert!(died.contains("control: the controller is gone: process 42; the defence goes on"), "{died}");
    top.update(reading(Err("nothing is attached below /x".into()), 6, Vec::new()));
    top.update(reading(Err("nothing is attached below /x".into()), 7, Vec::new()));
    let gone = screen(&mut top, 80, 24);
    assert!(gone.contains("! NO DATA since 00:00:17Z: nothing is attached below /x"), "{gone}");
    assert!(gone.contains("AS OF 00:00:17Z"), "{gone}");
    top.update(reading(Ok(quiet()), 8, Vec::new()));
    is(&screen(&mut top, 80, 24), include_str!("screens/back.txt"));
}

#[test]
fn every_size_is_drawn() {
    let mut top = top(PLAIN);
    let endpoint = top.selected_endpoint().expect("a service");
    for letters in ["", "n", "n?", "?", "/nothing"] {
        keys(&mut top, letters);
        every_size(&mut top);
    }
    key(&mut top, KeyCode::Esc);
    key(&mut top, KeyCode::Enter);
    every_size(&mut top);
    top.show_detail(endpoint, Ok(detail(endpoint)));
    for code in [KeyCode::End, KeyCode::PageUp, KeyCode::Home, KeyCode::PageDown] {
        key(&mut top, code);
        every_size(&mut top);
    }
}

fn every_size(top: &mut Top) {
    for width in (0..12).chain([20, 30, 47, 79, 99, 119, 300]) {
        for height in (0..8).chain([13, 16, 17, 60]) {
            frame(top, width, height);
        }
    }
}

#[test]
fn without_colour_there_is_none_and_with_it_words_stay() {
    let colours = |frame: &Buffer| {
        frame.content().iter().filter(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset)).count()
    };
    let coloured = Look { colour: true, ..PLAIN };
    assert_eq!(colours(&frame(&mut top(PLAIN), 80, 24)), 0);
    assert!(colours(&frame(&mut top(coloured), 80, 24)) > 20);
    assert_eq!(screen(&mut top(coloured), 80, 24), screen(&mut top(PLAIN), 80, 24));
}

#[test]
fn other_keys_do_nothing() {
    let mut top = top(PLAIN);
    let control = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
    for (pressed, outcome) in [
        (control('c'), Outcome::Quit),
        (control('z'), Outcome::Suspend),
        (control('l'), Outcome::DrawAnew),
        (control('x'), Outcome::Nothing),
        (KeyEvent::new(KeyCode::F(5), KeyModifiers::NONE), Outcome::Nothing),
        (
            KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release),
            Outcome::Nothing,
        ),
    ] {
        assert_eq!(press(&mut top, pressed), outcome, "{pressed:?}");
    }
}

#[test]
fn a_thousand_services_scroll() {
    let mut many = flood();
    let one = many.services[1].clone();
    many.services = (1..=1000)
        .map(|port| {
            let mut service = one.clone();
            service.endpoint.port = port;
            service
        })
        .collect();
    let mut top = calm_top(PLAIN);
    top.update(reading(Ok(many), 5, Vec::new()));
    screen(&mut top, 80, 24);
    key(&mut top, KeyCode::End);
    assert!(screen(&mut top, 80, 24).contains("\n>192.0.2.1:1000 "));
    key(&mut top, KeyCode::PageUp);
    let page = top.page;
    assert!(screen(&mut top, 80, 24).contains(&format!("\n>192.0.2.1:{} ", 1000 - page)));
    key(&mut top, KeyCode::Home);
    assert!(screen(&mut top, 80, 24).contains("\n>192.0.2.1:1 "));
}
