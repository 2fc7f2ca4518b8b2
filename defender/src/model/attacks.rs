//! Attacks on services: when one has begun, gone a step further, ended. Pure.
//!
//! The datapath changes levels; this reports each change once. A change is seen by its event, by
//! looking at the service's load, or by both, in any order. An attack is known by the time its challenges began
//! ([`Load::began`](defender_common::abi::Load::began)), also by a controller that was not there then.

use std::{collections::BTreeMap, mem};

use defender_common::{
    abi::ServiceCounters,
    clock::age,
    load::MitigationState,
    mitigation::{Level, Trigger},
};
use serde::{Deserialize, Serialize};

use crate::model::{
    endpoint::Endpoint,
    event::{self, AttackSummary, Cause, EventKind, Observation, Record, Totals, Transition, words},
    evidence::Network,
    mode::Mode,
    timestamp,
};

/// The version of records.
const VERSION: u32 = 1;
/// Rates are measured from looks that are at least so many milliseconds apart.
const SECOND: u32 = 900;
/// A shorter time gives no rate.
const LEAST_TIME: u32 = 200;
/// CPUs that see a line crossed at the same time disagree by less than this on when it was, in milliseconds.
const SAME_BEGINNING: i32 = 1000;

/// An attack under way: all that a later controller needs to report its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attack {
    /// When it began, in seconds since the Unix epoch.
    pub began: u64,
    /// The same by the datapath's clock, in milliseconds.
    began_ms: u32,
    /// The level of the mitigation, as the maps hold it.
    level: u8,
    /// What it consists of, as far as was known at the beginning.
    kind: EventKind,
    /// The service.
    port: u16,
    address: String,
    /// What was counted when it began.
    before: Totals,
    /// The most SYNs a second so far.
    peak_syn_rate: u64,
}

impl Attack {
    /// In a few words.
    pub fn describe(&self) -> String {
        let service = event::service(&self.address, self.port);
        format!("{} on {service} (level {})", self.kind.describe(), self.level().name())
    }

    fn level(&self) -> Level {
        Level::from_abi(self.level)
    }
}

/// The time, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the Unix epoch.
    pub wall: u64,
    /// Milliseconds of the datapath's clock.
    pub ms: u32,
}

impl Now {
    /// When something was, in milliseconds since the epoch, of which the datapath's clock is known.
    fn wall_of(self, ms: u32) -> u64 {
        self.wall.saturating_sub(age(ms, self.ms).into())
    }
}

/// How a level was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// An event said so, and from which level it was taken. Events may be late, but come in order.
    Event(Level),
    /// Looking at the load, brought to the present.
    Look,
}

/// What is seen of a service.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// How.
    pub by: By,
    /// The level it is on.
    pub mitigation: MitigationState,
    /// When its challenges last began, in milliseconds of the datapath's clock.
    pub began: u32,
    /// What clients connect to; none if nothing listens there any more.
    pub endpoint: Option<Endpoint>,
    /// Its mode.
    pub mode: Mode,
    /// SYNs pass whatever the level: the service cannot be protected, or challenging is suspended.
    pub hindered: bool,
    /// What was counted.
    pub counters: ServiceCounters,
    /// SYNs in the last whole second, by the datapath's own count: known also to a controller that has only just begun.
    pub syn_rate: u64,
    /// Half-open connections.
    pub half_open: u32,
    /// How many there were when challenges last began.
    pub half_open_then: u32,
    /// How many half-open connections the listeners take.
    pub backlog: Option<u32>,
}

/// Who sends SYNs: read only when there is something to report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SynSources {
    /// How many sources.
    pub sources: u64,
    /// The networks that send the most.
    pub networks: Vec<Network>,
}

/// What was counted in a second of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second {
    /// SYNs a second.
    pub syn_rate: u64,
    /// No attack was under way.
    pub normal: bool,
}

/// What to report, and what the second was like if one is over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reported {
    /// What happened.
    pub records: Vec<Record>,
    /// The second that is over.
    pub second: Option<Second>,
}

