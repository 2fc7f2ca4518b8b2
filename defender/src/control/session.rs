//! Attaches the datapath and keeps its maps true, one step at a time. Who calls the steps when is [`controller`]'s.
//!
//! [`controller`]: crate::control::controller

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use defender_common::abi;

use crate::{
    control::{
        interfaces, keys,
        lock::{ControllerLock, WriteLock},
        policy::{self, Defaults},
        refusals::Refusals,
        services::{self, Endpoint, Routes, Service, Table, Unprotectable},
        settings::{Mode, Settings},
        state::{Findings, StateDirectory},
        sysctls,
    },
    dataplane::{
        link,
        loader::Programs,
        maps::{Maps, Prefix},
        pins::{PinRoot, Rollback},
    },
    host::{
        addresses::{self, LocalPrefix},
        firewall::{Finding, Firewall, Problem as Obstacle},
        links::{self, Link},
        sockets,
        sysctl::{self, Sysctls},
        window::Rules,
    },
    problem::Problem,
};

/// How long clients that hold a SYN-ACK of ours are given to answer before the programs are detached.
const FAREWELL: Duration = Duration::from_millis(300);

/// What the caller wants.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The interfaces to defend.
    pub interfaces: Vec<String>,
    /// The mode of services without one of their own; none: as it was, or the default.
    pub mode: Option<Mode>,
    /// The ports to defend; none: as it was, or all.
    pub ports: Option<Vec<u16>>,
}

/// What the controller finds when it looks after its interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// At least one is attached.
    Yes,
    /// Someone else has detached all.
    No,
}

/// A datapath under control of this process.
pub struct Session {
    root: PinRoot,
    directory: StateDirectory,
    #[expect(dead_code, reason = "held as long as the session lives")]
    lock: ControllerLock,
    programs: Programs,
    maps: Maps,
    interfaces: Vec<String>,
    missing: BTreeSet<String>,
    settings: Settings,
    sysctls: Sysctls,
    defaults: Defaults,
    table: Table,
    routes: Routes,
    local: BTreeSet<Prefix>,
    /// How many addresses of this host `LOCAL` has no room for.
    unplaced: usize,
    refusals: Refusals,
    firewall: Firewall,
    /// Services no longer challenged whose cookies are accepted until then.
    lingering: BTreeMap<u32, Instant>,
    findings: Findings,
}

impl Session {
    /// Loads, fills, attaches and pins; takes over what is there already. Fails without leaving anything behind.
    pub fn begin(root: PinRoot, options: &Options) -> Result<Self> {
        let links =
            options.interfaces.iter().map(|name| links::interface(name)).collect::<Result<Vec<_>>>()?;
        let directory = StateDirectory::of(&root);
        let fresh = directory.create()?;
        let mut rollback = Rollback::default();
        let session = Self::begin_in(root, directory.clone(), options, links, &mut rollback);
        match session {
            Ok(session) => {
                rollback.commit();
                Ok(session)
            }
            Err(error) => {
                drop(rollback);
                if fresh {
                    directory.remove()?;
                }
                Err(error)
            }
        }
    }

    fn begin_in(
        root: PinRoot,
        directory: StateDirectory,
        options: &Options,
        wanted: Vec<Link>,
        rollback: &mut Rollback,
    ) -> Result<Self> {
        let lock = ControllerLock::take(&directory)?;
        let write = WriteLock::take(&directory)?;
        for wanted in &wanted {
            link::require_free_or_ours(&root, wanted)?;
        }
        let links = with_those_attached(&root, wanted)?;
        let programs = Programs::load(&root, rollback)?;
        let sysctls = Sysctls::read()?;
        let defaults = defaults(&sysctls, &links);
        let mut session = Self {
            maps: Maps::open(&root)?,
            interfaces: links.iter().map(|link| link.name.clone()).collect(),
            missing: BTreeSet::new(),
            settings: settings(&directory, options)?,
            findings: Findings::read(&directory)?,
            root,
            directory,
            lock,
            programs,
            sysctls,
            defaults,
            table: Table::default(),
            routes: Routes::default(),
            local: BTreeSet::new(),
            unplaced: 0,
            refusals: Refusals::default(),
            firewall: Firewall::read(),
            lingering: BTreeMap::new(),
        };
        session.fill()?;
        session.attach(&links, rollback)?;
        session.settings.write(&session.directory)?;
        drop(write);
        Ok(session)
    }

