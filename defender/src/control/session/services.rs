//! Services: found, judged, and written to the maps.

use std::{collections::BTreeSet, time::Instant};

use anyhow::Result;
use defender_common::abi;

use super::Session;
use crate::{
    control::{
        baseline::Usual,
        keys,
        lines::{self, Basis},
        policy,
        services::{self, Endpoint, Routes, Service, Unprotectable},
        settings::Mode,
        state::Findings,
    },
    host::{
        firewall::{Finding, Problem as Obstacle},
        sockets,
    },
};

impl Session {
    /// Finds the listeners and brings the maps up to date: a new service is there before a port leads to it, and an
    /// ended one's port leads nowhere before it is.
    pub(super) fn write_services(&mut self) -> Result<()> {
        let endpoints = services::endpoints(&sockets::listeners()?, &self.settings.ports);
        let now = Instant::now();
        self.table.let_rest(|id| self.attacks.on(id).is_some(), now);
        let next = self.table.next(&endpoints, now);
        let mut findings = Findings::default();
        let mut begun = Vec::new();
        for (id, service) in &next.services {
            let is_new = !self.table.services.contains_key(id);
            let basis = self.basis(service);
            let unprotectable = self.write_service(*id, service, &basis, is_new)?;
            findings.unprotectable.extend(unprotectable.map(|reason| (*id, reason.to_string())));
            findings.basis.insert(*id, basis);
            if is_new {
                begun.push(*id);
            }
        }
        let routes = next.routes();
        self.write_routes(&routes)?;
        for (id, service) in self.table.services.iter().filter(|(id, _)| !next.services.contains_key(id)) {
            let slot = self.maps.services.get(*id)?;
            self.maps.services.set(*id, policy::with_flag(&slot, abi::SERVICE_IN_USE, false))?;
            log::debug!("{} has ended", service.endpoint);
        }
        self.refusals.retain(|id| next.services.contains_key(&id));
        self.attacks.retain(|id| next.services.contains_key(id));
        self.lingering.retain(|id, _| next.services.contains_key(id));
        self.settling.retain(|id, _| next.services.contains_key(id));
        self.table = next;
        findings.attacks = self.attacks.under_way();
        findings.warnings = self.warnings();
        self.publish(findings)?;
        // What is counted from now on tells how fast a flood of their first second is.
        begun.into_iter().try_for_each(|id| self.look_at(id))
    }

    fn write_service(
        &mut self,
        id: u32,
        service: &Service,
        basis: &Basis,
        is_new: bool,
    ) -> Result<Option<Unprotectable>> {
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
        let slot = abi::Service { lines: lines::lines(&self.settings, service.endpoint.port, basis), ..slot };
        let slot = self.end_lingering(id, &slot);
        let slot = self.end_settling(id, &slot);
        if slot != present {
            self.maps.services.set(id, slot)?;
        }
        if is_new {
            log::debug!("{} is service {id}", service.endpoint);
        }
        Ok(unprotectable)
    }

    /// What a service's lines are drawn from.
    fn basis(&self, service: &Service) -> Basis {
        let queues = service.listening.queues();
        let Usual { half_open_p99, syn_rate_p99 } = self.usual(&service.endpoint);
        Basis {
            backlog: queues.total(),
            listeners: queues.listeners,
            cpus: self.cpus,
            half_open_p99,
            syn_rate_p99,
            link_replies: self.link_replies,
        }
    }

    /// What was counted and learnt of another service is not this one's.
    fn clear_history(&mut self, id: u32, present: &abi::Service, service: &Service) -> Result<()> {
        if present.port != 0 && Endpoint::from_abi(present) == service.endpoint {
            return Ok(());
        }
        self.maps.learnt.set(id, abi::Learnt::default())?;
        self.maps.loads.set(id, abi::Load::default())?;
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
        let finding = self.firewall.obstacle(&self.interfaces, address, port)?;
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

    /// The kernel's own cookies are accepted for their lifetime after the service began to be challenged.
    fn end_settling(&mut self, id: u32, slot: &abi::Service) -> abi::Service {
        if slot.flags & abi::SERVICE_KERNEL_COOKIES == 0 {
            self.settling.remove(&id);
            return *slot;
        }
        let now = Instant::now();
        let until = *self.settling.entry(id).or_insert(now + keys::KERNEL_COOKIE_LIFETIME);
        policy::with_flag(slot, abi::SERVICE_KERNEL_COOKIES, now < until)
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
            matches!(self.settings.mode_of(endpoint.port), Mode::Always | Mode::Auto)
                && self
                    .interfaces
                    .iter()
                    .any(|interface| finding.applies(interface, endpoint.address, endpoint.port))
        });
        drops && !finding.vague && challenged.count() != 0
    }

    pub(super) fn publish(&mut self, findings: Findings) -> Result<()> {
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
