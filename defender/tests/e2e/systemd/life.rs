//! Start, attack, reload, restart, hang and stop of the units.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use defender_testbed::topology::Topology;
use serde_json::Value;

use crate::{
    harness::{connect, eventually, scripted_client::Wire},
    operator::bed::{attack, serve, topology},
    systemd::bed::Systemd,
};

const UNIT: &str = "defender.service";
const FLOODED: u16 = 80;
const CHALLENGED: u16 = 81;

const CONFIG: &str = "\
[port.81]
mode = \"always\"
[hooks]
on_event = [\"/bin/sh\", \"-c\", \"cat >> /run/defender/hooked\"]
";

/// The server's interface gets a default route: it is to be found by that.
fn with_default_route() -> Result<Topology> {
    let bed = topology()?;
    bed.server.ip("route add default via 10.203.0.1 dev srv0")?;
    Ok(bed)
}

/// The numbers of the links to devices, by pin.
fn links(systemd: &Systemd, root: &str) -> Result<Vec<(String, u32)>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(systemd.path(root).join("links"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains('-') {
            links.push((name, FdLink::from(PinnedLink::from_pin(entry.path())?).info()?.id()));
        }
    }
    links.sort();
    ensure!(links.len() == 3, "{links:?}");
    Ok(links)
}

/// What the kernel says of a unit's main process.
fn process_status(systemd: &Systemd, field: &str) -> Result<String> {
    let path = systemd.path(&format!("/proc/{}/status", systemd.main_pid(UNIT)?));
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {field}"))?.trim().to_owned())
}

fn entries(systemd: &Systemd, matches: &[&str]) -> Result<Vec<Value>> {
    let arguments = [&["--no-pager", "-o", "json", "-u", UNIT][..], matches].concat();
    let text = systemd.ask("journalctl", &arguments)?;
    text.lines().map(|line| serde_json::from_str(line).context("no JSON")).collect()
}

#[test]
fn a_whole_life() -> Result<()> {
    let bed = with_default_route()?;
    let [flooded, challenged] = [FLOODED, CHALLENGED].map(|port| bed.server_v4(port));
    let (_first, _second) = (serve(&bed, flooded)?, serve(&bed, challenged)?);
    let wire = Wire::new(&bed)?;
    let systemd = Systemd::start(&bed, CONFIG, |unit| unit)?;

    // `start` waits for READY=1: from then on all is in force.
    systemd.control("start", UNIT)?;
    let status: Value = serde_json::from_str(&systemd.defender(&["status", "--json"])?)?;
    ensure!(status["interfaces"][0]["name"] == "srv0", "{status}");
    ensure!(systemd.log(UNIT).contains("srv0 has a default route (IPv4)"), "{}", systemd.log(UNIT));
    connect(&bed, bed.fresh_client(challenged), challenged)?;
    let statistics: Value = serde_json::from_str(&systemd.defender(&["stats", "--json"])?)?;
    ensure!(statistics["counters"]["handoff_established"] == 1, "{statistics}");
    ensure!(systemd.property(UNIT, "StatusText")?.starts_with("mode auto on srv0: "));
    // CAP_NET_ADMIN is 12, CAP_PERFMON 38, CAP_BPF 39.
    let capabilities = format!("{:016x}", 1_u64 << 12 | 1 << 38 | 1 << 39);
    for (field, expected) in
        [("CapEff", &*capabilities), ("CapBnd", &*capabilities), ("NoNewPrivs", "1"), ("Seccomp", "2")]
    {
        ensure!(process_status(&systemd, field)? == expected, "{field}");
    }

    attack(&wire, flooded)?;
    eventually("the status says so", || {
        Ok(systemd.property(UNIT, "StatusText")?.contains("SYN flood on port 80"))
    })?;
    let began = entries(&systemd, &["DEFENDER_EVENT=began", "PORT=80"])?;
    ensure!(began.len() == 1 && began[0]["PRIORITY"] == "4", "{began:?}");
    ensure!(began[0]["DEFENDER_KIND"] == "syn_flood" && began[0]["_TRANSPORT"] == "journal", "{began:?}");
    ensure!(!entries(&systemd, &["INTERFACE=srv0", "PRIORITY=6"])?.is_empty());
    eventually("the hook has run", || {
        let text = fs::read_to_string(systemd.path("/run/defender/hooked")).unwrap_or_default();
        Ok(text.lines().any(|line| line.contains(r#""event":"began""#)))
    })?;

    let config = systemd.path("/etc/defender/config.toml");
    fs::write(&config, format!("end = \"11%\"\n{CONFIG}"))?;
    systemd.control("reload", UNIT)?;
    eventually("the file is read again", || Ok(systemd.defender(&["get", "end"])?.trim() == "11%"))?;

    let (before, pid) = (links(&systemd, "/sys/fs/bpf/defender")?, systemd.main_pid(UNIT)?);
    systemd.control("restart", UNIT)?;
    ensure!(systemd.main_pid(UNIT)? != pid, "it was not restarted");
    ensure!(links(&systemd, "/sys/fs/bpf/defender")? == before, "something was detached");
    ensure!(systemd.log(UNIT).contains("srv0: taken over"), "{}", systemd.log(UNIT));

    systemd.control("stop", UNIT)?;
    ensure!(systemd.property(UNIT, "Result")? == "success", "{}", systemd.log(UNIT));
    ensure!(!bed.server.ip("-d link show srv0")?.contains("prog/xdp"), "it is still attached");
    ensure!(fs::read_dir(systemd.path("/sys/fs/bpf/defender"))?.next().is_none());
    // The end of the attack is the last event, and the hook has run for it.
    let hooked = fs::read_to_string(systemd.path("/run/defender/hooked"))?;
    ensure!(hooked.contains(r#""event":"ended""#), "{hooked}");
    Ok(())
}

/// A loop that hangs is noticed and started anew; a living one, however often looked at, is not.
#[test]
fn the_watchdog_restarts_what_hangs() -> Result<()> {
    let bed = with_default_route()?;
    let seconds = |unit: String| unit.replace("WatchdogSec=60s", "WatchdogSec=4s");
    let systemd = Systemd::start(&bed, "mode = \"always\"\n", seconds)?;
    systemd.control("start", UNIT)?;
    let before = links(&systemd, "/sys/fs/bpf/defender")?;
    let beat = |systemd: &Systemd| {
        systemd.property(UNIT, "WatchdogTimestampMonotonic")?.parse::<u64>().context("no time")
    };
    let first = beat(&systemd)?;
    eventually("the loop has said for twice that time that it lives", || {
        Ok(beat(&systemd)? >= first + 8_000_000)
    })?;
    ensure!(systemd.property(UNIT, "NRestarts")? == "0", "{}", systemd.log(UNIT));
    systemd.ask("systemctl", &["kill", "--signal=STOP", UNIT])?;
    eventually("it is started anew", || {
        Ok(systemd.property(UNIT, "NRestarts")? == "1" && systemd.property(UNIT, "ActiveState")? == "active")
    })?;
    ensure!(links(&systemd, "/sys/fs/bpf/defender")? == before, "something was detached");
    Ok(())
}

#[test]
fn an_instance_for_one_interface() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(FLOODED);
    let _server = serve(&bed, address)?;
    let systemd =
        Systemd::start(&bed, "mode = \"always\"\n[interfaces]\nnames = [\"other0\"]\n", |unit| unit)?;
    systemd.control("start", "defender@srv0.service")?;
    connect(&bed, bed.fresh_client(address), address)?;
    let root = "/sys/fs/bpf/defender-srv0";
    links(&systemd, root)?;
    let told = systemd.defender(&["status", "--pin-root", root])?;
    ensure!(told.contains("srv0") && told.contains("every SYN is challenged"), "{told}");
    // The plain unit is about the interfaces of the file, of which there is none.
    ensure!(systemd.run("systemctl", &["start", "--no-block", UNIT])?.status.success());
    eventually("it says what is wrong", || Ok(systemd.log(UNIT).contains("unknown interface other0")))?;
    systemd.control("stop", UNIT)?;
    systemd.control("stop", "defender@srv0.service")?;
    ensure!(!bed.server.ip("-d link show srv0")?.contains("prog/xdp"), "it is still attached");
    Ok(())
}
