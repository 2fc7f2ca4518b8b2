//! One look at everything: the only part of the reports that reads maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use defender_common::{
    abi::{self, Counters, Handoff, ServiceCounters, Tracked},
    clock::age,
    ladder::{Because, Step},
    load::{self, Posture},
    verdict::{Reason, Verdict},
};

use crate::{
    control::{
        lists::{self, plan::Tally},
        lock::ControllerLock,
        policy,
        services::Endpoint,
        settings::{Mode, Settings},
        state::{Findings, StateDirectory},
        sysctls,
    },
    dataplane::{
        clock,
        maps::Maps,
        pins::{Hook, PinRoot},
    },
    host::links,
    report::{
        connections,
        evidence::{Evidence, Sample, per_second},
        explain::Defended,
    },
};

/// How long rates are measured.
const SAMPLE: Duration = Duration::from_millis(200);
/// What hands connections over.
pub const ENGINE: &str = "reqsk";

/// What is going on.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The process in control, if there is one.
    pub controller: Option<u32>,
    /// What was set.
    pub settings: Settings,
    /// The attached interfaces.
    pub interfaces: Vec<Interface>,
    /// The services, by port.
    pub services: Vec<Service>,
    /// All counters.
    pub counters: Counters,
    /// Packets a second, by reason.
    pub rates: [u64; Reason::COUNT],
    /// The kernel's connections to the services, by state.
    pub states: BTreeMap<&'static str, u64>,
    /// How many prefixes are on the lists.
    pub listed: Tally,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// An attached interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// How its XDP program runs; `"gone"` where there is no such interface any more.
    pub xdp_mode: &'static str,
    /// Whether it is up.
    pub up: bool,
    /// VLAN devices that the hand-off is attached to as well.
    pub vlans: Vec<String>,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// What clients connect to.
    pub endpoint: Endpoint,
    /// Its mode.
    pub mode: Mode,
    /// Its SYNs are challenged now.
    pub active: bool,
    /// Why it cannot be protected, if so.
    pub unprotectable: Option<String>,
    /// The kernel's connections to it, by state; SYN_RECV is half open.
    pub states: BTreeMap<&'static str, u64>,
    /// SYNs a second.
    pub syn_rate: u64,
    /// What its SYNs look like.
    pub evidence: Evidence,
    /// The step of the ladder it is on, whatever its mode makes of that.
    pub step: Step,
    /// Why that was taken.
    pub because: Because,
    /// For how many seconds it has been under attack, if it is.
    pub attack_seconds: Option<u64>,
    /// Its counters.
    pub counters: ServiceCounters,
}

impl Service {
    /// Its connections that the kernel holds half open.
    pub fn half_open(&self) -> u64 {
        self.states.get("SYN_RECV").copied().unwrap_or(0)
    }
}

impl Snapshot {
    /// Looks at what is pinned below `root`. Takes a fifth of a second, to measure rates.
    pub fn take(root: &PinRoot) -> Result<Self> {
        root.require_attached()?;
        let directory = StateDirectory::of(root);
        let maps = Maps::open(root)?;
        let config = maps.config.get(0)?;
        let findings = Findings::read(&directory)?;
        let slots = slots(&maps)?;
        let ports: BTreeSet<u16> = slots.values().map(|slot| slot.port).collect();
        let connections = connections::list(root)?;
        let mut services = Vec::new();
        let mut by_service = connections::count_by_service(&connections);
        let now = clock::now()?.ms;
        let loads = loads(&maps, &slots, &config)?;
        let (samples, rates) = sample(&maps, slots.keys().copied())?;
        for (id, sample) in samples {
            let slot = &slots[&id];
            let posture = load::posture(&loads[&id]);
            services.push(Service {
                endpoint: Endpoint::from_abi(slot),
                mode: Mode::from_abi(slot.mode).unwrap_or_default(),
                active: policy::is_challenged(slot, &loads[&id], &config),
                unprotectable: (slot.flags & abi::SERVICE_UNPROTECTABLE != 0).then(|| {
                    findings.unprotectable.get(&id).cloned().unwrap_or_else(|| "for an unknown reason".into())
                }),
                states: by_service.remove(&id).unwrap_or_else(|| connections::count([].iter())),
                syn_rate: sample.syn_rate(),
                evidence: Evidence::of(&maps.sources.get(id)?, now, &sample),
                step: posture.step,
                because: posture.because,
                attack_seconds: attack_seconds(&loads[&id], posture, now),
                counters: sample.after,
            });
        }
        services.sort_by_key(|service| service.endpoint);
        let settings = Settings::read(&directory)?.unwrap_or_default();
        let controller = ControllerLock::holder(&directory);
        Ok(Self {
            warnings: warnings(&config, &settings, &ports, findings, controller),
            controller,
            settings,
            interfaces: interfaces(root)?,
            services,
            counters: maps.counters()?,
            rates,
            states: connections::count(connections.iter()),
            listed: lists::tally(&maps, &directory)?,
        })
    }

