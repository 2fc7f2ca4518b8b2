//! What the control loop tells the thread that serves metrics. Nothing here makes the loop wait.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::model::listen::Listen;

/// What the control loop tells.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// Where metrics are to be served; none: nowhere.
    listen: watch::Sender<Option<Listen>>,
    turn: Arc<Mutex<Option<Turn>>>,
}

/// One turn of the control loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// When it began.
    pub at: Instant,
    /// How much later than it was due.
    pub late: Duration,
    /// How long after this turn the next one is due.
    pub period: Duration,
    /// When the cookie key in use was drawn.
    pub key_drawn: Instant,
}

impl Turn {
    /// How late the loop is: as late as its last turn was, or as its next one is already.
    pub fn lag(&self, now: Instant) -> Duration {
        self.late.max(self.age(now).saturating_sub(self.period))
    }

    /// How long ago it began.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

impl Exported {
    /// Metrics are to be served here from now on.
    pub fn set_listen(&self, listen: Option<&Listen>) {
        self.listen.send_if_modified(|present| {
            let is_new = present.as_ref() != listen;
            if is_new {
                *present = listen.cloned();
            }
            is_new
        });
    }

    /// Tells where metrics are to be served, and when that changes.
    pub fn listen(&self) -> watch::Receiver<Option<Listen>> {
        self.listen.subscribe()
    }

    /// The loop has begun a turn. Left out where somebody reads at this very moment: the next turn says the same.
    pub fn set_turn(&self, turn: Turn) {
        if let Ok(mut present) = self.turn.try_lock() {
            *present = Some(turn);
        }
    }

    /// The loop's last turn; none: it has not begun.
    pub fn turn(&self) -> Option<Turn> {
        self.turn.lock().ok().and_then(|turn| *turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_late_as_long_as_it_does_not_turn() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let turn = Turn { at: start, late: second / 10, period: second, key_drawn: start };
        assert_eq!(turn.lag(start), second / 10);
        assert_eq!(turn.lag(start + second), second / 10);
        assert_eq!(turn.lag(start + 5 * second), 4 * second);
        assert_eq!(turn.age(start + 5 * second), 5 * second);
    }

    #[test]
    fn who_reads_does_not_hold_the_loop_up() {
        let exported = Exported::default();
        assert_eq!(exported.turn(), None);
        let now = Instant::now();
        let turn = Turn { at: now, late: Duration::ZERO, period: Duration::ZERO, key_drawn: now };
        let reading = exported.turn.lock().expect("no panic");
        exported.set_turn(turn);
        drop(reading);
        assert_eq!(exported.turn(), None, "left out, and not waited for");
        exported.set_turn(turn);
        assert_eq!(exported.turn(), Some(turn));
    }

    #[test]
    fn only_a_change_is_told() {
        let exported = Exported::default();
        let mut listen = exported.listen();
        exported.set_listen(None);
        assert!(!listen.has_changed().expect("a sender"));
        let place: Listen = "127.0.0.1:1".parse().expect("a place");
        exported.set_listen(Some(&place));
        assert!(listen.has_changed().expect("a sender"));
        assert_eq!(listen.borrow_and_update().as_ref(), Some(&place));
        exported.set_listen(Some(&place));
        assert!(!listen.has_changed().expect("a sender"));
    }
}
