//! The help: keys, and what the columns are.

use ratatui::text::Line;

use crate::report::top::{keys::KEYS, look::Look};

/// What is shown, for the help.
const COLUMNS: [(&str, &str); 5] = [
    ("SYN/S", "in the last second, and in each second before"),
    ("HALF-OPEN", "in the listener's queue / the limit `critical`"),
    ("ACTION", "what is done to SYNs, and the trigger"),
    ("VERDICTS", "packets of the last second, by verdict.reason"),
    ("NETWORKS", "an estimate from sampled SYNs"),
];

/// Its lines.
pub(super) fn lines() -> Vec<Line<'static>> {
    let row = |(name, words): &(&str, &str)| Line::raw(format!("  {name:<22} {words}"));
    let head = |name: &'static str| Line::styled(name, Look::head());
    let mut lines = vec![head(" KEYS")];
    lines.extend(KEYS.iter().map(row));
    lines.extend([Line::default(), head(" WHAT IS SHOWN")]);
    lines.extend(COLUMNS.iter().map(row));
    lines
}