/// What is known of one service.
#[derive(Debug, Default)]
struct Watched {
    /// When the level was taken that was seen last, and how it was seen.
    last: Option<(u32, By)>,
    /// What was counted then: about two seconds ago, and one.
    looks: [Option<(u32, Totals)>; 2],
    attack: Option<Attack>,
}

/// What is known of all services.
#[derive(Debug, Default)]
pub struct Attacks(BTreeMap<u32, Watched>);

impl Attacks {
    /// Resumes persisted attacks. Poll services before draining the ring: older events were already reported.
    pub fn restore(left: &BTreeMap<u32, Attack>) -> Self {
        let watched = |attack: &Attack| Watched { attack: Some(attack.clone()), ..Watched::default() };
        Self(left.iter().map(|(id, attack)| (*id, watched(attack))).collect())
    }

    /// Takes in what is seen of a service.
    pub fn observe(
        &mut self,
        id: u32,
        view: &View,
        now: Now,
        sources: impl FnOnce() -> SynSources,
    ) -> Reported {
        let watched = self.0.entry(id).or_default();
        let second = watched.look(&Totals::from(&view.counters), now.ms);
        let records =
            if watched.is_news(view, now.ms) { watched.report(view, now, sources) } else { Vec::new() };
        Reported { records, second }
    }

    /// Tells of the end of everything: the attacks under way are nobody's concern any more.
    pub fn abandon(&mut self, id: u32, view: &View, now: Now) -> Option<Record> {
        self.0.get_mut(&id)?.end(view, None, now, now, &SynSources::default())
    }

    /// The attack on a service, if one is under way.
    pub fn on(&self, id: u32) -> Option<&Attack> {
        self.0.get(&id)?.attack.as_ref()
    }

    /// Every attack under way.
    pub fn under_way(&self) -> BTreeMap<u32, Attack> {
        let attacks = self.0.iter().filter_map(|(id, watched)| Some((*id, watched.attack.clone()?)));
        attacks.collect()
    }

    /// Forgets services that have ended, but not attacks that have not.
    pub fn retain(&mut self, keep: impl Fn(&u32) -> bool) {
        self.0.retain(|id, watched| keep(id) || watched.attack.is_some());
    }
}

impl Watched {
    /// Notes what was counted, once a second.
    fn look(&mut self, counted: &Totals, now: u32) -> Option<Second> {
        let Some((at, before)) = self.looks[1] else {
            self.looks[1] = Some((now, *counted));
            return None;
        };
        if age(at, now) < SECOND {
            return None;
        }
        self.looks = [self.looks[1], Some((now, *counted))];
        let syn_rate = per_second(counted.since(&before).syns, age(at, now));
        if let Some(attack) = &mut self.attack {
            attack.peak_syn_rate = attack.peak_syn_rate.max(syn_rate);
        }
        Some(Second { syn_rate, normal: self.attack.is_none() })
    }

    /// An event that is older than what was seen already says nothing new.
    fn is_news(&mut self, view: &View, now: u32) -> bool {
        let since = view.mitigation.since;
        let is_known = |(last, by): (u32, By)| {
            if since == last {
                // Several levels in a tick of the clock each have an event. A look sees only the last.
                by == By::Look
            } else {
                // Not since minus last: half of what the clock can count may lie between.
                age(last, now) < age(since, now)
            }
        };
        if view.by != By::Look && self.last.is_some_and(is_known) {
            return false;
        }
        self.last = Some((since, view.by));
        true
    }

