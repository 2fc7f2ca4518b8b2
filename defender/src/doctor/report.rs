//! What an examination came to.

use std::fmt;

use serde::Serialize;

/// Version of the JSON form.
const VERSION: u32 = 1;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It could not be found out.
    Unknown,
    /// Works, but not for everything, or not as well as it could.
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

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: a name that stays the same.
    pub name: &'static str,
    /// Of which interface or port, if of one.
    pub subject: Option<String>,
    /// How it came out.
    pub status: Status,
    /// What was found, in one line.
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

    /// Says which interface or port it is about.
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

/// All checks. Its text is for people; its JSON form is `version`, `status` (the worst), `checks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    version: u32,
    status: Status,
    /// The checks, in the order they were made.
    pub checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(checks: Vec<Check>) -> Self {
        let status = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
        Self { version: VERSION, status, checks }
    }

    /// Whether something does not work: then the command's exit status is 1.
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
        write!(f, "\n{fail} failed, {warn} to look at, {unknown} unknown, {ok} ok")
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

0 failed, 1 to look at, 1 unknown, 1 ok";
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
