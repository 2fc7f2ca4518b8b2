//! The networks that send the most SYNs.

use ratatui::{layout::Rect, text::Line};

use super::text::cut;
use crate::{
    model::number::thousands,
    report::top::{look::Look, state::Top},
};

/// Widths of port, share, and rate.
const PORT: usize = 6;
const SHARE: usize = 6;
const RATE: usize = 11;

/// An empty line, the head, and the networks of all services by their SYNs a second: an estimate.
pub(super) fn lines(top: &Top, place: Rect) -> Vec<Line<'static>> {
    let mut networks: Vec<(f64, u16, f64, &str)> = Vec::new();
    for service in &top.data().snapshot.services {
        for network in &service.evidence.networks {
            let rate = service.syn_rate as f64 * network.share;
            networks.push((rate, service.endpoint.port, network.share, &network.prefix));
        }
    }
    networks.sort_by(|a, b| b.0.total_cmp(&a.0));
    let width = usize::from(place.width).saturating_sub(PORT + SHARE + RATE + 1);
    let row = |network: &str, port: &str, share: &str, rate: &str| {
        format!(" {:<width$}{port:>PORT$}{share:>SHARE$}{rate:>RATE$}", cut(network, width, top.look))
    };
    let mut lines =
        vec![Line::default(), Line::styled(row("TOP NETWORKS", "PORT", "SHARE", "SYN/S"), Look::head())];
    if networks.is_empty() {
        lines.push(Line::raw(" none stands out"));
    }
    lines.extend(networks.into_iter().map(|(rate, port, share, prefix)| {
        let share = format!("{:.0} %", share * 100.0);
        Line::raw(row(prefix, &port.to_string(), &share, &thousands(rate as u64)))
    }));
    lines
}
