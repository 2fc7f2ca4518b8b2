//! The command line's contract: exit statuses, reports, live settings, and what is left behind.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    net::{SocketAddr, UdpSocket},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::Array,
    programs::{SchedClassifier, TcAttachType},
};
use defender_common::abi::{ABI_VERSION, Config, map};
use defender_maps::Slots;
use defender_testbed::{
    cleanup::Guard,
    client,
    controller::{Controller, STATE_DIRECTORY, fresh_pin_root, state_directory},
    programs::{Attached, Program},
    server::Server,
    topology::{
        BEHIND_INTERFACE, Options, ROUTER_INTERFACE, ROUTER_V4, SERVER_INTERFACE, SERVER_V4, Topology,
    },
};
use serde_json::Value;

use crate::harness::{
    CLIENT_PATIENCE, Counts, PROGRAM, connect, eventually, process::Scratch, run, services, start,
    start_always, status, unseen, wait_active,
};

/// Connects once, from a fresh address, and reads the greeting: what comes to a client that has gone is answered with
/// RSTs, which count as well.
fn visit(bed: &Topology, server: &Server) -> Result<()> {
    connect(bed, bed.fresh_client(server.address()), server.address()).map(drop)
}

/// Asserts how a command ended, and returns what it complained about.
#[track_caller]
fn complaint(output: &Output, status: i32) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{complaint}");
    complaint
}

