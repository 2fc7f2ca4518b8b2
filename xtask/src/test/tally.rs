//! Counts what test programs report.

use std::{fmt, mem};

/// What all test programs reported so far.
#[derive(Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    programs: usize,
    names: Vec<String>,
    in_failures: bool,
    broken: bool,
    /// The line that has not ended yet.
    line: Vec<u8>,
}

impl Tally {
    /// Takes in the next piece of what is printed.
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
        // The names stand in lines of their own; "test NAME ... FAILED" may be torn apart by what the test prints.
        match line.strip_prefix("    ") {
            Some(name) if self.in_failures => self.names.push(name.to_owned()),
            _ => self.in_failures = line == "failures:",
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
        if self.passed + self.failed == 0 {
            writeln!(f, "no test ran: is there one with such a name?")?;
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
        lines.iter().for_each(|line| tally.read(format!("{line}\n").as_bytes()));
        tally
    }

    #[test]
    fn adds_up_all_programs() {
        let tally = tally(&[
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
        assert_eq!(tally.to_string(), "failed: b\n5 passed, 1 failed, 1 ignored, over 2 binaries");
        assert!(!tally.is_success());
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let mut tally = Tally::default();
        for byte in format!("{OK}\n{BAD}\n").as_bytes() {
            tally.read(&[*byte]);
        }
        assert_eq!((tally.passed, tally.failed, tally.programs), (5, 1, 2));
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
