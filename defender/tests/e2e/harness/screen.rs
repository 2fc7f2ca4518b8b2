//! A program on a terminal, by util-linux's `script`.

use std::{
    io::{Read as _, Write as _},
    os::fd::AsFd as _,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::topology::Topology;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{PATIENCE, PROGRAM};

/// A program on a terminal of 24 lines and 80 columns.
pub(crate) struct Screen {
    child: Child,
    keys: ChildStdin,
    output: ChildStdout,
    seen: String,
}

impl Screen {
    /// Runs a shell's command there, in the server's namespace. `defender` is the program under test.
    pub(crate) fn start(bed: &Topology, pins: &Path, script: &str) -> Result<Self> {
        let directory = Path::new(PROGRAM).parent().context("no directory")?.display();
        let path = std::env::var("PATH").unwrap_or_default();
        let script = format!("stty rows 24 columns 80; export TERM=xterm; {script}");
        let mut command = bed.server.command("script")?;
        command.args(["--quiet", "--return", "--flush", "--command", &script, "/dev/null"]);
        command.env("PATH", format!("{directory}:{path}")).env("DEFENDER_PIN_ROOT", pins);
        command.env("SHELL", "/bin/sh").env_remove("NO_COLOR").env_remove("COLUMNS");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let keys = child.stdin.take().context("no keyboard")?;
        let output = child.stdout.take().context("no screen")?;
        Ok(Self { child, keys, output, seen: String::new() })
    }

    /// Reads on until that was seen so many times.
    pub(crate) fn wait_for(&mut self, what: &str, times: usize) -> Result<()> {
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

    /// Types this.
    pub(crate) fn press(&mut self, keys: &[u8]) -> Result<()> {
        self.keys.write_all(keys)?;
        Ok(self.keys.flush()?)
    }

    /// Reads to the end. Returns what was seen, and the exit status.
    pub(crate) fn end(mut self) -> Result<(String, Option<i32>)> {
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
