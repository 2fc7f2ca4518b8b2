//! The OCI image: nothing but the program. umoci makes it without a daemon.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{
    architecture::Architecture,
    release::{NAME, Release, work_directory},
};
use crate::process;

/// Where the program is in the image.
const PROGRAM: &str = "/usr/sbin/defender";

/// Makes the image and packs it as an OCI archive.
pub(super) fn build(release: &Release, architecture: Architecture) -> Result<()> {
    let layout = work_directory().join("image").join(architecture.debian());
    fs::create_dir_all(layout.parent().context("a layout has a directory")?)?;
    let image = format!("{}:{}", layout.display(), release.version());
    umoci(release, &["init", "--layout", &layout.display().to_string()])?;
    umoci(release, &["new", "--image", &image])?;
    insert(release, &image, &release.binary(architecture))?;
    configure(release, &image, architecture)?;
    pack(release, &image, architecture)
}

fn insert(release: &Release, image: &str, program: &Path) -> Result<()> {
    let program = program.display().to_string();
    umoci(release, &["insert", "--rootless", "--image", image, &program, PROGRAM])
}

fn configure(release: &Release, image: &str, architecture: Architecture) -> Result<()> {
    let version = format!("org.opencontainers.image.version={}", release.version());
    umoci(
        release,
        &[
            "config",
            "--image",
            image,
            "--architecture",
            architecture.debian(),
            "--os",
            "linux",
            "--config.entrypoint",
            PROGRAM,
            "--config.cmd",
            "run",
            "--config.stopsignal",
            "SIGTERM",
            "--config.label",
            "org.opencontainers.image.title=syn-defender",
            "--config.label",
            "org.opencontainers.image.licenses=MIT OR Apache-2.0",
            "--config.label",
            &version,
        ],
    )
}

fn umoci(release: &Release, arguments: &[&str]) -> Result<()> {
    let mut umoci = Command::new("umoci");
    umoci.args(["--log", "error"]).args(arguments).env("SOURCE_DATE_EPOCH", release.date().to_string());
    process::must(&mut umoci)
}

fn pack(release: &Release, image: &str, architecture: Architecture) -> Result<()> {
    let archive =
        format!("oci-archive:{}:{NAME}:{}", release.image(architecture).display(), release.version());
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--quiet", &format!("oci:{image}"), &archive]);
    process::must(&mut copy)
}