    fn report(&mut self, view: &View, now: Now, sources: impl FnOnce() -> SynSources) -> Vec<Record> {
        let level = view.mitigation.level;
        let before = self.attack.as_ref().map_or(Level::Pass, Attack::level);
        let another =
            level != Level::Pass && self.attack.as_ref().is_some_and(|attack| is_another(attack, view));
        if level == before && !another {
            return Vec::new();
        }
        let sources = sources();
        let mut records = Vec::new();
        let taken = Now { wall: now.wall_of(view.mitigation.since), ms: view.mitigation.since };
        if level == Level::Pass {
            records.extend(self.end(view, Some(view.mitigation.trigger), taken, now, &sources));
            return records;
        }
        if another {
            let then = Now { wall: now.wall_of(view.began), ms: view.began };
            records.extend(self.end(view, Some(Trigger::Quiet), then, now, &sources));
        }
        records.extend(match self.attack {
            None => self.begin(view, taken, now, &sources),
            Some(_) => self.go_on(view, taken, now, &sources),
        });
        records
    }

    fn begin(&mut self, view: &View, taken: Now, now: Now, sources: &SynSources) -> Option<Record> {
        let endpoint = view.endpoint?;
        let (recently, _) = self.recently(view, now.ms);
        let attack = Attack {
            began: now.wall_of(view.began) / 1000,
            began_ms: view.began,
            level: view.mitigation.level as u8,
            kind: kind(view.mitigation.trigger, &recently),
            port: endpoint.port,
            address: endpoint.address.to_string(),
            before: self.counted_before(view),
            peak_syn_rate: 0,
        };
        let seen = self.seen(view, now.ms, sources);
        let attack = self.attack.insert(Attack { peak_syn_rate: seen.syn_rate, ..attack });
        let cause = cause(view, Level::Pass, Some(view.mitigation.trigger));
        Some(record(Transition::Began, attack, view, cause, taken, seen, None))
    }

    fn go_on(&mut self, view: &View, taken: Now, now: Now, sources: &SynSources) -> Option<Record> {
        let seen = self.seen(view, now.ms, sources);
        let attack = self.attack.as_mut()?;
        let before = mem::replace(&mut attack.level, view.mitigation.level as u8);
        let cause = cause(view, Level::from_abi(before), Some(view.mitigation.trigger));
        Some(record(Transition::Step, attack, view, cause, taken, seen, None))
    }

    /// `taken` is when it ended.
    fn end(
        &mut self,
        view: &View,
        trigger: Option<Trigger>,
        taken: Now,
        now: Now,
        sources: &SynSources,
    ) -> Option<Record> {
        let seen = self.seen(view, now.ms, sources);
        let mut attack = self.attack.take()?;
        let counted = Totals::from(&view.counters).since(&attack.before);
        if counted != Totals::default() {
            attack.kind = EventKind::of(&counted);
        }
        let duration = age(attack.began_ms, taken.ms).into();
        let summary =
            AttackSummary::new(duration, attack.peak_syn_rate, &counted, view.mode == Mode::Monitor);
        let cause = Cause { level: Level::Pass, ..cause(view, attack.level(), trigger) };
        Some(record(Transition::Ended, &attack, view, cause, taken, seen, Some(summary)))
    }

    /// What was counted when the attack began, or a moment before.
    fn counted_before(&self, view: &View) -> Totals {
        let is_before = |look: &&(u32, Totals)| look.0.wrapping_sub(view.began) as i32 <= 0;
        let looks = || self.looks.iter().flatten();
        let look = looks().rfind(is_before).or(looks().next());
        look.map_or_else(|| (&view.counters).into(), |(_, counted)| *counted)
    }

    /// What was seen at this time.
    fn seen(&self, view: &View, now: u32, sources: &SynSources) -> Observation {
        let (recently, elapsed) = self.recently(view, now);
        let rate = |more| per_second(more, elapsed);
        // Who has just begun has nothing to compare with.
        let before_us = if self.looks[0].is_none() { view.syn_rate } else { 0 };
        let completed = recently.established as f64 / recently.syns as f64;
        Observation {
            half_open: view.half_open,
            half_open_then: view.half_open_then,
            backlog: view.backlog,
            syn_rate: rate(recently.syns).max(before_us),
            sources: sources.sources,
            completed: (recently.syns != 0).then(|| completed.min(1.0)),
            networks: sources.networks.clone(),
            out_of_state_ack_rate: rate(recently.out_of_state_acks),
            out_of_state_rst_rate: rate(recently.out_of_state_rsts),
        }
    }

