//! What is known after some readings: the last snapshot, rates of the last minutes, events, and what became of the controller.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    model::{endpoint::Endpoint, event::Record, timestamp::rfc3339},
    report::{snapshot::Snapshot, top::reading::Reading},
};

/// Rates of so many readings are kept: about two minutes.
const RATES: usize = 120;
/// So many events are kept.
const EVENTS: usize = 200;

/// A line among the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// When, by RFC 3339.
    pub time: String,
    /// Its name.
    pub name: String,
    /// The service's port, if it is about one.
    pub port: Option<u16>,
    /// What happened.
    pub words: String,
}

/// What is known.
#[derive(Clone, Debug)]
pub struct Data {
    /// The last snapshot.
    pub snapshot: Snapshot,
    /// When it was taken, by RFC 3339.
    pub time: String,
    /// Why there is no newer one.
    pub failure: Option<String>,
    /// What happened, the latest last.
    pub events: VecDeque<Happened>,
    rates: BTreeMap<Endpoint, VecDeque<u64>>,
}

impl Data {
    /// After the first reading, which must have found something.
    pub fn new(first: Snapshot, reading: &Reading) -> Self {
        let mut data = Self {
            snapshot: first,
            time: rfc3339(reading.time),
            failure: None,
            events: VecDeque::new(),
            rates: BTreeMap::new(),
        };
        data.add_events(&reading.events);
        data.add_rates();
        data
    }

    /// Takes in another reading.
    pub fn update(&mut self, reading: Reading) {
        self.add_events(&reading.events);
        let time = rfc3339(reading.time);
        match reading.found {
            Ok(snapshot) => {
                self.note_controller(&time, &snapshot);
                (self.snapshot, self.time) = (snapshot, time);
                if self.failure.take().is_some() {
                    self.note("it is attached again".to_owned());
                }
                self.add_rates();
            }
            Err(failure) => {
                if self.failure.is_none() {
                    self.add(happened(&time, failure.clone()));
                }
                self.failure = Some(failure);
            }
        }
    }

    /// SYNs a second of the last readings, the latest last.
    pub fn rates(&self, service: Endpoint) -> impl DoubleEndedIterator<Item = u64> {
        self.rates.get(&service).into_iter().flatten().copied()
    }

    fn add_rates(&mut self) {
        let services = &self.snapshot.services;
        let listed: BTreeSet<Endpoint> = services.iter().map(|service| service.endpoint).collect();
        self.rates.retain(|endpoint, _| listed.contains(endpoint));
        for service in services {
            let rates = self.rates.entry(service.endpoint).or_default();
            rates.push_back(service.syn_rate);
            if rates.len() > RATES {
                rates.pop_front();
            }
        }
    }

    fn add_events(&mut self, records: &[Record]) {
        for record in &records[records.len().saturating_sub(EVENTS)..] {
            self.add(Happened {
                time: record.time.clone(),
                name: record.event.name().to_owned(),
                port: Some(record.port),
                words: record.words.clone(),
            });
        }
    }

    /// Says that the controller is gone, is another, or is back.
    fn note_controller(&mut self, time: &str, next: &Snapshot) {
        let words = match (self.snapshot.control.pid(), next.control.pid()) {
            (before, now) if before == now => return,
            (Some(before), None) => format!("the controller is gone: process {before}; the defence goes on"),
            (None, Some(now)) => format!("a controller is there again: process {now}"),
            (before, now) => {
                let number = |pid: Option<u32>| pid.unwrap_or_default();
                format!("process {} has taken over from process {}", number(now), number(before))
            }
        };
        self.add(happened(time, words));
    }

    fn note(&mut self, words: String) {
        let time = self.time.clone();
        self.add(happened(&time, words));
    }

    fn add(&mut self, happened: Happened) {
        self.events.push_back(happened);
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }
}

/// An event of the view's own.
fn happened(time: &str, words: String) -> Happened {
    Happened { time: time.to_owned(), name: "control".to_owned(), port: None, words }
}
