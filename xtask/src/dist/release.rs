//! What is released: name, version, date, and where its files are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use defender_build::program;

use super::architecture::Architecture;
use crate::cargo::{self, workspace};

/// The name in packages: others ship a “defender”.
pub(super) const NAME: &str = "syn-defender";

/// Debian's and RPM's number of this packaging of a version, as in the manifests of both.
pub(super) const REVISION: &str = "1";

pub(super) struct Release {
    directory: PathBuf,
    /// Seconds since 1970: the time of the commit, so that the same commit makes the same files.
    date: u64,
}

impl Release {
    /// The release of this checkout.
    pub(super) fn new() -> Result<Self> {
        Ok(Self { directory: workspace().join("target/dist"), date: date()? })
    }

    /// Removes the files of an earlier run.
    pub(super) fn clear(&self) -> Result<()> {
        for directory in [&self.directory, &work_directory()] {
            if directory.exists() {
                fs::remove_dir_all(directory)
                    .with_context(|| format!("cannot empty {}", directory.display()))?;
            }
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "the version of this release")]
    pub(super) const fn version(&self) -> &'static str {
        // That of the workspace.
        env!("CARGO_PKG_VERSION")
    }

    /// Where finished files are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Seconds since 1970.
    pub(super) fn date(&self) -> u64 {
        self.date
    }

    /// The static program itself.
    pub(super) fn binary(&self, architecture: Architecture) -> PathBuf {
        self.file(&format!("{NAME}-{}-linux-{}", self.version(), architecture.machine()))
    }

    pub(super) fn deb(&self, architecture: Architecture) -> PathBuf {
        self.file(&format!("{NAME}_{}-{REVISION}_{architecture}.deb", self.version()))
    }

    pub(super) fn rpm(&self, architecture: Architecture) -> PathBuf {
        self.file(&format!("{NAME}-{}-{REVISION}.{}.rpm", self.version(), architecture.machine()))
    }

    /// An OCI archive: a tar of an image layout.
    pub(super) fn image(&self, architecture: Architecture) -> PathBuf {
        self.file(&format!("{NAME}-{}-oci-{architecture}.tar", self.version()))
    }

    pub(super) fn chart(&self) -> PathBuf {
        self.file(&format!("{NAME}-chart-{}.tgz", self.version()))
    }

    /// The list of components of a part of the program.
    pub(super) fn sbom(&self, part: &str) -> PathBuf {
        self.file(&format!("{NAME}{part}-{}.cdx.json", self.version()))
    }

    pub(super) fn checksums(&self) -> PathBuf {
        self.file("SHA256SUMS")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Where files are made that go into packages. The manifests of the packages name it.
pub(super) fn work_directory() -> PathBuf {
    workspace().join("target/packaging")
}

/// Where files are tried. It is emptied before each try.
pub(super) fn trial_directory() -> PathBuf {
    workspace().join("target/packaging-trial")
}

/// The program as Cargo built it.
pub(super) fn built(architecture: Architecture) -> Result<PathBuf> {
    Ok(cargo::target_directory()?.join(architecture.target()).join("release/defender"))
}

/// `SOURCE_DATE_EPOCH`, else the time of the commit, else now.
fn date() -> Result<u64> {
    let given = env::var("SOURCE_DATE_EPOCH").ok();
    let of_commit = || {
        let mut log = Command::new("git");
        program::stdout(log.arg("-C").arg(workspace()).args(["log", "-1", "--format=%ct"]))
    };
    let Some(text) = given.or_else(of_commit) else {
        return Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    };
    let date = text.trim().parse().ok();
    ensure!(date.is_some(), "{text:?} is no number of seconds; correct SOURCE_DATE_EPOCH");
    Ok(date.unwrap_or_default())
}