    /// Packets a second by verdict and reason.
    pub fn rates(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.rates)
    }

    /// Packets by verdict and reason.
    pub fn verdicts(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.counters.verdicts)
    }

    /// The counters of the contract. What packets were received is the sum of what became of them.
    pub fn totals(&self) -> Vec<(&'static str, u64)> {
        let sum = |wanted: fn(Reason) -> bool| {
            self.verdicts().filter(|(reason, _)| wanted(*reason)).map(|(_, count)| count).sum::<u64>()
        };
        let failed = Handoff::ALL.into_iter().filter(|outcome| outcome.is_failure());
        let mut totals = vec![
            ("rx_packets", sum(|_| true)),
            ("syn_received", sum(Reason::is_syn)),
            ("syn_challenged", sum(|reason| reason == Reason::SynChallenged)),
            ("syn_passed", sum(|reason| reason.is_syn() && reason.verdict() == Verdict::Pass)),
            ("ack_accepted", sum(|reason| reason == Reason::Cookie)),
            ("ack_rejected", sum(|reason| reason == Reason::AckBadCookie)),
            ("malformed", sum(Reason::is_malformed)),
            ("handoff_failed", failed.map(|outcome| self.counters.handoff[outcome as usize]).sum()),
        ];
        totals.extend(Handoff::ALL.map(|outcome| (outcome.name(), self.counters.handoff[outcome as usize])));
        totals.extend(Tracked::ALL.map(|what| (what.name(), self.counters.tracked[what as usize])));
        totals
    }
}

/// The services on `port`, with what decides when they are defended.
pub fn defended_on(root: &PinRoot, port: u16) -> Result<Vec<Defended>> {
    root.require_attached()?;
    let directory = StateDirectory::of(root);
    let maps = Maps::open(root)?;
    let settings = Settings::read(&directory)?.unwrap_or_default();
    let findings = Findings::read(&directory)?;
    let mut slots = slots(&maps)?;
    slots.retain(|_, slot| slot.port == port);
    let loads = loads(&maps, &slots, &maps.config.get(0)?)?;
    let defended = |(id, slot): (&u32, &abi::Service)| {
        let posture = load::posture(&loads[id]);
        Defended {
            endpoint: Endpoint::from_abi(slot),
            settings: settings.clone(),
            basis: findings.basis.get(id).copied().unwrap_or_default(),
            half_open: load::half_open(&loads[id]),
            step: posture.step,
            because: posture.because,
        }
    };
    Ok(slots.iter().map(defended).collect())
}

/// The services' slots that are in use, by id.
pub(super) fn slots(maps: &Maps) -> Result<BTreeMap<u32, abi::Service>> {
    let mut slots = BTreeMap::new();
    for id in 1..maps.services.len() {
        let slot = maps.services.get(id)?;
        if slot.flags & abi::SERVICE_IN_USE != 0 {
            slots.insert(id, slot);
        }
    }
    Ok(slots)
}

/// How much the services have to bear, brought to the present as the next packet would.
pub(super) fn loads(
    maps: &Maps,
    slots: &BTreeMap<u32, abi::Service>,
    config: &abi::Config,
) -> Result<BTreeMap<u32, abi::Load>> {
    let present = clock::now()?;
    let load = |(id, slot): (&u32, &abi::Service)| {
        Ok((*id, maps.load_at(*id, &slot.lines, config.cohorts, present)?))
    };
    slots.iter().map(load).collect()
}

/// For how long a service has been under attack: off the lowest step of the ladder.
fn attack_seconds(load: &abi::Load, posture: Posture, now: u32) -> Option<u64> {
    (posture.step != Step::Pass).then(|| (age(load.began, now) / 1000).into())
}

type Rates = [u64; Reason::COUNT];

