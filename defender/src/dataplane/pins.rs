//! Pins on the BPF file system, for everything that outlives this process.
//!
//! `ROOT/maps/NAME` holds the maps, `ROOT/links/IFNAME-xdp` and similar names hold the links. A controller
//! also keeps the links open ([`held`](crate::dataplane::held)). Without a controller, removing a link's
//! pin detaches it.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use defender_common::abi;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::{files, host::links::Link, problem::Problem};

/// The conventional mount point of the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";
/// The pin of the tracepoint's link.
const SOCK_STATE: &str = "sock_state";
/// The pin of the connection listing, an iterator.
const FLOWS: &str = "flows";
/// Suffix of the pin of a new link before it replaces another.
const REPLACEMENT_SUFFIX: &str = "-new";

/// The directory below which one instance pins its maps and links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinRoot(PathBuf);

/// A hook that a link is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// XDP of an interface.
    Xdp,
    /// tcx ingress of an interface.
    Ingress,
    /// tcx egress of an interface.
    Egress,
    /// tcx ingress of a VLAN device on an interface.
    VlanIngress(String),
}

/// A link of an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkName {
    /// The interface it belongs to.
    pub interface: String,
    /// What it is attached to.
    pub hook: Hook,
}

impl LinkName {
    /// The link of `interface` at `hook`.
    pub fn new(interface: &str, hook: Hook) -> Self {
        Self { interface: interface.to_owned(), hook }
    }

    /// The links of an interface, each with the index of its device.
    pub fn all_of(interface: &Link) -> Vec<(Self, u32)> {
        let own = [Hook::Xdp, Hook::Ingress, Hook::Egress].map(|hook| (hook, interface.index));
        let vlans = interface.vlans.iter().map(|vlan| (Hook::VlanIngress(vlan.name.clone()), vlan.index));
        own.into_iter().chain(vlans).map(|(hook, index)| (Self::new(&interface.name, hook), index)).collect()
    }

    /// The device that the link is attached to.
    pub fn device(&self) -> &str {
        match &self.hook {
            Hook::VlanIngress(device) => device,
            Hook::Xdp | Hook::Ingress | Hook::Egress => &self.interface,
        }
    }

    /// The BPF file system reserves names with dots, and interface names never contain a colon.
    pub(super) fn to_file_name(&self) -> String {
        let interface = escape(&self.interface);
        match &self.hook {
            Hook::Xdp => format!("{interface}-xdp"),
            Hook::Ingress => format!("{interface}-ingress"),
            Hook::Egress => format!("{interface}-egress"),
            Hook::VlanIngress(device) => format!("{interface}:v{}-ingress", escape(device)),
        }
    }

    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let (device, hook) = name.rsplit_once('-')?;
        let (interface, vlan) = match device.split_once(":v") {
            Some((interface, vlan)) => (interface, Some(vlan)),
            None => (device, None),
        };
        let hook = match (hook, vlan) {
            ("xdp", None) => Hook::Xdp,
            ("ingress", None) => Hook::Ingress,
            ("egress", None) => Hook::Egress,
            ("ingress", Some(vlan)) => Hook::VlanIngress(unescape(vlan)),
            _ => return None,
        };
        Some(Self { interface: unescape(interface), hook })
    }
}

fn escape(name: &str) -> String {
    name.replace('.', ":d")
}

fn unescape(name: &str) -> String {
    name.replace(":d", ".")
}

