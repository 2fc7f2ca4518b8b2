//! Notices attacks: many SYNs, few of which complete. Pure.
//!
//! This only tells people; what is challenged, modes decide.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use defender_common::abi::ServiceCounters;
use serde::{Deserialize, Serialize};

/// Fewer SYNs a second are no attack worth the name.
const LEAST_RATE: f64 = 100.0;
/// A smaller share of handshakes completed is an attack. Clients complete theirs but for those that are lost; scanners
/// and lost packets are the rest.
const LEAST_COMPLETED: f64 = 0.5;
/// An attack has ended when there was none for so long.
const QUIET: Duration = Duration::from_secs(10);

/// An attack under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attack {
    /// When it began, in seconds since the Unix epoch.
    pub began: u64,
}

/// What is known of one service.
#[derive(Debug)]
struct Watched {
    at: Instant,
    counters: ServiceCounters,
    attack: Option<(Attack, Instant)>,
}

/// What is known of all services.
#[derive(Debug, Default)]
pub struct Attacks(BTreeMap<u32, Watched>);

impl Attacks {
    /// Takes in a service's counters. `wall` is the time in seconds since the Unix epoch.
    pub fn observe(&mut self, id: u32, counters: ServiceCounters, now: Instant, wall: u64) {
        let Some(watched) = self.0.get_mut(&id) else {
            self.0.insert(id, Watched { at: now, counters, attack: None });
            return;
        };
        let elapsed = now.duration_since(watched.at);
        if elapsed < Duration::from_millis(500) {
            return;
        }
        let attacked = is_attack(&watched.counters, &counters, elapsed);
        watched.attack = match (watched.attack, attacked) {
            (None, true) => Some((Attack { began: wall }, now)),
            (Some((attack, _)), true) => Some((attack, now)),
            (attack, false) => attack.filter(|(_, last)| now.duration_since(*last) < QUIET),
        };
        (watched.at, watched.counters) = (now, counters);
    }

    /// The attack on a service, if one is under way.
    pub fn on(&self, id: u32) -> Option<Attack> {
        self.0.get(&id)?.attack.map(|(attack, _)| attack)
    }

    /// Forgets services that have ended.
    pub fn retain(&mut self, keep: impl Fn(&u32) -> bool) {
        self.0.retain(|id, _| keep(id));
    }
}

fn is_attack(before: &ServiceCounters, after: &ServiceCounters, elapsed: Duration) -> bool {
    let syns = after.syn_received.saturating_sub(before.syn_received) as f64;
    let completed = after.established.saturating_sub(before.established) as f64;
    syns >= LEAST_RATE * elapsed.as_secs_f64() && completed < syns * LEAST_COMPLETED
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        attacks: Attacks,
        now: Instant,
        counters: ServiceCounters,
        wall: u64,
    }

    impl Scene {
        fn new() -> Self {
            let mut scene = Self {
                attacks: Attacks::default(),
                now: Instant::now(),
                counters: ServiceCounters::default(),
                wall: 1000,
            };
            scene.second(0, 0);
            scene
        }

        /// A second with so many SYNs and completed handshakes; when the attack began, if there is one.
        fn second(&mut self, syns: u64, completed: u64) -> Option<u64> {
            self.now += Duration::from_secs(1);
            self.wall += 1;
            self.counters.syn_received += syns;
            self.counters.established += completed;
            self.attacks.observe(1, self.counters, self.now, self.wall);
            self.attacks.on(1).map(|attack| attack.began)
        }
    }

    #[test]
    fn busy_clients_are_no_attack() {
        let mut scene = Scene::new();
        assert_eq!(scene.second(50_000, 49_000), None);
        assert_eq!(scene.second(99, 0), None);
        assert_eq!(scene.second(0, 0), None);
    }

    #[test]
    fn an_attack_keeps_its_beginning_and_ends_after_a_while() {
        let mut scene = Scene::new();
        let began = scene.second(200, 10);
        assert_eq!(began, Some(scene.wall));
        for _ in 0..9 {
            assert_eq!(scene.second(0, 0), began);
        }
        assert_eq!(scene.second(200, 0), began);
        for _ in 0..9 {
            assert_eq!(scene.second(300, 300), began);
        }
        assert_eq!(scene.second(0, 0), None);
        assert_eq!(scene.second(300, 0), Some(scene.wall));
    }

    #[test]
    fn an_ended_service_is_forgotten() {
        let mut scene = Scene::new();
        scene.second(200, 0);
        scene.attacks.retain(|_| false);
        assert_eq!(scene.attacks.on(1), None);
    }
}
