//! The image is one that other tools read, and its program runs from it.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    dist::{
        architecture::Architecture,
        release::{Release, work_directory},
    },
    privilege, process,
};

/// Reads its configuration by skopeo, unpacks it by umoci.
pub(super) fn check(release: &Release, architecture: Architecture) -> Result<()> {
    let archive = format!("oci-archive:{}", release.image(architecture).display());
    let mut inspect = Command::new("skopeo");
    let config = process::quietly(inspect.args(["inspect", "--config", &archive]))?;
    let config: Value = serde_json::from_str(&config).context("skopeo printed no JSON")?;
    ensure!(config["architecture"] == architecture.debian(), "the image is for {}", config["architecture"]);
    ensure!(config["config"]["Entrypoint"] == serde_json::json!(["/usr/sbin/defender"]), "{config}");
    if architecture.is_native() { run(release, architecture) } else { Ok(()) }
}

fn run(release: &Release, architecture: Architecture) -> Result<()> {
    let layout = work_directory().join("image").join(architecture.debian());
    let bundle = work_directory().join("bundle");
    let mut unpack = privilege::as_root("umoci")?;
    unpack.args(["--log", "error", "unpack", "--image"]);
    unpack.arg(format!("{}:{}", layout.display(), release.version())).arg(&bundle);
    process::quietly(&mut unpack)?;
    let mut version = privilege::as_root("chroot")?;
    let version =
        process::quietly(version.arg(bundle.join("rootfs")).args(["/usr/sbin/defender", "--version"]))?;
    ensure!(version.contains(release.version()), "the version is {version:?}");
    Ok(())
}
