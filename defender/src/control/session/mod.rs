//! Attaches the datapath and keeps its maps true, one step at a time. Who calls the steps when is [`controller`]'s.
//!
//! [`controller`]: crate::control::controller

mod services;
mod watch;

pub(super) use watch::view;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{self, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};
use defender_common::abi;

use crate::{
    control::{
        attacks::Attacks,
        baseline::Baselines,
        config_file::ConfigFile,
        filter::Generations,
        interfaces,
        journal::Journal,
        keys,
        lists::{Admission, Lists, entry::List, plan::Summary},
        lock::{ControllerLock, WriteLock},
        outside,
        policy::{self, Defaults},
        refusals::Refusals,
        services::{Routes, Table},
        settings::{Key, Mode, Setting, Settings, Value},
        state::{Findings, StateDirectory},
        sysctls,
    },
    dataplane::{
        clock, layout, link,
        loader::Programs,
        logs::Logs,
        maps::{self, Maps, Prefix},
        pins::{PinRoot, Rollback},
        walk::Walk,
    },
    host::{
        addresses::{self, LocalPrefix},
        firewall::Firewall,
        links::{self, Link},
        namespace,
        sysctl::{self, Sysctls},
        window::Rules,
    },
    problem::Problem,
    report::cidr::Cidr,
};

/// What the caller wants.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The interfaces to defend.
    pub interfaces: Vec<String>,
    /// The mode of services without one of their own; none: as it was, or the default.
    pub mode: Option<Mode>,
    /// The ports to defend; none: as it was, or all.
    pub ports: Option<Vec<u16>>,
    /// The configuration file; none: there is none.
    pub config: Option<PathBuf>,
    /// How many connections the flow table is made for; none: as it was, or [`DEFAULT_FLOWS`].
    pub flows: Option<u32>,
    /// Who administers this host and is put on the allow list.
    pub administrator: Option<IpAddr>,
}

/// How many connections a new flow table is made for: 64 bytes each, 8 MiB together.
pub const DEFAULT_FLOWS: u32 = 131_072;

/// Sources that the configuration file allows, and those that it denies.
type FileLists = (Vec<Cidr>, Vec<Cidr>);

