//! A snapshot of everything. No other part of the reports reads maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use defender_common::{
    abi::{self, Counters, Handoff, ServiceCounters, Tracked},
    clock::age,
    load::{self, MitigationState},
    mitigation::{Level, Trigger},
    verdict::{Reason, Verdict},
};

use crate::{
    dataplane::{
        clock, link,
        maps::Maps,
        pins::{Hook, PinRoot},
    },
    host::{
        links::{self, Link},
        process,
    },
    model::{
        endpoint::Endpoint,
        evidence::{Evidence, Sample, per_second},
        hooks::HookCounts,
        lists::plan::ListCounts,
        map_values,
        mode::Mode,
        settings::Settings,
        sysctls,
    },
    report::{
        connection_list::{self, Connection},
        explain::Defended,
        health::{Control, Fault},
        namespace::require_its_own,
    },
    state::{self, directory::StateDirectory, findings::Findings, heartbeat, lists, lock::ControllerLock},
};

/// Measurement time for rates.
const SAMPLE: Duration = Duration::from_millis(200);

/// The current state.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When the counters were read.
    pub taken: Instant,
    /// The controller's state.
    pub control: Control,
    /// Challenging is suspended, whatever the settings say.
    pub suspended: bool,
    /// The settings.
    pub settings: Settings,
    /// The attached interfaces.
    pub interfaces: Vec<InterfaceStatus>,
    /// The services, by port.
    pub services: Vec<ServiceStatus>,
    /// All counters.
    pub counters: Counters,
    /// Packets a second, by reason.
    pub rates: [u64; Reason::COUNT],
    /// The kernel's connections to the services, by state.
    pub states: BTreeMap<&'static str, u64>,
    /// How many prefixes are on the lists.
    pub listed: ListCounts,
    /// Notes for the operator.
    pub warnings: Vec<String>,
    /// What became of hooks.
    pub hooks: HookCounts,
}

/// An attached interface.
#[derive(Clone, Debug)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// How its XDP program runs; `"gone"` if the interface no longer exists.
    pub xdp_mode: &'static str,
    /// Whether it is up.
    pub up: bool,
    /// Why it is not defended, if it is not.
    pub fault: Option<Fault>,
    /// VLAN devices to which the hand-off is attached as well.
    pub vlans: Vec<String>,
}

/// A service.
#[derive(Clone, Debug)]
pub struct ServiceStatus {
    /// What clients connect to.
    pub endpoint: Endpoint,
    /// Its mode.
    pub mode: Mode,
    /// Its SYNs are challenged now.
    pub active: bool,
    /// Why it cannot be protected, if it cannot.
    pub unprotectable: Option<String>,
    /// The kernel's connections to it, by state; SYN_RECV is half open.
    pub states: BTreeMap<&'static str, u64>,
    /// Connections that are not half open because their SYNs were challenged or dropped.
    pub averted: u32,
    /// So many half-open connections, whatever their age, trigger `critical`.
    pub critical: u32,
    /// SYNs a second.
    pub syn_rate: u64,
    /// Statistics of its SYNs.
    pub evidence: Evidence,
    /// The mitigation level, regardless of whether its mode acts on it.
    pub level: Level,
    /// What triggered that level.
    pub trigger: Trigger,
    /// How many seconds it has been mitigating, if it is.
    pub attack_seconds: Option<u64>,
    /// Its counters.
    pub counters: ServiceCounters,
}

impl ServiceStatus {
    /// Its connections that the kernel holds half open.
    pub fn half_open(&self) -> u64 {
        self.states.get("SYN_RECV").copied().unwrap_or(0)
    }
}

impl Snapshot {
    /// Reads what is pinned below `root`. Takes 0.2 s, to measure rates.
    pub fn take(root: &PinRoot) -> Result<Self> {
        root.require_attached()?;
        Self::over(root, &Maps::open(root)?, SAMPLE)
    }