    /// The interfaces that are attached.
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// The services there are.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What was set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What was found out.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The pin root.
    pub fn root(&self) -> &PinRoot {
        &self.root
    }

    /// Fills the maps, before anything is attached. What a session before has left stays in force.
    fn fill(&mut self) -> Result<()> {
        let mut config = self.maps.config.get(0)?;
        if config.abi_version == 0 {
            config = abi::Config { abi_version: abi::ABI_VERSION, secret: keys::random()?, ..config };
            self.maps.keys.set(config.key_current, keys::next(u32::MAX, keys::random()?))?;
        } else {
            self.adopt()?;
        }
        self.write_config(config)?;
        self.write_local(&addresses::local_prefixes()?)?;
        self.write_services()
    }

    /// Reads what a session before has left.
    fn adopt(&mut self) -> Result<()> {
        let mut slots = Vec::new();
        for id in 1..self.maps.services.len() {
            slots.push((id, self.maps.services.get(id)?));
        }
        self.table = Table::from_abi(slots, Instant::now());
        for port in 0..=u16::MAX {
            let entry = self.maps.ports.get(port.into())?;
            if entry != abi::Port::default() {
                self.routes.ports.insert(port, entry);
            }
        }
        let entries = self.maps.addresses.all()?;
        self.routes.addresses = entries.into_iter().map(|(key, id)| ((key.address, key.port), id)).collect();
        self.local = self.maps.local.all()?.into_iter().collect();
        Ok(())
    }

    fn attach(&mut self, links: &[Link], rollback: &mut Rollback) -> Result<()> {
        let local = addresses::local_prefixes()?;
        let indices: Vec<u32> = links.iter().map(|link| link.index).collect();
        interfaces::retain(&mut self.maps.interfaces, &indices)?;
        link::attach_sock_state(&mut self.programs, &self.root, rollback)?;
        for link in links {
            self.attach_interface(link, &local, rollback)?;
        }
        Ok(())
    }

    fn attach_interface(
        &mut self,
        link: &Link,
        local: &[LocalPrefix],
        rollback: &mut Rollback,
    ) -> Result<()> {
        self.write_interface(link, local, rollback)?;
        link::attach_interface(&mut self.programs, &self.root, link, rollback)?;
        let mode = links::interface(&link.name)?.xdp.first().map_or("unknown", |program| program.mode.name());
        log::info!("{}: attached ({mode} XDP)", link.name);
        if !link.up {
            log::warn!("{} is down: nothing arrives until `ip link set {} up`", link.name, link.name);
        }
        Ok(())
    }

    /// Attaches the hand-off to the interface's VLAN devices and tells the datapath about it.
    fn write_interface(&mut self, link: &Link, local: &[LocalPrefix], rollback: &mut Rollback) -> Result<()> {
        link::remove_stale_vlans(&self.root, link)?;
        for vlan in &link.vlans {
            if link::attach_vlan(&mut self.programs, &self.root, link, vlan, rollback)? {
                log::info!("{}: the hand-off is attached to {} as well", link.name, vlan.name);
            }
        }
        let hop_limit = sysctl::hop_limit(&link.name)?;
        let entry = interfaces::entry(link, &self.sysctls, hop_limit, local);
        interfaces::write(&mut self.maps.interfaces, entry)
    }

    /// Looks at everything again. Cheap enough for once a second.
    pub fn refresh(&mut self) -> Result<Attached> {
        let Some(_write) = self.write_lock()? else { return Ok(Attached::No) };
        self.sysctls = Sysctls::read()?;
        if let Some(settings) = Settings::read(&self.directory)? {
            self.settings = settings;
        }
        let local = addresses::local_prefixes()?;
        self.refresh_interfaces(&local)?;
        self.write_config(self.maps.config.get(0)?)?;
        self.write_local(&local)?;
        self.write_services()?;
        Ok(if self.interfaces.is_empty() { Attached::No } else { Attached::Yes })
    }

