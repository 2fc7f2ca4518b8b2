//! Attacks and baselines: services are observed, changes reported, baselines kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::Result;
use defender_common::{
    abi,
    load::MitigationState,
    mitigation::{Level, Trigger},
};

use super::{Attached, Session};
use crate::{
    control::attack_view,
    host::wall_clock,
    logger,
    model::{
        attacks::{Attack, Attacks, By, Now, View},
        baseline::{Baselines, Percentiles},
        endpoint::Endpoint,
        event::{Record, Transition},
        mode::Mode,
        status_line::status_line,
        sysctls,
    },
    state::{findings::Findings, journal::Journal},
};

/// How often baselines are written.
const KEEP: Duration = Duration::from_secs(60);
/// In milliseconds.
const HOUR: u64 = 3_600_000;

/// Attacks under way, and baselines.
pub(super) struct Watch {
    /// Attacks under way.
    pub attacks: Attacks,
    /// Baselines of services.
    pub baselines: Baselines,
    /// When they were last written.
    pub baselines_kept: Instant,
    /// Where both are kept.
    pub journal: Journal,
}

impl Watch {
    /// Resumes what a session before has left.
    pub(super) fn new(journal: Journal, left: &BTreeMap<u32, Attack>) -> Self {
        Self {
            attacks: Attacks::restore(left),
            baselines: journal.read_baselines(),
            baselines_kept: Instant::now(),
            journal,
        }
    }
}

/// The last record about each service.
fn last_records(journal: &Journal) -> Result<BTreeMap<(String, u16), Record>> {
    let lines = journal.lines()?;
    let records = lines.iter().filter_map(|line| serde_json::from_str::<Record>(line).ok());
    Ok(records.map(|record| (service(&record), record)).collect())
}

fn service(record: &Record) -> (String, u16) {
    (record.address.clone(), record.port)
}

impl Session {
    /// Takes in the steps that the datapath reports.
    pub fn see_steps(&mut self, events: &[abi::Event]) -> Result<Attached> {
        if self.is_detached()? {
            return Ok(Attached::No);
        }
        for event in events.iter().filter(|event| event.kind == abi::EVENT_STEP) {
            self.see_step(event)?;
        }
        self.publish_attacks()?;
        Ok(Attached::Yes)
    }

    fn publish_attacks(&mut self) -> Result<()> {
        self.publish(Findings { attacks: self.watch.attacks.under_way(), ..self.findings.clone() })
    }

    fn see_step(&mut self, event: &abi::Event) -> Result<()> {
        if event.subject >= self.maps.services.len() {
            return Ok(());
        }
        let (view, now) = self.view(event.subject)?;
        let [from, to, trigger, _] = event.detail.to_le_bytes();
        // As the datapath notes it.
        let since = event.at | 1;
        let mitigation =
            MitigationState { level: Level::from_abi(to), trigger: Trigger::from_abi(trigger), since };
        let from = Level::from_abi(from);
        let began = if from == Level::Pass { since } else { view.began };
        self.take_in(event.subject, &View { by: By::Event(from), mitigation, began, ..view }, now);
        Ok(())
    }

    /// Looks at every service, and at attacks on services that have gone.
    pub(super) fn look_at_services(&mut self) -> Result<()> {
        let attacked = self.watch.attacks.under_way();
        let ids: BTreeSet<u32> =
            self.services.table.services.keys().chain(attacked.keys()).copied().collect();
        for id in ids {
            self.look_at(id)?;
        }
        if self.watch.baselines_kept.elapsed() >= KEEP {
            self.keep_baselines();
        }
        self.publish_attacks()
    }

    /// Looks at one service.
    pub(super) fn look_at(&mut self, id: u32) -> Result<()> {
        let (view, now) = self.view(id)?;
        self.take_in(id, &view, now);
        Ok(())
    }

    /// Keeps baselines for the next controller.
    pub fn keep_baselines(&mut self) {
        self.watch.baselines_kept = Instant::now();
        self.watch.baselines.forget_absent(wall_clock::now() / HOUR);
        self.watch.journal.write_baselines(&self.watch.baselines);
    }

    /// The percentiles of a service's baseline.
    pub fn percentiles(&self, endpoint: &Endpoint) -> Percentiles {
        self.watch.baselines.percentiles(&endpoint.to_string())
    }

    fn view(&self, id: u32) -> Result<(View, Now)> {
        let (view, now) = attack_view::view(&self.maps, id)?;
        let service = self.services.table.services.get(&id);
        let backlog = service.map(|service| service.listening.queues().total());
        Ok((View { endpoint: service.map(|service| service.endpoint), backlog, ..view }, now))
    }

    fn take_in(&mut self, id: u32, view: &View, now: Now) {
        let maps = &self.maps;
        let reported = self
            .watch
            .attacks
            .observe(id, view, now, || attack_view::syn_sources(maps, id, view, now).unwrap_or_default());
        for record in &reported.records {
            self.report(log::Level::Warn, record);
        }
        if let (Some(second), Some(endpoint)) = (reported.second, view.endpoint)
            && view.mode != Mode::Off
        {
            let syns = second.syn_rate.try_into().unwrap_or(u32::MAX);
            let hour = now.wall / HOUR;
            self.watch.baselines.observe(&endpoint.to_string(), second.normal, view.half_open, syns, hour);
        }
    }

    /// Says an event to everybody: the log, the journal of events, the operator's program.
    pub(super) fn report(&mut self, level: log::Level, record: &Record) {
        logger::log_with(level, &record.journal_fields(), &record.words);
        match record.json() {
            Ok(line) => {
                self.watch.journal.append(&line);
                self.run_hook(line);
            }
            Err(error) => log::warn!("{error:#}"),
        }
    }

    fn run_hook(&self, event: String) {
        if let Some(hook) = &self.configuration.settings.hook {
            self.hooks.offer(hook, event);
        }
    }

    /// Somebody else has detached everything, and the attacks under way end with that. `defender detach` has recorded their ends,
    /// and only this process knows the operator's program. Who has removed the links by hand has recorded nothing.
    pub fn end_attacks(&mut self) -> Result<()> {
        let recorded = last_records(&self.watch.journal)?;
        for id in self.watch.attacks.under_way().into_keys() {
            let (view, now) = self.view(id)?;
            let Some(ended) = self.watch.attacks.abandon(id, &view, now) else { continue };
            match recorded.get(&service(&ended)) {
                Some(last) if last.event == Transition::Ended => self.run_hook(last.json()?),
                _ => self.report(log::Level::Warn, &ended),
            }
        }
        Ok(())
    }

    /// What is going on, in a line.
    pub fn status_line(&self) -> String {
        status_line(
            self.configuration.settings.mode(),
            &self.links.interfaces,
            self.services.table.services.len(),
            self.findings.attacks.values(),
            sysctls::config_flags(&self.host.sysctls) & abi::CONFIG_SUSPENDED != 0,
        )
    }
}
