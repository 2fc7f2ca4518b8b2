//! SIGINT and SIGTERM undo everything before they end the process.

use std::{io, mem::MaybeUninit, process, ptr, thread};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// What shells add to a signal's number for the exit status of the process that it ended.
const SIGNALLED: i32 = 128;

/// Handles both signals, except where one is ignored or handled already.
pub(crate) fn undo_all_on_signal() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().filter(|signal| is_default(*signal)))?;
    thread::Builder::new().name("cleanup".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            super::cleanup::undo_all();
            process::exit(SIGNALLED + signal);
        }
    })?;
    Ok(())
}

/// Makes `signal` interrupt system calls of the thread it is sent to, and do nothing else.
pub(crate) fn let_interrupt(signal: Signal) -> io::Result<()> {
    // signal-hook restarts interrupted system calls.
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Whether the signal would end this process.
fn is_default(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, the present one is only written to `action`.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroes are a valid `sigaction`, and so is what the kernel has written over them.
    result == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_DFL
}

extern "C" fn do_nothing(_signal: libc::c_int) {}