    /// The same by these maps, with rates that are measured for so long; everything else is read after that.
    pub fn over(root: &PinRoot, maps: &Maps, time: Duration) -> Result<Self> {
        let directory = StateDirectory::of(root);
        let (samples, rates) = sample(maps, slots(maps)?.into_keys(), time)?;
        let config = maps.config.get(0)?;
        require_its_own(root, &config)?;
        let findings = state::in_force(root, Findings::read)?;
        let slots = slots(maps)?;
        let ports: BTreeSet<u16> = slots.values().map(|slot| slot.port).collect();
        let listed = connection_list::read(root);
        let unlisted = listed.as_ref().err().map(|error| format!("cannot count connections: {error:#}"));
        let connections = listed.unwrap_or_default();
        let mut services = Vec::new();
        let mut by_service = connection_list::count_by_service(&connections);
        let now = clock::now()?.ms;
        let loads = loads(maps, &slots, &config)?;
        for (id, sample) in samples {
            let Some(slot) = slots.get(&id) else { continue };
            let mitigation = load::mitigation(&loads[&id]);
            services.push(ServiceStatus {
                endpoint: Endpoint::from_abi(slot),
                mode: Mode::from_abi(slot.mode).unwrap_or_default(),
                active: map_values::is_challenged(slot, &loads[&id], &config),
                unprotectable: (slot.flags & abi::SERVICE_UNPROTECTABLE != 0).then(|| {
                    findings.unprotectable.get(&id).cloned().unwrap_or_else(|| "for an unknown reason".into())
                }),
                states: by_service.remove(&id).unwrap_or_else(|| connection_list::count([].iter())),
                averted: load::averted_now(&loads[&id]),
                critical: slot.triggers.critical,
                syn_rate: sample.syn_rate(),
                evidence: Evidence::of(&maps.sources.get(id)?, now, &sample),
                level: mitigation.level,
                trigger: mitigation.trigger,
                attack_seconds: attack_seconds(&loads[&id], mitigation, now),
                counters: sample.after,
            });
        }
        services.sort_by_key(|service| service.endpoint);
        let settings = state::in_force(root, state::settings::read)?;
        let control = control(&directory);
        let hooks = findings.hooks;
        let mut warnings = warnings(&config, &settings, &ports, findings, control);
        warnings.extend(unlisted);
        warnings.extend(hooks.warning());
        Ok(Self {
            warnings,
            hooks,
            control,
            suspended: config.flags & abi::CONFIG_SUSPENDED != 0,
            settings,
            interfaces: interfaces(root)?,
            services,
            taken: Instant::now(),
            counters: maps.counters()?,
            rates,
            states: connection_list::count(connections.iter()),
            listed: lists::counts(maps, &directory)?,
        })
    }

    /// Measures rates since an earlier reading, instead of for 0.2 s.
    pub fn measure_since(&mut self, earlier: &Self) {
        let elapsed = self.taken.duration_since(earlier.taken);
        let counts = self.counters.verdicts.iter().zip(earlier.counters.verdicts);
        for (rate, (after, before)) in self.rates.iter_mut().zip(counts) {
            *rate = per_second(after.saturating_sub(before), elapsed);
        }
        let others: BTreeMap<_, _> = earlier.services.iter().map(|other| (other.endpoint, other)).collect();
        for service in &mut self.services {
            if let Some(same) = others.get(&service.endpoint) {
                let sample = Sample { before: same.counters, after: service.counters, elapsed };
                service.syn_rate = sample.syn_rate();
            }
        }
    }

    /// Every fault of the defence, each as part of a sentence. Empty if there is none.
    pub fn faults(&self) -> Vec<String> {
        faults_of_datapath(self.interfaces.iter(), self.suspended).chain(self.control.fault()).collect()
    }

    /// Packets a second by verdict and reason.
    pub fn rates(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.rates)
    }

    /// Packets by verdict and reason.
    pub fn verdicts(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.counters.verdicts)
    }

    /// The counters of the contract. The number of received packets is the sum over all their outcomes.
    pub fn totals(&self) -> Vec<(&'static str, u64)> {
        let mut totals = TOTALS.map(|total| (total.name, (total.count)(&self.counters))).to_vec();
        totals.extend(Handoff::ALL.map(|outcome| (outcome.name(), self.counters.handoff[outcome as usize])));
        totals.extend(Tracked::ALL.map(|what| (what.name(), self.counters.tracked[what as usize])));
        totals
    }
}

/// What keeps the datapath from defending, each as part of a sentence.
pub(super) fn faults_of_datapath<'a>(
    interfaces: impl Iterator<Item = &'a InterfaceStatus>,
    suspended: bool,
) -> impl Iterator<Item = String> {
    let interfaces = interfaces
        .filter_map(|interface| Some(format!("{} {}", interface.name, interface.fault.as_ref()?.describe())));
    let suspended = suspended.then(|| "nothing is challenged: net.ipv4.tcp_syncookies is 0".to_owned());
    interfaces.chain(suspended)
}

/// A counter of the contract that sums others.
#[derive(Debug)]
pub struct Total {
    /// Its name in JSON.
    pub name: &'static str,
    /// What it counts, as a sentence.
    pub description: &'static str,
    count: fn(&Counters) -> u64,
}