    /// Looks at the listeners again.
    pub fn refresh_services(&mut self) -> Result<Attached> {
        let Some(_write) = self.write_lock()? else { return Ok(Attached::No) };
        self.write_services()?;
        Ok(Attached::Yes)
    }

    /// Draws a new key and makes cookies with it from now on.
    pub fn rotate_keys(&mut self) -> Result<Attached> {
        let Some(_write) = self.write_lock()? else { return Ok(Attached::No) };
        let mut config = self.maps.config.get(0)?;
        let next = 1 - (config.key_current & 1);
        let epoch = self.maps.keys.get(config.key_current & 1)?.epoch;
        // The window scale belongs to the key: while it changes, neither the old key nor the new one is there.
        self.maps.keys.set(next, abi::KeySlot::default())?;
        for (id, service) in &self.table.services {
            let mut slot = self.maps.services.get(*id)?;
            let scale = policy::window_scale(service, &self.maps.learnt.get(*id)?, &self.defaults);
            if slot.window_scale[next as usize] != scale {
                slot.window_scale[next as usize] = scale;
                self.maps.services.set(*id, slot)?;
            }
        }
        self.maps.keys.set(next, keys::next(epoch, keys::random()?))?;
        config.key_current = next;
        self.maps.config.set(0, config)?;
        Ok(Attached::Yes)
    }

    /// Takes in what the firewall does now; it counts from the next refresh on.
    pub fn set_firewall(&mut self, firewall: Firewall) {
        self.firewall = firewall;
    }

    /// Detaches and removes every trace.
    pub fn finish(self) -> Result<()> {
        let Some(_write) = self.write_lock()? else { return self.directory.remove() };
        take_leave(&self.root)?;
        self.root.remove_all()?;
        self.directory.remove()
    }

    /// The lock, unless someone has detached everything.
    fn write_lock(&self) -> Result<Option<WriteLock>> {
        let lock = WriteLock::take(&self.directory);
        // Who detaches removes the directory as well, so look only now.
        if self.root.interfaces()?.is_empty() {
            return Ok(None);
        }
        lock.map(Some)
    }

    fn refresh_interfaces(&mut self, local: &[LocalPrefix]) -> Result<()> {
        let names = links::names()?;
        let attached = self.root.interfaces()?;
        self.interfaces.retain(|name| attached.contains(name));
        let mut indices = Vec::new();
        for name in self.interfaces.clone() {
            if !names.contains(&name) {
                if self.missing.insert(name.clone()) {
                    log::warn!("{name} is gone: it is attached again when it comes back");
                }
                continue;
            }
            let link = links::interface(&name)?;
            self.missing.remove(&name);
            indices.push(link.index);
            self.refresh_interface(&link, local)?;
        }
        interfaces::retain(&mut self.maps.interfaces, &indices)
    }

    fn refresh_interface(&mut self, link: &Link, local: &[LocalPrefix]) -> Result<()> {
        let mut rollback = Rollback::default();
        if link::is_attached(&self.root, link)? {
            self.write_interface(link, local, &mut rollback)?;
        } else {
            self.attach_interface(link, local, &mut rollback)?;
        }
        rollback.commit();
        Ok(())
    }

    fn write_config(&mut self, config: abi::Config) -> Result<()> {
        let flags = sysctls::config_flags(&self.sysctls);
        let suspended = flags & abi::CONFIG_SUSPENDED;
        if suspended != config.flags & abi::CONFIG_SUSPENDED {
            if suspended != 0 {
                log::warn!("{}", sysctls::SUSPENDED);
            } else {
                log::info!("net.ipv4.tcp_syncookies is back: the defence goes on");
            }
        }
        let wanted = abi::Config { flags, reply_budget: self.settings.reply_budget, ..config };
        if wanted != self.maps.config.get(0)? {
            self.maps.config.set(0, wanted)?;
        }
        Ok(())
    }

