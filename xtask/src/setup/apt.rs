//! Debian's packages.

use std::{
    process::{Command, Stdio},
    sync::Once,
};

use anyhow::{Context as _, Result, bail, ensure};
use defender_build::program;

use super::say;
use crate::{privilege, process};

/// Runs a command while preventing packages from starting services: Debian asks `policy-rc.d` first. An
/// existing one is kept. A shell does this, since it removes the file even if Ctrl-C ends this program.
const WITHOUT_SERVICES: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
"$@"
"#;

/// Waits for other installations, but only briefly for unresponsive servers.
const PATIENCE: [&str; 6] =
    ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"];

/// Whether this system uses apt.
pub(super) fn is_here() -> bool {
    program::find("apt-get").is_some()
}

/// Installs those of the packages that are missing. Removes nothing for them.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    ensure!(is_here(), "apt not found; it is the only supported package manager");
    let missing: Vec<_> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !privilege::is_root() {
        bail!(
            "packages are missing, and installing them needs root. Type, then try again:\n  sudo apt-get update\n  \
             sudo apt-get install --no-install-recommends {names}"
        );
    }
    update();
    say(&format!("installing Debian packages: {names}"));
    let mut install = Command::new("sh");
    install.args(["-c", WITHOUT_SERVICES, "sh", "apt-get", "install"]).args(PATIENCE);
    install.args(["--yes", "--quiet", "--quiet", "--no-install-recommends", "--no-remove"]).args(&missing);
    process::must(unattended(&mut install)).with_context(|| format!("cannot install {names}"))
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", package]).stderr(Stdio::null());
    program::stdout(&mut query).is_some_and(|status| status == "installed")
}

/// Once per run. If it fails, the existing lists may do.
pub(crate) fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        say("updating the lists of Debian packages");
        let mut update = Command::new("apt-get");
        super::try_to(|| {
            process::must(unattended(update.args(["update", "--quiet", "--quiet"]).args(PATIENCE)))
        });
    });
}

/// No one can answer questions.
fn unattended(command: &mut Command) -> &mut Command {
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null())
}
