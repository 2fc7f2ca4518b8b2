//! Who runs it, with which privilege, and with which umask.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use defender_testbed::{command, controller::STATE_DIRECTORY, topology::Topology};

use crate::{
    harness::{PATIENCE, PROGRAM, connect, eventually, process::Scratch},
    operator::bed::{PORT, Running, output, serve, succeeded, topology},
};

/// What tells the defender where to keep locks and settings.
const RUN_DIRECTORY: &str = "DEFENDER_RUN_DIR";

/// Nobody's.
const USER: u32 = 65_534;

/// All that README says is needed.
const CAPABILITIES: &str = "-all,+bpf,+perfmon,+net_admin";

/// A user's own BPF file system, program and directories.
struct Home {
    scratch: Scratch,
    program: PathBuf,
}

impl Home {
    fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let program = scratch.path("defender");
        fs::copy(PROGRAM, &program)?;
        for name in ["", "run", "lib", "bpf"] {
            fs::create_dir_all(scratch.path(name))?;
            fs::set_permissions(scratch.path(name), fs::Permissions::from_mode(0o755))?;
            chown(scratch.path(name), Some(USER), Some(USER))?;
        }
        let bpf = scratch.path("bpf").display().to_string();
        let options = format!("uid={USER},gid={USER},mode=0700");
        command::run("mount", &["-t", "bpf", "-o", &options, "bpf", &bpf])?;
        Ok(Self { scratch, program })
    }

    fn pins(&self) -> PathBuf {
        self.scratch.path("bpf/defender")
    }

    /// What the user types, with this umask and these capabilities.
    fn command(&self, bed: &Topology, umask: &str, arguments: &[&str]) -> Result<Command> {
        let mut user = bed.server.command("setpriv")?;
        let user_id = USER.to_string();
        user.args(["--reuid", &user_id, "--regid", &user_id, "--clear-groups"]);
        for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            user.args([set, CAPABILITIES]);
        }
        user.args(["sh", "-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
        user.arg(&self.program).args(arguments).arg("--pin-root").arg(self.pins());
        user.env(RUN_DIRECTORY, self.scratch.path("run")).env(STATE_DIRECTORY, self.scratch.path("lib"));
        user.current_dir("/").stdin(std::process::Stdio::null());
        Ok(user)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let bpf = self.scratch.path("bpf").display().to_string();
        if let Err(error) = command::run("umount", &[&bpf]) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn capabilities_are_enough() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address)?;
    for umask in ["022", "0777"] {
        let home = Home::new()?;
        let ask = |arguments: &[&str]| -> Result<String> {
            succeeded(&output(home.command(&bed, umask, arguments)?, PATIENCE)?)
        };
        let run = ["run", "--no-allow-ssh", "--iface", "srv0", "--mode", "always"];
        let start = home.command(&bed, umask, &run)?;
        let mut defender = Running::of(&bed, start, home.pins())?;
        eventually("it is challenged", || {
            ensure!(defender.is_alive()?, "it has ended");
            Ok(ask(&["status"]).is_ok_and(|told| told.contains("every SYN is challenged")))
        })?;
        let _client = connect(&bed, bed.fresh_client(address), address)?;
        let statistics: serde_json::Value = serde_json::from_str(&ask(&["stats", "--json"])?)?;
        ensure!(statistics["counters"]["handoff_established"] == 1, "{statistics}");
        ask(&["set", "80.mode", "monitor"])?;
        ask(&["deny", "add", "192.0.2.0/24"])?;
        ensure!(ask(&["deny", "list"])?.contains("192.0.2.0/24"));
        ensure!(ask(&["conns"])?.contains("cookie"));
        ask(&["get"])?;
        ask(&["explain", "80"])?;
        ask(&["why", "10.203.0.1"])?;
        let other = serve(&bed, bed.server_v4(PORT + 1))?;
        eventually("a new listener is found", || Ok(ask(&["status"])?.contains(":81")))?;
        drop(other);
        let doctor = output(home.command(&bed, umask, &["doctor", "--iface", "srv0"])?, PATIENCE)?;
        ensure!(String::from_utf8_lossy(&doctor.stdout).contains("privilege"), "{doctor:?}");
        if umask == "022" {
            ask(&["detach"])?;
        } else {
            ensure!(defender.stop()?.success());
        }
        eventually("it ends", || Ok(!defender.is_alive()?))?;
        ensure!(!home.pins().exists() && fs::read_dir(home.scratch.path("run"))?.next().is_none());
    }
    Ok(())
}

/// Whoever starts it, with whatever umask: it works, and nobody else may write to its files.
#[test]
fn the_umask_does_not_matter() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address)?;
    for umask in ["0000", "0017", "0007", "0777"] {
        let scratch = Scratch::new()?;
        let (run, lib) = (scratch.path("run"), scratch.path("lib"));
        let with_umask = |command: &mut Command| {
            let mut shell = bed.server.command("sh").expect("a shell");
            shell.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
            shell.arg(command.get_program()).args(command.get_args());
            shell.env(RUN_DIRECTORY, &run).env(STATE_DIRECTORY, &lib).stdin(std::process::Stdio::null());
            *command = shell;
        };
        let mut defender = Running::spawn(&bed, &["--mode", "always"], with_umask)?;
        let ask = |arguments: &[&str]| -> Result<String> {
            let mut command = defender.command(arguments)?;
            with_umask(&mut command);
            succeeded(&output(command, PATIENCE)?)
        };
        eventually("it is challenged", || {
            Ok(ask(&["status"]).is_ok_and(|told| told.contains("every SYN is challenged")))
        })?;
        ask(&["set", "80.mode", "monitor"])?;
        ask(&["set", "80.mode", "always"])?;
        ask(&["deny", "add", "192.0.2.0/24"])?;
        connect(&bed, bed.fresh_client(address), address)?;
        let found: Vec<_> = every_mode(&run)?.into_iter().chain(every_mode(&defender.pins)?).collect();
        ensure!(found.len() > 20, "{found:?}");
        for (path, mode) in found {
            ensure!(mode & 0o022 == 0 && mode & 0o400 != 0, "{umask}: {}: {mode:o}", path.display());
        }
        ensure!(defender.stop()?.success(), "{umask}");
    }
    Ok(())
}

/// All below a directory, and the modes.
fn every_mode(path: &Path) -> Result<Vec<(PathBuf, u32)>> {
    let metadata = fs::symlink_metadata(path)?;
    let mut all = vec![(path.to_owned(), metadata.mode() & 0o7777)];
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            all.extend(every_mode(&entry?.path())?);
        }
    }
    Ok(all)
}
