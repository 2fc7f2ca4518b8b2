//! `get --export` gives a file that brings the same state back.

use anyhow::{Result, ensure};
use defender_testbed::{server::Server, topology::Topology};

use crate::harness::{process::Scratch, run, start};

#[test]
fn what_is_exported_brings_the_same_state_back() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let scratch = Scratch::new()?;
    let file = "start = \"33%\"\nout_of_state = 5000\ndeny = [\"198.51.100.0/24\", \"203.0.113.7\"]\n[port.80]\nmode = \"always\"\n";
    let file = scratch.write("config.toml", file)?.display().to_string();
    let first = start(&bed, &["--config", &file, "--mode", "monitor", "--port", "80,81"])?;
    for arguments in [
        &["set", "80.critical", "90%"][..],
        &["set", "out_of_state", "6000"],
        &["set", "443.mode", "off"],
        &["allow", "add", "2001:db8::/32", "203.0.113.7"],
        &["deny", "add", "192.0.2.0/24"],
    ] {
        first.ask(arguments)?;
    }
    let questions = [
        &["get"][..],
        &["get", "80.mode"],
        &["get", "443.mode"],
        &["get", "80.critical"],
        &["allow", "list"],
        &["deny", "list"],
        &["get", "--export"],
    ];
    let exported = first.ask(&["get", "--export"])?;
    let before = questions.map(|question| first.ask(question));
    ensure!(first.stop()?.success());

    let path = scratch.write("exported.toml", &exported)?.display().to_string();
    let output = run(&bed, first.pin_root(), &["config", "check", &path])?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(exported.starts_with("# defender run --iface srv0 --port 80,81 --config"), "{exported}");
    let second = start(&bed, &["--config", &path, "--port", "80,81"])?;
    for (question, before) in questions.iter().zip(before) {
        // Who put a prefix on a list is another matter.
        let plain = |text: String| text.replace("  hand", "  file");
        let (before, after) = (plain(before?), plain(second.ask(question)?));
        ensure!(before == after, "{question:?}\n{before}\n{after}");
    }
    Ok(())
}
