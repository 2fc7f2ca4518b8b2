//! What people see on a terminal: reports that are repeated in place, colours, and lines that fit.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::fd::AsFd as _,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{controller::Controller, server::Server, topology::Topology};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::harness::{PATIENCE, PROGRAM, start_always};

const CTRL_C: u8 = 3;
const ESCAPE: char = '\x1b';
/// What puts the cursor in the upper left corner.
const HOME: &str = "\x1b[H";

/// A program on a terminal of 24 lines and 80 columns.
struct Screen {
    child: Child,
    keys: ChildStdin,
    output: ChildStdout,
    seen: String,
}

impl Screen {
    /// Runs the defender's command there; `setting` is what the shell does before.
    fn start(defender: &Controller<'_>, bed: &Topology, setting: &str, arguments: &str) -> Result<Self> {
        let script =
            format!("stty rows 24 columns 80; export TERM=xterm; {setting}; exec {PROGRAM} {arguments}");
        let mut command = bed.server.command("script")?;
        command.args(["--quiet", "--return", "--flush", "--command", &script, "/dev/null"]);
        command.env("DEFENDER_PIN_ROOT", defender.pin_root()).env("SHELL", "/bin/sh").env_remove("NO_COLOR");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let keys = child.stdin.take().context("no keyboard")?;
        let output = child.stdout.take().context("no screen")?;
        Ok(Self { child, keys, output, seen: String::new() })
    }

    /// Reads on until that was seen so many times.
    fn wait_for(&mut self, what: &str, times: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.seen.matches(what).count() < times {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            ensure!(left > 0, "{what:?} does not come {times} times: {:?}", self.seen);
            let mut fds = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::try_from(left)?)? == 0 {
                continue;
            }
            let mut piece = [0; 4096];
            let length = self.output.read(&mut piece)?;
            ensure!(length > 0, "it has ended: {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        Ok(())
    }

    fn press(&mut self, key: u8) -> Result<()> {
        self.keys.write_all(&[key])?;
        Ok(self.keys.flush()?)
    }

    /// Reads to the end. Returns what was seen, and the exit status.
    fn end(mut self) -> Result<(String, Option<i32>)> {
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest)?;
        self.seen.push_str(&String::from_utf8_lossy(&rest));
        Ok((std::mem::take(&mut self.seen), self.child.wait()?.code()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Columns of a line without what is no text.
fn columns(line: &str) -> usize {
    let mut rest = line;
    let mut columns = 0;
    while let Some((text, sequence)) = rest.split_once(ESCAPE) {
        columns += text.chars().count();
        rest = sequence.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, after)| after);
    }
    columns + rest.trim_end_matches('\r').chars().count()
}

#[test]
fn repeated_reports_stay_in_place_and_end_with_ctrl_c() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    for (command, words) in [("stats", "PER SECOND"), ("status", "SERVICE"), ("conns", "no connections")] {
        let mut screen = Screen::start(&defender, &bed, "true", &format!("{command} --watch 1"))?;
        screen.wait_for(HOME, 2)?;
        screen.wait_for(words, 2)?;
        screen.press(CTRL_C)?;
        let (seen, status) = screen.end()?;
        assert_eq!(status, Some(0), "{command}: {seen}");
        for frame in seen.split(HOME).skip(1) {
            let mut lines = frame.lines();
            let heading = lines.next().context("no line")?;
            // 2026-01-31T23:59:59Z
            assert!(heading.get(10..11) == Some("T") && heading.contains("every 1 s"), "{heading}");
            assert!(frame.lines().count() <= 24, "{command}: {frame}");
            for line in frame.lines() {
                assert!(columns(line) <= 80, "{command}: {line:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_terminal_without_a_cursor_gets_one_report_below_the_other() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let mut screen = Screen::start(&defender, &bed, "export TERM=dumb", "status --watch 1")?;
    screen.wait_for("SERVICE", 2)?;
    screen.press(CTRL_C)?;
    let (seen, status) = screen.end()?;
    assert_eq!(status, Some(0), "{seen}");
    assert!(!seen.contains(ESCAPE), "{seen:?}");
    Ok(())
}

#[test]
fn colours_are_for_terminals_that_want_them() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    for (setting, coloured) in [("true", true), ("export NO_COLOR=1", false), ("export TERM=dumb", false)] {
        let (seen, status) = Screen::start(&defender, &bed, setting, "status")?.end()?;
        assert_eq!(status, Some(0), "{seen}");
        assert_eq!(seen.contains(ESCAPE), coloured, "{setting}: {seen:?}");
        assert!(seen.contains("every SYN is challenged"), "{seen}");
    }
    // In a pipe there are none, and lines are whole.
    for command in ["status", "stats", "explain 80", "doctor"] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let text = defender.ask(&arguments)?;
        assert!(!text.contains(ESCAPE), "{command}: {text:?}");
    }
    let explained = defender.ask(&["explain", "80"])?;
    assert!(explained.lines().any(|line| line.len() > 100), "{explained}");
    Ok(())
}

#[test]
fn reports_fit_the_terminal() -> Result<()> {
    let bed = Topology::new()?;
    let _servers =
        [Server::start(&bed.server, bed.server_v4(80))?, Server::start(&bed.server, bed.server_v6(60_443))?];
    let defender = start_always(&bed, &[80, 60_443])?;
    for command in [
        "status",
        "stats",
        "explain 80",
        "explain 60443",
        "doctor",
        "why 2001:db8::7",
        "conns --summary",
        "events",
    ] {
        let (seen, _) = Screen::start(&defender, &bed, "true", command)?.end()?;
        ensure!(!seen.is_empty(), "{command} prints nothing");
        for line in seen.lines() {
            assert!(columns(line) <= 80, "{command}: {line}\n{seen}");
        }
    }
    Ok(())
}

/// In a pipe, reports follow each other below the time, and SIGTERM ends them in order.
#[test]
fn in_a_pipe_reports_follow_each_other() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    for (arguments, is_begin) in [
        (&["stats", "--watch", "1"][..], (|line: &str| line.ends_with('Z')) as fn(&str) -> bool),
        (&["status", "--watch", "1", "--json"], |line: &str| line.starts_with("{\"version\":1,")),
        (&["conns", "--summary", "--watch", "1", "--json"], |line: &str| line.starts_with("{\"version\":1,")),
    ] {
        let mut command = bed.server.command(PROGRAM)?;
        command.args(arguments).arg("--pin-root").arg(defender.pin_root());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut begun = 0;
        for line in output.lines() {
            let line = line?;
            assert!(!line.contains(ESCAPE), "{line}");
            begun += usize::from(is_begin(&line));
            if begun == 2 {
                kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
                begun += 1;
            }
        }
        assert!(begun >= 2, "{arguments:?}");
        assert_eq!(child.wait()?.code(), Some(0), "{arguments:?}");
    }
    Ok(())
}
