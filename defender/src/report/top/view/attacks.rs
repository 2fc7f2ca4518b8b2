//! The banner: no data, faults, and the attacks that are going on.

use std::cmp::Reverse;

use ratatui::text::Line;

use super::text::wrap;
use crate::{
    model::number::counted,
    report::{
        snapshot::ServiceStatus,
        text,
        top::{
            look::{Health, Look},
            state::Top,
        },
    },
};

/// A banner takes so many lines at the most.
const MOST: usize = 3;

/// Its lines; none while all is well.
pub(super) fn lines(top: &Top, width: u16) -> Vec<Line<'static>> {
    let told = faults(top).map(|words| (words, Health::Bad));
    let told = told.into_iter().chain(attacks(top).map(|words| (words, Health::Acting)));
    told.flat_map(|(words, health)| banner(&words, health, top.look, width)).collect()
}

fn banner(words: &str, health: Health, look: Look, width: u16) -> Vec<Line<'static>> {
    let style = look.health(health).patch(Look::head());
    let mut lines = wrap(words, usize::from(width).max(1), look);
    if lines.len() > MOST {
        lines.truncate(MOST);
        lines[MOST - 1].pop();
        lines[MOST - 1].push(look.ellipsis());
    }
    lines.into_iter().map(|line| Line::styled(line, style)).collect()
}

fn faults(top: &Top) -> Option<String> {
    let data = top.data();
    if let Some(failure) = &data.failure {
        return Some(format!("! NO DATA since {}Z: {failure}", data.time.get(11..19).unwrap_or_default()));
    }
    let mut faults = data.snapshot.faults();
    if faults.is_empty() && data.snapshot.control.pid().is_none() {
        faults.push("no controller: `defender run` takes over".to_owned());
    }
    (!faults.is_empty()).then(|| format!("! DEGRADED: {}", faults.join("; ")))
}

/// The attack with the most SYNs, and how many more there are.
fn attacks(top: &Top) -> Option<String> {
    let mut attacked: Vec<&ServiceStatus> =
        top.data().snapshot.services.iter().filter(|service| service.attack_seconds.is_some()).collect();
    attacked.sort_by_key(|service| Reverse(service.syn_rate));
    let worst = text::attack(attacked.first()?)?;
    let more = match attacked.len() - 1 {
        0 => String::new(),
        more => format!("; and {} more", counted(more as u64, "service")),
    };
    Some(format!("* ATTACK: {worst}{more}"))
}