/// Samples each service's counters, and the rates of all verdicts.
fn sample(maps: &Maps, ids: impl Iterator<Item = u32>) -> Result<(Vec<(u32, Sample)>, Rates)> {
    let start = Instant::now();
    let verdicts = maps.counters()?.verdicts;
    let before = ids.map(|id| Ok((id, maps.service_counters(id)?))).collect::<Result<Vec<_>>>()?;
    thread::sleep(SAMPLE);
    let elapsed = start.elapsed();
    let mut rates = maps.counters()?.verdicts;
    for (rate, before) in rates.iter_mut().zip(verdicts) {
        *rate = per_second(rate.saturating_sub(before), elapsed);
    }
    let complete = |(id, before)| Ok((id, Sample { before, after: maps.service_counters(id)?, elapsed }));
    Ok((before.into_iter().map(complete).collect::<Result<_>>()?, rates))
}

fn interfaces(root: &PinRoot) -> Result<Vec<Interface>> {
    let links = root.links()?;
    let names = links::names()?;
    let mut interfaces = Vec::new();
    for name in root.interfaces()? {
        let link = if names.contains(&name) { Some(links::interface(&name)?) } else { None };
        let vlans = links.iter().filter(|link| link.interface == name).filter_map(|link| match &link.hook {
            Hook::VlanIngress(device) => Some(device.clone()),
            _ => None,
        });
        interfaces.push(Interface {
            vlans: vlans.collect(),
            xdp_mode: match &link {
                Some(link) => link.xdp.first().map_or("none", |program| program.mode.name()),
                None => "gone",
            },
            up: link.is_some_and(|link| link.up),
            name,
        });
    }
    Ok(interfaces)
}

fn warnings(
    config: &abi::Config,
    settings: &Settings,
    ports: &BTreeSet<u16>,
    findings: Findings,
    controller: Option<u32>,
) -> Vec<String> {
    let mut warnings = findings.warnings;
    if config.flags & abi::CONFIG_SUSPENDED != 0 {
        warnings.push(sysctls::SUSPENDED.to_owned());
    }
    if controller.is_none() {
        warnings.push(
            "nothing is in control: keys are not renewed and new listeners not noticed until `defender run` takes over"
                .to_owned(),
        );
    }
    for port in settings.ports.iter().filter(|port| !ports.contains(port)) {
        warnings.push(format!("nothing listens on port {port}: waiting for it"));
    }
    warnings
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A snapshot with something of everything.
    pub(in crate::report) fn example() -> Snapshot {
        let mut counters = Counters::default();
        let verdicts = [
            (Reason::NotTcp, 1),
            (Reason::SynMonitored, 10),
            (Reason::SynChallenged, 200),
            (Reason::Cookie, 3000),
            (Reason::AckBadCookie, 40_000),
            (Reason::MalformedTcp, 500_000),
        ];
        for (reason, count) in verdicts {
            counters.verdicts[reason as usize] = count;
        }
        let handoffs = [
            (Handoff::Assigned, 2900),
            (Handoff::Established, 2800),
            (Handoff::Repeated, 7),
            (Handoff::NoListener, 5),
            (Handoff::RefusedInvalid, 4),
        ];
        for (outcome, count) in handoffs {
            counters.handoff[outcome as usize] = count;
        }
        let mut settings = Settings::default();
        settings.set("mode".parse().expect("a key"), "always").expect("a mode");
        let service = |port, address: &str, families| Service {
            endpoint: Endpoint { port, address: address.parse().expect("an address"), families },
            mode: Mode::Monitor,
            active: false,
            unprotectable: None,
            states: BTreeMap::new(),
            syn_rate: 0,
            evidence: Evidence::default(),
            step: Step::Pass,
            because: Because::Nothing,
            attack_seconds: None,
            counters: ServiceCounters::default(),
        };
        let web = service(80, "::", abi::SERVICE_FAMILY_V4 | abi::SERVICE_FAMILY_V6);
        let other = service(443, "192.0.2.1", abi::SERVICE_FAMILY_V4);
        Snapshot {
            controller: Some(42),
            settings,
            interfaces: vec![Interface {
                name: "eth0".into(),
                xdp_mode: "native",
                up: true,
                vlans: Vec::new(),
            }],
            services: vec![
                Service {
                    mode: Mode::Always,
                    active: true,
                    states: [("SYN_RECV", 3)].into(),
                    syn_rate: 1000,
                    ..web
                },
                Service { unprotectable: Some("it is MPTCP".into()), ..other },
            ],
            counters,
            rates: [0; Reason::COUNT],
            states: [("ESTABLISHED", 12), ("SYN_RECV", 3)].into(),
            listed: Tally { allowed: 2, denied: 1_200_000 },
            warnings: vec!["something is odd".into()],
        }
    }
}
