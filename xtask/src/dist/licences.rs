//! The notices of the libraries that are linked into the program. Their licences want them beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::architecture::Architecture;
use crate::cargo;

/// How files with notices begin, in capitals.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];

/// A library: name and version.
type Library = (String, String);

/// All notices in one text. A text that several libraries share stands there once.
pub(super) fn collect() -> Result<String> {
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let linked = linked()?;
    for package in metadata()? {
        let library = (text(&package, "name")?, text(&package, "version")?);
        if !linked.contains(&library) || package["source"].is_null() {
            continue;
        }
        let (name, version) = library;
        let who = format!("{name} {version} ({})", package["license"].as_str().unwrap_or("see its notice"));
        let manifest = PathBuf::from(text(&package, "manifest_path")?);
        for notice in notices(manifest.parent().context("a manifest has a directory")?)? {
            users.entry(notice).or_default().insert(who.clone());
        }
    }
    ensure!(!users.is_empty(), "no library has a notice: cargo metadata has changed");
    Ok(join(&users))
}

fn join(users: &BTreeMap<String, BTreeSet<String>>) -> String {
    let mut all =
        "The program contains these libraries, and musl and the Rust standard library (both MIT).\n"
            .to_owned();
    for (notice, users) in users {
        let users: Vec<_> = users.iter().map(String::as_str).collect();
        write!(all, "\n{}\n{}\n\n{notice}\n", "=".repeat(80), users.join("\n"))
            .expect("a String takes everything");
    }
    all
}

/// What is linked into the program and its eBPF programs, on any architecture.
fn linked() -> Result<BTreeSet<Library>> {
    let mut tree = cargo::cargo("tree");
    tree.args(["--quiet", "--locked", "--edges", "normal"]);
    tree.args(["--package", "defender", "--package", "defender-ebpf"]);
    tree.args(["--prefix", "none", "--format", "{p}"]);
    for architecture in Architecture::ALL {
        tree.args(["--target", architecture.target()]);
    }
    let text = defender_build::program::stdout(&mut tree).context("cargo tree failed")?;
    Ok(text.lines().filter_map(library).collect())
}

/// A line such as `aya v0.14.0` or `defender v0.1.0 (/path)`.
fn library(line: &str) -> Option<Library> {
    let mut words = line.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some((name.to_owned(), version.to_owned()))
}

/// All packages that Cargo knows here.
fn metadata() -> Result<Vec<Value>> {
    let mut metadata = cargo::cargo("metadata");
    metadata.args(["--quiet", "--locked", "--format-version", "1"]);
    let text = defender_build::program::stdout(&mut metadata).context("cargo metadata failed")?;
    let mut metadata: Value = serde_json::from_str(&text).context("cargo metadata printed no JSON")?;
    match metadata["packages"].take() {
        Value::Array(packages) => Ok(packages),
        _ => anyhow::bail!("cargo metadata lists no packages"),
    }
}

fn text(package: &Value, key: &str) -> Result<String> {
    Ok(package[key].as_str().with_context(|| format!("cargo metadata: a package without {key}"))?.to_owned())
}

/// The texts of the notices in a library's directory.
fn notices(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_file() && NAMES.iter().any(|begin| name.starts_with(begin)) {
            found.push(String::from_utf8_lossy(&fs::read(&path)?).trim().to_owned());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::library;

    #[test]
    fn libraries_are_read_from_cargo_tree() {
        let aya = Some(("aya".to_owned(), "0.14.0".to_owned()));
        assert_eq!(library("aya v0.14.0"), aya);
        assert_eq!(library("aya v0.14.0 (*)"), aya);
        assert_eq!(
            library("defender v0.1.0 (/somewhere)"),
            Some(("defender".to_owned(), "0.1.0".to_owned()))
        );
        assert_eq!(library(""), None);
    }
}