impl PinRoot {
    /// The pin root at `path`.
    pub fn new(path: &Path) -> Result<Self> {
        let absolute = std::path::absolute(path).with_context(|| format!("--pin-root {}", path.display()))?;
        if absolute.components().any(|part| part == Component::ParentDir) {
            return Err(Problem::Usage(format!("--pin-root {} must not contain `..`", path.display())).into());
        }
        Ok(Self(absolute))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of the maps, each pinned under its name.
    pub fn maps(&self) -> PathBuf {
        self.0.join("maps")
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where a link is pinned.
    pub fn link(&self, name: &LinkName) -> PathBuf {
        self.links_directory().join(name.to_file_name())
    }

    /// Where the tracepoint's link is pinned.
    pub fn sock_state(&self) -> PathBuf {
        self.links_directory().join(SOCK_STATE)
    }

    /// Where the connection listing is pinned. Reading that file runs it.
    pub fn flows(&self) -> PathBuf {
        self.links_directory().join(FLOWS)
    }

    /// Where a link is pinned that is about to replace the one at `pin`.
    pub fn replacement(pin: &Path) -> PathBuf {
        let mut name = pin.file_name().unwrap_or_else(|| OsStr::new("link")).to_owned();
        name.push(REPLACEMENT_SUFFIX);
        pin.with_file_name(name)
    }

    fn links_directory(&self) -> PathBuf {
        self.0.join("links")
    }

    /// Where a link of this name is pinned, whether an interface's or another.
    pub(super) fn link_file(&self, name: &str) -> PathBuf {
        self.links_directory().join(name)
    }

    /// The names of all pinned links.
    pub(super) fn link_files(&self) -> Result<Vec<String>> {
        let mut names = file_names(&self.links_directory())?;
        names.retain(|name| !name.ends_with(REPLACEMENT_SUFFIX));
        Ok(names)
    }

    /// Recreates directories that were removed.
    pub(super) fn create_directories(&self) -> Result<()> {
        for directory in [self.maps(), self.links_directory()] {
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(())
    }

    /// Every pinned link of an interface.
    pub fn links(&self) -> Result<Vec<LinkName>> {
        let mut links: Vec<_> = file_names(&self.links_directory())?
            .iter()
            .filter_map(|name| LinkName::from_file_name(name))
            .collect();
        links.sort();
        Ok(links)
    }

    /// The interfaces that have a pinned link.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let mut interfaces: Vec<_> = self.links()?.into_iter().map(|link| link.interface).collect();
        interfaces.dedup();
        Ok(interfaces)
    }

    /// Fails with [`Problem::NothingAttached`] if nothing is attached.
    pub fn require_attached(&self) -> Result<()> {
        if self.interfaces()?.is_empty() {
            return Err(Problem::NothingAttached(self.0.display().to_string()).into());
        }
        Ok(())
    }

    /// Creates the directories, and mounts the BPF file system if it is missing. Records what is new in
    /// `rollback`.
    pub fn create(&self, rollback: &mut Rollback) -> Result<()> {
        self.require_bpffs()?;
        for directory in [self.0.clone(), self.maps(), self.links_directory()] {
            rollback.create_directories(&directory)?;
        }
        Ok(())
    }

    /// Fails if other users could replace our maps or links with theirs.
    pub fn require_private(&self) -> Result<()> {
        let above = self.0.ancestors().skip(1).filter(|path| path.exists());
        for path in above.take_while(|path| is_bpffs(path).unwrap_or(false)) {
            files::require_trusted_directory(path)?;
        }
        let ours = [self.0.clone(), self.maps(), self.links_directory()];
        ours.iter()
            .filter(|path| path.exists())
            .try_for_each(|path| files::require_private_directory(path))?;
        ours.iter().try_for_each(|path| files::require_own_files(path))
    }

    /// Whether the directory is on a mounted BPF file system.
    pub fn is_on_bpffs(&self) -> bool {
        is_bpffs(self.existing()).unwrap_or(false)
    }

    /// The directory, or its nearest existing ancestor.
    fn existing(&self) -> &Path {
        self.0.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
    }

    fn require_bpffs(&self) -> Result<()> {
        if self.0.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS))? {
            log::debug!("mounting the BPF file system at {BPFFS}");
            mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))
                .map_err(io::Error::from)
                .with_context(|| format!("cannot mount the BPF file system: `mount -t bpf bpf {BPFFS}`"))?;
        }
        let existing = self.existing();
        if !is_bpffs(existing)? {
            bail!(Problem::Usage(format!(
                "--pin-root {}: {} is not on a BPF file system; use a directory below {BPFFS}, or `mount -t bpf bpf DIR` first",
                self.0.display(),
                existing.display()
            )));
        }
        Ok(())
    }

    /// Removes everything. Links go first, and XDP before the programs that take over what it accepted.
    pub fn remove_all(&self) -> Result<()> {
        for interface in self.interfaces()? {
            self.remove_links(&interface)?;
        }
        for directory in [self.links_directory(), self.maps()] {
            for name in file_names(&directory)? {
                remove_file(&directory.join(name))?;
            }
            remove_directory(&directory)?;
        }
        match fs::remove_dir(&self.0) {
            // A service manager has mounted it for this process alone, and removes it.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Ok(())
            }
            removed => ignore_missing(removed).with_context(|| format!("cannot remove {}", self.0.display())),
        }
    }

    /// Detaches `interface`.
    pub fn remove_links(&self, interface: &str) -> Result<()> {
        // Sorted by hook: XDP comes first.
        for link in self.links()?.into_iter().filter(|link| link.interface == interface) {
            remove_file(&self.link(&link))?;
        }
        Ok(())
    }

    /// The maps that are pinned.
    pub fn pinned_maps(&self) -> Vec<&'static str> {
        abi::map::ALL.into_iter().filter(|name| self.map(name).exists()).collect()
    }
}

