//! Attaches the datapath and keeps its maps true, one step at a time. Who calls the steps when is [`controller`]'s.
//!
//! [`controller`]: crate::control::controller

mod addresses;
mod attachment;
mod expiry;
mod filter;
mod findings;
mod key_rotation;
mod owner;
mod services;
mod settings;
mod watch;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use defender_common::abi;

pub use self::expiry::Expiry;
use self::{
    addresses::Addresses,
    attachment::{Attachment, defaults, names_at_ip, with_those_attached},
    expiry::ExpiryWatch,
    owner::{Owner, Turn},
    services::Services,
    settings::Configuration,
    watch::Watch,
};
use crate::{
    control::{firewall::Judgements, interfaces, recovery, succession::Succession},
    dataplane::{
        clock,
        conntrack::Conntrack,
        layout, link,
        loader::Programs,
        logs::Logs,
        maps::{self, Maps},
        pins::{PinRoot, Rollback},
    },
    host::{
        firewall::{Firewall, Tracking},
        hooks::HookRunner,
        links::{self, Link},
        namespace, random, sysctl, wall_clock,
    },
    model::{
        exported::Exported,
        keys::{self, KeySchedule},
        map_values::Defaults,
        mode::Mode,
        presence_filter::Generations,
        services::ServiceTable,
        settings::Settings,
        sysctls::{Broken, Sysctls},
    },
    state::{
        self,
        directory::StateDirectory,
        findings::Findings,
        heartbeat,
        journal::Journal,
        lock::{ControllerLock, WriteLock},
    },
};

/// What the caller wants.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// The interfaces to defend; empty: those of the configuration file, else those with a default route.
    pub interfaces: Vec<String>,
    /// The mode of services without one of their own; none: as it was, or the default.
    pub mode: Option<Mode>,
    /// The ports to defend; none: as it was, or all.
    pub ports: Option<Vec<u16>>,
    /// The configuration file; none: that of the controller that is replaced, or the one at the usual place, if it exists.
    pub config: Option<PathBuf>,
    /// How many connections the flow table is made for; none: as it was, or [`DEFAULT_FLOWS`].
    pub flows: Option<u32>,
    /// Take over from the controller that is there, if one is.
    pub replace: bool,
    /// Who administers this host and is put on the allow list.
    pub administrator: Option<IpAddr>,
    /// What serves metrics is told by this.
    pub exported: Exported,
}

/// How many connections a new flow table is made for: 64 bytes each, 8 MiB together.
pub const DEFAULT_FLOWS: u32 = 131_072;

/// How long tools may take to list the firewall's rules before anything is attached; the controller asks them again.
const FIREWALL_PATIENCE: Duration = Duration::from_secs(3);

/// What the controller finds when it looks after its interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// At least one is attached.
    Yes,
    /// Someone else has detached all.
    No,
    /// Someone else writes at the moment: the step is to be tried again soon.
    Later,
}

/// A datapath under control of this process.
pub struct Session {
    root: PinRoot,
    owner: Owner,
    programs: Programs,
    maps: Maps,
    links: Attachment,
    configuration: Configuration,
    host: Host,
    services: Services,
    addresses: Addresses,
    watch: Watch,
    keys: KeySchedule,
    generations: Generations,
    conntrack: Conntrack,
    findings: Findings,
    expiry: ExpiryWatch,
    hooks: Arc<HookRunner>,
    exported: Exported,
}

/// What this host is like.
struct Host {
    /// How many CPUs there may be.
    cpus: u32,
    sysctls: Sysctls,
    /// What was switched off a moment ago.
    broken: Broken,
    defaults: Defaults,
}