#[test]
fn failures_have_status_1_and_say_why() -> Result<()> {
    let bed = Topology::new()?;
    let pins = fresh_pin_root();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["stats", "--json"],
        &["get"],
        &["set", "mode", "always"],
        &["set", "mode", "always", "-o", "json"],
    ] {
        let complaint = complaint(&run(&bed, &pins, arguments)?, 1);
        assert!(complaint.contains("nothing is attached"), "{arguments:?}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
    for command in ["run", "attach"] {
        let complaint = complaint(&run(&bed, &pins, &[command, "--iface", "none0"])?, 1);
        assert!(complaint.contains("none0"), "{complaint}");
    }
    assert_eq!(leftovers(&bed, &pins)?, Vec::<String>::new());
    let defender = start(&bed, &[])?;
    let second = run(&bed, defender.pin_root(), &["run", "--iface", SERVER_INTERFACE])?;
    let complaint = complaint(&second, 1);
    assert!(complaint.contains(&defender.id().to_string()), "{complaint}");
    Ok(())
}

#[test]
fn wrong_usage_has_status_2() -> Result<()> {
    let bed = Topology::new()?;
    let pins = fresh_pin_root();
    for arguments in [
        &[][..],
        &["fly"],
        &["run", "--iface", SERVER_INTERFACE, "--mode", "on"],
        &["run", "--iface", SERVER_INTERFACE, "--port", "0"],
        &["run", "--iface", SERVER_INTERFACE, "--port", "70000"],
        &["set", "mode"],
        &["set", "mode", "on"],
        &["set", "nonsense", "on"],
        &["get", "nonsense"],
        &["stats", "--watch", "0"],
        &["stats", "-o", "yaml"],
        &["conns", "--port", "no-such-service"],
        &["events", "--since", "yesterday"],
        &["get", "--export", "--json"],
    ] {
        complaint(&run(&bed, &pins, arguments)?, 2);
    }
    let complaint = complaint(&run(&bed, &pins, &["conns", "--port", "no-such-service"])?, 2);
    assert!(complaint.contains("expected 1-65535 or a service name"), "{complaint}");
    Ok(())
}

#[test]
fn a_setting_for_a_port_without_a_service_is_noted_and_its_removal_is_not() -> Result<()> {
    let bed = Topology::new()?;
    let defender = start(&bed, &[])?;
    let noted = |value| Ok(complaint(&run(&bed, defender.pin_root(), &["set", "4711.mode", value])?, 0));
    let set: Result<String> = noted("off");
    ensure!(set?.contains("no service on port 4711 yet"));
    let removed: Result<String> = noted("default");
    ensure!(removed?.is_empty());
    Ok(())
}

#[test]
fn errors_are_json_where_the_output_is() -> Result<()> {
    let bed = Topology::new()?;
    let pins = fresh_pin_root();
    for (arguments, status) in [
        (&["status", "--json"][..], 1),
        (&["explain", "80", "-o", "json"], 1),
        (&["set", "mode", "on", "-ojson"], 2),
        (&["get", "nonsense", "--output=json"], 2),
        (&["fly", "--json"], 2),
        (&["conns", "--port", "no-such-service", "-no", "json"], 2),
        (&["attach", "--iface", "none0", "-o", "json"], 1),
    ] {
        let complaint = complaint(&run(&bed, &pins, arguments)?, status);
        let last: Value = serde_json::from_str(complaint.lines().last().context("nothing")?)?;
        assert_eq!((&last["version"], &last["level"]), (&1.into(), &"error".into()), "{complaint}");
        assert_eq!(last["exit_status"], status, "{complaint}");
        assert!(
            last["message"].as_str().is_some_and(|text| !text.is_empty() && !text.contains('\n')),
            "{last}"
        );
        for line in complaint.lines() {
            assert!(serde_json::from_str::<Value>(line)?["message"].is_string(), "{line}");
        }
    }
    Ok(())
}

#[test]
fn every_report_is_there_as_json() -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.write("config.toml", "mode = \"always\"\nallow = [\"192.0.2.0/24\"]\n")?;
    let file = file.to_str().context("a path that is no text")?;
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let pins = fresh_pin_root();
    let _sweep = sweep(&pins);
    let json = |arguments: &[&str]| -> Result<Value> {
        let output = run(&bed, &pins, arguments)?;
        complaint(&output, 0);
        let value: Value = serde_json::from_slice(&output.stdout).with_context(|| arguments.join(" "))?;
        assert_eq!(value["version"], 1, "{arguments:?}: {value}");
        Ok(value)
    };
    let attached = json(&["attach", "--iface", SERVER_INTERFACE, "--config", file, "-o", "json"])?;
    assert_eq!(attached["interfaces"], serde_json::json!([SERVER_INTERFACE]));
    assert_eq!((&attached["mode"], &attached["services"][0]["port"]), (&"always".into(), &80.into()));
    visit(&bed, &server)?;
    for arguments in [
        &["stats"][..],
        &["status"],
        &["conns"],
        &["conns", "--summary"],
        &["why", "192.0.2.1"],
        &["explain", "80"],
        &["get"],
        &["get", "mode"],
        &["config", "check", file],
        &["doctor", "--iface", SERVER_INTERFACE],
        &["set", "80.min_active", "5m"],
    ] {
        for format in [&["-o", "json"][..], &["--output", "json"], &["--json"]] {
            json(&[arguments, format].concat())?;
        }
        let output = run(&bed, &pins, &[arguments, &["-o", "text"]].concat())?;
        assert!(!output.stdout.starts_with(b"{"), "{arguments:?}");
    }
    let set = json(&["set", "80.min_active", "5 m", "--json"])?;
    assert_eq!((&set["settings"][0]["value"], &set["settings"][0]["number"]), (&"5m".into(), &300.into()));
    let got = json(&["get", "mode", "--json"])?;
    assert_eq!(
        (&got["settings"][0]["value"], &got["settings"][0]["source"]),
        (&"always".into(), &"file".into())
    );
    let checked = json(&["config", "check", file, "--json"])?;
    assert_eq!((&checked["settings"], &checked["allowed"]), (&1.into(), &1.into()));
    assert_eq!(json(&["detach", "--json"])?["detached"], serde_json::json!([SERVER_INTERFACE]));
    assert_eq!(json(&["detach", "--json"])?["detached"], serde_json::json!([]));
    assert_gone(&bed, &pins, &server)
}

