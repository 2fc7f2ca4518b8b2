//! Hooks: the example posts to a real HTTP server that answers, answers 500, is slow, and is down.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use defender::dataplane::{detach, pins::PinRoot};
use defender_testbed::topology::SERVER_INTERFACE;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    harness::{
        connect, eventually,
        process::{Process, Scratch, run},
        scripted_client::Wire,
    },
    operator::bed::{Running, attack, serve, succeeded, topology},
};

/// Answers at once below /ok, with 500 below /error, and not at all below /slow. Keeps the bodies that it got.
const SERVER: &str = "\
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        with open(sys.argv[1] + self.path.replace('/', '-'), 'ab') as kept:
            kept.write(body)
        if self.path == '/slow':
            time.sleep(600)
        self.send_response(500 if self.path == '/error' else 204)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Handler).serve_forever()
";
/// Where nobody listens.
const DOWN: &str = "http://127.0.0.1:8099/down";
const FIRST_PORT: u16 = 80;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/examples/webhook.sh")
}

fn config(command: &[&str], timeout: u32) -> String {
    let command: Vec<String> = command.iter().map(|word| format!("{word:?}")).collect();
    format!("min_active = 1\n[hooks]\non_event = [{}]\ntimeout = {timeout}\n", command.join(", "))
}

fn count(defender: &Running<'_>, what: &str) -> Result<u64> {
    defender.status()?["hooks"][what].as_u64().with_context(|| format!("no {what}"))
}

#[test]
fn the_example_posts_events_whatever_the_server_does() -> Result<()> {
    let bed = topology()?;
    let scratch = Scratch::new()?;
    let script = scratch.write("server.py", SERVER)?;
    let kept = scratch.path("kept").display().to_string();
    let _server = Process::start(&bed.server, "python3", &format!("{} {kept}", script.display()))?;
    eventually("it listens", || Ok(run(&bed.server, "ss", "-Htln sport = :8080")?.lines().count() == 1))?;
    let example = example().canonicalize()?.display().to_string();
    let url = |path: &str| format!("http://127.0.0.1:8080/{path}");
    let wire = Wire::new(&bed)?;
    let servers =
        (0..4).map(|offset| serve(&bed, bed.server_v4(FIRST_PORT + offset))).collect::<Result<Vec<_>>>()?;

    let file = scratch.write("config.toml", config(&[&example, &url("ok")], 10))?;
    let defender = Running::start(&bed, &["--config", &file.display().to_string()], |_| {})?;
    // What is to come of it, from where, within which time.
    let rows = [
        ("succeeded", url("ok"), 10),
        ("failed", url("error"), 10),
        ("timed_out", url("slow"), 1),
        ("failed", DOWN.to_owned(), 10),
    ];
    for (offset, (outcome, url, timeout)) in rows.into_iter().enumerate() {
        let address = bed.server_v4(FIRST_PORT + offset as u16);
        scratch.write(
            "config.toml",
            format!("rate_floor = {}\n{}", 1000 + offset, config(&[&example, &url], timeout)),
        )?;
        defender.send(Signal::SIGHUP)?;
        eventually("the file is read", || {
            let told = defender.ask(&["get", "rate_floor"])?;
            Ok(String::from_utf8_lossy(&told.stdout).trim() == (1000 + offset).to_string())
        })?;
        let before = count(&defender, outcome)?;
        defender.wait_for_listener(address.port())?;
        attack(&wire, address)?;
        eventually(&format!("{outcome}: {url}"), || Ok(count(&defender, outcome)? > before))?;
        // The defence goes on meanwhile.
        ensure!(defender.status()?["controller_state"] == "alive");
        connect(&bed, bed.fresh_client(address), address)?;
    }
    drop(servers);
    let bodies = fs::read_to_string(format!("{kept}-ok"))?;
    let first: Value = serde_json::from_str(bodies.lines().next().context("no body")?)?;
    ensure!(first["event"] == "began" && first["port"] == FIRST_PORT, "{first}");
    // What went wrong is said to people as well.
    let told = String::from_utf8_lossy(&defender.ask(&["status"])?.stdout).into_owned();
    ensure!(told.contains("hooks: of ") && told.contains("took too long"), "{told}");
    Ok(())
}