/// Every counter that sums others.
pub const TOTALS: [Total; 8] = [
    Total {
        name: "rx_packets",
        description: "Packets that the XDP program saw: the sum of all verdicts.",
        count: |counters| verdicts(counters, |_| true),
    },
    Total {
        name: "syn_received",
        description: "SYNs to services that are not in mode `off`.",
        count: |counters| verdicts(counters, Reason::is_syn),
    },
    Total {
        name: "syn_challenged",
        description: "SYNs answered with a cookie.",
        count: |counters| verdicts(counters, |reason| reason == Reason::SynChallenged),
    },
    Total {
        name: "syn_passed",
        description: "Of `syn_received`: SYNs left to the kernel.",
        count: |counters| verdicts(counters, |reason| reason.is_syn() && reason.verdict() == Verdict::Pass),
    },
    Total {
        name: "ack_accepted",
        description: "Packets that proved a cookie.",
        count: |counters| verdicts(counters, |reason| reason == Reason::Cookie),
    },
    Total {
        name: "ack_rejected",
        description: "Out-of-state segments without a valid cookie, dropped or passed within the budget for these.",
        count: |counters| {
            verdicts(counters, |reason| matches!(reason, Reason::AckBadCookie | Reason::AckOutOfState))
        },
    },
    Total {
        name: "malformed",
        description: "The sum of `drop.malformed_ip`, `drop.malformed_tcp`, `drop.fragment_header`, \
                      `drop.extension_chain` and `drop.bad_flags`.",
        count: |counters| verdicts(counters, Reason::is_malformed),
    },
    Total {
        name: "handoff_failed",
        description: "Proven connections that the kernel did not take: the sum of `handoff_no_listener`, `handoff_refused_*` and \
                      `handoff_unreadable`.",
        count: |counters| {
            let failed = Handoff::ALL.into_iter().filter(|outcome| outcome.is_failure());
            failed.map(|outcome| counters.handoff[outcome as usize]).sum()
        },
    },
];

/// Packets with one of the wanted reasons.
fn verdicts(counters: &Counters, wanted: fn(Reason) -> bool) -> u64 {
    let counted = Reason::ALL.into_iter().zip(counters.verdicts);
    counted.filter(|(reason, _)| wanted(*reason)).map(|(_, count)| count).sum()
}

/// The services on `port`, with the values that decide when they are defended.
pub fn defended_on(root: &PinRoot, port: u16) -> Result<Vec<Defended>> {
    root.require_attached()?;
    defended_with(root, port, &connection_list::read(root)?)
}

/// The same, where connections are listed already.
pub(super) fn defended_with(root: &PinRoot, port: u16, connections: &[Connection]) -> Result<Vec<Defended>> {
    let maps = Maps::open(root)?;
    let config = maps.config.get(0)?;
    require_its_own(root, &config)?;
    let settings = state::in_force(root, state::settings::read)?;
    let findings = state::in_force(root, Findings::read)?;
    let mut slots = slots(&maps)?;
    slots.retain(|_, slot| slot.port == port);
    let loads = loads(&maps, &slots, &config)?;
    let states = connection_list::count_by_service(connections);
    let queued = |id: &u32| states.get(id).and_then(|states| states.get("SYN_RECV")).copied().unwrap_or(0);
    let defended = |(id, slot): (&u32, &abi::Service)| {
        let mitigation = load::mitigation(&loads[id]);
        Defended {
            id: *id,
            endpoint: Endpoint::from_abi(slot),
            settings: settings.clone(),
            inputs: findings.inputs.get(id).copied().unwrap_or_default(),
            half_open: u32::try_from(queued(id)).unwrap_or(u32::MAX),
            averted: load::averted_now(&loads[id]),
            level: mitigation.level,
            trigger: mitigation.trigger,
            unprotectable: findings.unprotectable.get(id).cloned(),
        }
    };
    Ok(slots.iter().map(defended).collect())
}