#[test]
fn detaching_what_is_not_attached_is_no_failure() -> Result<()> {
    let bed = Topology::with(&Options { behind: true, ..Options::default() })?;
    let pins = fresh_pin_root();
    for arguments in [&["detach"][..], &["detach", "--iface", SERVER_INTERFACE]] {
        let told = complaint(&run(&bed, &pins, arguments)?, 0);
        assert!(told.contains("was") && told.contains("attached"), "{arguments:?}: {told}");
        assert_eq!(leftovers(&bed, &pins)?, Vec::<String>::new());
    }
    let defender = start(&bed, &[])?;
    let pins = defender.pin_root().to_owned();
    let told = complaint(&run(&bed, &pins, &["detach", "--iface", ROUTER_INTERFACE])?, 0);
    assert!(told.contains(&format!("{ROUTER_INTERFACE}: was not attached")), "{told}");
    // A name that no interface has is a mistake.
    let told = complaint(&run(&bed, &pins, &["detach", "--iface", "none0"])?, 1);
    assert!(told.contains("unknown interface none0") && told.contains(SERVER_INTERFACE), "{told}");
    assert_eq!(defender.statistics()?["interfaces"][0]["name"], SERVER_INTERFACE);
    complaint(&run(&bed, &pins, &["detach", "--iface", SERVER_INTERFACE])?, 0);
    assert_eq!(leftovers(&bed, &pins)?, Vec::<String>::new());
    let told = complaint(&run(&bed, &pins, &["detach"])?, 0);
    assert!(told.contains("nothing was attached"), "{told}");
    Ok(())
}

#[test]
fn settings_have_the_units_that_people_type() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start(&bed, &[])?;
    for (key, value, shown, limit) in [
        ("80.min_active", "5m", "5m", ("min_active", 300)),
        ("http.min_active", "90 s", "90s", ("min_active", 90)),
        ("80.out_of_state", "10k", "10k", ("out_of_state", 10_000)),
        ("80.min_active", "50", "50", ("min_active", 50)),
    ] {
        defender.ask(&["set", key, value])?;
        assert_eq!(defender.ask(&["get", key])?.trim(), shown, "{key}");
        let explained: Value = serde_json::from_str(&defender.ask(&["explain", "http", "--json"])?)?;
        let triggers = explained["services"][0]["triggers"].as_array().context("no triggers")?.clone();
        let trigger =
            triggers.iter().find(|trigger| trigger["name"] == limit.0).context("no such trigger")?;
        assert_eq!(trigger["value"], limit.1, "{key} {value}");
    }
    defender.ask(&["set", "start", "30 %"])?;
    assert_eq!(defender.ask(&["get", "start"])?.trim(), "30%");
    let exported = defender.ask(&["get", "--export"])?;
    assert!(
        exported.contains("out_of_state = \"10k\"") && exported.contains("start = \"30%\""),
        "{exported}"
    );
    Ok(())
}

#[test]
fn connections_are_chosen_by_family_and_shown_by_service_name() -> Result<()> {
    let bed = Topology::new()?;
    let v4 = Server::start(&bed.server, bed.server_v4(80))?;
    let v6 = Server::start(&bed.server, bed.server_v6(443))?;
    let defender = start_always(&bed, &[80, 443])?;
    let _connected = [v4.address(), v6.address()]
        .map(|to| client::connect(&bed.client, to, CLIENT_PATIENCE).map(|stream| (stream, to)));
    let ports = |arguments: &[&str]| -> Result<Vec<u64>> {
        let listing = defender.ask(&[&["conns", "--state", "estab", "--json"], arguments].concat())?;
        let listing: Value = serde_json::from_str(&listing)?;
        let connections = listing["connections"].as_array().context("no connections")?;
        Ok(connections.iter().filter_map(|connection| connection["local_port"].as_u64()).collect())
    };
    eventually("both are there", || Ok(ports(&[])? == [80, 443]))?;
    assert_eq!(ports(&["-4"])?, [80]);
    assert_eq!(ports(&["-6"])?, [443]);
    assert_eq!(ports(&["-46"])?, [80, 443]);
    assert_eq!(ports(&["--port", "https"])?, [443]);
    let named = defender.ask(&["conns"])?;
    assert!(named.contains(":http ") && named.contains(":https "), "{named}");
    let numeric = defender.ask(&["conns", "-n"])?;
    assert!(numeric.contains("10.203.0.2:80 ") && !numeric.contains(":http"), "{numeric}");
    let named = defender.ask(&["why", "10.203.0.1"])?;
    assert!(named.contains(":http ") && !named.contains(":80 "), "{named}");
    let numeric = defender.ask(&["why", "10.203.0.1", "-n"])?;
    assert!(numeric.contains(":80 ") && !numeric.contains(":http"), "{numeric}");
    Ok(())
}

