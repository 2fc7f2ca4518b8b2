//! Counts what test programs report.

use std::fmt;

/// What all test programs reported so far.
#[derive(Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    programs: usize,
    names: Vec<String>,
    broken: bool,
}

impl Tally {
    /// Takes in one line of what is printed.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.programs += 1;
            self.passed += number_before(" passed", result);
            self.failed += number_before(" failed", result);
            self.ignored += number_before(" ignored", result);
        } else if let Some(test) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.names.push(test.to_owned());
        }
    }

    /// Takes in how `cargo test` ended. A test program that crashes reports nothing, but Cargo does.
    pub(crate) fn end_of_pass(&mut self, success: bool) {
        self.broken |= !success;
    }

    /// That tests ran, and that none failed. None at all is no success: the filter must have been mistyped.
    pub(crate) fn is_success(&self) -> bool {
        self.failed == 0 && self.passed > 0 && !self.broken
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.names {
            writeln!(f, "failed: {name}")?;
        }
        if self.broken && self.failed == 0 {
            writeln!(f, "cargo test failed: a test program could not be built, or ended before its report")?;
        }
        let Self { passed, failed, ignored, programs, .. } = self;
        write!(f, "{passed} passed, {failed} failed, ")?;
        if *ignored > 0 {
            write!(f, "{ignored} ignored, ")?;
        }
        write!(f, "over {programs} binaries")
    }
}

/// The number in front of a word, in a list like "ok. 2 passed; 0 failed; …".
fn number_before(word: &str, list: &str) -> usize {
    let number = list.split_once(word).and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
    number.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str =
        "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
    const BAD: &str =
        "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn adds_up_all_programs() {
        let tally = tally(&["running 3 tests", "test a ... ok", "test b ... FAILED", OK, BAD]);
        assert_eq!(tally.to_string(), "failed: b\n5 passed, 1 failed, 1 ignored, over 2 binaries");
        assert!(!tally.is_success());
    }

    #[test]
    fn success_needs_a_test_and_no_crash() {
        assert!(!tally(&[]).is_success());
        let mut tally = tally(&[OK]);
        assert!(tally.is_success());
        tally.end_of_pass(true);
        assert!(tally.is_success());
        tally.end_of_pass(false);
        assert!(!tally.is_success());
        assert!(tally.to_string().starts_with("cargo test failed"));
    }
}
