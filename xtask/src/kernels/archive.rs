//! Debian's archive, read with apt from this machine's mirror. Lists and state are separate: nothing is
//! installed, and the machine's apt is unchanged.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{output, version::Version};
use crate::{process, setup};

/// Time limit for fetching a suite's lists or a kernel from a slow mirror.
const PATIENCE: Duration = Duration::from_mins(5);

/// Lists younger than this are not fetched again, which keeps repeated runs fast.
const FRESH: Duration = Duration::from_hours(6);

/// Name prefixes of a kernel's packages, before the release: the image, and the packages that newer ones
/// are split into. `linux-base-` lists the built-in modules.
const PARTS: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", BASE];
const BASE: &str = "linux-base-";

/// The flavour. The one for clouds lacks e1000.
const FLAVOUR: &str = "-amd64";
const OTHER_FLAVOURS: [&str; 3] = ["-cloud-amd64", "-rt-amd64", "-unsigned-amd64"];

/// One suite, with its security updates.
pub(crate) struct Suite {
    directory: PathBuf,
}

impl Suite {
    /// Fetches the lists of the suite, unless those below `cache` are fresh.
    pub(crate) fn open(cache: &Path, mirrors: &Mirrors, name: &str) -> Result<Self> {
        let suite = Self { directory: cache.join("suites").join(name) };
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(suite.directory.join(directory))?;
        }
        suite.write_configuration()?;
        if suite.is_fresh() {
            return Ok(suite);
        }
        fs::write(suite.sources(), mirrors.sources(name))?;
        // No package counts as installed, so apt's answers do not depend on this machine.
        fs::write(suite.directory.join("status"), "")?;
        process::must_within(PATIENCE, suite.apt("apt-get").args(["update", "--quiet", "--quiet"]))
            .with_context(|| format!("Debian's archive cannot be reached: {name}, at {}", mirrors.archive))?;
        fs::write(suite.stamp(), "")?;
        Ok(suite)
    }

    /// The newest kernel whose version begins with `series` and whose parts are all available.
    pub(crate) fn newest(&self, series: &str) -> Result<DebianKernel> {
        let prefix = format!("linux-image-{series}");
        let names = output(self.apt("apt-cache").args(["pkgnames", &prefix]))?;
        let mut versions: Vec<_> = names.lines().filter_map(release).map(Version::new).collect();
        versions.sort();
        for version in versions.into_iter().rev() {
            if let Some(packages) = self.parts(version.release())? {
                return Ok(DebianKernel { version, packages });
            }
        }
        bail!("{} has no kernel {series}* for amd64", self.directory.display())
    }

    /// The packages of a kernel, or `None` if one is missing from the archive.
    fn parts(&self, release: &str) -> Result<Option<Vec<String>>> {
        let image = format!("{}{release}", PARTS[0]);
        let Some(depends) = self.depends(&image)? else { return Ok(None) };
        let others = depends.into_iter().filter(|name| PARTS[1..].iter().any(|part| name.starts_with(part)));
        let mut packages = vec![image];
        for package in others {
            match self.depends(&package)? {
                Some(_) => packages.push(package),
                // Without a package of its own, another part provides it.
                None if package.starts_with(BASE) => {}
                None => return Ok(None),
            }
        }
        Ok(Some(packages))
    }

    /// A package's dependencies, if the archive has it.
    fn depends(&self, package: &str) -> Result<Option<Vec<String>>> {
        let mut show = self.apt("apt-cache");
        let shown = show.args(["show", "--no-all-versions", package]).stderr(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&shown.stdout);
        // For a package that others merely provide, apt-cache prints nothing and succeeds.
        if !shown.status.success() || text.is_empty() {
            return Ok(None);
        }
        let depends = text.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or("");
        let names = depends.split(',').filter_map(|one| one.split_whitespace().next());
        Ok(Some(names.map(str::to_owned).collect()))
    }

    /// Downloads the packages of a kernel into a directory.
    pub(crate) fn download(&self, kernel: &DebianKernel, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        let mut download = self.apt("apt-get");
        download.current_dir(directory).args(["download", "--quiet", "--quiet"]).args(&kernel.packages);
        process::must_within(PATIENCE, &mut download).or_else(|error| {
            // The archive drops old versions, so the next run must look again.
            fs::remove_file(self.stamp())?;
            Err(error)
                .with_context(|| format!("kernel {} cannot be fetched from Debian's archive", kernel.version))
        })
    }

    /// apt with its own lists and state, and otherwise this machine's configuration, such as proxies.
    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.arg("--config-file").arg(self.configuration()).stdin(Stdio::null());
        apt
    }

    fn configuration(&self) -> PathBuf {
        self.directory.join("apt.conf")
    }

    fn write_configuration(&self) -> Result<()> {
        let directory = self.directory.display();
        let text = format!(
            r#"Dir::State "{directory}";
Dir::State::lists "{directory}/lists";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "-";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::http::Timeout "20";
Acquire::Retries "2";
"#
        );
        Ok(fs::write(self.configuration(), text)?)
    }

    fn sources(&self) -> PathBuf {
        self.directory.join("sources.list")
    }

    /// Written when the lists are complete.
    fn stamp(&self) -> PathBuf {
        self.directory.join("fetched")
    }

    fn is_fresh(&self) -> bool {
        let age = fs::metadata(self.stamp()).and_then(|stamp| stamp.modified()).map(|at| at.elapsed());
        age.is_ok_and(|age| age.is_ok_and(|age| age < FRESH))
    }
}