    /// What was counted in the second before or, if that was more, since then; and in how many milliseconds.
    fn recently(&self, view: &View, now: u32) -> (Totals, u32) {
        let present = Totals::from(&view.counters);
        let part = |from: &(u32, Totals), to: &(u32, Totals)| (to.1.since(&from.1), age(from.0, to.0));
        let [earlier, last] = &self.looks;
        let Some(last) = last else { return (Totals::default(), SECOND) };
        let since = part(last, &(now, present));
        let since = (since.0, since.1.max(LEAST_TIME));
        let Some(earlier) = earlier else { return since };
        let before = part(earlier, last);
        let busy = |(counted, elapsed): &(Totals, u32)| {
            per_second(counted.syns + counted.out_of_state_acks + counted.out_of_state_rsts, *elapsed)
        };
        if busy(&before) > busy(&since) { before } else { since }
    }
}

fn is_another(attack: &Attack, view: &View) -> bool {
    matches!(view.by, By::Look | By::Event(Level::Pass))
        && (view.began.wrapping_sub(attack.began_ms) as i32).abs() > SAME_BEGINNING
}

/// What an attack consists of that was just noticed for this reason.
fn kind(trigger: Trigger, recently: &Totals) -> EventKind {
    match (trigger, EventKind::of(recently)) {
        (Trigger::OutOfState, EventKind::SynFlood) if recently.syns == recently.established => {
            EventKind::AckFlood
        }
        (Trigger::OutOfState, kind) => kind,
        _ => EventKind::SynFlood,
    }
}

fn cause(view: &View, from: Level, trigger: Option<Trigger>) -> Cause {
    Cause { level: view.mitigation.level, from, trigger, hindered: view.hindered }
}

fn record(
    event: Transition,
    attack: &Attack,
    view: &View,
    cause: Cause,
    taken: Now,
    evidence: Observation,
    summary: Option<AttackSummary>,
) -> Record {
    let mut record = Record {
        version: VERSION,
        time: timestamp::rfc3339(taken.wall),
        seconds: taken.wall as f64 / 1000.0,
        event,
        port: attack.port,
        address: attack.address.clone(),
        mode: view.mode,
        dry_run: view.mode == Mode::Monitor,
        level: cause.level.name().to_owned(),
        from: cause.from.name().to_owned(),
        trigger: cause.trigger.map_or("detached", Trigger::name).to_owned(),
        kind: attack.kind,
        words: String::new(),
        evidence,
        summary,
    };
    record.words = words(&record, &cause);
    record
}

fn per_second(more: u64, milliseconds: u32) -> u64 {
    more * 1000 / u64::from(milliseconds.max(1))
}

#[cfg(test)]
mod tests {
    use defender_common::{
        abi::{Load, TriggerLimits},
        load::{self, Alone, Time},
        queue::Queue,
        shared::Shared,
    };
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const LINES: TriggerLimits = TriggerLimits {
        start: 32,
        critical: 96,
        end: 15,
        rate: 1000,
        out_of_state: 10_000,
        replies: 2000,
        min_active: 3000,
        flood: 0,
        listeners: 1,
    };
    const KEEP: u32 = 5;
    const WALL: u64 = 1_700_000_000_000;

    /// A service under its mitigation, and what is reported.
    struct Scene {
        attacks: Attacks,
        load: Load,
        /// The seconds in which the connections in the listener's queue began.
        queue: Vec<u32>,
        counters: ServiceCounters,
        mode: Mode,
        ms: u32,
        /// Events that the controller has not read yet.
        events: Vec<(Level, MitigationState, u32)>,
        records: Vec<Record>,
        seconds: Vec<Second>,
    }

    impl Scene {
        fn new() -> Self {
            let mut scene = Self {
                attacks: Attacks::default(),
                load: Load { second: 1, ..Load::default() },
                queue: Vec::new(),
                counters: ServiceCounters::default(),
                mode: Mode::Auto,
                ms: 1000,
                events: Vec::new(),
                records: Vec::new(),
                seconds: Vec::new(),
            };
            scene.look();
            scene
        }

