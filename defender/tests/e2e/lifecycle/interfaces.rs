//! Interfaces that are renamed, deleted and made again.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::Controller,
    netns::Namespace,
    topology::{SERVER_INTERFACE, Topology},
};
use serde_json::Value;

use crate::{
    harness::{Counts, PROGRAM, eventually},
    lifecycle::bed::Scene,
};

/// What `status --json` shows of an interface; null: it is none that is to be defended.
fn shown(defender: &Controller<'_>, name: &str) -> Result<Value> {
    let status = defender.status()?;
    let interfaces = status["interfaces"].as_array().context("no interfaces")?;
    Ok(interfaces.iter().find(|interface| interface["name"] == name).cloned().unwrap_or_default())
}

fn rename(namespace: &Namespace, from: &str, to: &str) -> Result<()> {
    namespace.ip(&format!("link set {from} name {to}")).map(drop)
}

#[test]
fn an_interface_is_the_same_by_another_name() -> Result<()> {
    let bed = Topology::new()?;
    let mut scene = Scene::new(&bed)?;
    for (from, to) in [(SERVER_INTERFACE, "lan.7"), ("lan.7", SERVER_INTERFACE)] {
        rename(&bed.server, from, to)?;
        eventually("the new name is known", || {
            let interface = shown(&scene.defender, to)?;
            Ok(interface["xdp_mode"] == "native" && interface["fault"].is_null())
        })?;
        ensure!(shown(&scene.defender, from)?.is_null(), "{from} is shown");
        let before = Counts::of(&scene.defender)?;
        scene.require_service()?;
        (&Counts::of(&scene.defender)? - &before).assert(&[("syn_challenged", 2), ("syn_passed", 0)]);
    }
    ensure!(scene.tell(&["status"])?.0 == 0);
    ensure!(scene.defender.stop()?.success() && !scene.has_xdp()? && !scene.pins().exists());
    scene.require_service()
}

/// Who takes over waits for it as well.
#[test]
fn an_interface_that_is_gone_is_handed_over_too() -> Result<()> {
    let bed = Topology::new()?;
    let extra = "link add extra0 type veth peer name extra1\nlink set extra1 up\nlink set extra0 up\n";
    bed.server.ip_batch(extra)?;
    let both = format!("{SERVER_INTERFACE},extra0");
    let always = ["--mode", "always"];
    let mut scene =
        Scene::with(&bed, |bed| Controller::start(&bed.server, Path::new(PROGRAM), &both, &always))?;
    bed.server.ip("link delete extra0")?;
    eventually("it is gone", || Ok(shown(&scene.defender, "extra0")?["fault"] == "gone"))?;
    let pins = scene.pins().to_owned();
    let replace = ["--replace"];
    let next = Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &replace, pins)?;
    eventually("the next is in control", || Ok(next.status()?["controller"] == next.id()))?;
    ensure!(shown(&next, "extra0")?["fault"] == "gone", "{}", next.status()?);
    bed.server.ip_batch(extra)?;
    eventually("it is attached", || {
        let interface = shown(&next, "extra0")?;
        Ok(interface["xdp_mode"] == "native" && interface["fault"].is_null())
    })?;
    scene.require_service()
}
