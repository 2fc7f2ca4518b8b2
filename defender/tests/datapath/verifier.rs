//! What the verifier has to walk. Its limit is a million instructions a program, and older kernels see more states; ours
//! is defender-testbed/budget.txt.

use std::{
    io::Write as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use defender::dataplane::conntrack::{self, Conntrack, State};
use defender_common::abi::program;
use defender_testbed::budget;
use nix::sys::{
    pthread::{pthread_kill, pthread_self},
    signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

use super::bed::Bed;

#[test]
fn instructions_stay_within_budget() -> Result<()> {
    let counts = Bed::new()?.verified_instructions()?;
    // Not captured: a test run shows them whether it succeeds or not.
    let mut output = std::io::stderr().lock();
    for (name, count) in &counts {
        let most = budget::verified_instructions(name).unwrap_or_default();
        writeln!(output, "verified instructions of {name}: {count} of at most {most}")?;
    }
    let names: Vec<_> = counts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            program::EGRESS,
            program::FLOWS,
            program::HANDOFF,
            program::LISTENERS,
            program::SOCK_STATE,
            program::SOCKETS,
            program::XDP,
            program::XDP_SKB
        ]
    );
    for (name, count) in counts {
        let most = budget::verified_instructions(&name).unwrap_or_default();
        assert!(
            (1..=most).contains(&count),
            "{name}: {count}, and defender-testbed/budget.txt allows {most}"
        );
    }
    Ok(())
}

/// It is loaded by other means than the rest, and not on every kernel whole.
#[test]
fn the_program_for_conntrack_is_whole_and_within_budget() -> Result<()> {
    let bed = Bed::new()?;
    let mut conntrack = Conntrack::default();
    conntrack.keep(bed.root(), true)?;
    assert_eq!(conntrack.warning(), None);
    let count = bed.verified_instructions_of(program::CONNTRACK)?;
    let most = budget::verified_instructions(program::CONNTRACK).unwrap_or_default();
    writeln!(
        std::io::stderr(),
        "verified instructions of {}: {count} of at most {most}",
        program::CONNTRACK
    )?;
    assert!((1..=most).contains(&count), "{count}, and defender-testbed/budget.txt allows {most}");
    conntrack::put_as(bed.root(), State::BurstsOnly)?;
    conntrack.keep(bed.root(), false)?;
    // The kernel lets go of it a little later.
    let gone = (0..1000).any(|_| {
        thread::sleep(OFTEN);
        bed.verified_instructions_of(program::CONNTRACK).is_err()
    });
    assert!(gone, "it is there without conntrack");
    Ok(())
}

/// How often a signal comes: the verifier takes longer for one program.
const OFTEN: Duration = Duration::from_millis(3);

/// Who starts the defender and thinks better of it sends a signal while the kernel looks at the programs.
#[test]
fn signals_do_not_disturb_the_verifier() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, and nothing else here uses this signal.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    let loading = pthread_self();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                pthread_kill(loading, Signal::SIGUSR1).expect("the thread is there");
                thread::sleep(OFTEN);
            }
        });
        let bed = Bed::new();
        done.store(true, Ordering::Relaxed);
        bed.map(drop)
    })
}

extern "C" fn do_nothing(_signal: libc::c_int) {}
