//! Which interfaces `run` defends where the command line names none.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::{STATE_DIRECTORY, fresh_pin_root, state_directory},
    topology::{Options, Topology},
};

use crate::{
    harness::{PATIENCE, PROGRAM, process::Scratch},
    operator::bed::{Running, output, topology},
};

/// `defender run`, with its messages in a file.
fn run(bed: &Topology, pins: &Path, arguments: &[&str], messages: &Path) -> Result<Command> {
    let mut command = bed.server.command(PROGRAM)?;
    command.args(["run", "--no-allow-ssh", "--pin-root"]).arg(pins).args(arguments);
    command.env(STATE_DIRECTORY, state_directory(pins)).stderr(File::create(messages)?);
    Ok(command)
}

fn interfaces(defender: &Running<'_>) -> Result<Vec<String>> {
    let status = defender.status()?;
    let interfaces = status["interfaces"].as_array().context("no interfaces")?;
    interfaces.iter().map(|it| Ok(it["name"].as_str().context("no name")?.to_owned())).collect()
}

#[test]
fn those_of_the_file_and_the_command_line_before_them() -> Result<()> {
    let bed = Topology::with(&Options { behind: true, ..Options::default() })?;
    let scratch = Scratch::new()?;
    let text = "[interfaces]\nnames = [\"srv0\", \"srv1\"]\n";
    let file = scratch.write("config.toml", text)?.display().to_string();
    for (arguments, expected) in [
        (&["--config", &file][..], &["srv0", "srv1"][..]),
        (&["--config", &file, "--iface", "srv1"], &["srv1"]),
    ] {
        let pins = fresh_pin_root();
        let command = run(&bed, &pins, arguments, &scratch.path("messages"))?;
        let mut defender = Running::of(&bed, command, pins)?;
        defender.wait_ready()?;
        ensure!(interfaces(&defender)? == expected, "{arguments:?}: {:?}", interfaces(&defender)?);
    }
    Ok(())
}

#[test]
fn those_with_a_default_route_and_a_clear_error_where_none_has() -> Result<()> {
    let bed = topology()?;
    let scratch = Scratch::new()?;
    let messages = scratch.path("messages");
    let pins = fresh_pin_root();
    let refused = |bed: &Topology| -> Result<String> {
        let status = output(run(bed, &pins, &[], &messages)?, PATIENCE)?.status;
        ensure!(status.code() == Some(1) && !pins.exists(), "{status}");
        // `output` takes the messages.
        let again = output(run(bed, &pins, &[], &messages)?, PATIENCE)?;
        Ok(String::from_utf8_lossy(&again.stderr).into_owned())
    };
    let told = refused(&bed)?;
    ensure!(told.contains("no interface has a default route: name the interfaces"), "{told}");

    bed.server.ip("tuntap add dev tun0 mode tun")?;
    bed.server.ip("link set tun0 up")?;
    bed.server.ip("route add default dev tun0 metric 1")?;
    let told = refused(&bed)?;
    ensure!(told.contains("tun0 cannot be defended") && told.contains("--iface"), "{told}");

    bed.server.ip("-6 route add default via 2001:db8:0:1::1 dev srv0")?;
    let mut defender = Running::of(&bed, run(&bed, &pins, &[], &messages)?, pins.clone())?;
    defender.wait_ready()?;
    ensure!(interfaces(&defender)? == ["srv0"]);
    let told = fs::read_to_string(&messages)?;
    ensure!(told.contains("srv0 has a default route (IPv6)") && told.contains("tun0 cannot"), "{told}");

    // A route that is away for a moment is no reason to end.
    bed.server.ip("-6 route del default")?;
    let command = run(&bed, &pins, &["--replace"], &messages)?;
    let mut next = Running::of(&bed, command, pins)?;
    crate::harness::eventually("it hands over", || Ok(!defender.is_alive()?))?;
    next.wait_ready()?;
    ensure!(interfaces(&next)? == ["srv0"]);
    ensure!(fs::read_to_string(&messages)?.contains("going on with srv0"));
    drop(next);
    Ok(())
}
