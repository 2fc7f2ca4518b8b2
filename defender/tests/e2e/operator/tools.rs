//! Tools hang that are asked for the firewall's rules.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    harness::{eventually, process::Scratch},
    operator::bed::{PORT, Running, output, path_with, serve, succeeded, topology},
};

/// Longer than any test takes: who sleeps so long hangs. The number tells this test's processes from all others.
fn forever() -> String {
    format!("1{:08}", std::process::id())
}

/// Tools that hang, and a process of theirs that does.
fn hanging_tools(scratch: &Scratch) -> Result<()> {
    for tool in ["nft", "iptables-save", "iptables-nft-save", "ip6tables-save", "ip6tables-nft-save"] {
        let path = scratch.write(tool, format!("#!/bin/sh\nsleep {}\n", forever()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn nobody_hangs() -> Result<bool> {
    let hangs = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&forever())
    };
    Ok(!fs::read_dir("/proc")?.flatten().any(hangs))
}

#[test]
fn hanging_tools_stop_neither_doctor_nor_run() -> Result<()> {
    let bed = topology()?;
    let _server = serve(&bed, bed.server_v4(PORT))?;
    let scratch = Scratch::new()?;
    hanging_tools(&scratch)?;
    let path = path_with(&scratch.path(""))?;
    let mut defender = Running::start(&bed, &[], |command| {
        command.env("PATH", &path);
    })?;
    let mut doctor = defender.command(&["doctor", "--iface", "srv0"])?;
    doctor.env("PATH", &path);
    let told = output(doctor, Duration::from_secs(60))?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(told.contains("nft failed: did not end within"), "{told}");

    // In the loop as well: listeners are found while a tool hangs.
    eventually("the loop asks the tools", || Ok(!nobody_hangs()?))?;
    let _other = serve(&bed, bed.server_v4(PORT + 1))?;
    defender.wait_for_listener(PORT + 1)?;
    succeeded(&defender.ask(&["set", "mode", "always"])?)?;
    eventually("the loop asks the tools", || Ok(!nobody_hangs()?))?;
    let began = Instant::now();
    ensure!(defender.stop()?.success());
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(15), "it waits for a tool: {took:?}");
    eventually("no process is left", nobody_hangs)
}
