//! Allow and deny lists: what they do to packets, and who changes them when.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Result, ensure};
use defender_testbed::{
    client,
    controller::fresh_pin_root,
    server::Server,
    topology::{SERVER_INTERFACE, Topology},
};

use crate::harness::{Counts, PROGRAM, connect, process::Scratch, run, start_always, status, talk};

/// The controller has looked at everything again by then.
const REFRESHED: Duration = Duration::from_millis(2500);
/// A SYN and its first repetition.
const IN_VAIN: Duration = Duration::from_millis(1500);

/// In both families: who is denied gets no answer, but keeps the connections there are; who is allowed is not
/// challenged, though a shorter prefix is denied; who is on no list any more is challenged again.
#[test]
fn lists_count_at_once_and_spare_connections() -> Result<()> {
    let bed = Topology::new()?;
    for server in [bed.server_v4(80), bed.server_v6(81)] {
        let _listening = Server::start(&bed.server, server)?;
        let defender = start_always(&bed, &[server.port()])?;
        let from = bed.fresh_client(server);
        let (address, everybody) =
            (from.ip().to_string(), if server.is_ipv4() { "0.0.0.0/0" } else { "2000::/3,fc00::/7" });
        let mut old = connect(&bed, from, server)?;

        defender.ask(&["deny", "add", everybody])?;
        thread::sleep(REFRESHED);
        let before = Counts::of(&defender)?;
        let again = SocketAddr::new(from.ip(), 0);
        let refused = client::connect_from(&bed.client, Some(again), server, IN_VAIN);
        ensure!(refused.is_err(), "{address} is denied and was answered");
        talk(&mut old)?;
        let counts = &Counts::of(&defender)? - &before;
        ensure!(counts.get("drop.syn_denied") > 0 && counts.get("tx.syn_challenged") == 0, "{counts}");
        let why = defender.ask(&["why", &address])?;
        ensure!(why.contains("is on the deny list, added by hand"), "{why}");

        defender.ask(&["allow", "add", &address])?;
        let before = Counts::of(&defender)?;
        talk(&mut connect(&bed, again, server)?)?;
        let counts = &Counts::of(&defender)? - &before;
        counts.assert(&[("pass.syn_allowed", 1), ("tx.syn_challenged", 0)]);
        ensure!(status(&defender)?["prefixes"]["allowed"] == 1);

        defender.ask(&["allow", "del", &address])?;
        defender.ask(&["deny", "del", everybody])?;
        let before = Counts::of(&defender)?;
        talk(&mut connect(&bed, again, server)?)?;
        let counts = &Counts::of(&defender)? - &before;
        counts.assert(&[("pass.syn_allowed", 0), ("tx.syn_challenged", 1)]);
        talk(&mut old)?;
    }
    Ok(())
}

#[test]
fn errors_change_nothing() -> Result<()> {
    let bed = Topology::new()?;
    let defender = start_always(&bed, &[])?;
    defender.ask(&["allow", "add", "192.0.2.0/24"])?;
    let scratch = Scratch::new()?;
    let file = scratch.path("prefixes");
    std::fs::write(&file, "# two\n198.51.100.0/24\n192.0.2.7/24\n")?;
    let file = file.display().to_string();
    for (arguments, status, complaint) in [
        (&["deny", "add", "--file", &file][..], 1, format!("{file}:3:1: not a valid prefix")),
        (&["deny", "add", "198.51.100.0/24,192.0.2.7/24"], 2, "192.0.2.7/24".into()),
        // What is not there is said, and no failure.
        (&["allow", "del", "192.0.2.9"], 0, "0 removed, 1 not there: 192.0.2.9".into()),
        (&["deny", "del", "192.0.2.0/24"], 0, "0 removed, 1 not there: 192.0.2.0/24".into()),
    ] {
        let output = run(&bed, defender.pin_root(), arguments)?;
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(status) && complained.contains(&complaint), "{complained}");
    }
    let listed = r#"{"version":1,"total":1,"prefixes":[{"prefix":"192.0.2.0/24","origin":"hand"}]}"#;
    assert_eq!(defender.ask(&["allow", "list", "--json"])?.trim(), listed);
    defender.ask(&["deny", "add", "192.0.2.0/24"])?;
    assert!(defender.ask(&["allow", "list"])?.contains("no prefixes"));
    assert_eq!(defender.ask(&["deny", "list", "--json"])?.trim(), listed);
    Ok(())
}

/// Who administers this host is on the allow list until the next start, and the rest of the lists stays.
#[test]
fn an_administrator_is_allowed_for_one_session() -> Result<()> {
    let bed = Topology::new()?;
    let pins = fresh_pin_root();
    let attach = |peer: &str, more: &[&str]| -> Result<String> {
        let mut command = bed.server.command(PROGRAM)?;
        command.env("SSH_CONNECTION", format!("{peer} 50000 10.0.0.1 22"));
        command.args(["attach", "--iface", SERVER_INTERFACE, "--pin-root"]).arg(&pins).args(more);
        ensure!(command.output()?.status.success());
        let listed = run(&bed, &pins, &["allow", "list"])?;
        Ok(String::from_utf8_lossy(&listed.stdout).into_owned())
    };
    let listed = attach("192.0.2.7", &[])?;
    assert!(listed.contains("192.0.2.7  session"), "{listed}");
    run(&bed, &pins, &["allow", "add", "198.51.100.0/24"])?;
    let listed = attach("198.51.100.7", &[])?;
    assert!(!listed.contains("session") && listed.contains("198.51.100.0/24  hand"), "{listed}");
    let listed = attach("192.0.2.8", &["--no-allow-ssh"])?;
    assert!(!listed.contains("session"), "{listed}");
    ensure!(run(&bed, &pins, &["detach"])?.status.success());
    Ok(())
}