#[test]
fn a_lack_of_privilege_has_status_3() -> Result<()> {
    let scratch = Scratch::new()?;
    // Where it was built, others may not be able to look.
    let program = scratch.path("defender");
    fs::copy(PROGRAM, &program)?;
    for arguments in [&["run", "--iface", "lo"][..], &["attach", "--iface", "lo"], &["status"], &["detach"]] {
        let output = Command::new(&program)
            .args(arguments)
            .arg("--pin-root")
            .arg(fresh_pin_root())
            .uid(65_534)
            .gid(65_534)
            .output()?;
        let complaint = complaint(&output, 3);
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
    Ok(())
}

/// Counters that must be there.
const COUNTERS: [&str; 10] = [
    "rx_packets",
    "syn_received",
    "syn_challenged",
    "syn_passed",
    "ack_accepted",
    "ack_rejected",
    "handoff_assigned",
    "handoff_established",
    "handoff_failed",
    "malformed",
];

#[test]
fn statistics_have_the_shape_that_was_promised() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let _other = Server::start(&bed.server, "[::]:81".parse()?)?;
    let defender = start_always(&bed, &[80, 81])?;
    visit(&bed, &server)?;
    let statistics = defender.statistics()?;
    assert_eq!(statistics["version"], 1);
    assert_eq!(statistics["engine"], "reqsk");
    assert_eq!(
        statistics["interfaces"],
        serde_json::json!([{"name": SERVER_INTERFACE, "xdp_mode": "native"}])
    );
    let services = statistics["services"].as_array().context("no services")?;
    let ends: Vec<_> = services.iter().map(|one| (one["port"].as_u64(), one["address"].as_str())).collect();
    assert_eq!(ends, [(Some(80), Some("10.203.0.2")), (Some(81), Some("::"))]);
    for service in services {
        assert_eq!((&service["mode"], &service["active"]), (&"always".into(), &true.into()));
        assert!(service["half_open"].is_u64() && service["syn_rate"].is_u64(), "{service}");
    }
    let counters = statistics["counters"].as_object().context("no counters")?;
    assert!(counters.values().all(Value::is_u64), "{counters:?}");
    for name in COUNTERS {
        assert!(counters.contains_key(name), "{name} is missing");
    }
    let verdicts = statistics["verdicts"].as_object().context("no verdicts")?;
    assert!(verdicts.keys().all(|name| name.split('.').count() == 2), "{verdicts:?}");
    let sum: u64 = verdicts.values().filter_map(Value::as_u64).sum();
    assert_eq!(counters["rx_packets"], sum);
    assert!(sum > 2);
    assert!(statistics["states"].as_object().is_some_and(|states| states.contains_key("ESTABLISHED")));
    let text = defender.ask(&["stats"])?;
    assert!(text.contains("tx.syn_challenged") && text.contains("handoff_established"), "{text}");
    Ok(())
}

#[test]
fn every_packet_is_counted_once() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let (unseen_before, before) = (unseen(&bed, &defender)?, Counts::of(&defender)?);
    for _ in 0..10 {
        visit(&bed, &server)?;
    }
    bed.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // Nobody listens there, which later calls are told.
        (0..3).try_for_each(|_| socket.send_to(b"?", bed.server_v4(9)).map(drop))?;
        Ok(())
    })?;
    // What comes late is counted by both.
    eventually("the counts agree", || Ok(unseen(&bed, &defender)? == unseen_before))?;
    let counts = &Counts::of(&defender)? - &before;
    counts.assert(&[("handoff_established", 10)]);
    // Kernels have things to say to each other as well.
    assert!(counts.get("pass.not_tcp") >= 3, "{counts}");
    Ok(())
}

