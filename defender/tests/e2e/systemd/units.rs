//! The units as files: systemd finds nothing wrong, the sandbox is tight, and no tighter than the program bears.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    harness::{PATIENCE, PROGRAM, connect, eventually, process::Scratch},
    operator::bed::{PORT, Running, output, serve, succeeded, topology},
    systemd::bed::{INSTALLED, NAMES, unit},
};

/// In tenths: what `systemd-analyze security` may find at most.
const EXPOSURE: &str = "20";

fn analyze(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments);
    let output = output(command, PATIENCE)?;
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "systemd-analyze {}: {told}", arguments.join(" "));
    Ok(told)
}

#[test]
fn systemd_finds_nothing_wrong_and_little_exposed() -> Result<()> {
    let scratch = Scratch::new()?;
    for name in NAMES {
        let text = unit(name)?.replace(INSTALLED, PROGRAM);
        let path = scratch.write(name, &text)?.display().to_string();
        let told = analyze(&["verify", "--man=no", &path])?;
        ensure!(told.trim().is_empty(), "{name}: {told}");
        let threshold = format!("--threshold={EXPOSURE}");
        let security = ["security", "--offline=true", "--no-pager", &threshold];
        analyze(&[&security[..], &[&path]].concat())?;
        // It can fail.
        let open =
            scratch.write(name, text.replace("ProtectKernelTunables=yes\n", ""))?.display().to_string();
        ensure!(analyze(&[&security[..], &[&open]].concat()).is_err(), "the threshold means nothing");
    }
    Ok(())
}

/// What one unit is protected from, the other is as well.
#[test]
fn the_units_differ_in_what_they_defend_only() -> Result<()> {
    let [plain, instance] = NAMES.map(unit);
    let (plain, instance) = (plain?, instance?);
    let differs: BTreeSet<&str> = plain
        .lines()
        .zip(instance.lines())
        .filter(|(plain, instance)| plain != instance)
        .map(|(plain, _)| plain.split('=').next().unwrap_or_default())
        .filter(|key| !key.starts_with('#'))
        .collect();
    let expected = ["Description", "ExecStart", "ExecStartPre", "ReadWritePaths"];
    ensure!(differs == expected.into(), "{differs:?}");
    ensure!(plain.lines().count() == instance.lines().count());
    Ok(())
}

/// The values of a key, in order.
fn values<'a>(unit: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    unit.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
}

/// `operator::privilege` shows that these are enough; here: that each is needed.
#[test]
fn one_capability_fewer_is_too_few() -> Result<()> {
    let text = unit(NAMES[0])?;
    let all: Vec<String> = values(&text, "CapabilityBoundingSet")
        .flat_map(str::split_whitespace)
        .map(|name| name.trim_start_matches("CAP_").to_ascii_lowercase())
        .collect();
    ensure!(all == ["bpf", "net_admin", "perfmon"], "{all:?}");
    let bed = topology()?;
    let scratch = Scratch::new()?;
    for missing in &all {
        let mut command = bed.server.command("setpriv")?;
        let others = all.iter().filter(|name| *name != missing).map(|name| format!(",+{name}"));
        let others = format!("-all{}", others.collect::<String>());
        for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.args([set, &others]);
        }
        let pins = defender_testbed::controller::fresh_pin_root();
        command.args([PROGRAM, "run", "--iface", "srv0", "--pin-root"]).arg(pins);
        command.env("DEFENDER_RUN_DIR", scratch.path("run")).env("DEFENDER_STATE_DIR", scratch.path("lib"));
        let refused = output(command, PATIENCE)?;
        ensure!(refused.status.code() == Some(3), "without {missing}: {refused:?}");
    }
    Ok(())
}

/// All system calls that the unit's filter allows.
fn allowed(text: &str) -> Result<BTreeSet<String>> {
    let mut allowed = members("@default")?;
    for value in values(text, "SystemCallFilter") {
        let (denied, names) = value.strip_prefix('~').map_or((false, value), |names| (true, names));
        for name in names.split_whitespace() {
            for member in members(name)? {
                if denied {
                    allowed.remove(&member)
                } else {
                    allowed.insert(member)
                };
            }
        }
    }
    Ok(allowed)
}

/// The system calls of a set, and of the sets in it.
fn members(name: &str) -> Result<BTreeSet<String>> {
    if !name.starts_with('@') {
        return Ok([name.to_owned()].into());
    }
    let told = analyze(&["syscall-filter", "--no-pager", name])?;
    let lines = told.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut all = BTreeSet::new();
    for line in lines {
        all.extend(members(line)?);
    }
    Ok(all)
}

/// The system calls in what `strace -f -o` wrote: `PID name(…` or `PID <... name resumed>…`.
fn traced(text: &str) -> BTreeSet<String> {
    let call = |line: &str| {
        let line = line.split_once(' ')?.1.trim_start();
        let name = line.split_once('(')?.0;
        let is_name =
            !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        is_name.then(|| name.to_owned())
    };
    text.lines().filter_map(call).collect()
}

/// A whole life of the controller, its firewall tools included, makes no system call that the sandbox refuses.
#[test]
fn the_filter_allows_every_system_call_of_a_whole_life() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address)?;
    let scratch = Scratch::new()?;
    let trace = scratch.path("trace");
    let config = scratch.write("config.toml", "start = \"30%\"\n")?.display().to_string();
    let mut defender = Running::start(&bed, &["--mode", "always", "--config", &config], |command| {
        let mut strace = bed.server.command("strace").expect("a command");
        strace.args(["-f", "-qq", "-s", "0", "-o"]).arg(&trace);
        strace.arg(command.get_program()).args(command.get_args());
        strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        *command = strace;
    })?;
    defender.wait_for_listener(PORT)?;
    connect(&bed, bed.fresh_client(address), address)?;
    succeeded(&defender.ask(&["deny", "add", "192.0.2.0/24"])?)?;
    scratch.write("config.toml", "start = \"31%\"\n")?;
    let controller = defender.status()?["controller"].as_i64().context("no controller")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(controller as i32), Signal::SIGHUP)?;
    eventually("the file is read", || Ok(succeeded(&defender.ask(&["get", "start"])?)?.trim() == "31%"))?;
    // strace passes SIGTERM on to nobody.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(controller as i32), Signal::SIGTERM)?;
    eventually("it ends", || Ok(!defender.is_alive()?))?;
    let used = traced(&fs::read_to_string(&trace)?);
    ensure!(used.len() > 40 && used.contains("bpf") && used.contains("execve"), "{used:?}");
    for name in NAMES {
        let allowed = allowed(&unit(name)?)?;
        let refused: Vec<_> = used.difference(&allowed).collect();
        ensure!(refused.is_empty(), "{name} refuses {refused:?}");
        let without = unit(name)?.replace("SystemCallFilter=bpf\n", "");
        ensure!(used.difference(&self::allowed(&without)?).eq(["bpf"]), "bpf is allowed by other lines");
    }
    Ok(())
}
