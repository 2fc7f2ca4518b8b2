//! A container with systemd as its first process, which somebody else has started.

use std::path::{Path, PathBuf};

use anyhow::Result;
use defender_testbed::command;

/// Environment of programs in it: nobody answers questions.
const ENVIRONMENT: [&str; 4] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND=noninteractive",
    "LC_ALL=C.UTF-8",
    "HOME=/root",
];

pub(crate) struct Container {
    first_process: u32,
    root: PathBuf,
}

impl Container {
    pub(crate) fn new(first_process: u32, root: PathBuf) -> Self {
        Self { first_process, root }
    }

    /// Its first process.
    pub(crate) fn first_process(&self) -> u32 {
        self.first_process
    }

    /// One of its files, seen from here.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path).strip_prefix("/").unwrap_or(Path::new(path)))
    }

    /// Runs a line of shell that must succeed, and returns what it prints.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        let words = self.words(&["sh", "-e", "-c", line]);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        command::run(words[0], &words[1..])
    }

    /// The line that runs a program in it from a terminal outside.
    pub(crate) fn typed(&self, program: &str) -> String {
        self.words(&["TERM=\"$TERM\"", program]).join(" ")
    }

    fn words(&self, inside: &[&str]) -> Vec<String> {
        let first_process = self.first_process.to_string();
        let enter = ["nsenter", "--target", &first_process, "--all", "env", "-i"];
        [&enter, &ENVIRONMENT[..], inside].concat().into_iter().map(str::to_owned).collect()
    }
}