#[test]
fn modes_are_set_while_it_runs() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let other = Server::start(&bed.server, bed.server_v4(81))?;
    let defender = start(&bed, &["--mode", "monitor"])?;
    let challenges = |server: &Server, number: u64| -> Result<()> {
        let before = Counts::of(&defender)?;
        visit(&bed, server)?;
        let counts = &Counts::of(&defender)? - &before;
        counts.assert(&[("syn_challenged", number), ("handoff_established", number)]);
        counts.assert_no_drops_but(&[]);
        Ok(())
    };
    challenges(&server, 0)?;
    for (key, value, first, second) in [
        ("mode", "always", 1, 1),
        ("80.mode", "off", 0, 1),
        ("81.mode", "monitor", 0, 0),
        ("80.mode", "default", 1, 0),
        ("mode", "monitor", 0, 0),
        ("81.mode", "always", 0, 1),
        ("81.mode", "default", 0, 0),
        ("mode", "off", 0, 0),
        ("mode", "always", 1, 1),
    ] {
        defender.ask(&["set", key, value])?;
        // What it is by default is shown as what it comes to.
        let got = defender.ask(&["get", key])?;
        assert!(value == "default" || got.trim() == value, "{key} {got}");
        challenges(&server, first)?;
        challenges(&other, second)?;
    }
    Ok(())
}

#[test]
fn a_mode_that_was_set_stays_when_connections_and_listeners_come() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    for mode in ["monitor", "always"].into_iter().cycle().take(6) {
        defender.ask(&["set", "mode", mode])?;
        let before = Counts::of(&defender)?;
        for port in 2001..2006 {
            visit(&bed, &server)?;
            drop(Server::start(&bed.server, bed.server_v4(port))?);
            thread::sleep(Duration::from_millis(20));
        }
        let counts = &Counts::of(&defender)? - &before;
        counts.assert(&[("syn_challenged", if mode == "always" { 5 } else { 0 })]);
    }
    Ok(())
}

/// What is left of a defender; nothing should be.
fn leftovers(bed: &Topology, pins: &Path) -> Result<Vec<String>> {
    let mut left = Vec::new();
    if pins.exists() {
        left.push(pins.display().to_string());
    }
    let name = pins.file_name().and_then(|name| name.to_str()).context("no name")?.replace('-', "%2d");
    if let Ok(entries) = fs::read_dir("/run/defender") {
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
        left.extend(names.filter(|entry| entry.ends_with(&name)));
    }
    let link = bed.server.ip(&format!("-d link show dev {SERVER_INTERFACE}"))?;
    if link.contains("xdp") {
        left.push(link);
    }
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_, programs) =
            bed.server.run(|| Ok(SchedClassifier::query_tcx(SERVER_INTERFACE, direction)?))?;
        left.extend(programs.iter().map(|program| format!("tcx {:?}", program.name_as_str())));
    }
    Ok(left)
}

/// Removes what is pinned, also if a test fails.
fn sweep(pins: &Path) -> Guard {
    let pins = pins.to_owned();
    Guard::new(move || drop(fs::remove_dir_all(pins)))
}

/// Every setting of the server's namespace that has to do with networking.
fn sysctls(bed: &Topology) -> Result<BTreeMap<String, String>> {
    fn collect(path: &Path, all: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, all);
            } else if let Ok(value) = fs::read_to_string(&path) {
                all.insert(path.display().to_string(), value);
            }
        }
    }
    bed.server.run(|| {
        let mut all = BTreeMap::new();
        for part in ["core", "ipv4", "ipv6"] {
            collect(&Path::new("/proc/sys/net").join(part), &mut all);
        }
        ensure!(all.len() > 100, "only {} sysctls", all.len());
        Ok(all)
    })
}

