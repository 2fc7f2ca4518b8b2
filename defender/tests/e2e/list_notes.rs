//! Entries of the lists with a comment or a time of expiry, and what changes many of them.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use defender::dataplane::{maps::Maps, pins::PinRoot};
use defender_testbed::{
    controller::{Controller, STATE_DIRECTORY, fresh_pin_root, state_directory},
    topology::{SERVER_INTERFACE, Topology},
};
use serde_json::{Value, json};

use crate::harness::{
    PROGRAM, eventually,
    process::{Scratch, faketime_library},
    run, start, status,
};

/// What a list has, as JSON.
fn listed(bed: &Topology, pins: &Path, list: &str) -> Result<Vec<Value>> {
    let output = run(bed, pins, &[list, "list", "--json"])?;
    let listing: Value = serde_json::from_slice(&output.stdout)?;
    listing["prefixes"].as_array().cloned().context("no prefixes")
}

/// Another controller in its place, which is in control.
fn take_over<'a>(bed: &'a Topology, pins: &Path, arguments: &[&str]) -> Result<Controller<'a>> {
    let program = Path::new(PROGRAM);
    let next = Controller::start_at(&bed.server, program, SERVER_INTERFACE, arguments, pins.to_owned())?;
    eventually("it is in control", || Ok(status(&next)?["controller"] == next.id()))?;
    Ok(next)
}

fn state_of(pins: &Path) -> std::path::PathBuf {
    Path::new("/run/defender").join(defender::state::directory::escape(&pins.to_string_lossy()))
}

#[test]
fn comment_and_expiry_outlive_controllers() -> Result<()> {
    let bed = Topology::new()?;
    let first = start(&bed, &[])?;
    let pins = first.pin_root().to_owned();
    let before = SystemTime::now();
    first.ask(&["deny", "add", "192.0.2.7", "--comment", "a scanner", "--expires", "1h"])?;
    first.ask(&["deny", "add", "192.0.2.8"])?;
    let noted = listed(&bed, &pins, "deny")?;
    ensure!(noted.len() == 2 && noted[0]["comment"] == "a scanner" && noted[1]["expires"].is_null());
    let expires = humantime::parse_rfc3339(noted[0]["expires"].as_str().context("no time")?)?;
    let left = expires.duration_since(before)?;
    ensure!((3599..3660).contains(&left.as_secs()), "{left:?}");
    let table = first.ask(&["deny", "list"])?;
    ensure!(table.contains("59m") || table.contains("hand    1h "), "{table}");
    ensure!(table.contains("EXPIRES IN") && table.contains("a scanner"), "{table}");
    let exported = first.ask(&["get", "--export"])?;
    ensure!(exported.contains("{ prefix = \"192.0.2.7\", comment = \"a scanner\", expires = "), "{exported}");

    let second = take_over(&bed, &pins, &["--replace"])?;
    ensure!(listed(&bed, &pins, "deny")? == noted, "after a take-over");
    second.kill()?;
    let third = take_over(&bed, &pins, &[])?;
    ensure!(listed(&bed, &pins, "deny")? == noted, "after a controller that was killed");

    // Added again, an entry is what is said now; on the other list as well.
    third.ask(&["deny", "add", "192.0.2.7", "--comment", "still there"])?;
    let again = json!({"prefix": "192.0.2.7", "origin": "hand", "comment": "still there"});
    ensure!(listed(&bed, &pins, "deny")?[0] == again);
    third.ask(&["allow", "add", "192.0.2.7"])?;
    ensure!(listed(&bed, &pins, "allow")? == [json!({"prefix": "192.0.2.7", "origin": "hand"})]);
    ensure!(!state_of(&pins).join("notes.json").exists(), "nothing is noted any more");
    Ok(())
}

