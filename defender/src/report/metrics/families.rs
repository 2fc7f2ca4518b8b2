//! The table of metrics: name, type, labels and description of each, and its series.
//!
//! `/metrics` and `docs/reference/metrics.md` follow from it. What a counter of the datapath counts is described in its own table.

use defender_common::{
    abi::{Handoff, ServiceCounters, ServiceMetric, Tracked},
    verdict::Reason,
};

use super::{
    reading::{Datapath, Reading},
    service::ServiceReading,
};
use crate::{dataplane::engine, report::connection_list::STATES};

/// What a metric is, as OpenMetrics has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises; its series end in `_total`.
    Counter,
    /// It rises and falls.
    Gauge,
    /// It is always 1, and its labels say something.
    Info,
}

/// What a metric is measured in. Its name ends so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    None,
    /// Seconds.
    Seconds,
}

/// A number of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count.
    Count(u64),
    /// A measure.
    Measure(f64),
}

/// A metric.
pub struct Family {
    /// Its name, without unit and `_total`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says, as a sentence.
    pub help: &'static str,
    /// Its series.
    series: Series,
}

/// Takes the values of a series' labels, and its number.
pub(super) type Emit<'a> = dyn FnMut(&[&str], Number) + 'a;

/// Where the series of a metric come from.
enum Series {
    /// From everything that was read.
    Of(fn(&Reading, &mut Emit<'_>)),
    /// From what the datapath says.
    Datapath(fn(&Datapath, &mut Emit<'_>)),
    /// A number of each service.
    Service(fn(&ServiceReading) -> u64),
    /// From the table of a service's counters.
    Counters(ServiceMetric),
}

/// The label value of what no other value counts.
pub const REST: &str = "other";

impl Family {
    /// Its name as queries have it.
    pub fn full_name(&self) -> String {
        let unit = match self.unit {
            Unit::None => "",
            Unit::Seconds => "_seconds",
        };
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Info => "_info",
        };
        format!("{}{unit}{suffix}", self.name)
    }

    /// Its metric of services, if it is one that counters are exported as.
    pub fn service_metric(&self) -> Option<ServiceMetric> {
        match self.series {
            Series::Counters(metric) => Some(metric),
            _ => None,
        }
    }

    /// Passes each of its series to `emit`.
    pub(super) fn emit(&self, reading: &Reading, emit: &mut Emit<'_>) {
        let datapath = reading.datapath.as_ref().ok();
        match self.series {
            Series::Of(series) => series(reading, emit),
            Series::Datapath(series) => datapath.into_iter().for_each(|datapath| series(datapath, emit)),
            Series::Service(number) => {
                for (label, service) in datapath.into_iter().flat_map(|datapath| &datapath.services) {
                    emit(&[label], Number::Count(number(service)));
                }
            }
            Series::Counters(metric) => {
                for (label, service) in datapath.into_iter().flat_map(|datapath| &datapath.services) {
                    counters(metric, label, &service.counters, emit);
                }
            }
        }
    }
}

/// The series of a service's counters that are exported as `metric`. Where one counts all and others some of these, there is
/// one for the rest, so that they add up.
fn counters(metric: ServiceMetric, service: &str, counters: &ServiceCounters, emit: &mut Emit<'_>) {
    let (mut all, mut labelled) = (None, None);
    for (exported, value) in ServiceCounters::EXPORTED.iter().zip(counters.values()) {
        let Some(exported) = exported.filter(|exported| exported.metric == metric) else { continue };
        match exported.label {
            Some(label) => {
                emit(&[service, label], Number::Count(value));
                labelled = Some(labelled.unwrap_or(0) + value);
            }
            None => all = Some(value),
        }
    }
    match (all, labelled) {
        // They are read one after the other, while packets come.
        (Some(all), Some(labelled)) => emit(&[service, REST], Number::Count(all.saturating_sub(labelled))),
        (Some(all), None) => emit(&[service], Number::Count(all)),
        (None, _) => {}
    }
}

/// Every metric.
pub const FAMILIES: [Family; 28] = [
    Family {
        name: "defender_build",
        kind: Kind::Info,
        unit: Unit::None,
        labels: &["version", "engine"],
        help: "Version of defender, and how connections are handed over.",
        series: Series::Of(|_, emit| {
            emit(&[env!("CARGO_PKG_VERSION"), engine::NAME], Number::Count(1));
        }),
    },
    Family {
        name: "defender_ready",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        help: "1 while this host is defended: what `/readyz` says.",
        series: Series::Of(|reading, emit| emit(&[], truth(reading.faults().is_empty()))),
    },
    Family {
        name: "defender_controller_lag",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        labels: &[],
        help: "How late the control loop is; it turns once a second.",
        series: Series::Of(|reading, emit| {
            if let Some(turn) = reading.turn {
                emit(&[], Number::Measure(turn.lag(reading.at).as_secs_f64()));
            }
        }),
    },
    Family {
        name: "defender_key_age",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        labels: &[],
        help: "How long ago the cookie key in use was drawn, or taken over; the next comes after 30 seconds.",
        series: Series::Of(|reading, emit| {
            if let Some(turn) = reading.turn {
                let age = reading.at.saturating_duration_since(turn.key_drawn);
                emit(&[], Number::Measure(age.as_secs_f64()));
            }
        }),
    },
    Family {
        name: "process_cpu",
        kind: Kind::Counter,
        unit: Unit::Seconds,
        labels: &[],
        help: "Processor time of the controller.",
        series: Series::Of(|reading, emit| {
            if let Some(time) = reading.processor[0] {
                emit(&[], Number::Measure(time.as_secs_f64()));
            }
        }),
    },
    Family {
        name: "defender_host_softirq",
        kind: Kind::Counter,
        unit: Unit::Seconds,
        labels: &[],
        help: "Processor time of this host in soft interrupts, where packets are received and XDP runs; all CPUs, whoever caused it.",
        series: Series::Of(|reading, emit| {
            if let Some(time) = reading.processor[1] {
                emit(&[], Number::Measure(time.as_secs_f64()));
            }
        }),
    },
    Family {
        name: "defender_interface_protected",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["interface"],
        help: "1 while the interface is attached as a whole, up, and can be defended.",
        series: Series::Datapath(|datapath, emit| {
            for interface in &datapath.interfaces {
                emit(&[&interface.status.name], truth(interface.status.fault.is_none()));
            }
        }),
    },
    Family {
        name: "defender_nic_drops",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["interface", "counter"],
        help: "Packets that the NIC dropped before XDP saw them, by the kernel's or the driver's counter; absent where the driver has none.",
        series: Series::Datapath(|datapath, emit| {
            for interface in &datapath.interfaces {
                for (counter, drops) in &interface.drops {
                    emit(&[&interface.status.name, counter], Number::Count(*drops));
                }
            }
        }),
    },
    Family {
        name: "defender_suspended",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        help: "1 while nothing is challenged because net.ipv4.tcp_syncookies is 0.",
        series: Series::Datapath(|datapath, emit| emit(&[], truth(datapath.suspended))),
    },
    Family {
        name: "defender_packets",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["verdict", "reason"],
        help: "Packets that the XDP program saw, by verdict and reason.",
        series: Series::Datapath(|datapath, emit| {
            for (reason, count) in Reason::ALL.into_iter().zip(datapath.counters.verdicts) {
                let (verdict, reason) = reason.name().split_once('.').unwrap_or((reason.name(), ""));
                emit(&[verdict, reason], Number::Count(count));
            }
        }),
    },
    Family {
        name: "defender_handoffs",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["outcome"],
        help: "Packets of proven connections at the hand-off to the kernel, by outcome; those `established` were `assigned` before.",
        series: Series::Datapath(|datapath, emit| {
            for (outcome, count) in Handoff::ALL.into_iter().zip(datapath.counters.handoff) {
                emit(&[without_prefix(outcome.name())], Number::Count(count));
            }
        }),
    },
    Family {
        name: "defender_flows",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["event"],
        help: "What happened in the flow table, by event.",
        series: Series::Datapath(|datapath, emit| {
            for (what, count) in Tracked::ALL.into_iter().zip(datapath.counters.tracked) {
                emit(&[without_prefix(what.name())], Number::Count(count));
            }
        }),
    },
    Family {
        name: "defender_services",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        help: "How many services there are.",
        series: Series::Datapath(|datapath, emit| emit(&[], Number::Count(datapath.service_count as u64))),
    },
    Family {
        name: "defender_syns",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["service", "outcome"],
        help: "SYNs to a service, by outcome; `other`: passed, or dropped for a reason that defender_packets_total has.",
        series: Series::Counters(ServiceMetric::Syns),
    },
    Family {
        name: "defender_cookie_acks",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["service", "outcome"],
        help: "Segments to a service that were checked for a cookie, by outcome.",
        series: Series::Counters(ServiceMetric::CookieAcks),
    },
    Family {
        name: "defender_out_of_state",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["service", "kind"],
        help: "Out-of-state packets to a service, by kind.",
        series: Series::Counters(ServiceMetric::OutOfState),
    },
    Family {
        name: "defender_service_handoffs",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["service", "outcome"],
        help: "Connections to a service that proved a cookie, at the hand-off to the kernel, by outcome.",
        series: Series::Counters(ServiceMetric::Handoffs),
    },
    Family {
        name: "defender_proved",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["service"],
        help: "Connections to a service that proved a cookie, each once.",
        series: Series::Counters(ServiceMetric::Proved),
    },
    Family {
        name: "defender_established",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["service"],
        help: "Connections to a service that reached ESTABLISHED, by handshake or cookie: clients let in.",
        series: Series::Counters(ServiceMetric::Established),
    },
    Family {
        name: "defender_established_by_cookie",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["service"],
        help: "Of defender_established_total: those that proved a cookie.",
        series: Series::Counters(ServiceMetric::EstablishedByCookie),
    },
    Family {
        name: "defender_would_have_challenged",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["service"],
        help: "Of defender_established_total: those that mode `auto` would have challenged, counted in mode `monitor`.",
        series: Series::Counters(ServiceMetric::WouldHaveChallenged),
    },
    Family {
        name: "defender_half_open",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["service"],
        help: "Connections to a service that the kernel holds half open (SYN_RECV).",
        series: Series::Service(|service| service.half_open),
    },
    Family {
        name: "defender_averted",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["service"],
        help: "Connections that would be half open as well, had their SYNs not been challenged or dropped.",
        series: Series::Service(|service| service.averted),
    },
    Family {
        name: "defender_queue_limit",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["service"],
        help: "How many half-open connections the service's listeners take together; 0: not known yet.",
        series: Series::Service(|service| service.queue_limit),
    },
    Family {
        name: "defender_mitigating",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["service"],
        help: "1 while an attack on the service is under way, whether or not its mode lets anything be done about it.",
        series: Series::Service(|service| service.mitigating),
    },
    Family {
        name: "defender_challenging",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["service"],
        help: "1 while SYNs to the service are challenged.",
        series: Series::Service(|service| service.challenging),
    },
    Family {
        name: "defender_unprotectable",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["service"],
        help: "1 while the service cannot be protected; `defender status` says why.",
        series: Series::Service(|service| service.unprotectable),
    },
    Family {
        name: "defender_connections",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["service", "state"],
        help: "The kernel's connections to a service, by state as `ss` counts them.",
        series: Series::Datapath(|datapath, emit| {
            for (label, service) in &datapath.services {
                for (state, count) in STATES.into_iter().zip(service.states) {
                    emit(&[label, state.name()], Number::Count(count));
                }
            }
        }),
    },
];

fn truth(is_so: bool) -> Number {
    Number::Count(is_so.into())
}

/// `handoff_assigned` is `assigned`: the metric's name says the rest.
pub fn without_prefix(name: &str) -> &str {
    name.split_once('_').map_or(name, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::report::metrics::reading::tests::example;

    #[test]
    fn names_are_unique_and_descriptions_are_sentences() {
        let names: BTreeSet<_> = FAMILIES.iter().map(Family::full_name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for family in &FAMILIES {
            assert!(family.help.ends_with('.') && !family.help.contains(['\\', '\n']), "{}", family.name);
        }
    }

    #[test]
    fn every_metric_has_series_and_each_has_all_labels() {
        let reading = example();
        for family in &FAMILIES {
            let mut series = BTreeSet::new();
            family.emit(&reading, &mut |labels, _| {
                assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
                assert!(series.insert(labels.join("\0")), "{} twice: {labels:?}", family.name);
            });
            assert!(!series.is_empty() && family.labels.len() <= 2, "{}", family.name);
        }
    }

    #[test]
    fn every_exported_counter_has_its_metric() {
        for exported in ServiceCounters::EXPORTED.iter().flatten() {
            let metrics = FAMILIES.iter().filter(|family| family.service_metric() == Some(exported.metric));
            assert_eq!(metrics.count(), 1, "{exported:?}");
        }
    }

    #[test]
    fn outcomes_of_syns_add_up() {
        let counters = ServiceCounters {
            syn_received: 100,
            syn_challenged: 60,
            syn_limited: 7,
            syn_would_challenge: 3,
            established: 9,
            ..ServiceCounters::default()
        };
        let mut series = Vec::new();
        super::counters(ServiceMetric::Syns, "s", &counters, &mut |labels, number| {
            series.push((labels[1].to_owned(), number));
        });
        let count = |label: &str| series.iter().find(|(name, _)| name == label).map(|(_, number)| *number);
        assert_eq!(count("challenged"), Some(Number::Count(60)));
        assert_eq!(count(REST), Some(Number::Count(30)));
        assert_eq!(series.len(), 4);
        super::counters(ServiceMetric::Established, "s", &counters, &mut |labels, number| {
            assert_eq!((labels, number), (["s"].as_slice(), Number::Count(9)));
        });
    }
}
