//! Cookie keys: the order in which they follow one another, and when one is due early. Pure. `defender_common::lifetimes` says
//! how long each is used.

use std::time::Instant;

use defender_common::{abi::KeySlot, lifetimes::LEAST_KEY_PERIOD};

/// A slot with the key that comes after epoch `last`.
pub fn next(last: u32, key: [u64; 2]) -> KeySlot {
    KeySlot::new(key, last.wrapping_add(1))
}

/// When a key was drawn, and whether the next is due before its time.
#[derive(Clone, Copy, Debug)]
pub struct KeySchedule {
    drawn: Instant,
    /// One was due while others wrote.
    postponed: bool,
}

impl KeySchedule {
    /// A key was drawn now, or one of a session before is taken over.
    pub const fn new(now: Instant) -> Self {
        Self { drawn: now, postponed: false }
    }

    /// A key is due, and may have to wait for others who write.
    pub const fn postpone(&mut self) {
        self.postponed = true;
    }

    /// It was drawn.
    pub const fn drawn(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// When the one in use was drawn, or taken over.
    pub const fn when_drawn(&self) -> Instant {
        self.drawn
    }

    /// Whether a key is due before its time: since it was postponed, or since `is_outdated` what cookies promise. Not too
    /// often: a key that is drawn ends the one before the last.
    pub fn is_due<E>(&self, now: Instant, is_outdated: impl FnOnce() -> Result<bool, E>) -> Result<bool, E> {
        if self.postponed {
            return Ok(true);
        }
        if now.duration_since(self.drawn) < LEAST_KEY_PERIOD {
            return Ok(false);
        }
        is_outdated()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_key_is_drawn_early_but_not_too_often() {
        let start = Instant::now();
        let mut schedule = KeySchedule::new(start);
        let due = |schedule: &KeySchedule, after, outdated| {
            schedule.is_due(start + after, || Ok::<_, ()>(outdated)).expect("no failure")
        };
        assert!(!due(&schedule, LEAST_KEY_PERIOD / 2, true) && !due(&schedule, LEAST_KEY_PERIOD, false));
        assert!(due(&schedule, LEAST_KEY_PERIOD, true));
        schedule.postpone();
        assert!(due(&schedule, Duration::ZERO, false), "others wrote");
        schedule.drawn(start + LEAST_KEY_PERIOD);
        assert!(!due(&schedule, LEAST_KEY_PERIOD, true));
    }

    #[test]
    fn epochs_count() {
        assert_eq!(next(u32::MAX, [1, 2]), KeySlot::new([1, 2], 0));
        assert_eq!(next(0, [3, 4]), KeySlot::new([3, 4], 1));
    }
}