#[test]
fn entries_go_when_their_time_has_come() -> Result<()> {
    let bed = Topology::new()?;
    let scratch = Scratch::new()?;
    let log = scratch.path("log");
    let pins = fresh_pin_root();
    // What the controller says is looked at.
    let script =
        scratch.write("defender", format!("#!/bin/sh\nexec {PROGRAM} \"$@\" 2>>{}\n", log.display()))?;
    crate::harness::process::make_executable(&script)?;
    let defender = Controller::start_at(&bed.server, &script, SERVER_INTERFACE, &[], pins.clone())?;
    for arguments in [
        &["deny", "add", "192.0.2.7,2001:db8::/32", "--expires", "1s"][..],
        &["allow", "add", "192.0.2.8", "--expires", "1s", "--comment", "for a moment"],
        &["deny", "add", "192.0.2.9", "--comment", "stays"],
        &["deny", "add", "192.0.2.10", "--expires", "1h"],
        &["deny", "add", "192.0.2.11", "--expires", "1s"],
        // Somebody has changed their mind.
        &["deny", "add", "192.0.2.11"],
    ] {
        defender.ask(arguments)?;
    }
    eventually("they are removed", || {
        let prefixes = &status(&defender)?["prefixes"];
        Ok(prefixes["allowed"] == 0 && prefixes["denied"] == 3)
    })?;
    let left: Vec<_> = listed(&bed, &pins, "deny")?.iter().map(|row| row["prefix"].clone()).collect();
    ensure!(left == ["192.0.2.9", "192.0.2.10", "192.0.2.11"], "{left:?}");
    ensure!(listed(&bed, &pins, "deny")?[0]["comment"] == "stays");
    eventually("it is said, and the notes are gone", || {
        let said = fs::read_to_string(&log)?;
        let notes = fs::read_to_string(state_of(&pins).join("notes.json"))?;
        Ok(["192.0.2.7", "192.0.2.8", "2001:db8::/32"].iter().all(|prefix| {
            said.lines().any(|line| line.contains("expired") && line.contains(prefix))
                && !notes.contains(prefix)
        }))
    })?;
    Ok(())
}

#[test]
fn what_expires_while_nobody_is_in_control_goes_at_the_next_start() -> Result<()> {
    let bed = Topology::new()?;
    let first = start(&bed, &[])?;
    let pins = first.pin_root().to_owned();
    first.kill()?;
    first.ask(&["deny", "add", "192.0.2.7", "--expires", "1s"])?;
    eventually("it is overdue", || Ok(first.ask(&["deny", "list"])?.contains("overdue")))?;
    let _second = take_over(&bed, &pins, &[])?;
    eventually("it is removed", || Ok(listed(&bed, &pins, "deny")?.is_empty()))
}

