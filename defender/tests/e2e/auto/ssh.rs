//! Who starts the defender over SSH is not shut out by it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};
use defender_testbed::{
    cleanup::Guard,
    client,
    controller::{STATE_DIRECTORY, fresh_pin_root, state_directory},
    topology::{CLIENT_V4, CLIENT_V6, SERVER_INTERFACE, Topology},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::harness::{
    CLIENT_PATIENCE, PROGRAM, eventually,
    process::{Process, Scratch, start_sshd},
    run,
};

/// The defender, run in a session that somebody has over SSH. Whatever `sudo` takes out of the environment is missing.
fn administer(bed: &Topology, server: SocketAddr, arguments: &str) -> Result<Seen> {
    let scratch = Scratch::new()?;
    let _sshd = start_sshd(&bed.server, &scratch)?;
    let pins = fresh_pin_root();
    let _sweep = Guard::new({
        let pins = pins.clone();
        move || {
            drop(fs::remove_dir_all(state_directory(&pins)));
            drop(fs::remove_dir_all(pins));
        }
    });
    eventually("sshd listens", || Ok(client::connect(&bed.client, server, CLIENT_PATIENCE).is_ok()))?;
    let session = Process::start(
        &bed.client,
        "ssh",
        &format!(
            "-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i {} root@{} \
             env -i {STATE_DIRECTORY}={} {PROGRAM} run --iface {SERVER_INTERFACE} --pin-root {} --mode always {arguments} ; true",
            scratch.path("user").display(),
            server.ip(),
            state_directory(&pins).display(),
            pins.display(),
        ),
    )?;
    let ask = |arguments: &[&str]| -> Result<Value> {
        let output = run(bed, &pins, arguments)?;
        serde_json::from_slice(&output.stdout).context("no JSON")
    };
    let mut controller = None;
    let started = eventually("port 22 is challenged", || {
        let Ok(status) = ask(&["status", "--json"]) else { return Ok(false) };
        controller = status["controller"].as_i64();
        let services = status["services"].as_array().context("no services")?;
        Ok(services.iter().any(|service| service["port"] == 22 && service["active"] == true))
    });
    let seen = started.and_then(|()| {
        let allowed = ask(&["allow", "list", "--json"])?;
        let before = ask(&["stats", "--json"])?;
        client::connect(&bed.client, server, CLIENT_PATIENCE)?;
        let after = ask(&["stats", "--json"])?;
        let counted = |name: &str| {
            let count = |statistics: &Value| statistics["verdicts"][name].as_u64().unwrap_or(0);
            count(&after) - count(&before)
        };
        let prefixes = allowed["prefixes"].as_array().context("no prefixes")?;
        let text = |name: &'static str| move |entry: &Value| entry[name].as_str().unwrap_or("").to_owned();
        Ok(Seen {
            allowed: prefixes.iter().map(|entry| (text("prefix")(entry), text("origin")(entry))).collect(),
            passed: counted("pass.syn_allowed"),
            challenged: counted("tx.syn_challenged"),
        })
    });
    if let Some(controller) = controller {
        kill(Pid::from_raw(controller as i32), Signal::SIGTERM)?;
        session.wait()?;
    }
    seen
}

/// The allow list, and what became of the next connection over SSH.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    allowed: Vec<(String, String)>,
    passed: u64,
    challenged: u64,
}

#[test]
fn who_administers_over_ssh_is_on_the_allow_list() -> Result<()> {
    let bed = Topology::new()?;
    for (server, client) in
        [(bed.server_v4(22), IpAddr::from(CLIENT_V4)), (bed.server_v6(22), CLIENT_V6.into())]
    {
        let own = (client.to_string(), "session".to_owned());
        let seen = administer(&bed, server, "")?;
        assert_eq!(seen, Seen { allowed: vec![own], passed: 1, challenged: 0 });
    }
    let seen = administer(&bed, bed.server_v4(22), "--no-allow-ssh")?;
    assert_eq!(seen, Seen { allowed: vec![], passed: 0, challenged: 1 });
    Ok(())
}
