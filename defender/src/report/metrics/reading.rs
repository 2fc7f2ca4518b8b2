//! What metrics say, read once. Unlike a snapshot it takes no time to measure rates: whoever scrapes has those.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use defender_common::{
    abi::{self, Counters, ServiceCounters},
    load,
    mitigation::Level,
};

use super::{
    kept::{self, Kept, Limits},
    service::ServiceReading,
};
use crate::{
    dataplane::{clock, flows, maps::Maps, pins::PinRoot},
    host::{nic_drops, processor_time},
    model::{
        endpoint::Endpoint,
        exported::{Exported, Turn},
        map_values,
    },
    report::{
        connection_list,
        snapshot::{self, InterfaceStatus},
    },
};

/// Everything.
#[derive(Debug)]
pub(super) struct Reading {
    /// When it was read.
    pub at: Instant,
    /// The control loop's last turn.
    pub turn: Option<Turn>,
    /// The processor time of this process, and of all soft interrupts.
    pub processor: [Option<Duration>; 2],
    /// What the datapath says; or why it says nothing.
    pub datapath: Result<Datapath, String>,
}

/// What the datapath says.
#[derive(Debug)]
pub(super) struct Datapath {
    pub counters: Counters,
    /// By label.
    pub services: BTreeMap<String, ServiceReading>,
    /// How many there are, whether or not they have series.
    pub service_count: usize,
    pub interfaces: Vec<InterfaceReading>,
    /// Challenging is suspended.
    pub suspended: bool,
}

/// An attached interface.
#[derive(Debug)]
pub(super) struct InterfaceReading {
    pub status: InterfaceStatus,
    /// Packets that its NIC dropped before XDP saw them, by counter.
    pub drops: Vec<(&'static str, u64)>,
}

impl Reading {
    /// Reads everything that is there.
    pub(super) fn take(root: &PinRoot, exported: &Exported, kept: &mut Kept) -> Self {
        Self {
            at: Instant::now(),
            turn: exported.turn(),
            processor: [processor_time::of_process().ok(), processor_time::of_soft_interrupts().ok()],
            datapath: Datapath::read(root, kept).map_err(|error| format!("{error:#}")),
        }
    }

    /// What keeps this host from being defended now, read without all else.
    pub(super) fn faults_now(root: &PinRoot, kept: &mut Kept) -> Vec<String> {
        let mut read = || {
            root.require_attached()?;
            let is_suspended =
                kept.maps.of(root, kept::open)?.0.config.get(0)?.flags & abi::CONFIG_SUSPENDED != 0;
            Ok(snapshot::faults_of_datapath(snapshot::interfaces(root)?.iter(), is_suspended).collect())
        };
        read().unwrap_or_else(|error: anyhow::Error| vec![format!("{error:#}")])
    }

    /// What kept this host from being defended, each as part of a sentence. Empty if nothing did.
    pub(super) fn faults(&self) -> Vec<String> {
        match &self.datapath {
            Ok(datapath) => datapath.faults(),
            Err(error) => vec![error.clone()],
        }
    }
}

impl Datapath {
    fn read(root: &PinRoot, kept: &mut Kept) -> Result<Self> {
        root.require_attached()?;
        let ((maps, counters), limits) = (kept.maps.of(root, kept::open)?, kept.limits.of(root));
        let config = maps.config.get(0)?;
        let services = services(root, maps, &counters.read()?, limits, &config)?;
        Ok(Self {
            counters: maps.counters()?,
            service_count: services.len(),
            services: kept.own.assign(services),
            interfaces: interfaces(root)?,
            suspended: config.flags & abi::CONFIG_SUSPENDED != 0,
        })
    }

    fn faults(&self) -> Vec<String> {
        let statuses = self.interfaces.iter().map(|interface| &interface.status);
        snapshot::faults_of_datapath(statuses, self.suspended).collect()
    }
}

fn services(
    root: &PinRoot,
    maps: &Maps,
    counters: &[ServiceCounters],
    limits: &Limits,
    config: &abi::Config,
) -> Result<BTreeMap<Endpoint, ServiceReading>> {
    let present = clock::now()?;
    // The listing may be missing for a moment; the rest is worth having.
    let listed = flows::list(root).unwrap_or_default();
    let states = connection_list::states_by_service(&listed);
    let mut services = BTreeMap::<Endpoint, ServiceReading>::new();
    for (id, slot) in &snapshot::slots(maps)? {
        let load = &maps.load_at(*id, &slot.triggers, config.age_buckets, present)?;
        let states = states.get(id).copied().unwrap_or_default();
        let service = ServiceReading {
            counters: counters.get(*id as usize).copied().unwrap_or_default(),
            half_open: states[0],
            averted: load::averted_now(load).into(),
            queue_limit: limits.get(id).copied().unwrap_or(0).into(),
            mitigating: (load::mitigation(load).level != Level::Pass).into(),
            challenging: map_values::is_challenged(slot, load, config).into(),
            unprotectable: (slot.flags & abi::SERVICE_UNPROTECTABLE != 0).into(),
            states,
        };
        // Labels do not say which families it has: those that differ by nothing else have one series.
        let endpoint = Endpoint { families: 0, ..Endpoint::from_abi(slot) };
        services.entry(endpoint).or_default().add(&service);
    }
    Ok(services)
}

fn interfaces(root: &PinRoot) -> Result<Vec<InterfaceReading>> {
    let statuses = snapshot::interfaces(root)?;
    let names: Vec<_> = statuses.iter().map(|status| status.name.clone()).collect();
    // Where they cannot be read, the rest is worth having.
    let drops = nic_drops::read(&names).unwrap_or_else(|_| vec![Vec::new(); names.len()]);
    Ok(statuses.into_iter().zip(drops).map(|(status, drops)| InterfaceReading { status, drops }).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::snapshot::tests::example as snapshot;

    /// A reading with at least one of everything.
    pub(in crate::report::metrics) fn example() -> Reading {
        let at = Instant::now();
        let snapshot = snapshot();
        let service = ServiceReading {
            counters: snapshot.services[0].counters,
            half_open: 3,
            queue_limit: 128,
            states: [3, 1, 0, 0, 0, 0, 0, 0],
            ..ServiceReading::default()
        };
        let interfaces = snapshot.interfaces.into_iter();
        let interfaces =
            interfaces.map(|status| InterfaceReading { status, drops: vec![("rx_missed_errors", 7)] });
        Reading {
            at,
            turn: Some(Turn { at, late: Duration::ZERO, period: Duration::from_secs(1), key_drawn: at }),
            processor: [Some(Duration::from_secs(1)); 2],
            datapath: Ok(Datapath {
                counters: snapshot.counters,
                services: [("[::]:80".to_owned(), service)].into(),
                service_count: 1,
                interfaces: interfaces.collect(),
                suspended: false,
            }),
        }
    }

    #[test]
    fn faults_are_those_of_the_status() {
        assert_eq!(example().faults(), Vec::<String>::new());
        let none = Reading { datapath: Err("nothing is attached".into()), ..example() };
        assert_eq!(none.faults(), ["nothing is attached"]);
        let mut reading = example();
        let datapath = reading.datapath.as_mut().expect("an example");
        datapath.suspended = true;
        datapath.interfaces[0].status.fault = Some(crate::report::health::Fault::Down);
        assert_eq!(reading.faults().len(), 2);
        assert_eq!(reading.faults()[0], "eth0 is down");
    }
}