/// Asserts that SYNs are challenged, that connections work, and that everything is there that should go.
fn assert_defends(bed: &Topology, defender: &Controller<'_>, server: &Server) -> Result<()> {
    let before = Counts::of(defender)?;
    visit(bed, server)?;
    (&Counts::of(defender)? - &before).assert_connections(1);
    // Pins, state, XDP, two of tcx: otherwise the look for leftovers is blind.
    assert_eq!(leftovers(bed, defender.pin_root())?.len(), 5);
    Ok(())
}

/// Asserts that nothing is left, and that connections work without the defender.
fn assert_gone(bed: &Topology, pins: &Path, server: &Server) -> Result<()> {
    assert_eq!(leftovers(bed, pins)?, Vec::<String>::new());
    visit(bed, server)
}

#[test]
fn detach_leaves_nothing() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let before = sysctls(&bed)?;
    for arguments in [&["detach"][..], &["detach", "--iface", SERVER_INTERFACE]] {
        let defender = start_always(&bed, &[80])?;
        assert_defends(&bed, &defender, &server)?;
        let pins = defender.pin_root().to_owned();
        complaint(&run(&bed, &pins, arguments)?, 0);
        assert_gone(&bed, &pins, &server)?;
        // It has noticed.
        eventually("the controller ends by itself", || {
            Ok(!Path::new("/proc").join(defender.id().to_string()).join("exe").exists())
        })?;
        assert_eq!(defender.stop()?.code(), Some(0));
        assert_gone(&bed, &pins, &server)?;
    }
    assert_eq!(before, sysctls(&bed)?);
    Ok(())
}

#[test]
fn sigterm_leaves_nothing() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let before = sysctls(&bed)?;
    let defender = start_always(&bed, &[80])?;
    assert_defends(&bed, &defender, &server)?;
    assert_eq!(before, sysctls(&bed)?, "while it runs");
    assert_eq!(defender.stop()?.code(), Some(0));
    assert_gone(&bed, defender.pin_root(), &server)?;
    assert_eq!(before, sysctls(&bed)?);
    Ok(())
}

#[test]
fn keep_keeps_and_is_taken_over() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start(&bed, &["--mode", "always", "--keep"])?;
    wait_active(&defender, 80)?;
    assert_defends(&bed, &defender, &server)?;
    assert_eq!(defender.stop()?.code(), Some(0));
    assert_defends(&bed, &defender, &server)?;
    assert_eq!(status(&defender)?["controller"], Value::Null);
    let counted = Counts::of(&defender)?;
    let pins = defender.pin_root().to_owned();
    let second = Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &[], pins.clone())?;
    eventually("another process is in control", || Ok(status(&second)?["controller"] == second.id()))?;
    // The counters went on, and so did the mode.
    assert!(Counts::of(&second)?.get("syn_challenged") >= counted.get("syn_challenged"));
    assert_defends(&bed, &second, &server)?;
    assert_eq!(second.stop()?.code(), Some(0));
    assert_gone(&bed, &pins, &server)
}

#[test]
fn attach_does_not_stay() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let pins = fresh_pin_root();
    let _sweep = sweep(&pins);
    let attach = ["attach", "--iface", SERVER_INTERFACE, "--mode", "always"];
    complaint(&run(&bed, &pins, &attach)?, 0);
    assert_eq!(leftovers(&bed, &pins)?.len(), 5);
    visit(&bed, &server)?;
    let output = run(&bed, &pins, &["stats", "--json"])?;
    let statistics: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(statistics["counters"]["syn_challenged"], 1);
    assert_eq!(statistics["counters"]["handoff_established"], 1);
    let told = String::from_utf8(run(&bed, &pins, &["status"])?.stdout)?;
    assert!(told.contains("no controller"), "{told}");
    complaint(&run(&bed, &pins, &["detach"])?, 0);
    assert_gone(&bed, &pins, &server)
}

