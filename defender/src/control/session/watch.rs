//! Each step for attacks and for what is usual: services are looked at, and what there is to tell is told.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::Result;
use defender_common::{
    abi,
    ladder::{Because, Step},
    load::{self, Posture},
};

use super::{Attached, Session};
use crate::{
    control::{
        attacks::{By, Crowd, Now, View},
        baseline::Usual,
        services::Endpoint,
        settings::Mode,
        state::Findings,
        wall,
    },
    dataplane::{clock, maps::Maps},
    report::{
        event::Record,
        evidence::{Evidence, Sample},
    },
};

/// How often what is usual is kept.
const KEEP: Duration = Duration::from_secs(60);
/// In milliseconds.
const HOUR: u64 = 3_600_000;

impl Session {
    /// Takes in the steps that the datapath reports.
    pub fn see_steps(&mut self, events: &[abi::Event]) -> Result<Attached> {
        let Some(_write) = self.write_lock()? else { return Ok(Attached::No) };
        for event in events.iter().filter(|event| event.kind == abi::EVENT_STEP) {
            self.see_step(event)?;
        }
        self.publish_attacks()?;
        Ok(Attached::Yes)
    }

    fn publish_attacks(&mut self) -> Result<()> {
        self.publish(Findings { attacks: self.attacks.under_way(), ..self.findings.clone() })
    }

    fn see_step(&mut self, event: &abi::Event) -> Result<()> {
        if event.subject >= self.maps.services.len() {
            return Ok(());
        }
        let (view, now) = self.view(event.subject)?;
        let [from, to, because, _] = event.detail.to_le_bytes();
        // As the datapath notes it.
        let since = event.at | 1;
        let posture = Posture { step: Step::from_abi(to), because: Because::from_abi(because), since };
        let from = Step::from_abi(from);
        let began = if from == Step::Pass { since } else { view.began };
        self.take_in(event.subject, &View { by: By::Event(from), posture, began, ..view }, now);
        Ok(())
    }

    /// Looks at every service, and at attacks on services that have gone.
    pub(super) fn look_at_services(&mut self) -> Result<()> {
        let attacked = self.attacks.under_way();
        let ids: BTreeSet<u32> = self.table.services.keys().chain(attacked.keys()).copied().collect();
        for id in ids {
            self.look_at(id)?;
        }
        if self.baselines_kept.elapsed() >= KEEP {
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

    /// Keeps what is usual for the next controller.
    pub fn keep_baselines(&mut self) {
        self.baselines_kept = Instant::now();
        self.baselines.forget_absent(wall::now() / HOUR);
        self.journal.write_baselines(&self.baselines);
    }

    /// What is usual for a service.
    pub fn usual(&self, endpoint: &Endpoint) -> Usual {
        self.baselines.usual(&endpoint.to_string())
    }

    fn view(&self, id: u32) -> Result<(View, Now)> {
        let (view, now) = view(&self.maps, id)?;
        let service = self.table.services.get(&id);
        let backlog = service.map(|service| service.listening.queues().total());
        Ok((View { endpoint: service.map(|service| service.endpoint), backlog, ..view }, now))
    }

    fn take_in(&mut self, id: u32, view: &View, now: Now) {
        let maps = &self.maps;
        let told = self.attacks.observe(id, view, now, || crowd(maps, id, view, now).unwrap_or_default());
        for record in &told.records {
            log::warn!("{}", record.words);
            self.keep(record);
        }
        if let (Some(second), Some(endpoint)) = (told.second, view.endpoint)
            && view.mode != Mode::Off
        {
            let syns = second.syn_rate.try_into().unwrap_or(u32::MAX);
            let hour = now.wall / HOUR;
            self.baselines.observe(&endpoint.to_string(), second.calm, view.half_open, syns, hour);
        }
    }

    fn keep(&mut self, record: &Record) {
        match record.json() {
            Ok(line) => self.journal.append(&line),
            Err(error) => log::warn!("{error:#}"),
        }
    }
}

/// What the maps show of a service, brought to the present as the next packet would.
pub(in crate::control) fn view(maps: &Maps, id: u32) -> Result<(View, Now)> {
    let (slot, config) = (maps.services.get(id)?, maps.config.get(0)?);
    let present = clock::now()?;
    let load = maps.load_at(id, &slot.lines, config.cohorts, present)?;
    let view = View {
        by: By::Look,
        posture: load::posture(&load),
        began: load.began,
        endpoint: None,
        mode: Mode::from_abi(slot.mode).unwrap_or_default(),
        hindered: slot.flags & abi::SERVICE_UNPROTECTABLE != 0 || config.flags & abi::CONFIG_SUSPENDED != 0,
        counters: maps.service_counters(id)?,
        half_open: load::half_open(&load),
        half_open_then: load.half_open_then,
        backlog: None,
    };
    Ok((view, Now { wall: wall::now(), ms: present.ms }))
}

fn crowd(maps: &Maps, id: u32, view: &View, now: Now) -> Result<Crowd> {
    let sample = Sample { before: view.counters, after: view.counters, elapsed: Duration::ZERO };
    let evidence = Evidence::of(&maps.sources.get(id)?, now.ms, &sample);
    Ok(Crowd { sources: evidence.sources, networks: evidence.networks })
}