        fn time(&self) -> Time {
            Time { ms: self.ms, second: self.ms / 1000 }
        }

        fn note(&mut self, change: Option<load::Change>) {
            if let Some(change) = change {
                let mitigation =
                    MitigationState { level: change.to, trigger: change.trigger, since: self.ms | 1 };
                let began = if change.from == Level::Pass { self.ms | 1 } else { self.load.began };
                self.events.push((change.from, mitigation, began));
            }
        }

        /// A second with so many packets in each of ten parts; of the SYNs, `real` lead to connections.
        fn second(&mut self, syns: u32, real: u32, acks: u32, rsts: u32) {
            for _ in 0..10 {
                self.ms += 100;
                self.part(syns / 10, real / 10, acks / 10, rsts / 10);
            }
        }

        fn look_at_queue(&mut self, second: u32) {
            self.queue.retain(|began| second - began < KEEP);
            let young = self.queue.iter().filter(|began| second - **began <= 1).count() as u32;
            let half_open = self.queue.len() as u32;
            self.load.queue = Queue { half_open, young, ..Queue::default() }.pack();
        }

        fn part(&mut self, syns: u32, real: u32, acks: u32, rsts: u32) {
            let time = self.time();
            self.look_at_queue(time.second);
            if syns + acks + rsts > 0 {
                let change = load::advance::<Alone>(Shared::from_mut(&mut self.load), &LINES, KEEP, time);
                self.note(change);
            }
            let change =
                load::count_syn::<Alone>(Shared::from_mut(&mut self.load), &LINES, syns.into(), time);
            self.note(change);
            let averted = load::mitigation(&self.load).level != Level::Pass;
            for _ in real.min(syns)..syns {
                if averted {
                    load::averted::<Alone>(Shared::from_mut(&mut self.load), 1, time.second);
                } else {
                    self.queue.push(time.second);
                }
            }
            let change = load::count_syn::<Alone>(
                Shared::from_mut(&mut self.load),
                &LINES,
                u64::from(acks + rsts) << 32,
                time,
            );
            self.note(change);
            self.counters.syn_received += u64::from(syns);
            self.counters.established += u64::from(real);
            self.counters.out_of_state_acks += u64::from(acks);
            self.counters.out_of_state_rsts += u64::from(rsts);
            if load::mitigation(&self.load).level != Level::Pass {
                self.counters.syn_challenged += u64::from(syns);
                self.counters.ack_accepted += u64::from(real);
            }
        }

        fn view(&self, by: By, mitigation: MitigationState, began: u32) -> View {
            View {
                by,
                mitigation,
                began,
                endpoint: Some(Endpoint {
                    port: 443,
                    address: "0.0.0.0".parse().expect("an address"),
                    families: 1,
                }),
                mode: self.mode,
                hindered: false,
                counters: self.counters,
                syn_rate: load::syns(&self.load, self.time().second.wrapping_sub(1)).into(),
                half_open: load::half_open(&self.load, &LINES),
                half_open_then: self.load.half_open_then,
                backlog: Some(128),
            }
        }

        fn observe(&mut self, view: &View) {
            let now = Now { wall: WALL + u64::from(self.ms), ms: self.ms };
            let reported = self.attacks.observe(1, view, now, SynSources::default);
            self.records.extend(reported.records);
            self.seconds.extend(reported.second);
        }

        fn read_events(&mut self) {
            for (from, mitigation, began) in mem::take(&mut self.events) {
                let view = self.view(By::Event(from), mitigation, began);
                self.observe(&view);
            }
        }

        fn look(&mut self) {
            let mut copy = self.load;
            load::advance::<Alone>(Shared::from_mut(&mut copy), &LINES, KEEP, self.time());
            let view = self.view(By::Look, load::mitigation(&copy), copy.began);
            self.observe(&view);
        }