    fn write_local(&mut self, local: &[LocalPrefix]) -> Result<()> {
        let wanted: BTreeSet<Prefix> = interfaces::prefixes(local).into_iter().collect();
        for prefix in self.local.difference(&wanted) {
            self.maps.local.remove(*prefix)?;
        }
        let new: Vec<Prefix> = wanted.difference(&self.local).copied().collect();
        self.local.retain(|prefix| wanted.contains(prefix));
        for prefix in new {
            // What finds no place is tried again with every refresh.
            if let Err(error) = self.maps.local.insert(prefix) {
                log::debug!("{error:#}");
                break;
            }
            self.local.insert(prefix);
        }
        self.unplaced = wanted.len() - self.local.len();
        Ok(())
    }

    /// Finds the listeners and brings the maps up to date: a new service is there before a port leads to it, and an
    /// ended one's port leads nowhere before it is.
    fn write_services(&mut self) -> Result<()> {
        let endpoints = services::endpoints(&sockets::listeners()?, &self.settings.ports);
        let next = self.table.next(&endpoints, Instant::now());
        let mut findings = Findings::default();
        for (id, service) in &next.services {
            let is_new = !self.table.services.contains_key(id);
            let unprotectable = self.write_service(*id, service, is_new)?;
            findings.unprotectable.extend(unprotectable.map(|reason| (*id, reason.to_string())));
        }
        let routes = next.routes();
        self.write_routes(&routes)?;
        for (id, service) in self.table.services.iter().filter(|(id, _)| !next.services.contains_key(id)) {
            let slot = self.maps.services.get(*id)?;
            self.maps.services.set(*id, policy::with_flag(&slot, abi::SERVICE_IN_USE, false))?;
            log::debug!("{} has ended", service.endpoint);
        }
        self.refusals.retain(|id| next.services.contains_key(&id));
        self.lingering.retain(|id, _| next.services.contains_key(id));
        self.table = next;
        findings.warnings = self.warnings();
        self.publish(findings)
    }

    fn write_service(&mut self, id: u32, service: &Service, is_new: bool) -> Result<Option<Unprotectable>> {
        let present = self.maps.services.get(id)?;
        let unprotectable = self.unprotectable(id, service)?;
        let slot = if is_new {
            self.clear_history(id, &present, service)?;
            policy::new_slot(service, &self.defaults)
        } else {
            policy::update_slot(&present, service, &self.maps.learnt.get(id)?, &self.defaults)
        };
        let slot = policy::with_mode(&slot, self.settings.mode_of(service.endpoint.port));
        let slot = policy::with_flag(&slot, abi::SERVICE_UNPROTECTABLE, unprotectable.is_some());
        let slot = self.end_lingering(id, &slot);
        if slot != present {
            self.maps.services.set(id, slot)?;
        }
        if is_new {
            log::debug!("{} is service {id}", service.endpoint);
        }
        Ok(unprotectable)
    }

    /// What was counted and learnt of another service is not this one's.
    fn clear_history(&mut self, id: u32, present: &abi::Service, service: &Service) -> Result<()> {
        if present.port != 0 && Endpoint::from_abi(present) == service.endpoint {
            return Ok(());
        }
        self.maps.learnt.set(id, abi::Learnt::default())?;
        self.maps.service_counters.fill(id, abi::ServiceCounters::default())
    }

    fn unprotectable(&mut self, id: u32, service: &Service) -> Result<Option<Unprotectable>> {
        if service.listening.mptcp {
            return Ok(Some(Unprotectable::Mptcp));
        }
        if let Some(obstacle) = self.obstacle(service) {
            return Ok(Some(obstacle));
        }
        let counters = self.maps.service_counters(id)?;
        let all = self.maps.counters()?;
        self.refusals.observe(id, &service.listening.inodes, &counters, &all);
        Ok(self.refusals.reason(id).map(|error| Unprotectable::Refused(error.to_owned())))
    }

    /// A firewall rule that takes connections to the service away from it.
    fn obstacle(&self, service: &Service) -> Option<Unprotectable> {
        let Endpoint { address, port, .. } = service.endpoint;
        let in_the_way = |finding: &&Finding| {
            matches!(finding.problem, Obstacle::Redirected { .. } | Obstacle::Synproxy)
                && !finding.vague
                && self.interfaces.iter().any(|interface| finding.applies(interface, address, port))
        };
        let finding = self.firewall.findings.iter().find(in_the_way)?;
        Some(match &finding.problem {
            Obstacle::Redirected { to } => {
                Unprotectable::Redirected { rule: finding.rule.clone(), to: to.clone() }
            }
            _ => Unprotectable::Synproxy { rule: finding.rule.clone() },
        })
    }

