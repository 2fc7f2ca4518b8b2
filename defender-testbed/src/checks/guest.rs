//! Process 1 of a virtual machine that contains only this program, the defender, and a few tools.

use std::{
    ffi::CString,
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::cleanup::BPF_DIR;
use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};

use super::{CheckMachine, run as run_checks};

/// The file systems to mount, in order.
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", BPF_DIR),
    ("tracefs", "/sys/kernel/tracing"),
];

/// Modules, named so that they sort in load order.
const MODULES: &str = "/modules";

/// Where results go: the console also has the kernel's messages.
const RESULTS: &str = "/dev/ttyS1";

/// Sets the machine up, runs the checks, and stops the machine.
pub(crate) fn run(only: &[String]) -> Result<()> {
    // On any other machine, devices and power are not ours to change.
    ensure!(std::process::id() == 1, "this is for process 1 of a virtual machine");
    if let Err(error) = work(only) {
        eprintln!("defender-testbed: {error:#}");
        // Where there is no port yet, the console has it.
        let _ = fs::write(RESULTS, format!("plan boot\nboot FAIL {error:#}\n"));
    }
    // The emulator is configured to exit instead of rebooting.
    reboot(RebootMode::RB_AUTOBOOT).context("cannot end the machine")?;
    Ok(())
}

fn work(only: &[String]) -> Result<()> {
    for (kind, place) in MOUNTS {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {kind} at {place}"))?;
    }
    load_modules(Path::new(MODULES))?;
    let mut results = File::options().write(true).open(RESULTS).context("there is no port for results")?;
    let machine = CheckMachine { defender: "/bin/defender".into(), may_take_devices: true };
    run_checks(&machine, only, &mut results)?;
    Ok(results.flush()?)
}

fn load_modules(directory: &Path) -> Result<()> {
    let mut modules = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    modules.sort();
    for module in modules {
        let file = File::open(&module)?;
        if let Err(error) = finit_module(&file, &CString::default(), ModuleInitFlags::empty()) {
            eprintln!("cannot load {}: {error}", module.display());
        }
    }
    Ok(())
}