        /// Another controller takes over; it looks before it reads events.
        fn restart(&mut self) {
            let text = serde_json::to_string(&self.attacks.under_way()).expect("JSON");
            self.attacks = Attacks::restore(&serde_json::from_str(&text).expect("attacks"));
            self.look();
        }

        fn reported(&self) -> Vec<Transition> {
            self.records.iter().map(|record| record.event).collect()
        }

        fn flood_until_over(&mut self) {
            for _ in 0..6 {
                self.second(500, 0, 0, 0);
                self.read_events();
                self.look();
            }
            for _ in 0..40 {
                self.second(0, 0, 0, 0);
                self.look();
            }
        }
    }

    #[test]
    fn an_attack_is_told_by_its_event_however_long_nothing_happened() {
        // The clock counts to 2³² ms, 49 days.
        for quiet in [0, 1 << 30, 1 << 31, 3 << 30] {
            let mut scene = Scene::new();
            for _ in 0..2 {
                scene.ms = scene.ms.wrapping_add(quiet);
                scene.load.second = u64::from(scene.ms / 1000);
                scene.look();
                let reported = scene.records.len();
                scene.second(500, 0, 0, 0);
                scene.read_events();
                assert_eq!(scene.reported()[reported..], [Transition::Began], "{quiet}");
                scene.flood_until_over();
                assert_eq!(scene.reported()[reported..], [Transition::Began, Transition::Ended], "{quiet}");
                scene.second(10, 10, 0, 0);
                scene.read_events();
            }
        }
    }

    #[test]
    fn an_attack_begins_and_ends_and_adds_up() {
        let mut scene = Scene::new();
        scene.second(20, 20, 0, 0);
        scene.look();
        scene.flood_until_over();
        assert_eq!(scene.reported(), [Transition::Began, Transition::Ended]);
        let (began, ended) = (&scene.records[0], &scene.records[1]);
        assert_eq!((began.level.as_str(), began.from.as_str()), ("challenge", "pass"));
        assert_eq!((ended.level.as_str(), ended.from.as_str()), ("pass", "challenge"));
        assert_eq!((began.trigger.as_str(), ended.trigger.as_str()), ("queue", "quiet"));
        assert_eq!((began.kind, ended.kind), (EventKind::SynFlood, EventKind::SynFlood));
        let summary = ended.summary.expect("a summary");
        assert_eq!(summary.syns, 3000);
        assert!((450..=500).contains(&summary.peak_syn_rate), "{summary:?}");
        assert_eq!(summary.would_have_challenged, None);
        assert!((summary.duration_seconds - (ended.seconds - began.seconds)).abs() < 0.01);
        assert!(scene.attacks.under_way().is_empty());
    }

    #[test]
    fn a_controller_that_has_just_begun_knows_the_rate() {
        let mut scene = Scene::new();
        for _ in 0..3 {
            scene.second(500, 0, 0, 0);
        }
        // Nobody was in control.
        scene.events.clear();
        scene.restart();
        assert_eq!(scene.reported(), [Transition::Began]);
        assert_eq!(scene.records[0].evidence.syn_rate, 500);
        assert!(scene.records[0].words.contains("500 SYN/s"), "{}", scene.records[0].words);
    }

    #[test]
    fn a_dry_run_says_what_would_have_been() {
        let mut scene = Scene { mode: Mode::Monitor, ..Scene::new() };
        scene.counters.syn_would_challenge = 10;
        scene.second(0, 0, 0, 0);
        scene.look();
        scene.second(500, 0, 0, 0);
        scene.read_events();
        scene.counters.syn_would_challenge = 2510;
        scene.counters.client_would_challenge = 7;
        scene.flood_until_over();
        assert!(scene.records.iter().all(|record| record.dry_run));
        let summary = scene.records.last().and_then(|record| record.summary).expect("a summary");
        assert_eq!((summary.would_have_challenged, summary.real_clients), (Some(2500), Some(7)));
    }

