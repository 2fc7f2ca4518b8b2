//! QEMU: this machine's, or Debian's, unpacked below `target`. Debian's may not go together with what is installed: with
//! `qemu-utils` from backports, apt would have to remove that.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use defender_build::program;

use super::unpack::{extract, remove};
use crate::{process, setup};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// Debian's directories of libraries for this architecture. QEMU's own modules are in the first.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
/// What it reads at run time: option ROMs, and the firmware.
const DATA: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// A QEMU that can be run.
pub(crate) enum Qemu {
    /// This machine's.
    Installed,
    /// Debian's, unpacked into this directory.
    Unpacked(PathBuf),
}

impl Qemu {
    /// This machine's, or else Debian's, fetched and unpacked in `cache` unless already done.
    pub(crate) fn find(cache: &Path) -> Result<Self> {
        if program::find(PROGRAM).is_some() {
            return Ok(Self::Installed);
        }
        let directory = cache.join("qemu");
        if !directory.exists() {
            setup::update_packages();
            eprintln!("kernels: fetching {PACKAGE}");
            // Complete or not there at all.
            let scratch = cache.join("qemu.part");
            remove(&scratch)?;
            unpack(&scratch)?;
            fs::rename(&scratch, &directory)?;
        }
        Ok(Self::Unpacked(directory))
    }

    /// A command that runs it and ends it with this program, however that ends.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        match self {
            Self::Installed => {
                command.arg(PROGRAM);
            }
            Self::Unpacked(root) => {
                let libraries = LIBRARIES.map(|directory| root.join(directory).display().to_string());
                command.env("QEMU_MODULE_DIR", format!("{}/qemu", libraries[0]));
                command.env("LD_LIBRARY_PATH", libraries.join(":"));
                command.arg(root.join("usr/bin").join(PROGRAM));
                for directory in DATA {
                    command.arg("-L").arg(root.join(directory));
                }
            }
        }
        command
    }
}

/// Unpacks the package, and those it needs that are not installed.
fn unpack(directory: &Path) -> Result<()> {
    let packages = directory.join("packages");
    fs::create_dir_all(&packages)?;
    let mut download = Command::new("apt-get");
    download.current_dir(&packages).args(["download", "--quiet", "--quiet"]).args(missing()?);
    process::must(&mut download)?;
    extract(&packages, directory)?;
    remove(&packages)
}

/// What apt would install. Nothing is removed for it here.
fn missing() -> Result<Vec<String>> {
    let mut simulate = Command::new("apt-get");
    simulate.args(["--simulate", "install", "--no-install-recommends", PACKAGE]).env("LC_ALL", "C");
    let plan = program::stdout(&mut simulate).with_context(|| format!("apt does not know {PACKAGE}"))?;
    let names: Vec<_> = plan.lines().filter_map(planned).map(str::to_owned).collect();
    ensure!(!names.is_empty(), "apt would install nothing for {PACKAGE}, and {PROGRAM} is not here");
    Ok(names)
}

/// The package that a line of apt's plan installs.
fn planned(line: &str) -> Option<&str> {
    line.strip_prefix("Inst ")?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::planned;

    #[test]
    fn a_plan_is_read() {
        assert_eq!(planned("Inst kmod (30 Debian:12 [amd64])"), Some("kmod"));
        assert_eq!(planned("Inst qemu-system-data (1:7.2 Debian:12 [all]) []"), Some("qemu-system-data"));
        assert_eq!(planned("Remv qemu-utils [1:10.0.2]"), None);
        assert_eq!(planned("Conf kmod (30 Debian:12 [amd64])"), None);
    }
}