/// The ports of all services.
pub fn ports(root: &PinRoot) -> Result<BTreeSet<u16>> {
    root.require_attached()?;
    Ok(slots(&Maps::open(root)?)?.values().map(|slot| slot.port).collect())
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

/// The services' loads, brought up to date as the next packet would.
pub(super) fn loads(
    maps: &Maps,
    slots: &BTreeMap<u32, abi::Service>,
    config: &abi::Config,
) -> Result<BTreeMap<u32, abi::Load>> {
    let present = clock::now()?;
    let load = |(id, slot): (&u32, &abi::Service)| {
        Ok((*id, maps.load_at(*id, &slot.triggers, config.age_buckets, present)?))
    };
    slots.iter().map(load).collect()
}

/// How long a service has been above the lowest level.
fn attack_seconds(load: &abi::Load, mitigation: MitigationState, now: u32) -> Option<u64> {
    (mitigation.level != Level::Pass).then(|| (age(load.began, now) / 1000).into())
}

type Rates = [u64; Reason::COUNT];

/// Samples each service's counters, and the rates of all verdicts.
fn sample(
    maps: &Maps,
    ids: impl Iterator<Item = u32>,
    time: Duration,
) -> Result<(Vec<(u32, Sample)>, Rates)> {
    let start = Instant::now();
    let verdicts = maps.counters()?.verdicts;
    let before = ids.map(|id| Ok((id, maps.service_counters(id)?))).collect::<Result<Vec<_>>>()?;
    thread::sleep(time);
    let elapsed = start.elapsed();
    let mut rates = maps.counters()?.verdicts;
    for (rate, before) in rates.iter_mut().zip(verdicts) {
        *rate = per_second(rate.saturating_sub(before), elapsed);
    }
    let complete = |(id, before)| Ok((id, Sample { before, after: maps.service_counters(id)?, elapsed }));
    Ok((before.into_iter().map(complete).collect::<Result<_>>()?, rates))
}

/// The attached interfaces.
pub(super) fn interfaces(root: &PinRoot) -> Result<Vec<InterfaceStatus>> {
    let links = root.links()?;
    let names = links::names()?;
    let mut interfaces = Vec::new();
    for name in root.interfaces()? {
        let link = if names.contains(&name) { Some(links::interface(&name)?) } else { None };
        let vlans = links.iter().filter(|link| link.interface == name).filter_map(|link| match &link.hook {
            Hook::VlanIngress(device) => Some(device.clone()),
            _ => None,
        });
        interfaces.push(InterfaceStatus {
            vlans: vlans.collect(),
            xdp_mode: match &link {
                Some(link) => link.xdp.first().map_or("none", |program| program.mode.name()),
                None => "gone",
            },
            up: link.as_ref().is_some_and(|link| link.up),
            fault: match &link {
                Some(link) => fault(root, link)?,
                None => Some(Fault::Gone),
            },
            name,
        });
    }
    Ok(interfaces)
}

/// Why an interface is not defended, if it is not.
fn fault(root: &PinRoot, link: &Link) -> Result<Option<Fault>> {
    Ok(if let Some(obstacle) = link.obstacle() {
        Some(Fault::Hindered(obstacle.describe()))
    } else if !link::is_attached(root, link)? {
        Some(Fault::Detached)
    } else {
        (!link.up).then_some(Fault::Down)
    })
}

fn control(directory: &StateDirectory) -> Control {
    match (ControllerLock::holder(directory), ControllerLock::last_holder(directory)) {
        (Some(pid), _) => {
            Control::By { pid, looked: heartbeat::age(directory), stopped: process::is_stopped(pid) }
        }
        (None, Some(pid)) => Control::Died(pid),
        (None, None) => Control::NoController,
    }
}

fn warnings(
    config: &abi::Config,
    settings: &Settings,
    ports: &BTreeSet<u16>,
    findings: Findings,
    control: Control,
) -> Vec<String> {
    let mut warnings = findings.warnings;
    if config.flags & abi::CONFIG_SUSPENDED != 0 {
        warnings.push(sysctls::SUSPENDED.to_owned());
    }
    if control.pid().is_none() {
        warnings.push(
            "no controller: keys are not rotated and new listeners not noticed until `defender run` takes over"
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

    /// A snapshot with at least one of everything.
    pub(in crate::report) fn example() -> Snapshot {
        let mut counters = Counters::default();
        let verdicts = [
            (Reason::NotTcp, 1),
            (Reason::SynMonitorMode, 10),
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
        let service = |port, address: &str, families| ServiceStatus {
            endpoint: Endpoint { port, address: address.parse().expect("an address"), families },
            mode: Mode::Monitor,
            active: false,
            unprotectable: None,
            states: BTreeMap::new(),
            averted: 0,
            critical: 96,
            syn_rate: 0,
            evidence: Evidence::default(),
            level: Level::Pass,
            trigger: Trigger::Nothing,
            attack_seconds: None,
            counters: ServiceCounters::default(),
        };
        let web = service(80, "::", abi::SERVICE_FAMILY_V4 | abi::SERVICE_FAMILY_V6);
        let other = service(443, "192.0.2.1", abi::SERVICE_FAMILY_V4);
        Snapshot {
            taken: Instant::now(),
            control: Control::By { pid: 42, looked: None, stopped: false },
            suspended: false,
            settings,
            interfaces: vec![InterfaceStatus {
                name: "eth0".into(),
                xdp_mode: "native",
                up: true,
                fault: None,
                vlans: Vec::new(),
            }],
            services: vec![
                ServiceStatus {
                    mode: Mode::Always,
                    active: true,
                    states: [("SYN_RECV", 3)].into(),
                    syn_rate: 1000,
                    ..web
                },
                ServiceStatus { unprotectable: Some("it is MPTCP".into()), ..other },
            ],
            counters,
            rates: [0; Reason::COUNT],
            states: [("ESTABLISHED", 12), ("SYN_RECV", 3)].into(),
            listed: ListCounts { allowed: 2, denied: 1_200_000 },
            warnings: vec!["something is odd".into()],
            hooks: HookCounts::default(),
        }
    }
}