    #[test]
    fn another_attack_between_two_looks_is_another_attack() {
        let mut scene = Scene::new();
        let challenged = |since| MitigationState { level: Level::Challenge, trigger: Trigger::Queue, since };
        scene.ms = 60_000;
        for began in [20_001, 20_011, 50_001] {
            let view = scene.view(By::Look, challenged(began), began);
            scene.observe(&view);
        }
        assert_eq!(scene.reported(), [Transition::Began, Transition::Ended, Transition::Began]);
    }

    #[test]
    fn the_service_may_go_while_the_attack_does_not() {
        let mut scene = Scene::new();
        scene.second(500, 0, 0, 0);
        scene.read_events();
        scene.attacks.retain(|_| false);
        assert!(scene.attacks.on(1).is_some());
        scene.ms += 70_000;
        let mut view = scene.view(
            By::Look,
            MitigationState { level: Level::Pass, trigger: Trigger::Quiet, since: scene.ms },
            scene.load.began,
        );
        (view.endpoint, view.backlog) = (None, None);
        scene.observe(&view);
        assert_eq!(scene.reported(), [Transition::Began, Transition::Ended]);
        assert_eq!(scene.records[1].port, 443);
        scene.attacks.retain(|_| false);
        assert!(scene.attacks.0.is_empty());
    }

    #[test]
    fn detaching_ends_it() {
        let mut scene = Scene::new();
        scene.second(500, 0, 0, 0);
        scene.read_events();
        let view = scene.view(By::Look, load::mitigation(&scene.load), scene.load.began);
        let now = Now { wall: WALL + u64::from(scene.ms), ms: scene.ms };
        let record = scene.attacks.abandon(1, &view, now).expect("a record");
        assert_eq!(
            (record.event, record.trigger.as_str(), record.level.as_str()),
            (Transition::Ended, "detached", "pass")
        );
        assert_eq!(scene.attacks.abandon(1, &view, now), None);
    }

