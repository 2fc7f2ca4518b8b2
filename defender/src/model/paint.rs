//! Colours for states. They say nothing that the words do not say. Pure.

use anstyle::{AnsiColor, Style};

const GOOD: Style = AnsiColor::Green.on_default();
const BUSY: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// As it should be.
pub fn good(text: &str) -> String {
    format!("{GOOD}{text}{GOOD:#}")
}

/// Worth a look: an attack is being averted, or something is not at its best.
pub fn busy(text: &str) -> String {
    format!("{BUSY}{text}{BUSY:#}")
}

/// A fault.
pub fn bad(text: &str) -> String {
    format!("{BAD}{text}{BAD:#}")
}
