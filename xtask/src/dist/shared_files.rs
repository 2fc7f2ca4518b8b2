//! What all packages contain beside the program: man pages, completions, changelogs, licences.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    architecture::Architecture,
    licences,
    release::{NAME, REVISION, Release, built, work_directory},
};
use crate::{cargo::workspace, process};

/// Each shell, with the name of its file of completions.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "defender.bash"), ("zsh", "_defender"), ("fish", "defender.fish")];

/// Who answers for the packages, as their manifests say.
const MAINTAINER: &str = "The defender developers <maintainers@users.noreply.github.com>";

/// Writes them where the manifests of the packages look for them.
pub(super) fn write(release: &Release) -> Result<()> {
    man_pages()?;
    completions()?;
    let licences = licences::collect()?;
    compressed("doc/third-party-licences.txt", &licences)?;
    compressed("doc/changelog", &fs::read_to_string(workspace().join("CHANGELOG.md"))?)?;
    compressed("doc/changelog.Debian", &debian_changelog(release)?)
}

fn man_pages() -> Result<()> {
    for entry in fs::read_dir(workspace().join("docs/man"))? {
        let page = entry?.path();
        let name = page.file_name().context("a man page has a name")?.to_string_lossy().into_owned();
        compressed(&format!("man/{name}"), &fs::read_to_string(&page)?)?;
    }
    Ok(())
}

/// The program prints them itself. They are the same on all architectures.
fn completions() -> Result<()> {
    let native = Architecture::ALL.into_iter().find(|it| it.is_native());
    let program = built(native.context("none of the released programs runs on this machine")?)?;
    for (shell, name) in COMPLETIONS {
        let output = Command::new(&program).args(["completions", shell]).output()?;
        ensure!(
            output.status.success() && !output.stdout.is_empty(),
            "`defender completions {shell}` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::write(place(&format!("completions/{name}"))?, output.stdout)?;
    }
    Ok(())
}

/// Debian wants a changelog of its own format. What changed is in the other one.
fn debian_changelog(release: &Release) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["--utc", "--rfc-email", "--date", &format!("@{}", release.date())]).env("LC_ALL", "C");
    let date = defender_build::program::stdout(&mut date).context("cannot run date")?;
    let version = release.version();
    Ok(format!(
        "{NAME} ({version}-{REVISION}) unstable; urgency=medium\n\n  * Version {version}: see changelog.gz.\n\n \
         -- {MAINTAINER}  {}\n",
        date.trim()
    ))
}

/// Writes a text as `name.gz`, in the same way each time.
fn compressed(name: &str, text: &str) -> Result<()> {
    let plain = place(name)?;
    fs::write(&plain, text)?;
    compress(&plain)
}

fn compress(plain: &Path) -> Result<()> {
    process::must(Command::new("gzip").args(["--best", "--no-name", "--force"]).arg(plain))
}

/// A file to be written, whose directory exists.
fn place(name: &str) -> Result<PathBuf> {
    let path = work_directory().join(name);
    fs::create_dir_all(path.parent().context("a file has a directory")?)?;
    Ok(path)
}
