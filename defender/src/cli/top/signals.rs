//! Signals come to a thread that waits for them, so that nothing happens in a handler.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{SigSet, Signal, kill, raise},
    unistd::Pid,
};

/// What would end the program while the terminal is not as it was, and what says that the terminal may have changed.
const AWAITED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGCONT, Signal::SIGWINCH];

/// Blocks them for this thread, and for those that it starts.
pub(super) fn block() -> Result<()> {
    awaited().thread_block().context("cannot block signals")
}

/// Waits for the next one.
pub(super) fn next() -> Result<Signal> {
    awaited().wait().context("cannot wait for signals")
}

/// Whether it ends a program.
pub(super) const fn is_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM)
}

/// Stops this program and those that it was started with, as the terminal does at Ctrl-Z; returns once they are continued. Where
/// nobody could continue them, the kernel does not stop them.
pub(super) fn stop() -> Result<()> {
    kill(Pid::from_raw(0), Signal::SIGTSTP).context("cannot suspend")
}

/// Ends as the signal does where nobody waits for it, so that the caller sees what ended this program.
pub(super) fn die_of(signal: Signal) -> Result<ExitCode> {
    SigSet::from(signal).thread_unblock().and_then(|()| raise(signal)).context("cannot end")?;
    // SIGHUP is ignored under nohup.
    Ok(ExitCode::SUCCESS)
}

fn awaited() -> SigSet {
    AWAITED.into_iter().collect()
}
