//! What Prometheus and the journal say about the attack.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use defender_testbed::prometheus::Prometheus;
use serde_json::Value;

use super::{Container, eventually};

/// A service, as Prometheus sees it.
pub(super) struct Alert<'a> {
    pub(super) prometheus: &'a Prometheus<'a>,
    pub(super) service: SocketAddr,
}

impl Alert<'_> {
    /// 1 during an attack, else 0.
    pub(super) fn mitigating(&self) -> Result<Option<f64>> {
        self.prometheus.value(&format!("defender_mitigating{{service=\"{}\"}}", self.service))
    }

    /// SYNs that were challenged so far.
    pub(super) fn challenged(&self) -> Result<f64> {
        Ok(self.prometheus.value("defender_syns_total{outcome=\"challenged\"}")?.unwrap_or(0.0))
    }

    /// Whether the rule that came with the package fires.
    pub(super) fn fires(&self) -> Result<bool> {
        Ok(self.prometheus.value("ALERTS{alertname=\"DefenderAttack\",alertstate=\"firing\"}")?.is_some())
    }
}

/// Events of the unit, by their fields.
pub(super) struct Journal<'a> {
    pub(super) container: &'a Container,
    pub(super) port: u16,
}

impl Journal<'_> {
    /// Nothing has happened to the service yet.
    pub(super) fn has_no_event(&self) -> Result<()> {
        for event in ["began", "ended"] {
            ensure!(
                self.entries(event)?.is_empty(),
                "the journal knows of an attack that {event} before there was one"
            );
        }
        Ok(())
    }

    /// Waits for an event of the service.
    pub(super) fn wait_for(&self, event: &str) -> Result<()> {
        eventually(&format!("the journal says that the attack {event}"), || {
            Ok(!self.entries(event)?.is_empty())
        })?;
        let entries = self.entries(event)?;
        let entry = entries.first().context("an entry")?;
        let kind = entry["DEFENDER_KIND"].as_str();
        ensure!(entry["DEFENDER_MODE"] == "auto" && kind.is_some(), "fields are missing: {entry}");
        Ok(())
    }

    fn entries(&self, event: &str) -> Result<Vec<Value>> {
        let line = format!(
            "journalctl --quiet --unit defender --output json DEFENDER_EVENT={event} PORT={}",
            self.port
        );
        let text = self.container.shell(&line)?;
        text.lines().map(|line| serde_json::from_str(line).context("journalctl prints JSON")).collect()
    }
}
