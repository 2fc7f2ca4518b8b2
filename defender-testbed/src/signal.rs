//! SIGINT and SIGTERM undo everything before they end the process.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{IntoRawFd as _, OwnedFd},
    process,
    sync::atomic::{AtomicI32, Ordering},
    thread,
};

use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd,
};

/// Where the handler writes the signal's number; -1 before it is installed.
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// Exit status of a process that a signal ended, as shells report it, less the signal's number.
const SIGNALLED: i32 = 128;

/// Installs the handler for both signals, except where someone else handles them already.
pub(crate) fn undo_all_on_signal() -> io::Result<()> {
    let (reader, writer) = unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    WAKE.store(writer.into_raw_fd(), Ordering::Release);
    thread::Builder::new().name("cleanup".to_owned()).spawn(move || end_on_wake(reader))?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        install(signal)?;
    }
    Ok(())
}

/// Makes `signal` interrupt system calls of the thread it is sent to, and do nothing else.
pub(crate) fn let_interrupt(signal: Signal) -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

fn install(signal: Signal) -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(wake), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only calls write(2), which may be called in signal handlers.
    let before = unsafe { sigaction(signal, &action) }?;
    if !matches!(before.handler(), SigHandler::SigDfl) {
        // SAFETY: this puts back what was there a moment ago.
        unsafe { sigaction(signal, &before) }?;
    }
    Ok(())
}

extern "C" fn wake(signal: libc::c_int) {
    let byte = signal as u8;
    // SAFETY: the descriptor is never closed, and one byte is read from a local variable. The result is of no use
    // here: the pipe holds thousands of signals.
    unsafe { libc::write(WAKE.load(Ordering::Acquire), (&raw const byte).cast(), 1) };
}

extern "C" fn do_nothing(_signal: libc::c_int) {}

fn end_on_wake(reader: OwnedFd) {
    let mut signal = [0];
    if File::from(reader).read_exact(&mut signal).is_ok() {
        super::cleanup::undo_all();
        process::exit(SIGNALLED + i32::from(signal[0]));
    }
}
