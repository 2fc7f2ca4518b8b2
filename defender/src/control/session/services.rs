//! Services: found, judged, and written to the maps.

use std::{collections::BTreeSet, time::Instant};

use anyhow::Result;
use defender_common::abi;

use super::Session;
use crate::{
    control::firewall::Judgements,
    dataplane::clock,
    host::sockets,
    model::{
        baseline::Percentiles,
        endpoint::{self, Endpoint},
        guard::Guard,
        map_values,
        places::LeftOut,
        services::{Routes, Service, ServiceTable, Unprotectable},
        triggers::{self, TriggerInputs},
    },
    state::findings::Findings,
};

/// The services, and what was made of them.
pub(super) struct Services {
    /// Which has which id.
    pub table: ServiceTable,
    /// How packets find them.
    pub routes: Routes,
    /// Services without an id.
    pub left_out: LeftOut,
    /// What the firewall means for each.
    pub judgements: Judgements,
    /// Those that are worse off with challenges.
    pub guard: Guard,
}

impl Services {
    /// None is known yet.
    pub(super) fn new(judgements: Judgements) -> Self {
        Self {
            table: ServiceTable::default(),
            routes: Routes::default(),
            left_out: LeftOut::default(),
            judgements,
            guard: Guard::default(),
        }
    }
}

impl Session {
    /// Finds the listeners and brings the maps up to date: a new service is there before a port leads to it, and an
    /// ended one's port leads nowhere before it is.
    pub(super) fn write_services(&mut self) -> Result<()> {
        let mut endpoints = endpoint::endpoints(
            &sockets::listeners()?,
            &self.configuration.settings.ports,
            &self.links.devices,
        );
        let options = self.programs.listener_options()?;
        endpoints.values_mut().for_each(|listening| listening.set_options(&options));
        let now = Instant::now();
        self.services.table.let_rest(|id| self.watch.attacks.on(id).is_some(), now);
        let syns = |id| self.maps.service_counters(id).map_or(0, |counters| counters.syn_received);
        let next = self.services.table.next(&endpoints, syns, now);
        let mut findings = Findings::default();
        let mut begun = Vec::new();
        for (id, service) in &next.services {
            let is_new = !self.services.table.services.contains_key(id);
            let inputs = self.inputs(service);
            let unprotectable = self.write_service(*id, service, &inputs, is_new)?;
            findings.unprotectable.extend(unprotectable.map(|reason| (*id, reason.to_string())));
            findings.inputs.insert(*id, inputs);
            if is_new {
                begun.push(*id);
                if !self.services.table.rests_for(*id, &service.endpoint) {
                    self.findings.unprotectable.remove(id);
                }
            }
        }
        let routes = next.routes();
        self.write_routes(&routes)?;
        for (id, service) in
            self.services.table.services.iter().filter(|(id, _)| !next.services.contains_key(id))
        {
            let slot = self.maps.services.get(*id)?;
            self.maps.services.set(*id, map_values::with_flag(&slot, abi::SERVICE_IN_USE, false))?;
            log::debug!("{} has ended", service.endpoint);
        }
        self.services.guard.retain(|id| next.services.contains_key(&id));
        self.watch.attacks.retain(|id| next.services.contains_key(id));
        self.services
            .judgements
            .retain(|endpoint| next.services.values().any(|service| service.endpoint == *endpoint));
        self.services.table = next;
        findings.attacks = self.watch.attacks.under_way();
        findings.warnings = self.warnings();
        // A service that comes back without the obstacle is reported.
        let resting =
            self.findings.unprotectable.iter().filter(|(id, _)| self.services.table.is_resting(**id));
        findings.unprotectable.extend(resting.map(|(id, reason)| (*id, reason.clone())));
        self.publish(findings)?;
        // Rates of their first second are measured from here.
        begun.into_iter().try_for_each(|id| self.look_at(id))
    }

