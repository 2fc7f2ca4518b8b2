//! What `status` says of the defence itself, to people, to programs, and by its exit status.

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::{Controller, fresh_pin_root},
    netns::Namespace,
    topology::{SERVER_INTERFACE, Topology},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    harness::{PROGRAM, eventually, run, start},
    lifecycle::bed::{Scene, state_directory},
};

impl Scene<'_> {
    /// `status` ends so, and says this in its first line; programs are told as well.
    fn require_status(&self, status: i32, expected: &str) -> Result<()> {
        let mut last = String::new();
        eventually(&format!("status {status}, {expected:?}"), || {
            let (ended, told) = self.tell(&["status"])?;
            let first = told.lines().next().unwrap_or_default();
            last = format!("{ended}: {told}");
            Ok(ended == status && first.contains(expected) && first.starts_with("degraded") == (status == 1))
        })
        .context(last)?;
        let json = self.defender.status()?;
        let faults = json["faults"].as_array().context("no faults")?;
        ensure!(faults.is_empty() == (status == 0), "{json}");
        Ok(())
    }

    fn controller_state(&self) -> Result<String> {
        Ok(self.defender.status()?["controller_state"].as_str().context("no state")?.to_owned())
    }
}

#[test]
fn what_keeps_the_controller_from_its_work_is_told() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed)?;
    scene.require_status(0, "every SYN")?;
    let id = Pid::from_raw(scene.defender.id() as i32);
    kill(id, Signal::SIGSTOP)?;
    scene.require_status(1, &format!("process {id} is stopped"))?;
    ensure!(scene.controller_state()? == "stopped");
    kill(id, Signal::SIGCONT)?;
    scene.require_status(0, "every SYN")?;

    // It waits for a lock that somebody holds.
    let lock = File::open(state_directory(scene.pins()).join("write.lock"))?;
    lock.lock()?;
    scene.require_status(1, "the controller has not answered for 1")?;
    ensure!(scene.controller_state()? == "stuck");
    lock.unlock()?;
    scene.require_status(0, "every SYN")?;

    bed.server.set_sysctl("net.ipv4.tcp_syncookies", 0)?;
    scene.require_status(1, "nothing is challenged")?;
    bed.server.set_sysctl("net.ipv4.tcp_syncookies", 1)?;
    scene.require_status(0, "every SYN")?;

    scene.defender.kill()?;
    scene.require_status(1, &format!("process {id} is gone"))?;
    ensure!(scene.controller_state()? == "died");
    Ok(())
}

/// Everything stays attached, and the controller has ended in order.
fn left_alone(bed: &Topology) -> Result<Scene<'_>> {
    let scene = Scene::with(bed, |bed| {
        let keep = ["--keep", "--mode", "always"];
        Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &keep, fresh_pin_root())
    })?;
    ensure!(scene.defender.stop()?.code() == Some(0));
    Ok(scene)
}

#[test]
fn who_leaves_it_alone_is_not_at_fault() -> Result<()> {
    let bed = Topology::new()?;
    let scene = left_alone(&bed)?;
    scene.require_status(0, "no controller")?;
    ensure!(scene.controller_state()? == "none");
    Ok(())
}

#[test]
fn a_start_that_fails_leaves_no_fault() -> Result<()> {
    let bed = Topology::new()?;
    let scene = left_alone(&bed)?;
    for command in ["run", "attach"] {
        let failed = run(&bed, scene.defender.pin_root(), &[command, "--iface", "lo"])?;
        ensure!(failed.status.code() == Some(1), "{failed:?}");
        scene.require_status(0, "no controller")?;
    }
    ensure!(scene.controller_state()? == "none");
    Ok(())
}

#[test]
fn another_namespace_is_named_as_the_reason() -> Result<()> {
    let bed = Topology::new()?;
    let defender = start(&bed, &[])?;
    for arguments in [&["status"][..], &["stats"], &["explain", "80"], &["conns"], &["why", "198.51.100.1"]] {
        let mut command = bed.client.command(PROGRAM)?;
        let output = command.args(arguments).arg("--pin-root").arg(defender.pin_root()).output()?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{arguments:?}: {output:?}");
        let way = format!("nsenter --net=/proc/{}/ns/net", defender.id());
        ensure!(complaint.contains("another network namespace") && complaint.contains(&way), "{complaint}");
    }
    Ok(())
}

/// A second interface of the server's, whose other end is nowhere.
fn add(namespace: &Namespace) -> Result<()> {
    namespace.ip_batch("link add extra0 type veth peer name extra1\nlink set extra1 up\nlink set extra0 up\n")
}

#[test]
fn an_interface_that_comes_and_goes_is_told() -> Result<()> {
    let bed = Topology::new()?;
    add(&bed.server)?;
    let mut scene = Scene::with(&bed, |bed| {
        let both = format!("{SERVER_INTERFACE},extra0");
        Controller::start(&bed.server, Path::new(PROGRAM), &both, &["--mode", "always"])
    })?;
    scene.require_status(0, "every SYN")?;
    bed.server.ip("link set extra0 down")?;
    scene.require_status(1, "extra0 is down")?;
    bed.server.ip("link set extra0 up")?;
    scene.require_status(0, "every SYN")?;
    bed.server.ip_batch("link add br7 type bridge\nlink set extra0 master br7\n")?;
    scene.require_status(1, "extra0 is not defended: it is a port of bridge br7")?;
    bed.server.ip("link set extra0 nomaster")?;
    scene.require_status(0, "every SYN")?;
    for _ in 0..2 {
        bed.server.ip("link delete extra0")?;
        scene.require_status(1, "extra0 is gone")?;
        let status = scene.defender.status()?;
        let interfaces = status["interfaces"].as_array().context("no interfaces")?;
        let faults: Vec<_> = interfaces.iter().map(|interface| &interface["fault"]).collect();
        ensure!(faults.contains(&&"gone".into()), "{status}");
        scene.require_service()?;
        add(&bed.server)?;
        scene.require_status(0, "every SYN")?;
        let link = bed.server.ip("-details link show dev extra0")?;
        ensure!(link.contains("xdp"), "{link}");
    }
    scene.require_service()
}
