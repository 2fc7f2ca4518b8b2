//! Pins that somebody removes: one map, one link, all of them, and the file system under them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::PinnedLink;
use defender_testbed::{
    cleanup::Guard,
    command,
    controller::{Controller, fresh_pin_root},
    topology::{SERVER_INTERFACE, Topology},
};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    harness::{PROGRAM, eventually, process::Scratch},
    lifecycle::bed::{Scene, names, state_directory},
};

/// Every pin, below the pin root.
fn all_pins(root: &Path) -> Result<Vec<PathBuf>> {
    let mut pins = Vec::new();
    for directory in ["maps", "links"] {
        let directory = root.join(directory);
        pins.extend(names(&directory)?.iter().map(|name| directory.join(name)));
    }
    ensure!(pins.len() >= 26, "hardly any: {pins:?}");
    Ok(pins)
}

#[test]
fn a_living_controller_pins_again_what_was_removed() -> Result<()> {
    let bed = Topology::new()?;
    let mut scene = Scene::new(&bed)?;
    for pin in all_pins(scene.pins())? {
        fs::remove_file(&pin)?;
        ensure!(scene.has_xdp()?, "{} detached", pin.display());
        // At once, and once it is there again.
        for _ in 0..2 {
            let status = scene.status().with_context(|| pin.display().to_string())?;
            ensure!(status["controller"] == scene.defender.id(), "{status}");
            eventually(&format!("{} is there again", pin.display()), || Ok(pin.exists()))?;
        }
    }
    scene.require_service()?;
    for directory in ["maps", "links", ""] {
        fs::remove_dir_all(scene.pins().join(directory))?;
        ensure!(scene.has_xdp()?, "{directory}: detached");
        let (status, told) = scene.tell(&["set", "80.mode", "monitor"])?;
        ensure!(status == 0, "{directory}: {told}");
        let (status, told) = scene.tell(&["get", "80.mode"])?;
        ensure!((status, told.trim()) == (0, "monitor"), "{directory}: {told}");
        scene.require_service()?;
        ensure!(scene.tell(&["set", "80.mode", "always"])?.0 == 0);
        eventually("all pins are there", || Ok(all_pins(scene.pins()).is_ok()))?;
    }
    let stopped = scene.defender.stop()?;
    ensure!(stopped.code() == Some(0) && !scene.has_xdp()? && !scene.pins().exists(), "{stopped}");
    scene.require_service()
}

#[test]
fn without_a_controller_maps_are_found_again() -> Result<()> {
    let bed = Topology::new()?;
    let mut scene = Scene::new(&bed)?;
    scene.defender.kill()?;
    let maps = scene.pins().join("maps");
    for name in names(&maps)? {
        fs::remove_file(maps.join(&name))?;
        let status = scene.status().context(name.clone())?;
        ensure!(
            status["services"].as_array().is_some_and(|services| services.len() == 2),
            "{name}: {status}"
        );
    }
    fs::remove_dir_all(&maps)?;
    let (status, told) = scene.tell(&["set", "80.mode", "monitor"])?;
    ensure!(status == 0, "{told}");
    fs::remove_dir_all(&maps)?;
    let pins = scene.pins().to_owned();
    let second = Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &[], pins)?;
    eventually("the second is in control", || Ok(scene.status()?["controller"] == second.id()))?;
    ensure!(second.ask(&["get", "80.mode"])?.trim() == "monitor");
    second.kill()?;
    fs::remove_dir_all(&maps)?;
    let (status, told) = scene.tell(&["detach"])?;
    ensure!(status == 0 && !scene.has_xdp()? && !scene.pins().exists(), "{told}");
    scene.require_service()
}

#[test]
fn without_a_controller_a_link_s_pin_is_the_link() -> Result<()> {
    let bed = Topology::new()?;
    let mut scene = Scene::new(&bed)?;
    scene.defender.kill()?;
    let pins = scene.pins().to_owned();
    for name in ["flows", "sock_state", "srv0-egress", "srv0-ingress"] {
        fs::remove_file(pins.join("links").join(name))?;
        let (status, told) = scene.tell(&["status"])?;
        ensure!(status == 1 && told.contains("the controller has ended"), "{name}: {status} {told}");
        let is_of_device = name.contains('-');
        ensure!(told.contains("srv0 is not attached as a whole") == is_of_device, "{name}: {told}");
        ensure!(scene.has_xdp()?, "{name}");
    }
    // The next one attaches what is missing.
    let next = Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &[], pins.clone())?;
    eventually("the next is in control", || Ok(scene.status()?["controller"] == next.id()))?;
    eventually("all pins are there", || Ok(all_pins(&pins).is_ok()))?;
    scene.require_service()?;
    next.kill()?;
    fs::remove_file(pins.join("links/srv0-xdp"))?;
    ensure!(!scene.has_xdp()?, "no pin, and attached");
    let (status, told) = scene.tell(&["status"])?;
    ensure!(status == 1 && told.contains("srv0 is not attached as a whole"), "{told}");
    fs::remove_dir_all(pins.join("links"))?;
    let (status, told) = scene.tell(&["status"])?;
    ensure!(status == 1 && told.contains("nothing is attached"), "{told}");
    let (status, told) = scene.tell(&["detach"])?;
    ensure!(status == 0 && !pins.exists(), "{told}");
    let (status, told) = scene.tell(&["detach"])?;
    ensure!(status == 0 && told.contains("nothing was attached"), "{told}");
    Ok(())
}