fn is_bpffs(path: &Path) -> Result<bool> {
    match statfs(path) {
        Ok(status) => Ok(status.filesystem_type() == BPF_FS_MAGIC),
        Err(nix::errno::Errno::ENOENT) => {
            bail!(Problem::Unsupported(format!("{} does not exist: this kernel has no BPF", path.display())))
        }
        Err(error) => {
            Err(io::Error::from(error)).with_context(|| format!("cannot look at {}", path.display()))
        }
    }
}

/// Names in a directory, or an empty list if it does not exist.
fn file_names(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", directory.display())),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().with_context(|| format!("cannot read {}", directory.display()))
}

/// Removes a file, which may be gone already.
pub fn remove_file(path: &Path) -> Result<()> {
    ignore_missing(fs::remove_file(path)).with_context(|| format!("cannot remove {}", path.display()))
}

/// Renames a file, which may be gone already.
pub(super) fn rename_file(from: &Path, to: &Path) -> Result<()> {
    ignore_missing(fs::rename(from, to)).with_context(|| format!("cannot rename {}", from.display()))
}

fn remove_directory(path: &Path) -> Result<()> {
    ignore_missing(fs::remove_dir(path)).with_context(|| format!("cannot remove {}", path.display()))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes what this process created, unless committed.
#[derive(Debug, Default)]
pub struct Rollback {
    created: Vec<PathBuf>,
}

impl Rollback {
    /// Records that `path` is new or about to be created.
    pub fn note(&mut self, path: PathBuf) {
        self.created.push(path);
    }

    /// Creates `directory` and its missing parents.
    pub fn create_directories(&mut self, directory: &Path) -> Result<()> {
        let mut missing: Vec<_> = directory.ancestors().take_while(|path| !path.exists()).collect();
        while let Some(path) = missing.pop() {
            DirBuilder::new()
                .mode(0o700)
                .create(path)
                .with_context(|| format!("cannot create {}", path.display()))?;
            self.note(path.to_owned());
        }
        Ok(())
    }

    /// Success: keeps what was created.
    pub fn commit(mut self) {
        self.created.clear();
    }
}

impl Drop for Rollback {
    fn drop(&mut self) {
        for path in self.created.drain(..).rev() {
            let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            if let Err(error) = ignore_missing(removed) {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_survive_the_file_system() {
        for interface in ["eth0", "eth0.100", "a-b", "x-xdp", "br-ingress", "v.v"] {
            let hooks = [Hook::Xdp, Hook::Ingress, Hook::Egress, Hook::VlanIngress("eth0.5-xdp".into())];
            for link in hooks.map(|hook| LinkName::new(interface, hook)) {
                let name = link.to_file_name();
                assert!(!name.contains('.'), "{name}");
                assert_eq!(LinkName::from_file_name(&name), Some(link));
            }
        }
        assert_eq!(LinkName::from_file_name(SOCK_STATE), None);
        assert_eq!(LinkName::from_file_name("sock_state-new"), None);
    }

    #[test]
    fn a_rollback_removes_what_was_created_only() {
        let base = std::env::temp_dir().join(format!("defender-rollback-{}", std::process::id()));
        let kept = base.join("kept");
        fs::create_dir_all(&kept).expect("created");
        let mut rollback = Rollback::default();
        rollback.create_directories(&kept.join("a/b")).expect("created");
        fs::write(kept.join("a/b/file"), "x").expect("written");
        rollback.note(kept.join("a/b/file"));
        drop(rollback);
        assert!(kept.exists() && !kept.join("a").exists());
        fs::remove_dir_all(base).expect("removed");
    }
}
