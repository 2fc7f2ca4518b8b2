//! Both packages of an architecture install the same files, with the same modes.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Result, ensure};

use crate::{
    dist::{architecture::Architecture, release::Release},
    process,
};

/// Where only one of them has files: each system's own changelog, licences and overrides.
const OWN: [&str; 3] = ["/usr/share/doc/", "/usr/share/licenses/", "/usr/share/lintian/"];

/// Where zsh looks for completions on Debian, and everywhere else.
const ZSH: [&str; 2] = ["/zsh/vendor-completions/", "/zsh/site-functions/"];

/// Compares them.
pub(super) fn check(release: &Release, architecture: Architecture) -> Result<()> {
    let mut list = Command::new("dpkg-deb");
    let deb = process::quietly(list.arg("--contents").arg(release.deb(architecture)))?;
    let deb = shared(deb.lines().filter_map(of_tar));

    let mut list = Command::new("rpm");
    list.args(["--query", "--package", "--queryformat", "[%{FILEMODES:perms} %{FILENAMES}\n]"]);
    let rpm = process::quietly(list.arg(release.rpm(architecture)))?;
    let rpm = shared(rpm.lines().filter_map(|line| line.split_once(' ')));

    ensure!(deb.iter().any(|file| file.ends_with("/usr/sbin/defender")), "the .deb has no program");
    let differing: Vec<_> = deb.symmetric_difference(&rpm).map(String::as_str).collect();
    ensure!(differing.is_empty(), "only one of .deb and .rpm has:\n{}", differing.join("\n"));
    Ok(())
}

/// Mode and path of a line such as `-rwxr-xr-x 0/0 123 2026-11-29 14:00 ./usr/sbin/defender`; none for a directory.
fn of_tar(line: &str) -> Option<(&str, &str)> {
    let mode = line.split(' ').next().filter(|mode| !mode.starts_with('d'))?;
    Some((mode, line.split_once(" ./").map(|(_, path)| path)?))
}

/// The files that both should have.
fn shared<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeSet<String> {
    let rooted = files.map(|(mode, path)| (mode, format!("/{}", path.trim_start_matches('/'))));
    let shared = rooted.filter(|(_, path)| !OWN.iter().any(|own| path.starts_with(own)));
    shared.map(|(mode, path)| format!("{mode} {}", path.replace(ZSH[0], ZSH[1]))).collect()
}

#[cfg(test)]
mod tests {
    use super::{of_tar, shared};

    #[test]
    fn lists_of_both_kinds_compare() {
        let tar = "drwxr-xr-x 0/0 0 2026-11-29 14:00 ./usr/sbin/\n-rwxr-xr-x 0/0 9 2026-11-29 14:00 ./usr/sbin/defender\n\
                   -rw-r--r-- 0/0 9 2026-11-29 14:00 ./usr/share/doc/syn-defender/copyright";
        let deb = shared(tar.lines().filter_map(of_tar));
        assert_eq!(deb, shared([("-rwxr-xr-x", "/usr/sbin/defender")].into_iter()));
        assert_ne!(deb, shared([("-rw-r--r--", "/usr/sbin/defender")].into_iter()));
    }
}