    #[test]
    fn what_an_older_version_left_is_understood() {
        let attack: Attack = serde_json::from_str(r#"{"began": 7}"#).expect("an attack");
        assert_eq!(attack.began, 7);
    }

    /// A second of traffic and what the controller does then.
    #[derive(Clone, Copy, Debug)]
    struct Act {
        syns: u32,
        real: u32,
        acks: u32,
        rsts: u32,
        /// It reads the events, looks, reads the events late, is restarted.
        events: bool,
        looks: bool,
        late: bool,
        restart: bool,
    }

    fn act() -> impl Strategy<Value = Act> {
        let traffic = prop_oneof![
            4 => Just((0u32, 0u32, 0u32, 0u32)),
            2 => (0u32..100).prop_map(|real| (real, real, 0, 0)),
            2 => (100u32..8000).prop_map(|syns| (syns, 0, 0, 0)),
            1 => (0u32..40_000, 0u32..40_000).prop_map(|(acks, rsts)| (0, 0, acks, rsts)),
        ];
        (traffic, any::<[bool; 3]>(), prop::bool::weighted(0.05)).prop_map(
            |((syns, real, acks, rsts), [events, looks, late], restart)| Act {
                syns,
                real,
                acks,
                rsts,
                events,
                looks,
                late,
                restart,
            },
        )
    }

    fn play(scene: &mut Scene, acts: &[Act]) {
        for act in acts {
            scene.second(act.syns, act.real, act.acks, act.rsts);
            if act.events && !act.late {
                scene.read_events();
            }
            if act.looks {
                scene.look();
            }
            if act.events && act.late {
                scene.read_events();
            }
            if act.restart {
                scene.restart();
            }
        }
    }

    proptest! {
        #[test]
        fn beginnings_and_ends_alternate(acts in vec(act(), 1..120)) {
            let mut scene = Scene::new();
            play(&mut scene, &acts);
            let mut on = false;
            let mut level = "pass".to_owned();
            for record in &scene.records {
                prop_assert_eq!(record.event == Transition::Began, !on, "{:?}", scene.reported());
                on = record.event != Transition::Ended;
                prop_assert_eq!(&record.from, &level);
                prop_assert!(record.event != Transition::Step || record.level != record.from);
                prop_assert_eq!(record.level == "pass", !on);
                level = record.level.clone();
            }
            // What is reported in the end is what is.
            scene.read_events();
            scene.look();
            let mut copy = scene.load;
            load::advance::<Alone>(Shared::from_mut(&mut copy), &LINES, KEEP, scene.time());
            let reported = scene.attacks.on(1).map_or(Level::Pass, Attack::level);
            prop_assert_eq!(reported, load::mitigation(&copy).level);
        }

        #[test]
        fn no_end_is_sooner_than_the_ladder_s(acts in vec(act(), 1..120)) {
            let mut scene = Scene::new();
            for act in &acts {
                let ended = scene.records.iter().filter(|record| record.event == Transition::Ended).count();
                play(&mut scene, &[*act]);
                for record in scene.records.iter().filter(|record| record.event == Transition::Ended).skip(ended) {
                    let duration = record.summary.expect("a summary").duration_seconds;
                    prop_assert!(duration >= f64::from(LINES.min_active) / 1000.0, "{record:?}");
                }
            }
        }

        #[test]
        fn nothing_is_told_in_calm(seconds in vec((0u32..900, any::<[bool; 3]>()), 1..100)) {
            let mut scene = Scene::new();
            for (clients, [events, looks, restart]) in seconds {
                let act = Act {
                    syns: clients, real: clients, acks: clients, rsts: clients / 2, events, looks, late: false, restart,
                };
                play(&mut scene, &[act]);
            }
            prop_assert_eq!(&scene.records, &[]);
            prop_assert!(scene.seconds.iter().all(|second| second.normal));
        }

        #[test]
        fn each_event_is_told_once_however_it_is_seen(acts in vec(act(), 1..80)) {
            // Reading every event at once, looking or not, reports the same levels.
            let mut by_events = Scene::new();
            let mut by_both = Scene::new();
            for act in &acts {
                let act = Act { restart: false, events: true, late: false, ..*act };
                play(&mut by_events, &[Act { looks: false, ..act }]);
                play(&mut by_both, &[Act { looks: true, ..act }]);
                by_both.look();
            }
            let beginnings = |scene: &Scene| {
                let began = scene.records.iter().filter(|record| record.event == Transition::Began);
                began.map(|record| record.time.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(beginnings(&by_events), beginnings(&by_both));
        }

        #[test]
        fn a_restart_tells_nothing_twice(acts in vec(act(), 1..80)) {
            let (mut once, mut again) = (Scene::new(), Scene::new());
            for act in &acts {
                let act = Act { events: true, looks: true, late: false, ..*act };
                play(&mut once, &[Act { restart: false, ..act }]);
                play(&mut again, &[Act { restart: true, ..act }]);
            }
            prop_assert_eq!(once.reported(), again.reported());
        }

        #[test]
        fn kinds_are_right(kind in 0u32..3, rate in 2000u32..4000, clients in 0u32..50, backscatter: bool) {
            let mut scene = Scene::new();
            let (syns, acks, rsts, expected) = match kind {
                0 => (rate, 0, if backscatter { rate } else { 0 }, EventKind::SynFlood),
                1 => (0, rate * 10, 0, EventKind::AckFlood),
                _ => (0, 0, rate * 10, EventKind::RstFlood),
            };
            for _ in 0..3 {
                scene.second(clients, clients, 0, 0);
                scene.look();
            }
            for _ in 0..5 {
                scene.second(syns + clients, clients, acks, rsts);
                scene.read_events();
                scene.look();
            }
            for _ in 0..75 {
                scene.second(0, 0, 0, 0);
                scene.look();
            }
            prop_assert_eq!(scene.records.first().map(|record| record.event), Some(Transition::Began));
            prop_assert_eq!(scene.records.last().map(|record| record.event), Some(Transition::Ended));
            for record in [scene.records.first(), scene.records.last()].into_iter().flatten() {
                prop_assert_eq!(record.kind, expected, "{}", &record.words);
            }
        }
    }
}
