//! Pins and files that go, are damaged, or cannot be written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use defender::state::directory::escape;
use defender_testbed::{
    cleanup::Guard,
    command,
    controller::{fresh_pin_root, state_directory},
};

use crate::{
    faults::scene::Scene,
    harness::{eventually, run, status},
};

/// More than any file of ours has, and none is read to its end.
const HUGE: u64 = 1 << 30;

/// Where the controller keeps what is in force.
fn state(pins: &Path) -> PathBuf {
    Path::new("/run/defender").join(escape(&pins.to_string_lossy()))
}

/// A file system of its own at this place, until it is dropped.
fn mounted(kind: &str, options: &str, at: &Path) -> Result<Guard> {
    fs::create_dir_all(at)?;
    let at = at.display().to_string();
    command::run("mount", &["-t", kind, "-o", options, kind, &at])?;
    Ok(Guard::new(move || drop(command::run("umount", &["-l", &at]))))
}

/// Somebody removes what another program may need, and it is there again.
pub(crate) fn map_pin_removed(scene: &mut Scene<'_>) -> Result<()> {
    for name in ["CONFIG", "SERVICES", "COUNTERS"] {
        let pin = scene.defender().pin_root().join("maps").join(name);
        fs::remove_file(&pin).with_context(|| format!("no {}", pin.display()))?;
        eventually("it is pinned again", || Ok(pin.exists()))?;
    }
    Ok(())
}

pub(crate) fn pins_removed(scene: &mut Scene<'_>) -> Result<()> {
    let pins = scene.defender().pin_root().to_owned();
    for part in ["links", "maps", ""] {
        // While it is removed file by file the controller puts files back.
        eventually("it is removed", || Ok(fs::remove_dir_all(pins.join(part)).is_ok()))?;
        scene.connections_live()?;
        eventually("all is pinned again", || {
            let links = fs::read_dir(pins.join("links")).map_or(0, Iterator::count);
            Ok(pins.join("maps/CONFIG").exists() && links >= 3)
        })?;
    }
    Ok(())
}

/// The pins go with the file system; another comes.
pub(crate) fn bpffs_unmounted(scene: &mut Scene<'_>) -> Result<()> {
    let place = state_directory(&fresh_pin_root()).with_extension("bpf");
    let _remove = {
        let place = place.clone();
        Guard::new(move || drop(fs::remove_dir(place)))
    };
    let mount = mounted("bpf", "mode=0700", &place)?;
    let pins = place.join("defender");
    scene.defend_anew(pins.clone(), &[])?;
    drop(mount);
    scene.connections_live().context("without pins")?;
    scene.clients_get_in().context("without pins")?;
    scene.keep(mounted("bpf", "mode=0700", &place)?);
    eventually("all is pinned again", || Ok(pins.join("maps/CONFIG").exists()))
}

pub(crate) fn state_removed(scene: &mut Scene<'_>) -> Result<()> {
    let pins = scene.defender().pin_root().to_owned();
    fs::remove_dir_all(state(&pins))?;
    eventually("it is written again", || Ok(state(&pins).join("settings.json").exists()))
}

pub(crate) fn state_damaged(scene: &mut Scene<'_>) -> Result<()> {
    for damage in ["", "{", "\0\0\0\0", "[1]", "{\"version\": 77}"] {
        let mut damaged = 0;
        for path in json_files(scene.defender().pin_root())? {
            fs::write(path, damage)?;
            damaged += 1;
        }
        ensure!(damaged > 1, "only {damaged} files");
        status(scene.defender()).with_context(|| format!("{damage:?}"))?;
        scene.defender().ask(&["set", "critical", "80%"]).with_context(|| format!("{damage:?}"))?;
        eventually("what is in force is written again", || {
            let text = fs::read(state(scene.defender().pin_root()).join("settings.json"))?;
            Ok(serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|it| it.is_object()))
        })?;
    }
    Ok(())
}

pub(crate) fn state_oversized(scene: &mut Scene<'_>) -> Result<()> {
    for path in json_files(scene.defender().pin_root())? {
        fs::OpenOptions::new().write(true).open(path)?.set_len(HUGE)?;
    }
    status(scene.defender()).map(drop)
}

fn json_files(pins: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for directory in [state(pins), state_directory(pins).join(escape(&pins.to_string_lossy()))] {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Nothing more can be kept: events, what is usual.
pub(crate) fn disk_full(scene: &mut Scene<'_>) -> Result<()> {
    let pins = fresh_pin_root();
    let disk = state_directory(&pins);
    let guard = mounted("tmpfs", "size=64k,mode=0700", &disk)?;
    let fill = || -> Result<()> {
        // As far as it goes.
        let _ = fs::write(disk.join("fill"), vec![0; 1 << 20]);
        Ok(())
    };
    fill()?;
    scene.defend_anew(pins, &[])?;
    fill()?;
    scene.keep(guard);
    scene.clients_get_in()
}

/// Somebody mounts something over it that nobody can write. A command fails and says so; the defence goes on.
pub(crate) fn run_read_only(scene: &mut Scene<'_>) -> Result<()> {
    let pins = scene.defender().pin_root().to_owned();
    let guard = mounted("tmpfs", "ro,size=1m,mode=0700", &state(&pins))?;
    let output = run(scene.bed, &pins, &["set", "mode", "always"])?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && told.contains("Read-only"), "{told}");
    scene.clients_get_in()?;
    scene.keys_rotate()?;
    scene.connections_live()?;
    drop(guard);
    eventually("what is in force is there again", || Ok(state(&pins).join("settings.json").exists()))
}