#[test]
fn maps_of_another_layout_are_not_taken_over() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let pins = fresh_pin_root();
    let _sweep = sweep(&pins);
    let attach = ["attach", "--iface", SERVER_INTERFACE];
    complaint(&run(&bed, &pins, &attach)?, 0);
    // As version 6 had it.
    let maps = pins.join("maps");
    fs::remove_file(maps.join(map::PORTS))?;
    Array::<_, [u32; 6]>::create(1 << 16, 0)?.pin(maps.join(map::PORTS))?;
    let mut settings = Slots::<Config>::open(&maps, map::CONFIG)?;
    for abi_version in [ABI_VERSION, 6] {
        settings.set(0, Config { abi_version, ..settings.get(0)? })?;
        let complaint = complaint(&run(&bed, &pins, &attach)?, 1);
        assert!(complaint.contains("another version of defender is attached"), "{complaint}");
    }
    complaint(&run(&bed, &pins, &["detach"])?, 0);
    assert_gone(&bed, &pins, &server)
}

#[test]
fn only_the_ports_that_were_named_are_defended() -> Result<()> {
    let bed = Topology::new()?;
    let named = Server::start(&bed.server, bed.server_v4(80))?;
    let other = Server::start(&bed.server, bed.server_v4(81))?;
    let defender = start(&bed, &["--mode", "always", "--port", "80,82"])?;
    wait_active(&defender, 80)?;
    assert_eq!(services(&defender, 81)?, Vec::<Value>::new());
    let before = Counts::of(&defender)?;
    visit(&bed, &named)?;
    visit(&bed, &other)?;
    let counts = &Counts::of(&defender)? - &before;
    counts.assert(&[("syn_challenged", 1), ("syn_received", 1)]);
    let warnings = status(&defender)?["warnings"].to_string();
    assert!(warnings.contains("82"), "{warnings}");
    Ok(())
}

#[test]
fn several_interfaces_at_once() -> Result<()> {
    let bed = Topology::with(&Options { behind: true, ..Options::default() })?;
    let behind = bed.behind.as_ref().context("nobody behind")?;
    // What is sent with XDP_TX arrives only where a program is.
    let _pass = Attached::new(behind, BEHIND_INTERFACE, Program::Pass)?;
    let _server = Server::start(&bed.server, "0.0.0.0:80".parse()?)?;
    let both = format!("{SERVER_INTERFACE},{ROUTER_INTERFACE}");
    let arguments = ["--mode", "always"];
    let defender = Controller::start(&bed.server, Path::new(PROGRAM), &both, &arguments)?;
    wait_active(&defender, 80)?;
    let visit_both = |challenged: u64| -> Result<()> {
        let before = Counts::of(&defender)?;
        for (from, to) in [(&bed.client, SERVER_V4), (behind, ROUTER_V4)] {
            let mut stream = client::connect(from, SocketAddr::new(to.into(), 80), CLIENT_PATIENCE)?;
            stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
            stream.read_exact(&mut [0]).context("no greeting")?;
        }
        (&Counts::of(&defender)? - &before).assert_connections(challenged);
        Ok(())
    };
    let names = || -> Result<Vec<Value>> {
        let statistics = defender.statistics()?;
        let interfaces = statistics["interfaces"].as_array().context("no interfaces")?;
        Ok(interfaces.iter().map(|interface| interface["name"].clone()).collect())
    };
    assert_eq!(names()?, [SERVER_INTERFACE, ROUTER_INTERFACE]);
    visit_both(2)?;
    complaint(&run(&bed, defender.pin_root(), &["detach", "--iface", SERVER_INTERFACE])?, 0);
    assert_eq!(names()?, [ROUTER_INTERFACE]);
    visit_both(1)?;
    // It stays like that: the controller has noticed.
    thread::sleep(Duration::from_millis(1500));
    visit_both(1)?;
    defender.stop()?;
    assert_eq!(leftovers(&bed, defender.pin_root())?, Vec::<String>::new());
    Ok(())
}

#[test]
fn doctor_without_privilege_says_what_it_could_not_look_at() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = scratch.path("defender");
    fs::copy(PROGRAM, &program)?;
    let output = Command::new(&program).args(["doctor", "--json"]).uid(65_534).gid(65_534).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let checks = report["checks"].as_array().context("no checks")?;
    let programs = checks.iter().find(|check| check["name"] == "programs").context("no such check")?;
    assert_eq!(programs["status"], "unknown", "{programs}");
    assert!(programs["found"].as_str().is_some_and(|found| found.contains("privilege")), "{programs}");
    Ok(())
}

