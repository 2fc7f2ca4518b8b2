//! A defended server, a window with `top` in it, and screens whose numbers do not matter.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::{Controller, STATE_DIRECTORY, state_directory},
    server::Server,
    tmux::{PROMPT, Tmux},
    topology::Topology,
};

use crate::harness::{PROGRAM, process::Scratch, run, start};

/// The service's port.
const PORT: u16 = 80;
/// What the shell says before `top` runs, and again after it.
const BEFORE: &str = "what was there before";

/// A server, the defender in mode `auto`, and a window of 80 by 24.
pub(crate) struct Scene<'a> {
    pub(crate) defender: Controller<'a>,
    pub(crate) tmux: Tmux,
    server: Server,
    modes: Scratch,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(bed: &'a Topology, environment: &[(&str, &str)]) -> Result<Self> {
        let server = Server::start(&bed.server, bed.server_v4(PORT))?;
        let defender = start(bed, &["--mode", "auto"])?;
        defender.wait_for_listener(PORT)?;
        let state = state_directory(defender.pin_root()).display().to_string();
        let environment = [environment, &[(STATE_DIRECTORY, state.as_str())]].concat();
        let tmux = Tmux::start(&bed.server, (80, 24), &environment)?;
        Ok(Self { defender, tmux, server, modes: Scratch::new()? })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Starts `top`, and waits for its first screen.
    pub(crate) fn top(&self) -> Result<String> {
        self.run(&command(self.defender.pin_root()))?;
        self.tmux.wait_for("top is there", |screen| screen.contains("q quit  ? help"))
    }

    /// Runs a command from a script that notes the modes of the terminal before and after.
    pub(crate) fn run(&self, command: &str) -> Result<()> {
        let script = format!(
            "echo {BEFORE}\nstty -a > {}\n{}\necho ended with $?\nstty -a > {}\n",
            self.modes.path("before").display(),
            command,
            self.modes.path("after").display(),
        );
        let script = self.modes.write("script", script)?;
        self.tmux.line(&format!("clear; sh {}", script.display()))
    }

    /// The process id of `top`: the shell's child's child.
    pub(crate) fn pid(&self) -> Result<i32> {
        let mut pid = self.tmux.variable("pane_pid")?;
        for _ in 0..2 {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            pid = children.split_whitespace().next().context("no child")?.to_owned();
        }
        Ok(pid.parse()?)
    }

    /// Whether `top` runs, sleeps or is stopped, as a letter of proc(5).
    pub(crate) fn state(&self) -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        let (_, state) = status.rsplit_once(") ").context("no state")?;
        Ok(state.chars().take(1).collect())
    }

    /// `top` has ended with this status; the screen and the modes are what they were.
    pub(crate) fn ended(&self, status: i32) -> Result<()> {
        let ended = format!("ended with {status}");
        self.tmux.wait_for(&ended, |screen| screen.contains(&ended))?;
        self.shell_is_back()?;
        let [before, after] = ["before", "after"].map(|name| fs::read_to_string(self.modes.path(name)));
        let (before, after) = (before?, after?);
        ensure!(before == after && before.contains("icanon"), "before:\n{before}\nafter:\n{after}");
        Ok(())
    }

    /// The shell is back on the screen that it had, and nothing of `top` is left.
    pub(crate) fn shell_is_back(&self) -> Result<()> {
        let screen = self.tmux.wait_for("the shell is back", |screen| {
            screen.contains(&format!("\n{BEFORE}\n")) || screen.starts_with(&format!("{BEFORE}\n"))
        })?;
        ensure!(!screen.contains("SYN/S"), "{screen}");
        self.tmux.wait_for("a prompt", |screen| screen.trim_end().ends_with(PROMPT))?;
        ensure!(self.tmux.variable("alternate_on")? == "0", "the other screen is on");
        ensure!(self.tmux.variable("cursor_flag")? == "1", "the cursor is hidden");
        Ok(())
    }
}

/// The command line of `top`.
pub(crate) fn command(pins: &Path) -> String {
    format!("{PROGRAM} --pin-root {} top", pins.display())
}

/// Runs `top` where there is no terminal; its exit status, and what it says.
pub(crate) fn without_terminal(bed: &Topology, pins: &Path) -> Result<(Option<i32>, String)> {
    let output = run(bed, pins, &["top"])?;
    ensure!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Asserts that each line is as expected where `#` stands for a number, one space for several, and `*` for anything.
#[track_caller]
pub(crate) fn assert_like(screen: &str, expected: &str) {
    let expected: Vec<_> = expected.lines().collect();
    let lines: Vec<_> = screen.lines().map(masked).collect();
    let like =
        lines.len() >= expected.len() && lines.iter().zip(&expected).all(|(line, like)| is_like(line, like));
    assert!(like, "the screen is\n{screen}\nthat is\n{}\nand not\n{}", lines.join("\n"), expected.join("\n"));
}

fn masked(line: &str) -> String {
    let mut masked = String::new();
    for letter in line.trim_end().chars() {
        let letter = if letter.is_ascii_digit() { '#' } else { letter };
        if !(matches!(letter, '#' | ' ') && masked.ends_with(letter)) {
            masked.push(letter);
        }
    }
    masked
}

fn is_like(line: &str, like: &str) -> bool {
    let parts: Vec<&str> = like.split('*').collect();
    let [first, between @ .., last] = parts.as_slice() else { return line == like };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}
