//! A guest's output: first `plan NAME…`, then for each check `NAME ok|n/a|FAIL` with a detail or reason.

/// Result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckResult {
    /// As expected. May have a detail, and more after a colon.
    Ok(String),
    /// Does not apply to this kernel, with the reason.
    NotApplicable(String),
    /// Not as expected, with the reason.
    Fail(String),
}

impl CheckResult {
    fn parse(text: &str) -> Option<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = rest.to_owned();
        match word {
            "ok" => Some(Self::Ok(rest)),
            "n/a" => Some(Self::NotApplicable(rest)),
            "FAIL" => Some(Self::Fail(rest)),
            _ => None,
        }
    }

    /// The short form for a cell of the table.
    pub(crate) fn short(&self) -> &str {
        match self {
            Self::Ok(how) if how.is_empty() => "ok",
            Self::Ok(how) => how.split(':').next().unwrap_or(how),
            Self::NotApplicable(_) => "n/a",
            Self::Fail(_) => "FAIL",
        }
    }
}

/// All results for one kernel.
#[derive(Debug, Default)]
pub(crate) struct GuestReport {
    planned: Vec<String>,
    verdicts: Vec<(String, CheckResult)>,
}

impl GuestReport {
    /// The report of a kernel on which no check could run.
    pub(crate) fn failed(why: &str) -> Self {
        let mut report = Self::default();
        report.ends(why);
        report
    }

    /// Reads a line. Ignores lines that are not results.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(names) = line.strip_prefix("plan ") {
            self.planned = names.split_whitespace().map(str::to_owned).collect();
        } else if let Some((name, text)) = line.split_once(' ')
            && self.planned.iter().any(|planned| planned == name)
            && let Some(verdict) = CheckResult::parse(text)
        {
            self.verdicts.push((name.to_owned(), verdict));
        }
    }

    /// The guest is gone: checks without a result have failed.
    pub(crate) fn ends(&mut self, why: &str) {
        if self.planned.is_empty() {
            self.planned.push("boot".to_owned());
        }
        for name in &self.planned {
            if self.verdict(name).is_none() {
                self.verdicts.push((name.clone(), CheckResult::Fail(why.to_owned())));
                break;
            }
        }
        for name in &self.planned {
            if self.verdict(name).is_none() {
                let why = "not tried: the guest had ended".to_owned();
                self.verdicts.push((name.clone(), CheckResult::NotApplicable(why)));
            }
        }
    }

    /// The checks, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.planned.iter().map(String::as_str)
    }

    /// The result of a check, if it was planned.
    pub(crate) fn verdict(&self, name: &str) -> Option<&CheckResult> {
        self.verdicts.iter().find(|(checked, _)| checked == name).map(|(_, verdict)| verdict)
    }

    /// Failed checks, with the reasons.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.verdicts.iter().filter_map(|(name, verdict)| match verdict {
            CheckResult::Fail(why) => Some((name.as_str(), why.as_str())),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> GuestReport {
        let mut report = GuestReport::default();
        lines.iter().for_each(|line| report.read(line));
        report
    }

    #[test]
    fn results_are_read_line_by_line() {
        let mut report = report(&["SeaBIOS", "plan a b c", "a ok", "b ok native", "c FAIL it is broken"]);
        report.ends("too late");
        assert_eq!(report.verdict("a").map(CheckResult::short), Some("ok"));
        assert_eq!(report.verdict("b").map(CheckResult::short), Some("native"));
        assert_eq!(report.failures().collect::<Vec<_>>(), [("c", "it is broken")]);
    }

    #[test]
    fn checks_without_a_result_have_failed() {
        let mut cut_short = report(&["plan a b c", "a ok"]);
        cut_short.ends("it crashed");
        assert_eq!(cut_short.failures().collect::<Vec<_>>(), [("b", "it crashed")]);
        assert_eq!(cut_short.verdict("c").map(CheckResult::short), Some("n/a"));
        let mut silent = report(&[]);
        silent.ends("it crashed");
        assert_eq!(silent.failures().collect::<Vec<_>>(), [("boot", "it crashed")]);
    }
}