/// Flags of [`abi::Config`] that do not come from sysctls.
const NOT_BY_SYSCTLS: u32 = abi::CONFIG_PREFIXES;

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
    lock: ControllerLock,
    programs: Programs,
    maps: Maps,
    interfaces: Vec<String>,
    missing: BTreeSet<String>,
    settings: Settings,
    /// The configuration file.
    config: Option<PathBuf>,
    /// How many CPUs there may be.
    cpus: u32,
    /// SYN-ACKs a second that the slowest link carries, if known.
    link_replies: Option<u32>,
    sysctls: Sysctls,
    defaults: Defaults,
    table: Table,
    routes: Routes,
    local: BTreeSet<Prefix>,
    /// How many addresses of this host `LOCAL` has no room for.
    unplaced: usize,
    refusals: Refusals,
    attacks: Attacks,
    /// Past events and what is usual.
    journal: Journal,
    baselines: Baselines,
    /// When what is usual was last kept.
    baselines_kept: Instant,
    generations: Generations,
    firewall: Firewall,
    /// Services no longer challenged whose cookies are accepted until then.
    lingering: BTreeMap<u32, Instant>,
    /// Services challenged only since a moment ago: the kernel's own cookies are accepted until then.
    settling: BTreeMap<u32, Instant>,
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
        let (settings, lists) = settings(&root, &directory, options)?;
        let links = with_those_attached(&root, wanted)?;
        let buckets = flow_buckets(options.flows.unwrap_or(DEFAULT_FLOWS));
        let programs = Programs::load(&root, buckets, rollback)?;
        let sysctls = Sysctls::read()?;
        let defaults = defaults(&sysctls, &links);
        let findings = Findings::read(&directory)?;
        let journal = Journal::of(&root);
        let mut session = Self {
            maps: Maps::open(&root)?,
            interfaces: links.iter().map(|link| link.name.clone()).collect(),
            missing: BTreeSet::new(),
            config: settings.file.as_ref().map(|(path, _)| path.clone()),
            settings,
            cpus: maps::possible_cpus()?,
            link_replies: interfaces::link_replies(&links),
            attacks: Attacks::restore(&findings.attacks),
            findings,
            baselines: journal.read_baselines(),
            baselines_kept: Instant::now(),
            journal,
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
            generations: Generations::default(),
            firewall: Firewall::read(),
            lingering: BTreeMap::new(),
            settling: BTreeMap::new(),
        };
        session.fill()?;
        if options.flows.is_some() && session.maps.config.get(0)?.flow_mask != buckets - 1 {
            log::warn!("--flows: the flow table keeps its size until `defender detach`");
        }
        session.begin_lists(&lists, options.administrator)?;
        session.attach(&links, rollback)?;
        session.learn_connections();
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

    /// What the programs log.
    pub fn logs(&mut self) -> Result<Logs> {
        self.programs.logs()
    }

    /// The pin root.
    pub fn root(&self) -> &PinRoot {
        &self.root
    }

    /// Fills the maps, before anything is attached. What a session before has left stays in force.
    fn fill(&mut self) -> Result<()> {
        let mut config = self.maps.config.get(0)?;
        if config.abi_version == 0 {
            config = abi::Config {
                abi_version: abi::ABI_VERSION,
                secret: keys::random()?,
                table_keys: keys::random()?,
                ..config
            };
            self.set_key(config.key_current, keys::next(u32::MAX, keys::random()?))?;
        } else {
            self.adopt()?;
        }
        let [ack_backlog_offset, max_ack_backlog_offset, protocol_offset] =
            layout::offsets("sock", ["sk_ack_backlog", "sk_max_ack_backlog", "sk_protocol"])?;
        let [substate_offset] = layout::offsets("inet_timewait_sock", ["tw_substate"])?;
        let [source_port_offset] = layout::offsets("inet_sock", ["inet_sport"])?;
        let [segments_in_offset, segments_out_offset] = layout::offsets("tcp_sock", ["segs_in", "segs_out"])?;
        let [within_net] = layout::offsets("net", ["ns"])?;
        let [within_ns] = layout::offsets("ns_common", ["inum"])?;
        let flow_mask = Maps::flow_buckets(&self.root)? - 1;
        self.write_config(abi::Config {
            ack_backlog_offset,
            max_ack_backlog_offset,
            substate_offset,
            segments_in_offset,
            segments_out_offset,
            protocol_offset,
            source_port_offset,
            flow_mask,
            namespace: namespace::number()?,
            namespace_offset: u32::from(within_net) + u32::from(within_ns),
            ..config
        })?;
        self.write_local(&addresses::local_prefixes()?)?;
        self.write_services()?;
        self.look_at_services()
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

    /// Takes over the lists that are there, reads those of the file, and puts who administers this host on the allow list.
    fn begin_lists(&mut self, (allow, deny): &FileLists, administrator: Option<IpAddr>) -> Result<()> {
        let mut lists = Lists::of(&mut self.maps, &self.directory);
        lists.adopt(administrator)?;
        tell(&lists.load_from_file(allow, deny)?);
        let Some(address) = administrator else { return Ok(()) };
        match lists.admit(address) {
            Ok(Admission::Done) => log::info!(
                "{address}, from where this host is administered over SSH, is on the allow list now: \
                 `defender allow del {address}` takes it off, --no-allow-ssh keeps it off"
            ),
            Ok(Admission::Listed(entry)) if entry.listing.list == List::Deny => log::warn!(
                "{address}, from where this host is administered over SSH, stays on the deny list, by {}: \
                 `defender allow add {address}` lets it in",
                entry.prefix
            ),
            Ok(Admission::Listed(entry)) => {
                log::info!(
                    "{address}, from where this host is administered, stays allowed by {}",
                    entry.prefix
                );
            }
            Err(error) => {
                log::warn!("{address}, from where this host is administered, is not allowed: {error:#}");
            }
        }
        Ok(())
    }

    fn attach(&mut self, links: &[Link], rollback: &mut Rollback) -> Result<()> {
        let local = addresses::local_prefixes()?;
        let indices: Vec<u32> = links.iter().map(|link| link.index).collect();
        interfaces::retain(&mut self.maps.interfaces, &indices)?;
        link::attach_sock_state(&mut self.programs, &self.root, rollback)?;
        link::attach_listing(&mut self.programs, &self.root, rollback)?;
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
        let done = if link::is_attached(&self.root, link)? { "taken over" } else { "attached" };
        self.write_interface(link, local, rollback)?;
        link::attach_interface(&mut self.programs, &self.root, link, rollback)?;
        let mode = links::interface(&link.name)?.xdp.first().map_or("unknown", |program| program.mode.name());
        log::info!("{}: {done} ({mode} XDP)", link.name);
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
        self.defaults.rules = Rules::from(&self.sysctls);
        self.read_settings()?;
        let local = addresses::local_prefixes()?;
        self.refresh_interfaces(&local)?;
        self.write_config(self.maps.config.get(0)?)?;
        self.write_local(&local)?;
        self.look_at_services()?;
        self.write_services()?;
        self.maps.config.set(0, self.generations.prolong(self.maps.config.get(0)?, clock::now()?.ms))?;
        Ok(if self.interfaces.is_empty() { Attached::No } else { Attached::Yes })
    }

    /// Looks at the listeners again.
    pub fn refresh_services(&mut self) -> Result<Attached> {
        let Some(_write) = self.write_lock()? else { return Ok(Attached::No) };
        self.read_settings()?;
        self.write_services()?;
        Ok(Attached::Yes)
    }

    /// Reads the configuration file again. One that makes no sense changes nothing.
    pub fn reload(&mut self) -> Result<Attached> {
        let Some(path) = self.config.clone() else {
            log::info!("SIGHUP: there is no file to read again: `defender run` was given no --config");
            return Ok(Attached::Yes);
        };
        let file = ConfigFile::read(&path);
        let Some(_write) = self.write_lock()? else { return Ok(Attached::No) };
        self.read_settings()?;
        match file.and_then(|file| with_file(&self.settings, path.clone(), file)) {
            Ok((settings, (allow, deny))) => {
                settings.write(&self.directory)?;
                match Lists::of(&mut self.maps, &self.directory).load_from_file(&allow, &deny) {
                    Ok(summary) => tell(&summary),
                    Err(error) => {
                        self.settings.write(&self.directory)?;
                        log::error!("{}: {error:#}; what was in force stays so", path.display());
                        return Ok(Attached::Yes);
                    }
                }
                self.settings = settings;
                self.write_config(self.maps.config.get(0)?)?;
                self.write_services()?;
                log::info!("{}: read again, and in force", path.display());
            }
            Err(error) => log::error!("{error}; what was in force stays so"),
        }
        Ok(Attached::Yes)
    }

    /// Takes in what `defender set` has changed meanwhile: services are never written by older settings.
    fn read_settings(&mut self) -> Result<()> {
        if let Some(settings) = Settings::read(&self.directory)? {
            self.settings = settings;
        }
        Ok(())
    }

    /// Takes the connections that are there already into the flow table. Without, they are not tracked: no reason not to
    /// defend.
    fn learn_connections(&mut self) {
        if let Err(error) = self.programs.walk().and_then(Walk::run) {
            log::warn!("connections from before are not tracked yet: {error:#}");
        }
    }

    /// Begins a new generation of the filter if it is time: the walk is to be run after [`filter::SETTLE`].
    pub fn begin_generation(&mut self) -> Result<Option<Walk>> {
        let Some(_write) = self.write_lock()? else { return Ok(None) };
        let now = Instant::now();
        if !self.generations.is_due(now) {
            return Ok(None);
        }
        let walk = self.programs.walk()?;
        self.maps.config.set(0, self.generations.begin(self.maps.config.get(0)?, now))?;
        Ok(Some(walk))
    }

    /// Ends the generation before, after the walk.
    pub fn complete_generation(&mut self) -> Result<Attached> {
        let Some(_write) = self.write_lock()? else { return Ok(Attached::No) };
        self.maps.config.set(0, self.generations.complete(self.maps.config.get(0)?))?;
        Ok(Attached::Yes)
    }

    /// Fills a slot of the cookie keys. The other one is written as it is.
    fn set_key(&mut self, slot: u32, key: abi::KeySlot) -> Result<()> {
        let mut keys = self.maps.keys.get(0)?;
        keys[(slot & 1) as usize] = key;
        self.maps.keys.set(0, keys)
    }

    /// Draws a new key and makes cookies with it from now on.
    pub fn rotate_keys(&mut self) -> Result<Attached> {
        let Some(_write) = self.write_lock()? else { return Ok(Attached::No) };
        let mut config = self.maps.config.get(0)?;
        let next = 1 - (config.key_current & 1);
        let epoch = self.maps.keys.get(0)?[(config.key_current & 1) as usize].epoch;
        // The window scale belongs to the key: while it changes, neither the old key nor the new one is there.
        self.set_key(next, abi::KeySlot::default())?;
        for (id, service) in &self.table.services {
            let mut slot = self.maps.services.get(*id)?;
            let scale = policy::window_scale(service, &self.maps.learnt.get(*id)?, &self.defaults);
            if slot.window_scale[next as usize] != scale {
                slot.window_scale[next as usize] = scale;
                self.maps.services.set(*id, slot)?;
            }
        }
        self.set_key(next, keys::next(epoch, keys::random()?))?;
        config.key_current = next;
        self.maps.config.set(0, config)?;
        Ok(Attached::Yes)
    }

    /// Takes in what the firewall does now; it counts from the next refresh on.
    pub fn set_firewall(&mut self, firewall: Firewall) {
        self.firewall = firewall;
    }

    /// Detaches and removes every trace, unless someone has done so.
    pub fn finish(self) -> Result<()> {
        let Some(_write) = self.write_lock()? else {
            // Someone may have attached anew meanwhile; then it is not ours to remove.
            return if self.lock.is_current(&self.directory) { self.remove_all() } else { Ok(()) };
        };
        outside::take_leave(&self.root, &self.directory)?;
        self.remove_all()
    }

    fn remove_all(&self) -> Result<()> {
        self.root.remove_all()?;
        self.directory.remove()
    }

    /// The lock, unless someone has detached everything.
    fn write_lock(&self) -> Result<Option<WriteLock>> {
        if self.root.interfaces()?.is_empty() {
            return Ok(None);
        }
        let fresh = self.directory.create()?;
        let lock = WriteLock::take(&self.directory);
        // Who had the lock before may have detached, and removed the directory.
        if self.root.interfaces()?.is_empty() {
            if fresh {
                self.directory.remove()?;
            }
            return Ok(None);
        }
        lock.map(Some)
    }

    fn refresh_interfaces(&mut self, local: &[LocalPrefix]) -> Result<()> {
        let names = links::names()?;
        let attached = self.root.interfaces()?;
        self.interfaces.retain(|name| attached.contains(name));
        let mut found = Vec::new();
        for name in self.interfaces.clone() {
            if !names.contains(&name) {
                if self.missing.insert(name.clone()) {
                    log::warn!("{name} is gone: it is attached again when it comes back");
                }
                continue;
            }
            let link = links::interface(&name)?;
            self.missing.remove(&name);
            if found.is_empty() {
                self.defaults.mss = interfaces::mss_of(&link);
            }
            self.refresh_interface(&link, local)?;
            found.push(link);
        }
        self.link_replies = interfaces::link_replies(&found);
        let indices: Vec<u32> = found.iter().map(|link| link.index).collect();
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
        let flags = sysctls::config_flags(&self.sysctls) | config.flags & NOT_BY_SYSCTLS;
        let suspended = flags & abi::CONFIG_SUSPENDED;
        if suspended != config.flags & abi::CONFIG_SUSPENDED {
            if suspended != 0 {
                log::warn!("{}", sysctls::SUSPENDED);
            } else {
                log::info!("net.ipv4.tcp_syncookies is back: the defence goes on");
            }
        }
        let wanted = abi::Config {
            flags,
            reply_budget: self.settings.reply_budget(),
            cohorts: sysctls::cohorts(&self.sysctls),
            ..config
        };
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

/// What is asked for, on top of what was in force.
fn settings(root: &PinRoot, directory: &StateDirectory, options: &Options) -> Result<(Settings, FileLists)> {
    let attached = !root.interfaces()?.is_empty();
    let before = if attached { Settings::read(directory)? } else { None };
    let mut settings = before.unwrap_or_default();
    if let Some(mode) = options.mode {
        settings.set.insert(Key::all(Setting::Mode), Value::Mode(mode));
    }
    if let Some(ports) = &options.ports {
        settings.ports = ports.clone();
    }
    let Some(path) = &options.config else {
        if let Some((path, _)) = settings.file.take() {
            log::info!("{} is no longer in force: there is no --config", path.display());
        }
        settings.check().map_err(Problem::from)?;
        return Ok((settings, FileLists::default()));
    };
    // Others are told of it, who are elsewhere.
    let path = path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
    let file = ConfigFile::read(&path)?;
    Ok(with_file(&settings, path, file)?)
}

/// The settings with what a file says, if that goes together with what was set.
fn with_file(settings: &Settings, path: PathBuf, file: ConfigFile) -> Result<(Settings, FileLists), Problem> {
    let settings = Settings { file: Some((path, file.layer)), ..settings.clone() };
    settings.check()?;
    Ok((settings, (file.allow, file.deny)))
}

/// Says what the lists of the file have changed.
fn tell(summary: &Summary) {
    if summary.written + summary.removed != 0 {
        log::info!("lists of the file: {} prefixes written, {} removed", summary.written, summary.removed);
    }
    for prefix in &summary.overruled {
        log::warn!("{prefix} stays on the list that it was put on by hand, whatever the file says");
    }
}

/// How many buckets have room for so many connections. With two entries a connection nearly all find room.
fn flow_buckets(connections: u32) -> u32 {
    (connections * 2).div_ceil(abi::FLOW_ENTRIES as u32).next_power_of_two()
}

fn defaults(sysctls: &Sysctls, links: &[Link]) -> Defaults {
    let mss = links.first().map_or([1460, 1440], interfaces::mss_of);
    Defaults { rules: Rules::from(sysctls), mss }
}
