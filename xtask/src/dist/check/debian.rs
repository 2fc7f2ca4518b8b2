//! A Debian of its own, in a directory, for trying packages.
//!
//! debootstrap makes it once; each try has a copy. Programs run there by chroot, in network, process and mount namespaces of
//! their own, so that nothing of this machine can be reached.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{cargo, dist::release::trial_directory, kernels::archive::Mirrors, privilege, process};

/// The oldest release whose kernel can run the programs.
const SUITE: &str = "trixie";

/// What the smallest installation lacks. Nothing of it runs before the system boots.
const PACKAGES: &str = "--include=systemd,systemd-sysv,dbus,iproute2,procps";

/// Environment of programs in it: nobody answers questions.
pub(super) const ENVIRONMENT: [&str; 4] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND=noninteractive",
    "LC_ALL=C",
    "HOME=/root",
];

/// What apt, dpkg, systemd and the journal write for themselves, whatever is installed.
pub(super) const OTHERS: [&str; 6] =
    ["/var/log/", "/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/run/systemd/", "/run/log/"];

/// A copy that can be changed. It is removed in the end.
pub(super) struct Debian {
    root: PathBuf,
}

/// Makes the pristine tree, if it is not there, and returns its path.
pub(super) fn prepare() -> Result<PathBuf> {
    let pristine = cargo::target_directory()?.join("debian").join(SUITE);
    if pristine.exists() {
        return Ok(pristine);
    }
    let unfinished = pristine.with_extension("unfinished");
    as_root("rm", |rm| rm.args(["-r", "-f"]).arg(&unfinished))?;
    fs::create_dir_all(&unfinished)?;
    let mirrors = Mirrors::find()?;
    as_root("debootstrap", |debootstrap| {
        debootstrap.args(["--variant=minbase", PACKAGES, SUITE]).arg(&unfinished).arg(mirrors.archive())
    })?;
    as_root("mv", |mv| mv.arg(&unfinished).arg(&pristine))?;
    Ok(pristine)
}

impl Debian {
    /// A fresh copy.
    pub(super) fn copy(name: &str) -> Result<Self> {
        let pristine = prepare()?;
        let root = trial_directory().join(name);
        as_root("cp", |cp| {
            cp.args(["--archive", "--reflink=auto", "--no-target-directory"]).arg(&pristine).arg(&root)
        })?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Puts a file of this machine into its `/root`, and returns its path there.
    pub(super) fn add(&self, file: &Path) -> Result<String> {
        let name = file.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        as_root("cp", |cp| cp.arg(file).arg(self.root.join("root").join(&name)))?;
        Ok(format!("/root/{name}"))
    }

    /// Runs a program that must succeed, and returns what it prints.
    pub(super) fn run(&self, words: &[&str]) -> Result<String> {
        let mount_proc = format!("--mount-proc={}", self.root.join("proc").display());
        as_root("unshare", |unshare| {
            unshare
                .args(["--net", "--pid", "--fork", "--mount", &mount_proc, "--", "chroot"])
                .arg(&self.root);
            unshare.args(["env", "-i"]).args(ENVIRONMENT).args(words)
        })
    }

    /// Runs a line of shell.
    pub(super) fn shell(&self, line: &str) -> Result<String> {
        self.run(&["sh", "-e", "-c", line])
    }

    /// Whether a path is there, a link that leads nowhere included.
    pub(super) fn has(&self, path: &str) -> bool {
        self.root.join(path.trim_start_matches('/')).symlink_metadata().is_ok()
    }

    /// Every path, except what others write whatever is installed.
    pub(super) fn paths(&self) -> Result<BTreeSet<String>> {
        let all = self.run(&["find", "/", "-xdev"])?;
        let kept = all.lines().filter(|path| !OTHERS.iter().any(|own| path.starts_with(own)));
        Ok(kept.map(str::to_owned).collect())
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        if let Err(error) = as_root("rm", |rm| rm.args(["-r", "-f", "--one-file-system"]).arg(&self.root)) {
            eprintln!("warning: {error:#}");
        }
    }
}

fn as_root<'a>(program: &str, with: impl FnOnce(&mut Command) -> &mut Command + 'a) -> Result<String> {
    let mut command = privilege::as_root(program)?;
    with(&mut command);
    process::quietly(&mut command)
}
