//! Signals that ask for nothing.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    harness::{connect, eventually},
    operator::bed::{PORT, Running, serve, topology},
};

const MEANINGLESS: [Signal; 12] = [
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGPIPE,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGWINCH,
    Signal::SIGHUP,
];

/// Whether a process catches a signal.
fn catches(defender: &Running<'_>, signal: Signal) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{}/status", defender.id()))?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).context("no signals")?;
    Ok(u64::from_str_radix(caught.trim(), 16)? & 1 << (signal as u32 - 1) != 0)
}

#[test]
fn meaningless_signals_do_nothing_early_and_late() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address)?;
    let mut defender = Running::spawn(&bed, &[], |_| {})?;
    // From the first moment on at which it can do anything about it.
    eventually("it catches signals", || catches(&defender, Signal::SIGHUP))?;
    for round in 0..2 {
        for signal in MEANINGLESS {
            defender.send(signal).with_context(|| format!("{signal}, round {round}"))?;
        }
        defender.wait_ready().with_context(|| format!("round {round}"))?;
    }
    connect(&bed, bed.fresh_client(address), address)?;
    let _other = serve(&bed, bed.server_v4(PORT + 1))?;
    defender.wait_for_listener(PORT + 1)?;
    ensure!(defender.stop()?.success());
    Ok(())
}

#[test]
fn who_ends_it_early_or_by_sigquit_ends_it_in_order() -> Result<()> {
    let bed = topology()?;
    let _server = serve(&bed, bed.server_v4(PORT))?;
    for (signal, early) in [(Signal::SIGTERM, true), (Signal::SIGINT, true), (Signal::SIGQUIT, false)] {
        let mut defender = Running::spawn(&bed, &[], |_| {})?;
        eventually("it catches signals", || catches(&defender, Signal::SIGTERM))?;
        if !early {
            defender.wait_ready()?;
        }
        defender.send(signal)?;
        eventually("it ends", || Ok(!defender.is_alive()?))?;
        ensure!(defender.stop()?.success(), "{signal} kills it");
        ensure!(!defender.pins.exists(), "{signal}: something is left");
    }
    Ok(())
}