    fn write_service(
        &mut self,
        id: u32,
        service: &Service,
        inputs: &TriggerInputs,
        is_new: bool,
    ) -> Result<Option<Unprotectable>> {
        let present = self.maps.services.get(id)?;
        let unprotectable = self.unprotectable(id, service)?;
        let slot = if is_new {
            self.clear_history(id, &present, service)?;
            map_values::new_slot(service, &self.host.defaults)
        } else {
            map_values::update_slot(&present, service, &self.host.defaults)
        };
        let slot = map_values::with_mode(&slot, self.configuration.settings.mode_of(service.endpoint.port));
        let slot = map_values::with_flag(&slot, abi::SERVICE_UNPROTECTABLE, unprotectable.is_some());
        let slot = abi::Service {
            triggers: triggers::triggers(&self.configuration.settings, service.endpoint.port, inputs),
            ..slot
        };
        if slot != present {
            self.maps.services.set(id, slot)?;
        }
        if is_new {
            log::debug!("{} is service {id}", service.endpoint);
        }
        Ok(unprotectable)
    }

    /// What a service's triggers are derived from.
    fn inputs(&self, service: &Service) -> TriggerInputs {
        let queues = service.listening.queues();
        let Percentiles { half_open_p99, syn_rate_p99 } = self.percentiles(&service.endpoint);
        TriggerInputs {
            backlog: queues.total(),
            listeners: queues.listeners,
            cpus: self.host.cpus,
            half_open_p99,
            syn_rate_p99,
            link_replies: self.links.link_replies,
        }
    }

    /// Resets counters when a slot is reused.
    fn clear_history(&mut self, id: u32, present: &abi::Service, service: &Service) -> Result<()> {
        if present.port != 0 && Endpoint::from_abi(present) == service.endpoint {
            return Ok(());
        }
        // Until now the kernel answered its SYNs.
        let load = abi::Load { unchallenged_syn: clock::now()?.ms | 1, ..abi::Load::EMPTY };
        self.maps.loads.set(id, load)?;
        self.maps.service_counters.fill(id, abi::ServiceCounters::default())
    }

    fn unprotectable(&mut self, id: u32, service: &Service) -> Result<Option<Unprotectable>> {
        if service.listening.mptcp {
            return Ok(Some(Unprotectable::Mptcp));
        }
        if let Some(obstacle) = &self.services.judgements.of(&service.endpoint).obstacle {
            return Ok(Some(Unprotectable::Firewall(obstacle.clone())));
        }
        let counters = self.maps.service_counters(id)?;
        let excused = self.host.broken.is_any();
        let loss =
            self.services.guard.observe(id, &service.listening.inodes, &counters, excused, Instant::now());
        Ok(loss.map(Unprotectable::GivenUp))
    }

    fn write_routes(&mut self, routes: &Routes) -> Result<()> {
        if *routes != self.services.routes {
            self.doubt_filter()?;
        }
        for ((address, port), id) in &routes.addresses {
            if self.services.routes.addresses.get(&(*address, *port)) != Some(id) {
                self.maps.addresses.insert(key(*address, *port), *id)?;
            }
        }
        let ports: BTreeSet<u16> =
            self.services.routes.ports.keys().chain(routes.ports.keys()).copied().collect();
        for port in ports {
            let wanted = routes.ports.get(&port).copied().unwrap_or_default();
            if self.services.routes.ports.get(&port).copied().unwrap_or_default() != wanted {
                self.maps.ports.set(port.into(), wanted)?;
            }
        }
        for (address, port) in
            self.services.routes.addresses.keys().filter(|key| !routes.addresses.contains_key(key))
        {
            self.maps.addresses.remove(key(*address, *port))?;
        }
        self.services.routes = routes.clone();
        Ok(())
    }
}

fn key(address: [u8; 16], port: u16) -> abi::ServiceKey {
    abi::ServiceKey { address, port, reserved: 0 }
}
