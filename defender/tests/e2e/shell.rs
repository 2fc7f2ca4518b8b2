//! Completion in real shells: bash, zsh and fish ask the program that is installed.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::{Controller, fresh_pin_root},
    server::Server,
    topology::{SERVER_INTERFACE, Topology},
};

use crate::harness::{PROGRAM, process::Scratch, start};

/// Where the program is.
fn directory() -> Result<&'static Path> {
    Path::new(PROGRAM).parent().context("no directory")
}

/// What a shell's script prints. The program is found as `defender`.
fn in_shell(bed: &Topology, pins: &Path, shell: &str, script: &str) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = bed.server.command(shell)?;
    command.env("PATH", format!("{}:{path}", directory()?.display())).env("DEFENDER_PIN_ROOT", pins);
    let output = command.args(["-c", script]).stdin(Stdio::null()).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shell} fails: {complaint}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The candidates for the last of these words.
fn bash(bed: &Topology, pins: &Path, words: &[&str]) -> Result<Vec<String>> {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let (all, last) = (quoted.join(" "), quoted.last().context("no word")?);
    // As bash itself does it: it finds the function by `complete`, sets the words, and calls the function.
    let script = format!(
        "source <(defender completions bash); [[ $(complete -p defender) =~ -F\\ ([^ ]+) ]] || exit 9
         COMP_WORDS=({all}); COMP_CWORD={}; COMP_TYPE=9
         \"${{BASH_REMATCH[1]}}\" defender {last} ''; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.len() - 1,
    );
    Ok(in_shell(bed, pins, "bash", &script)?.lines().map(str::to_owned).collect())
}

fn serve(bed: &Topology) -> Result<[Server; 2]> {
    Ok([Server::start(&bed.server, bed.server_v4(80))?, Server::start(&bed.server, bed.server_v4(8443))?])
}

fn defended(bed: &Topology) -> Result<Controller<'_>> {
    start(bed, &["--port", "80"])
}

#[test]
fn bash_completes_ports_and_interfaces_of_this_host() -> Result<()> {
    let bed = Topology::new()?;
    let _servers = serve(&bed)?;
    // Nothing is attached: what listens is offered, and every interface but loopback.
    let nowhere = fresh_pin_root();
    assert_eq!(bash(&bed, &nowhere, &["defender", "explain", "8"])?, ["80", "8443"]);
    let interfaces = bash(&bed, &nowhere, &["defender", "run", "--iface", ""])?;
    assert!(interfaces.contains(&SERVER_INTERFACE.to_owned()), "{interfaces:?}");
    assert!(!interfaces.contains(&"lo".to_owned()), "{interfaces:?}");
    // Then, what is defended.
    let defender = defended(&bed)?;
    let pins = defender.pin_root();
    assert_eq!(bash(&bed, pins, &["defender", "conns", "--port", "8"])?, ["80"]);
    assert_eq!(bash(&bed, pins, &["defender", "conns", "--port", "h"])?, ["http"]);
    assert_eq!(bash(&bed, pins, &["defender", "conns", "--port", "443,8"])?, ["443,80"]);
    assert_eq!(bash(&bed, pins, &["defender", "detach", "--iface", ""])?, [SERVER_INTERFACE]);
    Ok(())
}

#[test]
fn bash_completes_commands_options_and_words() -> Result<()> {
    let bed = Topology::new()?;
    let pins = fresh_pin_root();
    let complete = |words: &[&str]| bash(&bed, &pins, words);
    let commands = complete(&["defender", "st"])?;
    assert_eq!(commands, ["status", "stats"]);
    assert!(complete(&["defender", "conns", "--wa"])?.contains(&"--watch".to_owned()));
    assert_eq!(complete(&["defender", "conns", "--state", "TIME"])?, ["TIME_WAIT"]);
    assert_eq!(complete(&["defender", "set", "reply_l"])?, ["reply_limit"]);
    assert_eq!(complete(&["defender", "set", "mode", "mon"])?, ["monitor"]);
    assert_eq!(complete(&["defender", "completions", ""])?, ["bash", "zsh", "fish"]);
    assert_eq!(complete(&["defender", "status", "-o", "j"])?, ["json"]);
    Ok(())
}

#[test]
fn fish_completes_as_well() -> Result<()> {
    let bed = Topology::new()?;
    let _servers = serve(&bed)?;
    let pins = fresh_pin_root();
    let script = "defender completions fish | source; complete --do-complete 'defender explain 8'";
    let candidates = in_shell(&bed, &pins, "fish", script)?;
    let words: Vec<_> = candidates.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(words, ["80", "8443"], "{candidates}");
    Ok(())
}

#[test]
fn zsh_takes_its_script() -> Result<()> {
    let scratch = Scratch::new()?;
    let bed = Topology::new()?;
    let pins = fresh_pin_root();
    let script = in_shell(&bed, &pins, "bash", "defender completions zsh")?;
    let file = scratch.write("_defender", &script)?;
    let checked = Command::new("zsh").arg("-n").arg(&file).output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // As `compinit` finds it where packages put it, and as `source` takes it.
    let found = in_shell(
        &bed,
        &pins,
        "zsh",
        &format!(
            "fpath=({0} $fpath); autoload -Uz compinit; compinit -u -d {0}/dump; print $_comps[defender]; \
             source {0}/_defender; print $_comps[defender]",
            file.parent().context("no directory")?.display()
        ),
    )?;
    let names: Vec<_> = found.lines().collect();
    ensure!(names.len() == 2 && names.iter().all(|name| name.contains("defender")), "{found}");
    Ok(())
}
