//! Runs other programs until they exit.

use std::{
    process::{Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// Polling interval for a program with a time limit.
const POLL: Duration = Duration::from_millis(50);

/// Runs a program that must succeed.
pub(crate) fn must(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    ensure!(status.success(), "{} failed ({status})", describe(command));
    Ok(())
}

/// Runs a program that must succeed. Kills it after `limit`.
pub(crate) fn must_within(limit: Duration, command: &mut Command) -> Result<()> {
    let status = status_within(limit, command)?;
    ensure!(status.success(), "{} failed ({status})", describe(command));
    Ok(())
}

/// Runs a program. Kills it after `limit`.
pub(crate) fn status_within(limit: Duration, command: &mut Command) -> Result<ExitStatus> {
    let mut child = command.spawn().with_context(|| format!("cannot run {}", describe(command)))?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(POLL);
    }
    child.kill()?;
    child.wait()?;
    bail!("{} took longer than {} s and was stopped", describe(command), limit.as_secs())
}

/// Runs a program that must succeed and returns what it prints. Its output is shown only if it fails.
pub(crate) fn quietly(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {}", describe(command)))?;
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "{} failed ({})\n{stdout}{stderr}", describe(command), output.status);
    Ok(stdout)
}

/// Runs a program and returns its exit code.
pub(crate) fn exit_code(command: &mut Command) -> Result<ExitCode> {
    let status = status(command)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("cannot run {}", describe(command)))
}

/// The command as typed in a shell, without embedded scripts.
fn describe(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy());
    let words: Vec<_> = words.map(|word| if word.contains('\n') { "…".into() } else { word }).collect();
    format!("`{}`", words.join(" "))
}