/// As in a container without the host's `/sys`: that is no verdict on the kernel.
#[test]
fn hidden_type_information_is_unknown() -> Result<()> {
    let bed = Topology::new()?;
    let hidden = |arguments: &str| -> Result<Output> {
        let mut command = bed.server.command("unshare")?;
        let script = format!("mount -t tmpfs none /sys/kernel/btf && exec {PROGRAM} {arguments} \"$@\"");
        Ok(command
            .args(["--mount", "sh", "-c", &script, "sh", "--pin-root"])
            .arg(fresh_pin_root())
            .output()?)
    };
    let output = hidden(&format!("doctor --json --iface {SERVER_INTERFACE}"))?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let checks = report["checks"].as_array().context("no checks")?;
    for name in ["btf", "hand-off", "tcx", "programs"] {
        let check = checks.iter().find(|check| check["name"] == name).context(name)?;
        assert_eq!(check["status"], "unknown", "{check}");
    }
    assert_eq!(output.status.code(), Some(0), "{report}");
    let complaint = complaint(&hidden(&format!("run --no-allow-ssh --iface {SERVER_INTERFACE}"))?, 1);
    assert!(
        complaint.contains("type information of kernel") && complaint.lines().count() == 1,
        "{complaint}"
    );
    Ok(())
}

/// Who looks at the first lines only closes the pipe, and whoever started the defender may close its terminal.
#[test]
fn readers_that_go_are_no_failure() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    visit(&bed, &server)?;
    let run = |arguments: &[&str]| -> Result<Output> {
        let (reader, writer) = io::pipe()?;
        drop(reader);
        let mut command = bed.server.command(PROGRAM)?;
        command.env(STATE_DIRECTORY, state_directory(defender.pin_root()));
        command.args(arguments).arg("--pin-root").arg(defender.pin_root()).stdout(writer);
        Ok(command.stderr(Stdio::piped()).spawn()?.wait_with_output()?)
    };
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["stats"],
        &["stats", "--json"],
        &["stats", "--watch", "1"],
        &["conns"],
        &["conns", "--json"],
        &["events"],
        &["allow", "list"],
        &["why", "192.0.2.1"],
        &["explain", "80"],
        &["get"],
        &["get", "mode"],
        &["doctor"],
        &["doctor", "--json"],
        &["--help"],
        &["--version"],
    ] {
        let complaint = complaint(&run(arguments)?, 0);
        assert_eq!(complaint, "", "{arguments:?}");
    }
    // Nobody reads the complaint.
    let (reader, writer) = io::pipe()?;
    drop(reader);
    let mut command = bed.server.command(PROGRAM)?;
    let status = command
        .args(["set", "nonsense", "on", "--pin-root"])
        .arg(fresh_pin_root())
        .stderr(writer)
        .status()?;
    assert_eq!(status.code(), Some(2));
    Ok(())
}

#[test]
fn doctor_examines() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let pins = fresh_pin_root();
    let output = run(&bed, &pins, &["doctor", "--json", "--iface", SERVER_INTERFACE])?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert!(report["version"].is_u64(), "{report}");
    assert_eq!(output.status.code(), Some(0), "{report}");
    // It has asked the verifier itself.
    let checks = report["checks"].as_array().context("no checks")?;
    let programs = checks.iter().find(|check| check["name"] == "programs").context("no such check")?;
    assert_eq!(programs["status"], "ok", "{programs}");
    assert!(
        programs["found"].as_str().is_some_and(|found| found.contains("loaded and unloaded")),
        "{programs}"
    );
    bed.server.set_sysctl("net.ipv4.tcp_syncookies", 0)?;
    let output = run(&bed, &pins, &["doctor", "--iface", SERVER_INTERFACE])?;
    let told = String::from_utf8(output.stdout)?;
    assert!(told.contains("tcp_syncookies"), "{told}");
    assert_eq!(leftovers(&bed, &pins)?, Vec::<String>::new());
    Ok(())
}