/// Times are those of the wall clock: entries go early if it steps forward, and late if it steps back.
#[test]
fn expiry_follows_steps_of_the_clock() -> Result<()> {
    let bed = Topology::new()?;
    let scratch = Scratch::new()?;
    let clock = scratch.write("clock", "-1d")?;
    let environment = [
        ("LD_PRELOAD", faketime_library()?),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let pins = fresh_pin_root();
    let program = Path::new(PROGRAM);
    let defender =
        Controller::start_in(&bed.server, program, SERVER_INTERFACE, &[], pins.clone(), &environment)?;
    let on_list = |prefix: &str| -> Result<bool> {
        Ok(listed(&bed, &pins, "deny")?.iter().any(|row| row["prefix"] == prefix))
    };
    // Its clock is a day behind: what is due in a second by ours is not, and what is due by its own is.
    defender.ask(&["deny", "add", "192.0.2.7", "--expires", "1s"])?;
    let mut by_its_clock = bed.server.command(PROGRAM)?;
    by_its_clock.args(["deny", "add", "192.0.2.8", "--expires", "1s", "--pin-root"]).arg(&pins);
    ensure!(by_its_clock.envs(environment).status()?.success());
    eventually("what is due by its clock is removed", || Ok(!on_list("192.0.2.8")?))?;
    ensure!(on_list("192.0.2.7")?, "removed a day early");
    defender.ask(&["deny", "add", "192.0.2.9", "--expires", "12h"])?;
    fs::write(&clock, "+0")?;
    eventually("the clock is right again", || Ok(!on_list("192.0.2.7")?))?;
    ensure!(on_list("192.0.2.9")?);
    fs::write(&clock, "+1d")?;
    eventually("the clock has stepped forward", || Ok(!on_list("192.0.2.9")?))
}

/// Runs the program with this standard input.
fn with_input(bed: &Topology, pins: &Path, arguments: &[&str], input: &str) -> Result<Output> {
    let mut command: Command = bed.server.command(PROGRAM)?;
    command.args(arguments).arg("--pin-root").arg(pins).env(STATE_DIRECTORY, state_directory(pins));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    match child.stdin.take().context("no standard input")?.write_all(input.as_bytes()) {
        // Who has a file to read may have ended by now.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(child.wait_with_output()?)
}

#[test]
fn files_and_standard_input() -> Result<()> {
    let bed = Topology::new()?;
    let defender = start(&bed, &[])?;
    let pins = defender.pin_root();
    let add = ["deny", "add", "--file", "-", "--comment", "rest", "-o", "json"];
    let text = "# a list\n192.0.2.0/24 # own\n\n2001:db8::7\n";
    let output = with_input(&bed, pins, &add, text)?;
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(told == "{\"version\":1,\"added\":2,\"already\":0,\"updated\":0,\"moved\":[]}\n", "{told}");
    let rows = listed(&bed, pins, "deny")?;
    ensure!(rows[0]["comment"] == "own" && rows[1]["comment"] == "rest", "{rows:?}");

    // Whatever is wrong changes nothing, and is named.
    let wrong = "192.0.2.7\n192.0.2.300\n";
    let file = defender_list(wrong)?;
    for (arguments, place) in [
        (vec!["deny", "add", "--file", "-"], "standard input:2:1: not a valid prefix".to_owned()),
        (vec!["deny", "del", "--file", "-"], "standard input:2:1: not a valid prefix".to_owned()),
        (vec!["deny", "del", "--file", &file.1], format!("{}:2:1: not a valid prefix", file.1)),
        (vec!["deny", "add", "--file", "/no/such/file"], "cannot read /no/such/file".to_owned()),
    ] {
        let output = with_input(&bed, pins, &arguments, wrong)?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && complaint.contains(&place), "{complaint}");
    }
    for (arguments, complaint) in [
        (["deny", "add", "192.0.2.7", "--expires", "2020-01-01T00:00:00Z"], "name a later time"),
        (["deny", "add", "192.0.2.7", "--expires", "later"], "such as 90s, 1h"),
        (["deny", "add", "192.0.2.7", "--comment", "two\nlines"], "control character"),
    ] {
        let output = run(&bed, pins, &arguments)?;
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && complained.contains(complaint), "{complained}");
    }
    ensure!(listed(&bed, pins, "deny")? == rows);

    // What is not there is said, and no failure.
    let output = with_input(&bed, pins, &["deny", "del", "--file", "-"], "192.0.2.0/24\n192.0.2.9 # x\n")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.contains("1 removed, 1 not there: 192.0.2.9"), "{said}");
    let output = run(&bed, pins, &["deny", "del", "192.0.2.0/24", "--json"])?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success()
            && told == "{\"version\":1,\"removed\":0,\"missing\":[\"192.0.2.0/24\"],\"returning\":[]}\n",
        "{told}"
    );
    Ok(())
}

/// A file of prefixes, and its path.
fn defender_list(text: &str) -> Result<(Scratch, String)> {
    let scratch = Scratch::new()?;
    let path = scratch.write("list", text)?.display().to_string();
    Ok((scratch, path))
}

