//! However `top` ends or stops, the terminal is as it was.

use std::{env, thread};

use anyhow::{Result, ensure};
use defender::cli::top::screen::Screen;
use defender_testbed::topology::Topology;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::bed::{Scene, command, without_terminal};
use crate::harness::eventually;

/// Tells the test below to panic.
const PANIC: &str = "DEFENDER_TEST_PANIC";

#[test]
fn the_terminal_is_as_it_was_after_every_end() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, &[])?;
    for key in ["q", "C-c"] {
        scene.top()?;
        scene.tmux.key(key)?;
        scene.ended(0)?;
    }
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGINT, 130)] {
        scene.top()?;
        kill(Pid::from_raw(scene.pid()?), signal)?;
        scene.ended(status)?;
    }
    Ok(())
}

#[test]
fn it_stops_and_goes_on() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, &[])?;
    let tmux = &scene.tmux;
    scene.top()?;
    tmux.key("C-z")?;
    tmux.wait_for("it has stopped", |screen| screen.contains("Stopped"))?;
    scene.shell_is_back()?;
    tmux.line("fg")?;
    tmux.wait_for("it goes on", |screen| screen.starts_with("defender  mode auto"))?;
    // Who is stopped by another process cannot give the terminal back, but takes it again.
    kill(Pid::from_raw(scene.pid()?), Signal::SIGSTOP)?;
    eventually("it has stopped", || Ok(scene.state()? == "T"))?;
    kill(Pid::from_raw(scene.pid()?), Signal::SIGCONT)?;
    tmux.key("?")?;
    tmux.wait_for("it answers", |screen| screen.contains("WHAT IS SHOWN"))?;
    tmux.key("q")?;
    scene.ended(0)
}

#[test]
fn where_nobody_could_continue_it_it_does_not_stop() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, &[])?;
    // Without a shell above it, nobody controls its job.
    scene.tmux.line(&format!("exec {}", command(scene.defender.pin_root())))?;
    scene.tmux.wait_for("top is there", |screen| screen.contains("q quit  ? help"))?;
    scene.tmux.key("C-z")?;
    scene.tmux.key("?")?;
    scene.tmux.wait_for("it answers", |screen| screen.contains("WHAT IS SHOWN"))?;
    Ok(())
}

#[test]
fn a_panic_gives_the_terminal_back() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, &[])?;
    // This program, with the test below: the program that is shipped does not panic when it is told to.
    let this = env::current_exe()?;
    let test = "top::ends::panics_in_another_thread_if_it_is_told_to";
    scene.run(&format!("{PANIC}=1 {} --nocapture --exact {test}", this.display()))?;
    let screen = scene.tmux.wait_for("it has panicked", |screen| screen.contains("told to panic"))?;
    ensure!(screen.contains("running 1 test"), "not on the screen that was there before:\n{screen}");
    scene.ended(101)
}

/// For the test above, in a terminal of its own; alone, nothing happens.
#[test]
fn panics_in_another_thread_if_it_is_told_to() {
    if env::var_os(PANIC).is_none() {
        return;
    }
    let _screen = Screen::enter().expect("a terminal");
    let _ = thread::spawn(|| panic!("told to panic")).join();
    unreachable!("the panic ends the program");
}

#[test]
fn without_a_terminal_it_names_what_works_without() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, &[])?;
    let (status, complaint) = without_terminal(&bed, scene.defender.pin_root())?;
    ensure!(status == Some(2), "{status:?}: {complaint}");
    for words in ["top needs a terminal", "`defender status --watch 1`", "`defender stats --watch 1`"] {
        ensure!(complaint.contains(words), "{complaint}");
    }
    ensure!(complaint.lines().count() == 1, "{complaint}");
    scene.tmux.line(&format!("TERM=dumb {}", command(scene.defender.pin_root())))?;
    scene.tmux.wait_for("it complains", |screen| screen.contains("top needs a terminal"))?;
    // What it could not read in the first place is an error as of other commands.
    scene.tmux.line(&format!("clear; {}; echo ended with $?", command("/sys/fs/bpf/dfnd-none".as_ref())))?;
    let screen = scene.tmux.wait_for("it ends", |screen| screen.contains("ended with 1"))?;
    ensure!(screen.contains("nothing is attached below /sys/fs/bpf/dfnd-none"), "{screen}");
    Ok(())
}