impl Session {
    /// Loads, fills, attaches and pins; takes over what is there already. Fails without leaving anything behind.
    pub fn begin(root: PinRoot, options: &SessionOptions) -> Result<Self> {
        let directory = StateDirectory::of(&root);
        let names = settings::interfaces(&root, &directory, options)?;
        let links = names.iter().map(|name| links::interface(name)).collect::<Result<Vec<_>>>()?;
        let fresh = directory.create()?;
        let before = ControllerLock::last_holder(&directory);
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
                } else {
                    ControllerLock::disown(&directory, before)
                        .unwrap_or_else(|error| log::warn!("{error:#}"));
                }
                Err(error)
            }
        }
    }

    fn begin_in(
        root: PinRoot,
        directory: StateDirectory,
        options: &SessionOptions,
        wanted: Vec<Link>,
        rollback: &mut Rollback,
    ) -> Result<Self> {
        root.create(rollback)?;
        let succession = Succession::begin(&directory, options.replace)?;
        let mut write = succession.is_alone().then(|| WriteLock::take(&directory)).transpose()?;
        recovery::recover(&root)?;
        for wanted in &wanted {
            interfaces::require_defensible(wanted)?;
            link::require_free_or_ours(&root, wanted)?;
        }
        let is_takeover = !root.interfaces()?.is_empty();
        let (mut settings, mut lists) = settings::read(&root, &directory, options)?;
        if write.is_some() {
            // Who asks before all is attached hears that it is not. The address of a controller that goes is not free yet.
            options.exported.set_listen(settings.metrics.as_ref());
        }
        let buckets = flow_buckets(options.flows.unwrap_or(DEFAULT_FLOWS));
        let programs = Programs::load(&root, buckets, rollback)?;
        // All that may fail has been tried: another controller went on until now.
        let lock = succession.complete(&directory)?;
        heartbeat::beat(&directory)?;
        if write.is_none() {
            write = Some(WriteLock::take(&directory)?);
            root.require_attached().context("the controller has detached instead of handing over")?;
            (settings, lists) = settings::read(&root, &directory, options)?;
        }
        options.exported.set_listen(settings.metrics.as_ref());
        let links = with_those_attached(&root, wanted, options.replace)?;
        let mut names: Vec<String> = links.iter().map(|link| link.name.clone()).collect();
        names.extend(
            root.interfaces()?.into_iter().filter(|name| !links.iter().any(|link| link.name == *name)),
        );
        let sysctls = sysctl::read_all()?;
        let defaults = defaults(&sysctls, links.first());
        let findings = Findings::read(&directory)?.unwrap_or_default();
        let mut judgements =
            Judgements::new(Firewall::read(FIREWALL_PATIENCE), Tracking::new(&sysctls, false));
        judgements.set_interfaces(names_at_ip(&links));
        let mut attachment = Attachment { interfaces: names, ..Attachment::default() };
        attachment.take_in(&links);
        let mut session = Self {
            maps: Maps::open(&root)?,
            owner: Owner::new(directory, lock),
            programs,
            links: attachment,
            configuration: Configuration::new(settings, is_takeover),
            host: Host { cpus: maps::possible_cpus()?, sysctls, broken: Broken::default(), defaults },
            services: Services::new(judgements),
            addresses: Addresses::default(),
            watch: Watch::new(Journal::of(&root), &findings.attacks),
            keys: KeySchedule::new(Instant::now()),
            generations: Generations::default(),
            conntrack: Conntrack::default(),
            hooks: Arc::default(),
            findings,
            exported: options.exported.clone(),
            expiry: ExpiryWatch::default(),
            root,
        };
        session.fill()?;
        if options.flows.is_some() && session.maps.config.get(0)?.flow_mask != buckets - 1 {
            log::warn!("--flows: the flow table keeps its size until `defender detach`");
        }
        session.begin_lists(lists, options.administrator)?;
        session.attach(&links, rollback)?;
        session.learn_connections();
        state::settings::write(&session.owner.directory, &session.configuration.settings)?;
        session.repair_files()?;
        drop(write);
        Ok(session)
    }

    /// The interfaces that are attached.
    pub fn interfaces(&self) -> &[String] {
        &self.links.interfaces
    }

    /// The services there are.
    pub fn table(&self) -> &ServiceTable {
        &self.services.table
    }

    /// What was set.
    pub fn settings(&self) -> &Settings {
        &self.configuration.settings
    }

    /// What was found out.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// What runs the operator's program. It outlives the session, whose last events it is told.
    pub fn hooks(&self) -> Arc<HookRunner> {
        Arc::clone(&self.hooks)
    }

    /// When the cookie key in use was drawn.
    pub fn key_drawn(&self) -> Instant {
        self.keys.when_drawn()
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
                secret: random::words()?,
                table_keys: random::words()?,
                ..config
            };
            self.set_key(config.key_current, keys::next(u32::MAX, random::words()?))?;
        } else {
            self.adopt()?;
        }
        let [protocol_offset] = layout::offsets("sock", ["sk_protocol"])?;
        let [substate_offset] = layout::offsets("inet_timewait_sock", ["tw_substate"])?;
        let [source_port_offset] = layout::offsets("inet_sock", ["inet_sport"])?;
        let [segments_in_offset, segments_out_offset] = layout::offsets("tcp_sock", ["segs_in", "segs_out"])?;
        let [within_net] = layout::offsets("net", ["ns"])?;
        let [within_ns] = layout::offsets("ns_common", ["inum"])?;
        let flow_mask = Maps::flow_buckets(&self.root)? - 1;
        self.write_config(abi::Config {
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
        self.keep_conntrack()?;
        let addresses = self.read_addresses()?;
        self.write_local(&addresses.local)?;
        self.write_services()?;
        self.look_at_services()
    }

    /// Behind the maps' filling: the program reads them.
    fn keep_conntrack(&mut self) -> Result<()> {
        self.conntrack.keep(&self.root, self.host.sysctls.nf_conntrack_tcp_loose.is_some())?;
        self.services
            .judgements
            .set_tracking(Tracking::new(&self.host.sysctls, self.conntrack.is_complete()));
        Ok(())
    }

    /// Reads what a session before has left.
    fn adopt(&mut self) -> Result<()> {
        let mut slots = Vec::new();
        for id in 1..self.maps.services.len() {
            slots.push((id, self.maps.services.get(id)?));
        }
        self.services.table = ServiceTable::from_abi(slots, Instant::now());
        for port in 0..=u16::MAX {
            let entry = self.maps.ports.get(port.into())?;
            if entry != abi::Port::default() {
                self.services.routes.ports.insert(port, entry);
            }
        }
        let entries = self.maps.addresses.all()?;
        self.services.routes.addresses =
            entries.into_iter().map(|(key, id)| ((key.address, key.port), id)).collect();
        self.addresses.local = self.maps.local.all()?.into_iter().collect();
        Ok(())
    }

    /// Looks at everything again. Cheap enough for once a second.
    pub fn refresh(&mut self) -> Result<Attached> {
        let _write = match self.turn()? {
            Turn::Ours(lock) => lock,
            Turn::Theirs => return Ok(Attached::Later),
            Turn::Withheld => return self.look_after_services(),
            Turn::Detached => return Ok(Attached::No),
        };
        self.read_settings();
        let repaired = self.repair_files();
        self.owner.complaints.heard("repair", repaired);
        self.keep_pins()?;
        self.read_sysctls()?;
        let addresses = self.read_addresses()?;
        self.refresh_interfaces(&addresses)?;
        self.write_config(self.maps.config.get(0)?)?;
        self.keep_conntrack()?;
        self.write_local(&addresses.local)?;
        self.look_at_services()?;
        self.write_services()?;
        self.maps.config.set(0, self.generations.prolong(self.maps.config.get(0)?, clock::now()?.ms))?;
        heartbeat::beat(&self.owner.directory)?;
        Ok(if self.links.interfaces.is_empty() { Attached::No } else { Attached::Yes })
    }

    /// Looks at the listeners again.
    pub fn refresh_services(&mut self) -> Result<Attached> {
        let _write = match self.turn()? {
            Turn::Ours(lock) => lock,
            Turn::Theirs => return Ok(Attached::Later),
            Turn::Withheld => return self.look_after_services(),
            Turn::Detached => return Ok(Attached::No),
        };
        self.read_sysctls()?;
        self.read_settings();
        self.write_services()?;
        Ok(Attached::Yes)
    }

    /// What is done while the lock is withheld. Slots of services may then be written by two at once; what that spoils is put
    /// right at the first refresh with the lock.
    fn look_after_services(&mut self) -> Result<Attached> {
        self.read_sysctls()?;
        self.look_at_services()?;
        self.write_services()?;
        Ok(Attached::Yes)
    }

    /// Services are judged by what the kernel refuses, so what makes it refuse is to be known first.
    fn read_sysctls(&mut self) -> Result<()> {
        let sysctls = sysctl::read_all()?;
        self.host.broken.note(&self.host.sysctls, &sysctls, Instant::now(), wall_clock::now());
        self.host.sysctls = sysctls;
        Ok(())
    }

    /// Takes in what the firewall does now; it counts from the next refresh on.
    pub fn set_firewall(&mut self, firewall: Firewall) {
        self.services.judgements.set_firewall(firewall);
    }
}

/// How many buckets have room for so many connections. With two entries a connection nearly all find room.
fn flow_buckets(connections: u32) -> u32 {
    (connections * 2).div_ceil(abi::FLOW_ENTRIES as u32).next_power_of_two()
}
