//! The layout that ARCHITECTURE.md describes: who may import whom, who may touch eBPF, and who may do I/O.
//!
//! Every path that begins with `crate::` or `super::` is read from the source, tests excepted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Modules by floor, the lowest first. A module imports from itself and from lower floors.
const FLOORS: [&[&str]; 7] = [
    &["problem"],
    &["model"],
    &["files", "host", "logger"],
    &["dataplane"],
    &["doctor", "state"],
    &["control", "report"],
    &["cli"],
];

/// What `model` must not have: time, randomness, files and the kernel are arguments.
const IO: [&str; 8] =
    ["fs::", "env::", "File::", "Command::", "libc::", "getrandom::", "SystemTime", "Instant::now"];

type Module = Vec<String>;

#[test]
fn modules_import_from_lower_floors_only() {
    let source = Source::read();
    let wrong: Vec<String> =
        source.imports().filter(|(from, to)| !may_import(from, to)).map(|edge| arrow(&edge)).collect();
    assert!(wrong.is_empty(), "imports from the same floor or a higher one:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_floor() {
    let source = Source::read();
    let top: BTreeSet<&str> = source
        .0
        .keys()
        .map(|module| module[0].as_str())
        .filter(|top| !matches!(*top, "lib" | "main"))
        .collect();
    assert_eq!(top, FLOORS.concat().into_iter().collect());
}

#[test]
fn files_import_in_no_circle() {
    let source = Source::read();
    let mut edges: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (from, to) in source.imports() {
        edges.entry(from).or_default().insert(to);
    }
    let circles: BTreeSet<String> = edges.keys().filter_map(|start| circle(start, &edges)).collect();
    assert!(circles.is_empty(), "import circles:\n{}", circles.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn aya_is_used_in_dataplane_only() {
    let users = users(&["use aya", "aya::", "aya_obj::"], |module| module[0] != "dataplane");
    assert!(users.is_empty(), "{users:?}");
}

#[test]
fn model_does_no_io() {
    let users = users(&IO, |module| module[0] == "model");
    assert!(users.is_empty(), "{users:?}");
}

/// Where one of these words stands in a module that is `wanted`.
fn users(words: &[&str], wanted: impl Fn(&Module) -> bool) -> Vec<String> {
    let source = Source::read();
    let modules = source.0.iter().filter(|(module, _)| wanted(module));
    let lines = modules.flat_map(|(module, text)| text.lines().map(move |line| (module, line)));
    let found = lines.filter(|(_, line)| words.iter().any(|word| line.contains(word)));
    found.map(|(module, line)| format!("{}: {}", module.join("::"), line.trim())).collect()
}

fn may_import(from: &Module, to: &Module) -> bool {
    let floor = |module: &Module| FLOORS.iter().position(|floor| floor.contains(&module[0].as_str()));
    from[0] == to[0] || matches!(from[0].as_str(), "lib" | "main") || floor(from) > floor(to)
}

fn arrow((from, to): &(Module, Module)) -> String {
    format!("{} → {}", from.join("::"), to.join("::"))
}

/// The shortest way from a file back to itself.
fn circle(start: &Module, edges: &BTreeMap<Module, BTreeSet<Module>>) -> Option<String> {
    let mut before: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut queue = vec![start];
    while let Some(at) = (!queue.is_empty()).then(|| queue.remove(0)) {
        for next in edges.get(at).into_iter().flatten() {
            if before.contains_key(next) {
                continue;
            }
            before.insert(next, at);
            if next == start {
                let mut way = vec![start.join("::")];
                let mut at = at;
                while at != start {
                    way.push(at.join("::"));
                    at = before[at];
                }
                // The same circle has one name, wherever it begins.
                way.reverse();
                let first = (0..way.len()).min_by_key(|index| &way[*index])?;
                way.rotate_left(first);
                return Some(way.join(" → "));
            }
            queue.push(next);
        }
    }
    None
}

/// The text of every file below `src`, without comments and tests, by module.
struct Source(BTreeMap<Module, String>);

impl Source {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).expect("readable");
            (module(path.strip_prefix(&root).expect("below it")), code(&text))
        };
        Self(files(&root).into_iter().map(read).collect())
    }

    /// Each file, and a file that it imports from.
    fn imports(&self) -> impl Iterator<Item = (Module, Module)> {
        self.0.iter().flat_map(|(from, text)| {
            let imported = self.imported(from, text).into_iter().filter(move |to| to != from);
            imported.map(|to| (from.clone(), to))
        })
    }

    /// The files that the paths in a text lead to. What a module takes from the one it is in, by `super::`, is no import: the
    /// two are one.
    fn imported(&self, from: &Module, text: &str) -> BTreeSet<Module> {
        let of_crate =
            text.match_indices("crate::").flat_map(|(at, root)| tree(&text[at + root.len()..], &[]));
        let mut found: BTreeSet<Module> = of_crate.filter_map(|path| self.file(&path)).collect();
        for (at, _) in text.match_indices("super::").filter(|(at, _)| !text[..*at].ends_with("super::")) {
            let (mut base, mut rest) = (from.clone(), &text[at..]);
            while let Some(above) = rest.strip_prefix("super::") {
                base.pop();
                rest = above;
            }
            let files = tree(rest, &base).into_iter().filter_map(|path| self.file(&path));
            found.extend(files.filter(|file| *file != base));
        }
        found
    }

    /// The file that a path leads to.
    fn file(&self, path: &[String]) -> Option<Module> {
        (1..=path.len())
            .rev()
            .map(|length| path[..length].to_vec())
            .find(|module| self.0.contains_key(module))
    }
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`.
fn module(path: &Path) -> Module {
    let path = path.with_extension("");
    let mut module: Module = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    module.pop_if(|name| name == "mod");
    module
}

fn code(text: &str) -> String {
    let mut lines = Vec::new();
    let mut before = "";
    for line in text.lines() {
        // Tests are at the end of a file.
        if before == "#[cfg(test)]" && line.contains("mod ") && line.ends_with('{') {
            break;
        }
        lines.push(line.split("//").next().unwrap_or_default());
        before = line;
    }
    lines.join("\n")
}

/// The paths at the beginning of a text, which may be a tree as `use` has it, below `base`.
fn tree(text: &str, base: &[String]) -> Vec<Module> {
    let mut found = Vec::new();
    read_tree(&mut text.trim_start(), base, &mut found);
    found
}

fn read_tree(text: &mut &str, base: &[String], found: &mut Vec<Module>) {
    if let Some(rest) = text.strip_prefix('{') {
        *text = rest.trim_start();
        while !text.starts_with('}') {
            read_tree(text, base, found);
            let next = text.find([',', '}']).expect("a tree ends");
            *text = text[next..].trim_start_matches(',').trim_start();
        }
        *text = &text[1..];
        return;
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let mut path = base.to_vec();
    path.extend((&text[..end] != "self").then(|| text[..end].to_owned()));
    *text = &text[end..];
    match text.strip_prefix("::") {
        Some(rest) if !rest.starts_with(['<', '*']) => {
            *text = rest;
            read_tree(text, &path, found);
        }
        _ => found.push(path),
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
