//! What packets pass through: stacked devices, drivers, and a stateful firewall.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    command,
    controller::Controller,
    topology::{Device, Options, Topology},
};

use super::{
    CheckMachine, CheckOutcome,
    scene::{CheckScene, xdp_mode},
};

/// A firewall that accepts established connections, and new ones to our port. 58 is ICMPv6, whose name a
/// guest does not know.
const FIREWALL: &str = "table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state invalid drop
        ct state established,related accept
        meta l4proto 58 accept
        tcp dport 80 ct state new accept
    }
}
";

/// A veth that supports XDP programs in generic mode only.
pub(crate) fn few_queues(machine: &CheckMachine) -> Result<CheckOutcome> {
    through(machine, Topology::with(&Options { device: Device::FewQueues, ..Options::default() })?)
}

/// The defender on a bridge that has the link as a port.
pub(crate) fn bridge(machine: &CheckMachine) -> Result<CheckOutcome> {
    through(machine, Topology::with(&Options { device: Device::Bridge, ..Options::default() })?)
}

/// The defender on a macvlan on the link.
pub(crate) fn macvlan(machine: &CheckMachine) -> Result<CheckOutcome> {
    through(machine, Topology::with(&Options { device: Device::Macvlan, ..Options::default() })?)
}

pub(crate) fn virtio_net(machine: &CheckMachine) -> Result<CheckOutcome> {
    devices(machine, "virtio_net")
}

pub(crate) fn e1000(machine: &CheckMachine) -> Result<CheckOutcome> {
    devices(machine, "e1000")
}

/// Through the firewall, in mode `always`, with complete conntrack support.
pub(crate) fn conntrack(machine: &CheckMachine) -> Result<CheckOutcome> {
    let bed = Topology::new()?;
    command::run_with_input("ip", &["netns", "exec", bed.server.name(), "nft", "-f", "-"], FIREWALL)
        .context("the firewall cannot be set up")?;
    let scene = CheckScene::new(bed)?;
    let (_, defender) = challenged(machine, &scene)?;
    let status = defender.status()?;
    let warnings = status["warnings"].to_string();
    ensure!(!warnings.contains("conntrack"), "{warnings}");
    Ok(CheckOutcome::Fine)
}

/// The defender on one of two joined devices of this driver.
fn devices(machine: &CheckMachine, driver: &str) -> Result<CheckOutcome> {
    if !machine.may_take_devices {
        return Ok(CheckOutcome::NotApplicable("the devices of this machine are not taken"));
    }
    let devices = of_driver(driver)?;
    let [server, client] = &devices[..] else {
        return Ok(CheckOutcome::NotApplicable("there are not two such devices"));
    };
    through(machine, Topology::of_devices(client, server)?)
}

/// Clients of both families connect, each with a cookie. Returns the mode in which the program is attached.
fn through(machine: &CheckMachine, bed: Topology) -> Result<CheckOutcome> {
    challenged(machine, &CheckScene::new(bed)?).map(|(mode, _)| CheckOutcome::In(mode))
}

/// The same, with the defender in place.
fn challenged<'a>(machine: &CheckMachine, scene: &'a CheckScene) -> Result<(String, Controller<'a>)> {
    let undefended = scene.addresses().map(|to| scene.undefended(to));
    let defender = scene.defend(machine, &["--mode", "always"])?;
    let mode = xdp_mode(&defender)?;
    for (to, undefended) in scene.addresses().into_iter().zip(undefended) {
        scene.challenged(&defender, to, &undefended?).with_context(|| format!("in {mode} mode"))?;
    }
    Ok((mode, defender))
}

/// The network devices of this driver, by name.
fn of_driver(driver: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for device in fs::read_dir("/sys/class/net")? {
        let path = device?.path();
        let link = fs::read_link(path.join("device/driver"));
        if link.is_ok_and(|link| link.file_name() == Path::new(driver).file_name()) {
            names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    names.sort();
    ensure!(names.len() <= 2, "more than two devices of {driver}: {}", names.join(", "));
    Ok(names)
}