    /// Cookies are accepted for their lifetime after the last was made.
    fn end_lingering(&mut self, id: u32, slot: &abi::Service) -> abi::Service {
        if slot.mode == abi::MODE_ALWAYS || slot.flags & abi::SERVICE_ACCEPTS_COOKIES == 0 {
            self.lingering.remove(&id);
            return *slot;
        }
        let now = Instant::now();
        let until = *self.lingering.entry(id).or_insert(now + keys::COOKIE_LIFETIME);
        policy::with_flag(slot, abi::SERVICE_ACCEPTS_COOKIES, now < until)
    }

    fn write_routes(&mut self, routes: &Routes) -> Result<()> {
        for ((address, port), id) in &routes.addresses {
            if self.routes.addresses.get(&(*address, *port)) != Some(id) {
                self.maps.addresses.insert(key(*address, *port), *id)?;
            }
        }
        let ports: BTreeSet<u16> = self.routes.ports.keys().chain(routes.ports.keys()).copied().collect();
        for port in ports {
            let wanted = routes.ports.get(&port).copied().unwrap_or_default();
            if self.routes.ports.get(&port).copied().unwrap_or_default() != wanted {
                self.maps.ports.set(port.into(), wanted)?;
            }
        }
        for (address, port) in self.routes.addresses.keys().filter(|key| !routes.addresses.contains_key(key))
        {
            self.maps.addresses.remove(key(*address, *port))?;
        }
        self.routes = routes.clone();
        Ok(())
    }

    /// What people should know besides what reports see for themselves.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.unplaced != 0 {
            warnings.push(format!(
                "{} of this host's addresses find no place in the maps: SYNs to them pass",
                self.unplaced
            ));
        }
        if self.table.without_id != 0 {
            warnings.push(format!(
                "{} services find no place in the maps: SYNs to them pass. Choose with --port",
                self.table.without_id
            ));
        }
        let in_the_way = self.firewall.findings.iter().filter(|finding| self.is_in_the_way(finding));
        warnings.extend(in_the_way.map(|finding| {
            format!(
                "a firewall rule may drop challenged connections, which begin with an ACK: {}. \
                 `defender doctor` says what to do",
                finding.rule
            )
        }));
        warnings
    }

    /// Whether a rule drops connections whose SYN never passed the firewall, to a service that is challenged.
    fn is_in_the_way(&self, finding: &Finding) -> bool {
        let drops = match finding.problem {
            Obstacle::SynsAccepted | Obstacle::OthersDropped => true,
            Obstacle::InvalidDropped => self.sysctls.nf_conntrack_tcp_loose == Some(false),
            Obstacle::SynsDropped | Obstacle::Redirected { .. } | Obstacle::Synproxy => false,
        };
        let challenged = self.table.services.values().map(|service| service.endpoint).filter(|endpoint| {
            self.settings.mode_of(endpoint.port) == Mode::Always
                && self
                    .interfaces
                    .iter()
                    .any(|interface| finding.applies(interface, endpoint.address, endpoint.port))
        });
        drops && !finding.vague && challenged.count() != 0
    }

    fn publish(&mut self, findings: Findings) -> Result<()> {
        for warning in findings.warnings.iter().filter(|warning| !self.findings.warnings.contains(warning)) {
            log::warn!("{warning}");
        }
        for (id, reason) in &findings.unprotectable {
            if self.findings.unprotectable.get(id) != Some(reason)
                && let Some(service) = self.table.services.get(id)
            {
                log::warn!("{} cannot be protected: {reason}", service.endpoint);
            }
        }
        for id in self.findings.unprotectable.keys().filter(|id| !findings.unprotectable.contains_key(id)) {
            if let Some(service) = self.table.services.get(id) {
                log::info!("{} can be protected again", service.endpoint);
            }
        }
        if findings != self.findings {
            findings.write(&self.directory)?;
            self.findings = findings;
        }
        Ok(())
    }
}

