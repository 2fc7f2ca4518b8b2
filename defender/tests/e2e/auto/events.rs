//! What people are told of attacks, and what the defender keeps when it ends.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use defender_common::mitigation::Level;
use defender_testbed::{
    controller::{Controller, STATE_DIRECTORY, state_directory},
    flood::Kind,
    simulated_clients::SimulatedClients,
    topology::{SERVER_INTERFACE, Topology},
};
use serde_json::Value;

use crate::{
    auto::bed::{
        MitigationView, PORT, comes_down, events, flood, serve, serve_defended, set, short_memory,
        start_auto, start_knowing, summary, topology,
    },
    harness::{PROGRAM, clients_connect, eventually, process::Scratch, run, traffic::take_over},
};

/// `events --follow`, into a file.
struct Follower {
    child: Child,
    path: PathBuf,
    _scratch: Scratch,
}

impl Follower {
    fn start(bed: &Topology, defender: &Controller<'_>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let path = scratch.path("followed");
        let pins = defender.pin_root();
        let mut command = bed.server.command(PROGRAM)?;
        command.env(STATE_DIRECTORY, state_directory(pins));
        command.args(["events", "--follow", "--json", "--pin-root"]).arg(pins);
        let child = command.stdin(Stdio::null()).stdout(fs::File::create(&path)?).spawn()?;
        Ok(Self { child, path, _scratch: scratch })
    }

    fn seen(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.path)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).context("an event is no JSON")).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Another controller where the first one's pins are.
fn start_again<'a>(bed: &'a Topology, first: &Controller<'_>) -> Result<Controller<'a>> {
    let pins = first.pin_root().to_owned();
    let again =
        Controller::start_at(&bed.server, PROGRAM.as_ref(), SERVER_INTERFACE, &["--mode", "auto"], pins)?;
    again.wait_for_listener(PORT)?;
    Ok(again)
}

/// The controller is killed before the flood begins, the next one after it tells of it, once; who follows sees that; and
/// all of it is still there when everything has ended.
#[test]
fn an_attack_is_told_once_whoever_is_in_control() -> Result<()> {
    let bed = short_memory()?;
    let address = bed.server_v4(PORT);
    let (_server, first, mitigation) = serve_defended(&bed, address, 512)?;
    set(&first, &[("min_active", "2")])?;
    let follower = Follower::start(&bed, &first)?;
    first.kill()?;
    let handle = flood(Kind::LinuxSyn, address, 20_000, 30).start(&bed)?;
    mitigation.wait_for(Level::Challenge)?;
    assert_eq!(events(&first)?, [] as [Value; 0]);
    let second = take_over(&bed, &first)?;
    eventually("the attack is told", || Ok(!events(&second)?.is_empty()))?;
    // Those between are told nothing new.
    second.kill()?;
    let third = take_over(&bed, &second)?;
    let clients = clients_connect(&bed, address)?;
    handle.stop()?;
    comes_down(&bed, &mitigation, address)?;
    eventually("the end is told", || Ok(events(&third)?.len() >= 2))?;
    let told = events(&third)?;
    let expected = ["began challenge queue syn_flood", "ended pass quiet syn_flood"];
    assert_eq!(summary(&told), expected, "{told:?}");
    ensure!(told[1]["accepted"].as_u64() >= Some(clients.into()), "{}", told[1]);
    eventually("who follows has seen it", || Ok(follower.seen()? == told))?;
    ensure!(third.stop()?.success());
    let kept = run(&bed, third.pin_root(), &["events", "--json"])?;
    let kept = String::from_utf8(kept.stdout)?;
    let kept: Vec<Value> = kept.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(kept, told);
    by_time(&bed, third.pin_root(), &told)?;
    let fourth = start_again(&bed, &third)?;
    assert_eq!(events(&fourth)?, told);
    Ok(())
}

/// Asserts that `--since` and `--until` choose by time; `told` is all that there is.
fn by_time(bed: &Topology, pins: &Path, told: &[Value]) -> Result<()> {
    let chosen = |arguments: &[&str]| -> Result<Vec<Value>> {
        let output = run(bed, pins, &[&["events", "--json"], arguments].concat())?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        text.lines().map(|line| serde_json::from_str(line).context("an event is no JSON")).collect()
    };
    let time = |event: &Value| event["time"].as_str().map(str::to_owned).context("no time");
    let (first, last) = (time(&told[0])?, time(&told[1])?);
    assert_eq!(chosen(&["--since", "1h"])?, told);
    assert_eq!(chosen(&["--since", &last])?, told[1..]);
    assert_eq!(chosen(&["--until", &first])?, told[..1]);
    assert_eq!(chosen(&["--since", &first, "--until", &last])?, told);
    assert_eq!(chosen(&["--since", "1h", "--limit", "1"])?, told[1..]);
    assert_eq!(chosen(&["--until", "1h"])?, Vec::<Value>::new());
    let wrong = run(bed, pins, &["events", "--since", &last, "--until", &first])?;
    assert_eq!(wrong.status.code(), Some(2));
    // As text, unless JSON is asked for; what was there is printed first.
    let mut command = bed.server.command(PROGRAM)?;
    command.env(STATE_DIRECTORY, state_directory(pins));
    command.args(["events", "--follow", "--since", "1h", "--pin-root"]).arg(pins);
    let mut follower = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(follower.stdout.take().context("no pipe")?).lines().take(told.len());
    let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
    assert!(lines[0].starts_with(&format!("{first}  began  port")), "{lines:?}");
    assert!(lines[1].starts_with(&format!("{last}  ended  port")), "{lines:?}");
    // It ends because nobody reads any more.
    ensure!(follower.wait()?.success());
    Ok(())
}

/// How many seconds without a flood a baseline file covers.
fn seconds_of_calm(file: &Value) -> u64 {
    match file {
        Value::Object(members) => {
            let histogram = members.get("half_open").and_then(Value::as_object);
            let own = histogram.map_or(0, |buckets| buckets.values().filter_map(Value::as_u64).sum());
            own + members.values().map(seconds_of_calm).sum::<u64>()
        }
        Value::Array(members) => members.iter().map(seconds_of_calm).sum(),
        _ => 0,
    }
}

#[test]
fn what_is_usual_is_kept_and_draws_the_lines() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address, 4096)?;
    // Each is kept: with it would go what it has kept.
    let mut defenders = vec![start_auto(&bed, &[PORT])?];
    let mut kept = 0;
    for round in 0..2 {
        SimulatedClients::new(&bed, address).of(&bed, 90, 10).run(&bed)?;
        let defender = &defenders[round];
        ensure!(defender.stop()?.success());
        let file: Value = serde_json::from_str(&fs::read_to_string(defender.kept("baselines.json")?)?)?;
        ensure!(seconds_of_calm(&file) > kept, "nothing more was learnt: {file}");
        kept = seconds_of_calm(&file);
        let again = start_again(&bed, defender)?;
        defenders.push(again);
    }
    let defender = &defenders[2];
    // Too little is known yet.
    let lines = MitigationView::of(defender, PORT)?.triggers()?;
    assert_eq!((lines.start, lines.flood), (1024, 0));
    drop(defenders);
    let defender = start_knowing(&bed, address, 400, 500)?;
    defender.wait_for_listener(PORT)?;
    let lines = MitigationView::of(&defender, PORT)?.triggers()?;
    // Four times and ten times what is usual, which is known to 5 %.
    ensure!((1600..=1680).contains(&lines.start) && (5000..=5250).contains(&lines.rate), "{lines:?}");
    assert_eq!(lines.flood, 1000);
    Ok(())
}
