//! The results of all checks.

use std::fmt;

use serde::Serialize;

/// Version of the JSON form.
const VERSION: u32 = 1;

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Could not be determined.
    Unknown,
    /// Works, but not for everything, or not at its best.
    Warn,
    /// Does not work.
    Fail,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A stable name for what was checked.
    pub name: &'static str,
    /// The interface or port, if it concerns one.
    pub subject: Option<String>,
    /// The result.
    pub status: Status,
    /// The finding, in one line.
    pub found: String,
    /// What to do, in one line.
    pub advice: Option<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, subject: None, status: Status::Ok, found: found.into(), advice: None }
    }

    pub(super) fn unknown(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Status::Unknown, advice: Some(advice.into()), ..Self::ok(name, found) }
    }

    pub(super) fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Status::Warn, advice: Some(advice.into()), ..Self::ok(name, found) }
    }

    pub(super) fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Status::Fail, advice: Some(advice.into()), ..Self::ok(name, found) }
    }

    /// Sets the interface or port that it is about.
    pub(super) fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    fn title(&self) -> String {
        match &self.subject {
            Some(subject) => format!("{} {subject}", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// All checks. Printed as text, or as JSON with `version`, `status` (the worst) and `checks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of the shape: 1.
    version: u32,
    /// The worst of all checks.
    status: Status,
    /// The checks, in order of execution.
    pub checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(checks: Vec<Check>) -> Self {
        let status = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
        Self { version: VERSION, status, checks }
    }

    /// Whether a check failed: then the command exits with status 1.
    pub fn failed(&self) -> bool {
        self.status == Status::Fail
    }

    fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.title().chars().count()).max().unwrap_or(0);
        for check in &self.checks {
            writeln!(f, "{:<7}  {:<width$}  {}", check.status.name(), check.title(), check.found)?;
            if let Some(advice) = &check.advice {
                writeln!(f, "{:<7}  {:<width$}  -> {advice}", "", "")?;
            }
        }
        let [fail, warn, unknown, ok] =
            [Status::Fail, Status::Warn, Status::Unknown, Status::Ok].map(|status| self.count(status));
        let warnings = if warn == 1 { "warning" } else { "warnings" };
        write!(f, "\n{ok} ok, {warn} {warnings}, {fail} failed, {unknown} unknown")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(vec![
            Check::ok("kernel", "6.18"),
            Check::warn("offloads", "LRO is on", "ethtool -K eth0 lro off").about("eth0"),
            Check::unknown("firewall", "nft is not installed", "install it"),
        ])
    }

    #[test]
    fn the_text_is_aligned_and_summed_up() {
        let expected = "\
ok       kernel         6.18
warn     offloads eth0  LRO is on
                        -> ethtool -K eth0 lro off
unknown  firewall       nft is not installed
                        -> install it

1 ok, 1 warning, 0 failed, 1 unknown";
        assert_eq!(report().to_string(), expected);
    }

    #[test]
    fn the_json_form_has_a_version_and_every_field() {
        let json = serde_json::to_value(report()).unwrap();
        let expected = serde_json::json!({
            "version": 1,
            "status": "warn",
            "checks": [
                {"name": "kernel", "subject": null, "status": "ok", "found": "6.18", "advice": null},
                {"name": "offloads", "subject": "eth0", "status": "warn", "found": "LRO is on",
                 "advice": "ethtool -K eth0 lro off"},
                {"name": "firewall", "subject": null, "status": "unknown", "found": "nft is not installed",
                 "advice": "install it"},
            ],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn one_failure_fails_the_report() {
        assert!(!report().failed());
        let mut checks = report().checks;
        checks.push(Check::fail("kernel", "5.4", "upgrade"));
        assert!(Report::new(checks).failed());
        assert!(!Report::new(Vec::new()).failed());
    }
}
