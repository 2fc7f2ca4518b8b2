//! The services, one a line: rate, its last minutes, the queue against its limit, what is done and why.

use ratatui::{
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::{
    action,
    text::{bar, cut, left, right, short, sparkline},
};
use crate::report::{
    snapshot::ServiceStatus,
    top::{
        look::{Health, Look},
        order::filled,
        state::Top,
    },
};

/// Widths of columns that stay as they are.
const MODE: usize = 7;
const RATE: usize = 6;
const NUMBERS: usize = 10;
/// What is done and why needs so much room, in few words and in many.
const BRIEF: usize = 21;
const LONG: usize = 56;
/// From this width on, there is room for the many.
const WIDE: usize = 120;
/// Gaps, and the mark of the selection.
const GAPS: usize = 7;

/// Widths of the columns that give way.
struct Widths {
    service: usize,
    history: usize,
    bar: usize,
    action: usize,
}

impl Widths {
    fn of(services: &[&ServiceStatus], width: usize) -> Self {
        let longest = services.iter().map(|service| service.endpoint.to_string().len()).max().unwrap_or(0);
        let service = longest.clamp(10, if width < 100 { 17 } else { 46 });
        let room = width.saturating_sub(GAPS + service + MODE + RATE + NUMBERS);
        let drawn = room.saturating_sub(if width < WIDE { BRIEF } else { LONG });
        let bar = (drawn / 3).min(10);
        let history = (drawn - bar).min(60);
        Self { service, history, bar, action: room - bar - history }
    }
}

/// The head and as many services as there is room for, the selected one among them.
pub(super) fn lines(top: &Top, place: Rect) -> Vec<Line<'static>> {
    let services = top.services();
    let widths = Widths::of(&services, place.width.into());
    let mut lines = vec![head(&widths, top.look)];
    if services.is_empty() {
        lines.push(Line::raw(nothing(top)));
    }
    let selected = top.selected(&services);
    let room = usize::from(place.height.saturating_sub(1)).max(1);
    let above = (selected + 1).saturating_sub(room);
    for (index, service) in services.iter().enumerate().skip(above).take(room) {
        lines.push(line(top, service, &widths, index == selected));
    }
    lines
}

fn nothing(top: &Top) -> &'static str {
    if top.filter.text.is_empty() {
        "  no service listens here; all packets pass"
    } else {
        "  no service matches"
    }
}

fn head(widths: &Widths, look: Look) -> Line<'static> {
    let half_open = left("HALF-OPEN", widths.bar + NUMBERS, look);
    Line::styled(
        format!(
            " {} {} {} {} {half_open} {}",
            left("SERVICE", widths.service, look),
            left("MODE", MODE, look),
            right("SYN/S", RATE, look),
            left("HISTORY", widths.history, look),
            cut("ACTION", widths.action, look),
        ),
        Look::head(),
    )
}

fn line(top: &Top, service: &ServiceStatus, widths: &Widths, selected: bool) -> Line<'static> {
    let look = top.look;
    let rates = top.data().rates(service.endpoint);
    let share = filled(service);
    let queue = if share < 0.75 { Health::Good } else { Health::Bad };
    let numbers = format!("{}/{}", short(service.half_open()), short(service.critical.into()));
    let name = format!(
        "{}{} {} {} ",
        if selected { '>' } else { ' ' },
        left(&service.endpoint.to_string(), widths.service, look),
        left(service.mode.name(), MODE, look),
        right(&short(service.syn_rate), RATE, look),
    );
    Line::from(vec![
        // What is drawn would be drawn inverted.
        Span::styled(name, if selected { Look::selected() } else { Style::new() }),
        Span::styled(sparkline(rates, widths.history, look), look.drawn()),
        Span::raw(" "),
        Span::styled(bar(share, widths.bar, look), look.health(queue)),
        Span::raw(right(&numbers, NUMBERS, look)),
        Span::raw(" "),
        Span::styled(action(service, widths.action, look), look.health(action::health(service))),
    ])
}

/// In words if there is room for them.
fn action(service: &ServiceStatus, width: usize, look: Look) -> String {
    let long = action::long(service);
    if long.chars().count() <= width { long } else { cut(&action::brief(service), width, look) }
}