fn key(address: [u8; 16], port: u16) -> abi::ServiceKey {
    abi::ServiceKey { address, port, reserved: 0 }
}

/// The interfaces that are wanted, and those that are attached already and still there.
fn with_those_attached(root: &PinRoot, mut wanted: Vec<Link>) -> Result<Vec<Link>> {
    let names = links::names()?;
    for name in root.interfaces()? {
        if wanted.iter().any(|link| link.name == name) {
            continue;
        }
        if names.contains(&name) {
            log::info!("{name} is attached already and stays: `defender detach --iface {name}` lets it go");
            wanted.push(links::interface(&name)?);
        } else {
            root.remove_links(&name)?;
        }
    }
    Ok(wanted)
}

fn settings(directory: &StateDirectory, options: &Options) -> Result<Settings> {
    let mut settings = Settings::read(directory)?.unwrap_or_default();
    if let Some(mode) = options.mode {
        settings.mode = mode;
    }
    if let Some(ports) = &options.ports {
        settings.ports = ports.clone();
    }
    Ok(settings)
}

fn defaults(sysctls: &Sysctls, links: &[Link]) -> Defaults {
    let mss = links.first().map_or([1460, 1440], interfaces::mss_of);
    Defaults { rules: Rules::from(sysctls), mss }
}

/// Changes settings, for a controller to come and in the maps at once. Returns the ports that have a service.
pub fn apply_settings(
    root: &PinRoot,
    change: impl FnOnce(&mut Settings) -> Result<(), Problem>,
) -> Result<BTreeSet<u16>> {
    root.require_attached()?;
    let directory = StateDirectory::of(root);
    directory.create()?;
    let _write = WriteLock::take(&directory)?;
    let mut settings = Settings::read(&directory)?.unwrap_or_default();
    change(&mut settings)?;
    settings.write(&directory)?;
    let mut maps = Maps::open(root).context("cannot change the running datapath")?;
    let config = maps.config.get(0)?;
    maps.config.set(0, abi::Config { reply_budget: settings.reply_budget, ..config })?;
    let mut ports = BTreeSet::new();
    for id in 1..maps.services.len() {
        let slot = maps.services.get(id)?;
        if slot.flags & abi::SERVICE_IN_USE == 0 {
            continue;
        }
        ports.insert(slot.port);
        let wanted = policy::with_mode(&slot, settings.mode_of(slot.port));
        if wanted != slot {
            maps.services.set(id, wanted)?;
        }
    }
    Ok(ports)
}

/// Detaches everything, from outside of the process in control, which notices. Any version can be detached.
pub fn detach_all(root: &PinRoot) -> Result<()> {
    root.require_attached()?;
    let directory = StateDirectory::of(root);
    directory.create()?;
    let _write = WriteLock::take(&directory)?;
    take_leave(root)?;
    root.remove_all()?;
    directory.remove()
}

/// Detaches one interface, likewise; with the last one, everything.
pub fn detach_interface(root: &PinRoot, interface: &str) -> Result<()> {
    root.require_attached()?;
    let attached = root.interfaces()?;
    if !attached.iter().any(|name| name == interface) {
        bail!("{interface} is not attached; attached: {}", attached.join(", "));
    }
    if attached.len() == 1 {
        return detach_all(root);
    }
    let directory = StateDirectory::of(root);
    directory.create()?;
    let _write = WriteLock::take(&directory)?;
    root.remove_links(interface)
}

/// Lets SYNs pass, and waits a moment for clients that hold a SYN-ACK of ours.
fn take_leave(root: &PinRoot) -> Result<()> {
    if Maps::pinned_version(root)? != Some(abi::ABI_VERSION) {
        return Ok(());
    }
    let mut maps = Maps::open(root)?;
    let mut challenged = false;
    for id in 1..maps.services.len() {
        let slot = maps.services.get(id)?;
        if slot.mode == abi::MODE_ALWAYS {
            challenged = true;
            maps.services.set(id, policy::with_mode(&slot, Mode::Monitor))?;
        }
    }
    if challenged {
        thread::sleep(FAREWELL);
    }
    Ok(())
}
