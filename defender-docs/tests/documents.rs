//! The documents are current: generated pages, links, names that the source has as well.

use std::{
    fs,
    path::{Path, PathBuf},
};

use defender_common::abi::map;
use defender_docs::{BY_HAND, DIRECTORIES, pages, workspace};

#[test]
fn generated_pages_are_current() {
    let pages = pages().expect("every page");
    for page in &pages {
        let found = fs::read_to_string(workspace().join(&page.path)).unwrap_or_default();
        assert!(found == page.text, "{} is not current: run cargo xtask docs", page.path.display());
    }
    for directory in DIRECTORIES {
        for path in files(&workspace().join(directory)) {
            let path = path.strip_prefix(workspace()).expect("below it").to_owned();
            let expected = pages.iter().any(|page| page.path == path)
                || BY_HAND.iter().any(|name| path == Path::new(name));
            assert!(expected, "{} is generated no more: run cargo xtask docs", path.display());
        }
    }
}

#[test]
fn every_relative_link_leads_somewhere() {
    let documents = documents();
    assert!(documents.len() > 10, "{documents:?}");
    for document in documents {
        let text = fs::read_to_string(&document).expect("readable");
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().expect("a directory").join(path),
            };
            assert!(target.exists(), "{}: {link} leads nowhere", document.display());
            let found = anchor.is_empty() || anchors(&target).iter().any(|known| known == anchor);
            assert!(found, "{}: {link}: no such heading", document.display());
        }
    }
}

/// Who looks for something finds it by file names and first lines: no list of files is needed.
#[test]
fn every_source_file_begins_with_what_it_is() {
    let sources: Vec<_> = packages().into_iter().flat_map(|package| sources(&package)).collect();
    assert!(sources.len() > 100);
    for path in sources {
        let text = fs::read_to_string(&path).expect("readable");
        let says =
            text.lines().next().is_some_and(|line| line.starts_with("//! ") && line.len() > "//! x".len());
        assert!(says, "{} does not begin with a line of //! that says its job", path.display());
    }
}

#[test]
fn every_map_is_explained() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).expect("readable");
    for name in map::ALL {
        assert!(text.contains(&format!("| `{name}` |")), "ARCHITECTURE.md lacks {name}");
    }
}

/// Every page that people read: those of the workspace's directory, and all below `docs`.
fn documents() -> Vec<PathBuf> {
    let top = fs::read_dir(workspace()).expect("readable").map(|entry| entry.expect("readable").path());
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    top.filter(|path| path.is_file()).chain(files(&workspace().join("docs"))).filter(is_page).collect()
}

/// The targets of `[text](target)` that lie in the repository.
fn links(text: &str) -> Vec<&str> {
    let outside = |target: &&str| target.contains("://") || target.starts_with("mailto:");
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    let targets = prose.flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
    targets.filter(|target| !outside(target)).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).expect("readable");
    let headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    headings
        .map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

/// The packages of the workspace, those of others within them included.
fn packages() -> Vec<PathBuf> {
    let entries = fs::read_dir(workspace()).expect("readable").map(|entry| entry.expect("readable").path());
    let of_package = |path: PathBuf| [path.join("ebpf"), path];
    entries.flat_map(of_package).filter(|path| path.join("Cargo.toml").exists()).collect()
}

fn sources(package: &Path) -> Vec<PathBuf> {
    let all = ["src", "tests"].into_iter().flat_map(|name| files(&package.join(name)));
    all.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.expect("readable").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