/// Told as soon as the file is read, not at the first attack.
#[test]
fn a_program_that_cannot_be_run_is_a_warning() -> Result<()> {
    let bed = topology()?;
    let scratch = Scratch::new()?;
    let no_program = scratch.write("hook.txt", "no program")?.display().to_string();
    let _server = serve(&bed, bed.server_v4(FIRST_PORT))?;
    let file = scratch.write("config.toml", config(&[&no_program], 10))?;
    let defender = Running::start(&bed, &["--config", &file.display().to_string()], |_| {})?;
    let told =
        || -> Result<String> { Ok(String::from_utf8_lossy(&defender.ask(&["status"])?.stdout).into_owned()) };
    let warning = |program: &str, why: &str| format!("hooks: {program} cannot be run: {why}");
    eventually("status says so", || Ok(told()?.contains(&warning(&no_program, "Permission denied"))))?;
    for (program, why) in [("/no/such/program", Some("No such file or directory")), ("/bin/true", None)] {
        scratch.write("config.toml", config(&[program], 10))?;
        defender.send(Signal::SIGHUP)?;
        eventually(program, || {
            let told = told()?;
            Ok(why.map_or(!told.contains("cannot be run"), |why| told.contains(&warning(program, why))))
        })?;
    }
    Ok(())
}

/// What `began` has opened somewhere is closed by `ended`, whoever detaches: the command records the end, and whoever removes the
/// links by hand records nothing.
#[test]
fn who_detaches_from_outside_ends_attacks_for_hooks_too() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(FIRST_PORT);
    let _server = serve(&bed, address)?;
    let wire = Wire::new(&bed)?;
    let scratch = Scratch::new()?;
    let by_command = |defender: &Running<'_>| succeeded(&defender.ask(&["detach"])?).map(drop);
    let by_hand =
        |defender: &Running<'_>| detach::interface(&PinRoot::new(&defender.pins)?, SERVER_INTERFACE);
    type Detach<'a> = &'a dyn Fn(&Running<'_>) -> Result<()>;
    for (how, detach) in [("command", &by_command as Detach<'_>), ("hand", &by_hand)] {
        let told = scratch.path(how);
        let tell = format!("cat >> {}", told.display());
        let file = scratch.write("config.toml", config(&["/bin/sh", "-c", &tell], 10))?;
        let mut defender = Running::start(&bed, &["--config", &file.display().to_string()], |_| {})?;
        defender.wait_for_listener(FIRST_PORT)?;
        attack(&wire, address)?;
        eventually("its beginning is told", || Ok(told.exists()))?;
        detach(&defender)?;
        ensure!(defender.ended()?.success());
        let told = fs::read_to_string(told)?;
        let told = told.lines().map(serde_json::from_str::<Value>).collect::<serde_json::Result<Vec<_>>>()?;
        let recorded = defender.events()?;
        let names: Vec<_> = told.iter().filter_map(|event| event["event"].as_str()).collect();
        ensure!(names.first() == Some(&"began") && names.last() == Some(&"ended"), "{how}: {names:?}");
        ensure!(names.iter().filter(|name| **name == "ended").count() == 1, "{how}: {names:?}");
        ensure!(told == recorded, "{how}: {told:?} is told, and recorded is {recorded:?}");
    }
    Ok(())
}

/// Whoever started the defender, and whoever shares its session, is no concern of a hook that is killed.
#[test]
fn a_hook_that_never_ends_is_killed_alone() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(FIRST_PORT);
    let _server = serve(&bed, address)?;
    let wire = Wire::new(&bed)?;
    let scratch = Scratch::new()?;
    let seconds = format!("4{:06}", std::process::id());
    let hang = format!("sleep {seconds} & sleep {seconds}");
    let file = scratch.write("config.toml", config(&["/bin/sh", "-c", &hang], 600))?;
    // In one process group with a bystander.
    let mut bystander = bed.server.command("sleep")?.arg("600").process_group(0).spawn()?;
    let group = bystander.id() as i32;
    let mut defender = Running::start(&bed, &["--config", &file.display().to_string()], |command| {
        command.process_group(group);
    })?;
    defender.wait_for_listener(FIRST_PORT)?;
    attack(&wire, address)?;
    let hooks = || -> Result<usize> {
        let processes = fs::read_dir("/proc")?.flatten();
        let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        Ok(lines.filter(|line| String::from_utf8_lossy(line).contains(&seconds)).count())
    };
    eventually("the hook runs", || Ok(hooks()? == 3))?;
    ensure!(defender.stop()?.success());
    eventually("the hook is gone", || Ok(hooks()? == 0))?;
    ensure!(bystander.try_wait()?.is_none(), "a bystander was killed");
    bystander.kill()?;
    bystander.wait()?;
    Ok(())
}
