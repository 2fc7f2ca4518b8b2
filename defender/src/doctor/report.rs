//! The results of all checks.

use serde::Serialize;

use crate::model::{paint, prose};

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

    /// Columns of the longest name.
    const WIDTH: usize = "unknown".len();

    fn painted(self, text: &str) -> String {
        match self {
            Self::Ok => paint::good(text),
            Self::Unknown => text.to_owned(),
            Self::Warn => paint::busy(text),
            Self::Fail => paint::bad(text),
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

impl Report {
    /// As text, in lines of at most `width` columns.
    pub fn text(&self, width: usize) -> String {
        let titles = self.checks.iter().map(|check| check.title().chars().count()).max().unwrap_or(0);
        let margin = Status::WIDTH + titles + 4;
        let mut text = String::new();
        for check in &self.checks {
            let status = check.status.painted(&format!("{:<1$}", check.status.name(), Status::WIDTH));
            let line = format!("{status}  {:<titles$}  {}", check.title(), check.found);
            text.push_str(&prose::paragraph(&line, margin, width));
            if let Some(advice) = &check.advice {
                let line = format!("{:margin$}-> {advice}", "");
                text.push_str(&prose::paragraph(&line, margin + 3, width));
            }
        }
        text + "\n" + &prose::paragraph(&self.sum(), 2, width)
    }

    fn sum(&self) -> String {
        let [fail, warn, unknown, ok] =
            [Status::Fail, Status::Warn, Status::Unknown, Status::Ok].map(|status| self.count(status));
        let warnings = if warn == 1 { "warning" } else { "warnings" };
        format!("{ok} ok, {warn} {warnings}, {fail} failed, {unknown} unknown")
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

1 ok, 1 warning, 0 failed, 1 unknown
";
        assert_eq!(console::strip_ansi_codes(&report().text(usize::MAX)), expected);
        assert!(report().text(usize::MAX).contains("\x1b["));
    }

    #[test]
    fn long_findings_are_wrapped_below_each_other() {
        let words = "so it was found ".repeat(9);
        let report = Report::new(vec![Check::warn("offloads", &*words, &*words).about("enp65535s0f1np1")]);
        let text = report.text(80);
        let text = console::strip_ansi_codes(&text);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(text.matches("found").count(), 18, "{text}");
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
