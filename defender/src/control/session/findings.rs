//! What was found out, for other processes and for people.

use std::time::Instant;

use anyhow::Result;
use log::Level;

use super::Session;
use crate::{
    host::{hooks, vips, wall_clock},
    model::{endpoint::Endpoint, finding::Finding, mode::Mode, protection},
    state::findings::Findings,
};

impl Session {
    /// What people should know besides what reports see for themselves.
    pub(super) fn warnings(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.addresses.unplaced != 0 {
            warnings.push(format!(
                "{} of this host's addresses do not fit into the maps, so SYNs to them pass",
                self.addresses.unplaced
            ));
        }
        warnings.extend(self.services.left_out.warning(&self.services.table.left_out(), Instant::now()));
        warnings.extend(self.links.hindered.iter().map(|(name, obstacle)| {
            format!("{name} is not defended: {}; {}", obstacle.describe(), obstacle.remedy())
        }));
        if !self.root.is_on_bpffs() {
            warnings.push(format!(
                "the BPF file system at {} is gone: everything stays attached while this process lives, but other \
                 commands cannot find it. Mount it again (`mount -t bpf bpf DIR`)",
                self.root.path().display()
            ));
        }
        warnings.extend(self.host.broken.warnings());
        warnings.extend(self.watch.journal.warnings());
        warnings.extend(self.configuration.settings.hook.as_ref().and_then(hooks::warning));
        warnings.extend(vips::warnings(&self.addresses.vips));
        warnings.extend(self.conntrack.warning().map(str::to_owned));
        let challenged =
            self.services.table.services.values().map(|service| service.endpoint).filter(|endpoint| {
                matches!(self.configuration.settings.mode_of(endpoint.port), Mode::Always | Mode::Auto)
            });
        for endpoint in challenged {
            let hurting =
                self.services.judgements.of(&endpoint).warnings.iter().filter(|finding| finding.hurts());
            warnings.extend(hurting.map(|finding| warning(&endpoint, finding)));
        }
        warnings
    }

    /// Says that a service cannot be protected, and why, or that it can again.
    pub(super) fn report_protection(&mut self, id: u32, reason: Option<&str>) {
        let Some(service) = self.services.table.services.get(&id) else { return };
        let mode = self.configuration.settings.mode_of(service.endpoint.port);
        let record = protection::record(&service.endpoint, mode, reason, wall_clock::now());
        self.report(if reason.is_some() { Level::Warn } else { Level::Info }, &record);
    }

    pub(super) fn publish(&mut self, findings: Findings) -> Result<()> {
        let findings = Findings { hooks: self.hooks.counts(), ..findings };
        for warning in findings.warnings.iter().filter(|warning| !self.findings.warnings.contains(warning)) {
            log::warn!("{warning}");
        }
        for (id, reason) in self.findings.protection_changes(&findings) {
            self.report_protection(id, reason);
        }
        if findings != self.findings {
            let written = findings.write(&self.owner.directory);
            self.owner.complaints.heard("findings", written);
            self.findings = findings;
        }
        Ok(())
    }
}

fn warning(endpoint: &Endpoint, finding: &Finding) -> String {
    format!("{endpoint}: {finding}. Rule: {}. Fix: {}", finding.rule, finding.advice())
}