#[test]
fn flushing_says_how_many_and_leaves_the_other_list() -> Result<()> {
    let bed = Topology::new()?;
    let (scratch, list) = defender_list("192.0.2.0/24 # from the file\n")?;
    let config = scratch.write("config.toml", format!("deny_file = \"{list}\"\n"))?.display().to_string();
    let defender = start(&bed, &["--config", &config])?;
    let pins = defender.pin_root();
    defender.ask(&["deny", "add", "198.51.100.0/24,2001:db8::/32", "--comment", "by hand"])?;
    defender.ask(&["allow", "add", "203.0.113.0/24", "--comment", "friends"])?;
    ensure!(listed(&bed, pins, "deny")?[0]["comment"] == "from the file");
    let output = run(&bed, pins, &["deny", "flush"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success()
            && said.contains("3 removed")
            && said.contains("return when it is read again: 192.0.2.0/24"),
        "{said}"
    );
    ensure!(listed(&bed, pins, "deny")?.is_empty() && status(&defender)?["prefixes"]["denied"] == 0);
    ensure!(listed(&bed, pins, "allow")?[0]["comment"] == "friends");
    let output = run(&bed, pins, &["deny", "flush", "-o", "json"])?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(told == "{\"version\":1,\"removed\":0,\"missing\":[],\"returning\":[]}\n", "{told}");
    Ok(())
}

/// What a version without notes has left is taken over as it is.
#[test]
fn lists_of_a_version_without_notes_stay() -> Result<()> {
    let bed = Topology::new()?;
    let first = start(&bed, &[])?;
    let pins = first.pin_root().to_owned();
    first.kill()?;
    // As that version has them in the map: list, origin and length; and its count of them.
    let mut maps = Maps::open(&PinRoot::new(&pins)?)?;
    let mapped = |text: &str| -> Result<_> { Ok(text.parse::<defender::model::prefix::Cidr>()?.mapped()) };
    maps.prefixes.insert(mapped("192.0.2.7")?, 1 << 1)?;
    maps.prefixes.insert(mapped("2001:db8::/32")?, 1 << 0 | 1 << 9)?;
    maps.prefixes.insert(mapped("192.0.2.0/24")?, 1 << 1)?;
    fs::write(state_of(&pins).join("lists.json"), "{\n  \"allowed\": 1,\n  \"denied\": 2\n}")?;
    let second = take_over(&bed, &pins, &["--replace"])?;
    let expected = ["192.0.2.0/24", "192.0.2.7"].map(|prefix| json!({"prefix": prefix, "origin": "hand"}));
    ensure!(listed(&bed, &pins, "deny")? == expected);
    second.ask(&["deny", "add", "192.0.2.7", "--comment", "noted now"])?;
    ensure!(listed(&bed, &pins, "deny")?[1]["comment"] == "noted now");
    Ok(())
}

/// Without its notes an entry is as good as before.
#[test]
fn damaged_notes_cost_comments_alone() -> Result<()> {
    let bed = Topology::new()?;
    let first = start(&bed, &[])?;
    let pins = first.pin_root().to_owned();
    first.ask(&["deny", "add", "192.0.2.7", "--comment", "lost"])?;
    let notes = state_of(&pins).join("notes.json");
    for damage in ["", "{", "{\"192.0.2.7\":{\"comment\":7}}"] {
        fs::write(&notes, damage)?;
        let plain = [json!({"prefix": "192.0.2.7", "origin": "hand"})];
        ensure!(listed(&bed, &pins, "deny")? == plain, "{damage}");
        first.ask(&["deny", "add", "192.0.2.8", "--comment", "kept"])?;
        ensure!(listed(&bed, &pins, "deny")?[1]["comment"] == "kept", "{damage}");
        first.ask(&["deny", "del", "192.0.2.8"])?;
    }
    fs::write(&notes, "{")?;
    let second = take_over(&bed, &pins, &["--replace"])?;
    second.ask(&["deny", "add", "192.0.2.9", "--expires", "1s"])?;
    eventually("what expires is removed", || Ok(status(&second)?["prefixes"]["denied"] == 1))
}

/// A file's entries may say when they expire. Then they are removed, and stay so when the file is read again.
#[test]
fn entries_of_the_file_expire() -> Result<()> {
    let bed = Topology::new()?;
    let soon = humantime::format_rfc3339(SystemTime::now() + Duration::from_secs(6)).to_string();
    let (scratch, _) = defender_list("")?;
    let text = format!(
        "deny = [{{ prefix = \"192.0.2.7\", expires = \"{soon}\" }}, {{ prefix = \"192.0.2.8\", comment = \"stays\" }}]\n"
    );
    let config = scratch.write("config.toml", text)?.display().to_string();
    let defender = start(&bed, &["--config", &config])?;
    let pins = defender.pin_root().to_owned();
    let stays = [json!({"prefix": "192.0.2.8", "origin": "file", "comment": "stays"})];
    eventually("it is removed", || Ok(listed(&bed, &pins, "deny")? == stays))?;
    let _next = take_over(&bed, &pins, &["--replace", "--config", &config])?;
    ensure!(listed(&bed, &pins, "deny")? == stays);
    Ok(())
}
