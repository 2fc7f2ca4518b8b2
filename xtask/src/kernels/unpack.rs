//! The parts of a kernel's packages that are kept: the kernel, and the modules that the guest loads.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    archive::{DebianKernel, Suite},
    output,
};
use crate::process;

/// The modules that the guest needs, each with its dependencies. Kernels with built-in support have no
/// module.
const MODULES: [&str; 23] = [
    "veth",
    "macvlan",
    "bridge",
    "virtio_net",
    "virtio_pci",
    "e1000",
    "tcp_diag",
    "tcp_bbr",
    "sch_fq",
    "sch_ingress",
    "cls_bpf",
    "nf_conntrack",
    "nf_nat",
    "nf_tables",
    "nft_ct",
    "nft_limit",
    "nft_nat",
    "nft_chain_nat",
    "nft_redir",
    "nft_reject_inet",
    "nft_log",
    "nf_conntrack_netlink",
    "nft_connlimit",
];

/// A kernel ready to boot.
pub(crate) struct Unpacked {
    directory: PathBuf,
}

impl Unpacked {
    /// Fetches and unpacks a kernel, unless already done.
    pub(crate) fn new(cache: &Path, suite: &Suite, kernel: &DebianKernel) -> Result<Self> {
        let unpacked = Self { directory: cache.join(kernel.version.release()) };
        let wanted = MODULES.join("\n");
        if fs::read_to_string(unpacked.stamp()).is_ok_and(|done| done == wanted) {
            return Ok(unpacked);
        }
        eprintln!("kernels: fetching {}", kernel.version);
        let scratch = cache.join("scratch");
        remove(&scratch)?;
        remove(&unpacked.directory)?;
        let packages = scratch.join("packages");
        suite.download(kernel, &packages)?;
        extract(&packages, &scratch)?;
        unpacked.take(&scratch, kernel.version.release())?;
        remove(&scratch)?;
        fs::write(unpacked.stamp(), wanted)?;
        Ok(unpacked)
    }

    /// The kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The modules, in load order.
    pub(crate) fn modules(&self) -> Result<Vec<PathBuf>> {
        files(&self.modules_directory())
    }

    fn modules_directory(&self) -> PathBuf {
        self.directory.join("modules")
    }

    /// Written when everything is complete. Contains the requested modules.
    fn stamp(&self) -> PathBuf {
        self.directory.join("complete")
    }

    fn take(&self, scratch: &Path, release: &str) -> Result<()> {
        fs::create_dir_all(self.modules_directory())?;
        // Newer packages place the kernel beside its modules.
        let beside = scratch.join("usr/lib/modules").join(release).join("vmlinuz");
        let boot = scratch.join("boot").join(format!("vmlinuz-{release}"));
        let kernel = if beside.exists() { beside } else { boot };
        fs::rename(&kernel, self.kernel()).with_context(|| format!("missing: {}", kernel.display()))?;
        for (number, module) in modules_in_order(scratch, release)?.iter().enumerate() {
            let stem = module.file_name().unwrap_or_default().to_string_lossy();
            let stem = stem.split('.').next().unwrap_or_default();
            self.take_module(module, &format!("{number:03}-{stem}.ko"))?;
        }
        Ok(())
    }

    fn take_module(&self, module: &Path, name: &str) -> Result<()> {
        let plain = self.modules_directory().join(name);
        match module.extension().and_then(|extension| extension.to_str()) {
            Some("ko") => fs::rename(module, plain)?,
            Some("xz") => {
                let mut unpack = Command::new("xz");
                unpack.args(["--decompress", "--stdout"]).arg(module).stdout(File::create(plain)?);
                process::must(&mut unpack)?;
            }
            _ => bail!("unknown compression: {}", module.display()),
        }
        Ok(())
    }
}

/// The files of the requested modules, each after its dependencies.
fn modules_in_order(scratch: &Path, release: &str) -> Result<Vec<PathBuf>> {
    // Older packages use `lib`, newer ones `usr/lib`. depmod expects `lib` below the given directory.
    let base =
        if scratch.join("usr/lib/modules").exists() { scratch.join("usr") } else { scratch.to_owned() };
    process::must(Command::new("depmod").arg("--basedir").arg(&base).arg(release))?;
    let mut modprobe = Command::new("modprobe");
    modprobe.arg("--dirname").arg(&base).args(["--set-version", release]);
    // This machine's own aliases and blacklists do not apply to the guest.
    modprobe.args(["--config", "/dev/null", "--show-depends", "--all"]).args(MODULES);
    let mut modules = Vec::new();
    for line in output(&mut modprobe)?.lines() {
        let Some(module) = line.strip_prefix("insmod ") else { continue };
        let module = PathBuf::from(module.trim());
        if !modules.contains(&module) {
            modules.push(module);
        }
    }
    Ok(modules)
}

/// The files of a directory, sorted by name.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}

/// Unpacks all packages of a directory into another.
pub(super) fn extract(packages: &Path, directory: &Path) -> Result<()> {
    for package in files(packages)? {
        process::must(Command::new("dpkg-deb").arg("--extract").arg(package).arg(directory))?;
    }
    Ok(())
}

/// Removes a directory, if it is there.
pub(super) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
