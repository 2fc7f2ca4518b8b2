//! What `top` shows while a flood comes, while controllers go and come, and at any size.

use anyhow::{Result, ensure};
use defender_testbed::{
    controller::Controller,
    small_flood,
    topology::{SERVER_INTERFACE, Topology},
};

use super::bed::{Scene, assert_like};
use crate::harness::{PROGRAM, connect};

#[test]
fn a_flood_is_seen_as_it_comes() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, &[])?;
    let tmux = &scene.tmux;
    scene.top()?;
    let quiet = tmux.wait_for("no packet comes", |screen| screen.contains(" no packets"))?;
    assert_like(&quiet, include_str!("quiet.txt"));

    let client = connect(&bed, bed.fresh_client(scene.address()), scene.address())?;
    small_flood::during(&bed, &[scene.address()], || {
        let flooded = tmux.wait_for("the attack is seen", |screen| {
            ["* ATTACK: port 80", " tx.syn_challenged", "began: port 80", " 198.18."]
                .iter()
                .all(|words| screen.contains(words))
        })?;
        assert_like(&flooded, include_str!("flood.txt"));

        tmux.key("Enter")?;
        let opened = tmux.wait_for("the service is open", |screen| screen.contains("LIMIT"))?;
        for words in ["mode auto (set)", "level challenge: every SYN is challenged", "critical", "averted"] {
            ensure!(opened.contains(words), "no {words:?}:\n{opened}");
        }
        tmux.key("End")?;
        tmux.wait_for("its events are there", |screen| screen.contains("began: port 80"))?;
        tmux.key("Home")?;
        tmux.resize(100, 60)?;
        let peer = client.local_addr()?.to_string();
        tmux.wait_for("the connection is listed", |screen| {
            screen.lines().any(|line| line.contains("ESTABLISHED") && line.contains(&peer))
        })?;
        tmux.key("Escape")?;
        tmux.wait_for("it is closed", |screen| screen.contains("TOP NETWORKS"))?;
        Ok(())
    })
}

#[test]
fn without_colour_words_say_it_all() -> Result<()> {
    let bed = Topology::new()?;
    for (environment, coloured) in [(&[][..], true), (&[("NO_COLOR", "1")], false)] {
        let scene = Scene::new(&bed, environment)?;
        scene.top()?;
        small_flood::during(&bed, &[scene.address()], || {
            scene.tmux.wait_for("the attack is seen", |screen| {
                screen.contains("* ATTACK: port 80") && screen.contains("challenge half_open")
            })?;
            let styled = scene.tmux.styled()?;
            ensure!(has_colour(&styled) == coloured, "{environment:?}: {styled:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether a foreground or background has been set to anything but the terminal's own.
fn has_colour(styled: &str) -> bool {
    let sequences = styled.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m'));
    let mut numbers = sequences.flat_map(|(numbers, _)| numbers.split(';'));
    numbers.any(|number| matches!(number.parse(), Ok(30..=38 | 40..=48 | 90..=107)))
}

#[test]
fn controllers_go_and_come_while_it_runs() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, &[])?;
    let tmux = &scene.tmux;
    scene.top()?;
    scene.defender.kill()?;
    tmux.wait_for("the controller is missed", |screen| {
        screen.contains("! DEGRADED: the controller has ended without detaching")
            && screen.contains("control: the controller is gone")
    })?;
    let pins = scene.defender.pin_root().to_owned();
    let again =
        Controller::start_at(&bed.server, PROGRAM.as_ref(), SERVER_INTERFACE, &["--mode", "auto"], pins)?;
    tmux.wait_for("another one is seen", |screen| {
        screen.contains(&format!("controller {}", again.id()))
            && screen.contains("control: a controller is there again")
            && !screen.contains("DEGRADED")
    })?;
    again.stop()?;
    tmux.wait_for("everything is detached", |screen| {
        screen.contains("! NO DATA since")
            && screen.contains("nothing is attached")
            && screen.contains("AS OF")
    })?;
    let pins = scene.defender.pin_root().to_owned();
    let _third =
        Controller::start_at(&bed.server, PROGRAM.as_ref(), SERVER_INTERFACE, &["--mode", "auto"], pins)?;
    tmux.wait_for("it is attached again", |screen| {
        screen.contains("it is attached again") && !screen.contains("NO DATA")
    })?;
    tmux.key("q")?;
    scene.shell_is_back()
}

#[test]
fn any_size_is_drawn() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, &[])?;
    let tmux = &scene.tmux;
    scene.top()?;
    for (width, height) in [(1, 1), (2, 40), (200, 2), (10, 3), (39, 9), (200, 60)] {
        tmux.resize(width, height)?;
        for key in ["Enter", "?", "BSpace", "BSpace"] {
            tmux.key(key)?;
        }
    }
    tmux.resize(80, 24)?;
    let screen = tmux.wait_for("it is drawn as before", |screen| {
        screen.contains(" EVENTS") && screen.contains("n notes")
    })?;
    assert_like(&screen, include_str!("quiet.txt"));
    Ok(())
}