/// A kernel of the archive; ordered by its version.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DebianKernel {
    pub(crate) version: Version,
    packages: Vec<String>,
}

/// The `uname -r` of this image, if it has the wanted flavour.
fn release(image: &str) -> Option<&str> {
    let release = image.strip_prefix(PARTS[0])?;
    let is_other = OTHER_FLAVOURS.iter().any(|flavour| release.ends_with(flavour));
    let is_release = release.starts_with(|c: char| c.is_ascii_digit()) && release.ends_with(FLAVOUR);
    // `linux-image-6.12-amd64` stands for the newest release.
    let has_patch = release.split('.').count() > 2;
    (is_release && has_patch && !is_other).then_some(release)
}

/// Where this machine's apt fetches Debian from.
pub(crate) struct Mirrors {
    archive: String,
    security: Option<String>,
}

impl Mirrors {
    /// Reads the machine's apt configuration. It does not tell whose mirror a source is; the fetched lists
    /// do.
    pub(crate) fn find() -> Result<Self> {
        if let Some(mirrors) = Self::known()? {
            return Ok(mirrors);
        }
        setup::update_packages();
        Self::known()?.context(
            "apt knows no mirror of Debian, from which kernels could be fetched: none of its sources is one",
        )
    }

    fn known() -> Result<Option<Self>> {
        let mut targets = Command::new("apt-get");
        targets.args([
            "indextargets",
            "--format",
            "$(LABEL) $(REPO_URI)",
            "Created-By: Packages",
            "Origin: Debian",
        ]);
        let targets = output(&mut targets)?;
        let of = |label| {
            let mut lines = targets.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(name, _)| *name == label).map(|(_, uri)| uri.trim().to_owned())
        };
        Ok(of("Debian").map(|archive| Self { archive, security: of("Debian-Security") }))
    }

    /// Where releases are.
    pub(crate) fn archive(&self) -> &str {
        &self.archive
    }

    /// The sources of a suite.
    fn sources(&self, suite: &str) -> String {
        let mut sources = format!("deb {KEYS} {} {suite} main\n", self.archive);
        let is_release = suite != "sid" && !suite.contains('-');
        if let (true, Some(security)) = (is_release, &self.security) {
            sources += &format!("deb {KEYS} {security} {suite}-security main\n");
        }
        sources
    }
}

/// The archive's keys, from the package `debian-archive-keyring`.
const KEYS: &str = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";

#[cfg(test)]
mod tests {
    use super::release;

    #[test]
    fn only_whole_releases_of_the_general_flavour_are_taken() {
        assert_eq!(release("linux-image-6.12.118+deb13-amd64"), Some("6.12.118+deb13-amd64"));
        assert_eq!(release("linux-image-6.1.0-56-amd64"), Some("6.1.0-56-amd64"));
        for other in [
            "linux-image-amd64",
            "linux-image-6.12-amd64",
            "linux-image-6.12.118+deb13-cloud-amd64",
            "linux-image-6.12.118+deb13-rt-amd64",
            "linux-image-6.12.118+deb13-amd64-dbg",
            "linux-image-6.12.118+deb13-amd64-unsigned",
        ] {
            assert_eq!(release(other), None, "{other}");
        }
    }
}
