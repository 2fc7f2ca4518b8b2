//! What is run for each event, and what became of it. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a hook may take unless the file says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest and the longest time that can be set.
pub const TIMEOUTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3600)];

/// The program that is run for each event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its absolute path, and its arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Hook {
    /// The program's path.
    pub fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }
}

/// What became of the events that hooks were to be run for, since the controller started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookCounts {
    /// Hooks that ended with status 0.
    pub succeeded: u64,
    /// Hooks that could not be started, ended with another status, or were killed by a signal of others.
    pub failed: u64,
    /// Hooks that took too long and were killed.
    pub timed_out: u64,
    /// Events without a hook, since too many were waiting.
    pub dropped: u64,
}

impl HookCounts {
    /// What the operator should know, if anything went wrong.
    pub fn warning(&self) -> Option<String> {
        let parts =
            [(self.failed, "failed"), (self.timed_out, "took too long"), (self.dropped, "were dropped")];
        let wrong: Vec<_> = parts
            .iter()
            .filter(|(count, _)| *count != 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let all = self.succeeded + self.failed + self.timed_out + self.dropped;
        (!wrong.is_empty())
            .then(|| format!("hooks: of {all}, {}; the controller's log says why", wrong.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_went_wrong_is_a_warning() {
        assert_eq!(HookCounts { succeeded: 3, ..HookCounts::default() }.warning(), None);
        let counts = HookCounts { succeeded: 3, failed: 2, timed_out: 0, dropped: 1 };
        let expected = "hooks: of 6, 2 failed, 1 were dropped; the controller's log says why";
        assert_eq!(counts.warning().as_deref(), Some(expected));
    }
}