#[test]
fn detach_finds_what_has_lost_its_pins() -> Result<()> {
    for stopped in [false, true] {
        let bed = Topology::new()?;
        let mut scene = Scene::new(&bed)?;
        let id = Pid::from_raw(scene.defender.id() as i32);
        if stopped {
            kill(id, Signal::SIGSTOP)?;
        }
        fs::remove_dir_all(scene.pins())?;
        if stopped {
            let (status, told) = scene.tell(&["status"])?;
            ensure!(status == 1 && told.contains(&id.to_string()) && told.contains("kill -CONT"), "{told}");
        }
        let (status, told) = scene.tell(&["detach"])?;
        ensure!(status == 0 && !scene.has_xdp()?, "{told}");
        if stopped {
            kill(id, Signal::SIGCONT)?;
        }
        scene.require_gone().with_context(|| format!("stopped: {stopped}"))?;
    }
    Ok(())
}

/// `bpftool`, a monitor, a debugger: anybody may have a descriptor.
#[test]
fn detach_detaches_what_others_have_open() -> Result<()> {
    let bed = Topology::new()?;
    let mut scene = Scene::new(&bed)?;
    let links = scene.pins().join("links");
    let names = names(&links)?;
    let open = names.iter().map(|name| PinnedLink::from_pin(links.join(name)));
    let open = open.collect::<Result<Vec<_>, _>>()?;
    let (status, told) = scene.tell(&["detach", "--iface", SERVER_INTERFACE])?;
    ensure!(status == 0 && !scene.has_xdp()?, "{told}");
    scene.require_gone()?;
    drop(open);
    Ok(())
}

/// A BPF file system of the test's own.
struct Mount {
    directory: PathBuf,
    _unmount: Guard,
    _scratch: Scratch,
}

impl Mount {
    fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let directory = scratch.path("bpf");
        fs::create_dir(&directory)?;
        let mounted = directory.clone();
        let guard = Guard::new(move || while umount2(&mounted, MntFlags::MNT_DETACH).is_ok() {});
        let mount = Self { directory, _unmount: guard, _scratch: scratch };
        mount.mount()?;
        Ok(mount)
    }

    fn mount(&self) -> Result<()> {
        command::run("mount", &["-t", "bpf", "bpf", &self.directory.display().to_string()]).map(drop)
    }

    fn unmount(&self) -> Result<()> {
        // The controller has its pin root open, and is not asked.
        Ok(umount2(&self.directory, MntFlags::MNT_DETACH)?)
    }

    /// A pin root there that no other test has.
    fn pin_root(&self) -> Result<PathBuf> {
        Ok(self.directory.join(fresh_pin_root().file_name().context("a name")?))
    }
}

#[test]
fn the_file_system_is_unmounted_under_a_controller() -> Result<()> {
    for how in ["detach", "SIGTERM"] {
        let bed = Topology::new()?;
        let mount = Mount::new()?;
        let pins = mount.pin_root()?;
        let always = ["--mode", "always"];
        let mut scene = Scene::with(&bed, |bed| {
            Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &always, pins)
        })?;
        let id = scene.defender.id();
        mount.unmount()?;
        ensure!(scene.has_xdp()?, "it was detached");
        for arguments in [&["status"][..], &["stats", "--json"], &["set", "mode", "monitor"]] {
            let (status, told) = scene.tell(arguments)?;
            ensure!(status == 1 && told.contains(&format!("process {id} defends")), "{told}");
            ensure!(told.contains("mount -t bpf"), "{told}");
        }
        scene.require_service()?;
        mount.mount()?;
        eventually("all pins are there", || Ok(all_pins(scene.pins()).is_ok()))?;
        ensure!(scene.status()?["controller"] == id);
        mount.unmount()?;
        ensure!(scene.has_xdp()?, "it was detached");
        if how == "detach" {
            let (status, told) = scene.tell(&["detach"])?;
            ensure!(status == 0, "{told}");
        } else {
            ensure!(scene.defender.stop()?.code() == Some(0));
        }
        scene.require_gone().context(how)?;
    }
    Ok(())
}

#[test]
fn the_file_system_is_unmounted_and_nobody_is_in_control() -> Result<()> {
    let bed = Topology::new()?;
    let mount = Mount::new()?;
    let pins = mount.pin_root()?;
    let state = state_directory(&pins);
    let _sweep = Guard::new(move || drop(fs::remove_dir_all(state)));
    let mut scene = Scene::with(&bed, |bed| {
        Controller::start_at(&bed.server, Path::new(PROGRAM), SERVER_INTERFACE, &[], pins)
    })?;
    scene.defender.kill()?;
    mount.unmount()?;
    eventually("the kernel detaches", || Ok(!scene.has_xdp()?))?;
    let (status, told) = scene.tell(&["status"])?;
    ensure!(status == 1 && told.contains("nothing is attached"), "{told}");
    let (status, told) = scene.tell(&["detach"])?;
    ensure!(status == 0 && told.contains("nothing was attached"), "{told}");
    scene.require_service()
}
