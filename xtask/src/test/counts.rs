//! Counts what test programs report.

use std::{fmt, mem};

/// Results so far.
#[derive(Default)]
pub(crate) struct TestCounts {
    passed: usize,
    failed: usize,
    ignored: usize,
    programs: usize,
    names: Vec<String>,
    in_failures: bool,
    broken: bool,
    /// The incomplete last line.
    line: Vec<u8>,
}

impl TestCounts {
    /// Reads the next chunk of output.
    pub(crate) fn read(&mut self, chunk: &[u8]) {
        for byte in chunk {
            if *byte == b'\n' {
                let line = mem::take(&mut self.line);
                self.read_line(&String::from_utf8_lossy(&line));
            } else {
                self.line.push(*byte);
            }
        }
    }

    fn read_line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.programs += 1;
            self.passed += number_before(" passed", result);
            self.failed += number_before(" failed", result);
            self.ignored += number_before(" ignored", result);
        }
        // The names are on lines of their own. The test's output may split "test NAME ... FAILED".
        match line.strip_prefix("    ") {
            Some(name) if self.in_failures => self.names.push(name.to_owned()),
            _ => self.in_failures = line == "failures:",
        }
    }

    /// Records how `cargo test` ended. A test program that crashes reports nothing, but Cargo fails.
    pub(crate) fn end_of_pass(&mut self, success: bool) {
        self.broken |= !success;
    }

    /// Adds the results of another.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.programs += other.programs;
        self.names.extend(other.names);
        self.broken |= other.broken;
    }

    /// Whether tests ran and none failed. Running no test is a failure: the filter was probably mistyped.
    pub(crate) fn is_success(&self) -> bool {
        self.failed == 0 && self.passed > 0 && !self.broken
    }
}

impl fmt::Display for TestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.names {
            writeln!(f, "failed: {name}")?;
        }
        if self.broken && self.failed == 0 {
            writeln!(f, "cargo test failed: a test program did not build, or crashed")?;
        }
        if self.passed + self.failed == 0 {
            writeln!(f, "no test ran: no name contains the filter")?;
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

    fn counts(lines: &[&str]) -> TestCounts {
        let mut counts = TestCounts::default();
        lines.iter().for_each(|line| counts.read(format!("{line}\n").as_bytes()));
        counts
    }

    #[test]
    fn adds_up_all_programs() {
        let counts = counts(&[
            "test a ... ok",
            OK,
            "failures:",
            "",
            "---- b stdout ----",
            "    x",
            "failures:",
            "    b",
            "",
            BAD,
        ]);
        assert_eq!(counts.to_string(), "failed: b\n5 passed, 1 failed, 1 ignored, over 2 binaries");
        assert!(!counts.is_success());
    }

    #[test]
    fn parallel_runs_are_added_up() {
        let mut all = counts(&[OK]);
        all.add(counts(&["failures:", "    b", "", BAD]));
        all.add(counts(&[OK]));
        assert_eq!(all.to_string(), "failed: b\n7 passed, 1 failed, 2 ignored, over 3 binaries");
        let mut crashed = TestCounts::default();
        crashed.end_of_pass(false);
        let mut all = counts(&[OK]);
        all.add(crashed);
        assert!(!all.is_success());
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let mut counts = TestCounts::default();
        for byte in format!("{OK}\n{BAD}\n").as_bytes() {
            counts.read(&[*byte]);
        }
        assert_eq!((counts.passed, counts.failed, counts.programs), (5, 1, 2));
    }

    #[test]
    fn success_needs_a_test_and_no_crash() {
        assert!(!counts(&[]).is_success());
        let mut counts = counts(&[OK]);
        assert!(counts.is_success());
        counts.end_of_pass(true);
        assert!(counts.is_success());
        counts.end_of_pass(false);
        assert!(!counts.is_success());
        assert!(counts.to_string().starts_with("cargo test failed"));
    }
}
