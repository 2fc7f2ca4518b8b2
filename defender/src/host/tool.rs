//! Runs external tools, which may be missing, fail, hang, or print without end.

use std::{
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Result of running a tool.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tool {
    /// Its output.
    Printed(String),
    /// It is not installed.
    Missing,
    /// It failed for this reason.
    Failed(String),
}

/// Where administration tools are installed, even if the search path omits them.
const PLACES: [&str; 3] = ["", "/usr/sbin/", "/sbin/"];
/// No real ruleset is this large, in bytes.
const MOST_OUTPUT: usize = 256 << 20;
/// How often to check whether to keep waiting.
const STEP: Duration = Duration::from_millis(100);
/// How long to wait for the exit of a process that was killed or closed its output.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// This process is about to exit.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Kills all running tools and starts no more: this process is about to exit.
pub fn end_all() {
    ENDING.store(true, Ordering::Relaxed);
}

/// Runs a tool that only lists. Kills it at `deadline`.
pub(super) fn list(tool: &str, arguments: &[&str], deadline: Instant) -> Tool {
    for place in PLACES {
        match run(Command::new(format!("{place}{tool}")).args(arguments), deadline) {
            Ok(outcome) => return outcome,
            // An unreadable directory in the search path does not mean that the tool is missing.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            Err(error) => return Tool::Failed(error.to_string()),
        }
    }
    Tool::Missing
}

/// An error means that it could not be started.
fn run(command: &mut Command, deadline: Instant) -> io::Result<Tool> {
    let began = Instant::now();
    // A separate process group, so that its children are killed with it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let printed = read(&mut child, deadline);
    let status = match &printed {
        Ok(_) => wait(&mut child, LAST_WAIT),
        Err(_) => None,
    };
    let Some(status) = status else {
        kill(&mut child);
        let reason = printed.err().unwrap_or_else(|| io::ErrorKind::TimedOut.into());
        return Ok(Tool::Failed(match reason.kind() {
            io::ErrorKind::TimedOut => {
                format!("did not end within {:.0} s; killed", began.elapsed().as_secs_f32().ceil())
            }
            _ => format!("{reason}; killed"),
        }));
    };
    let [output, errors] =
        printed.unwrap_or_default().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(outcome(status, output, &errors))
}

fn outcome(status: ExitStatus, output: String, errors: &str) -> Tool {
    if status.success() {
        return Tool::Printed(output);
    }
    let said = errors.lines().next().map(|line| line.trim().to_owned());
    Tool::Failed(said.unwrap_or_else(|| format!("{} and no output", ended(status))))
}

/// How a process ended, as text.
pub(super) fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
    }
}

/// All of its output, from standard output and standard error.
fn read(child: &mut Child, deadline: Instant) -> io::Result<[Vec<u8>; 2]> {
    let (mut output, mut errors) = (child.stdout.take(), child.stderr.take());
    let mut printed = [Vec::new(), Vec::new()];
    while output.is_some() || errors.is_some() {
        let [is_output, is_error] = readable(
            [output.as_ref().map(|pipe| pipe.as_fd()), errors.as_ref().map(|pipe| pipe.as_fd())],
            deadline,
        )?;
        if is_output && !read_some(output.as_mut(), &mut printed[0])? {
            output = None;
        }
        if is_error && !read_some(errors.as_mut(), &mut printed[1])? {
            errors = None;
        }
    }
    Ok(printed)
}

/// Reads the available bytes. Returns whether more may follow.
fn read_some(pipe: Option<&mut impl io::Read>, into: &mut Vec<u8>) -> io::Result<bool> {
    let Some(pipe) = pipe else { return Ok(false) };
    let mut buffer = vec![0; 1 << 16];
    let read = pipe.read(&mut buffer)?;
    into.extend_from_slice(&buffer[..read]);
    if into.len() > MOST_OUTPUT {
        return Err(io::Error::other("endless output"));
    }
    Ok(read != 0)
}

/// Waits until one of these is readable.
fn readable(pipes: [Option<BorrowedFd<'_>>; 2], deadline: Instant) -> io::Result<[bool; 2]> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || ENDING.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut fds: Vec<_> = pipes.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        let step = u16::try_from(left.min(STEP).as_millis()).unwrap_or(u16::MAX).max(1);
        match poll(&mut fds, PollTimeout::from(step)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut any = fds.iter().map(|fd| fd.any().unwrap_or(true));
        return Ok(pipes.map(|pipe| pipe.is_some() && any.next().unwrap_or(false)));
    }
}

/// Waits for a process that is about to exit. `None` if it has not exited in time.
fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Kills a process with its group, which it leads.
pub(super) fn kill(child: &mut Child) {
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    wait(child, LAST_WAIT);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sh(script: &str, patience: Duration) -> Tool {
        list("sh", &["-c", script], Instant::now() + patience)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn large_output_is_read() {
        assert_eq!(sh("echo one; echo two >&2", LONG), Tool::Printed("one\n".to_owned()));
        assert_eq!(sh("echo one; echo two >&2; exit 3", LONG), Tool::Failed("two".to_owned()));
        assert_eq!(sh("exit 3", LONG), Tool::Failed("exited with status 3 and no output".to_owned()));
        let Tool::Printed(text) = sh("seq 200000; seq 200000 >&2", LONG) else { panic!("it fails") };
        assert_eq!(text.lines().count(), 200_000);
        assert_eq!(list("no-such-tool", &[], Instant::now() + LONG), Tool::Missing);
    }

    #[test]
    fn a_hanging_tool_is_killed_with_its_children() {
        let moment = Duration::from_millis(300);
        let seconds = format!("1{:06}", std::process::id());
        for script in [
            format!("exec sleep {seconds}"),
            format!("sleep {seconds}; true"),
            format!("sleep {seconds} & exit 0"),
            format!("exec >&- 2>&-; sleep {seconds}"),
            format!("trap '' TERM INT; while :; do sleep {seconds}; done"),
        ] {
            let Tool::Failed(reason) = sh(&script, moment) else { panic!("{script}") };
            assert!(reason.contains("killed"), "{reason}");
            let is_there = || {
                let processes = fs::read_dir("/proc").expect("processes").flatten();
                let lines = processes.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
                lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(&seconds))
            };
            let deadline = Instant::now() + LONG;
            while is_there() {
                assert!(Instant::now() < deadline, "{script} is there still");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
