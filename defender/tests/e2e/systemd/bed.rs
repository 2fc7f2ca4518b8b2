//! A systemd of the test's own, process 1 of its namespaces, with the project's units.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::topology::Topology;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::harness::{PROGRAM, eventually, process::Scratch};

/// Where the packages put the program.
pub(crate) const INSTALLED: &str = "/usr/sbin/defender";
/// The program, as the units of the test name it.
const COPY: &str = "/run/bed/defender";
const BOOT: &str = include_str!("boot.sh");
/// Targets that the units name. Those of the host would start the host's services.
const TARGETS: [&str; 6] = ["sysinit", "basic", "shutdown", "network-online", "multi-user", "sockets"];
/// Units of the journal.
const JOURNAL: [&str; 3] =
    ["systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket"];
/// Where distributions keep units.
const UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// Removing control groups takes until their last process is gone.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// The text of one of the project's units.
pub(crate) fn unit(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd").join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The names of the project's units.
pub(crate) const NAMES: [&str; 2] = ["defender.service", "defender@.service"];

/// A systemd in the server's network namespace. Dropping it kills everything in it.
pub(crate) struct Systemd {
    scratch: Scratch,
    groups: Vec<ControlGroup>,
    starter: Child,
    systemd: Pid,
}

impl Systemd {
    /// Starts it with this configuration file, and units that `edit` has changed. The journal runs.
    pub(crate) fn start(bed: &Topology, config: &str, edit: impl Fn(String) -> String) -> Result<Self> {
        let scratch = Scratch::new()?;
        fs::copy(PROGRAM, scratch.path("defender"))?;
        scratch.write("boot.sh", BOOT)?;
        scratch.write("config.toml", config)?;
        write_units(&scratch, edit)?;
        let groups = ControlGroup::make_all()?;
        let mut starter = spawn(bed, &scratch, &groups)?;
        let mut systemd = None;
        eventually("systemd runs", || {
            ensure!(starter.try_wait()?.is_none(), "it has ended");
            systemd = child_of(starter.id());
            Ok(systemd.is_some_and(|systemd| name_of(systemd) == "systemd"))
        })?;
        let systemd = Self { scratch, groups, starter, systemd: systemd.context("no child")? };
        eventually("systemd answers", || Ok(systemd.run("systemctl", &["list-units"])?.status.success()))?;
        systemd.ask("systemctl", &["start", "systemd-journald"])?;
        Ok(systemd)
    }

    /// Runs a program beside it, to its end.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.systemd.to_string(), "--mount", "--pid", "--net", "--ipc", program]);
        Ok(command.args(arguments).stdin(Stdio::null()).output()?)
    }

    /// The same, and returns what it printed.
    pub(crate) fn ask(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.run(program, arguments)?;
        let (told, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{program} {}: {told}{why}", arguments.join(" "));
        Ok(told.into_owned())
    }

    /// Runs a command of the defender.
    pub(crate) fn defender(&self, arguments: &[&str]) -> Result<String> {
        self.ask(COPY, arguments)
    }

    /// Has systemd do something with a unit; says what the unit logged if that fails.
    pub(crate) fn control(&self, verb: &str, unit: &str) -> Result<()> {
        self.ask("systemctl", &[verb, unit]).map(drop).with_context(|| self.log(unit))
    }

    /// What a unit has logged.
    pub(crate) fn log(&self, unit: &str) -> String {
        self.ask("journalctl", &["--no-pager", "-o", "cat", "-u", unit]).unwrap_or_default()
    }

    /// A property of a unit.
    pub(crate) fn property(&self, unit: &str, name: &str) -> Result<String> {
        let told = self.ask("systemctl", &["show", "--value", "--property", name, unit])?;
        Ok(told.trim().to_owned())
    }

    /// The unit's main process, as its namespace counts.
    pub(crate) fn main_pid(&self, unit: &str) -> Result<String> {
        self.property(unit, "MainPID")
    }

    /// A path of its namespace, as this process names it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.systemd.to_string()).join("root").join(path.trim_start_matches('/'))
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With process 1 of their namespace all others end.
        let _ = kill(self.systemd, Signal::SIGKILL);
        let _ = self.starter.kill();
        let _ = self.starter.wait();
        self.groups.iter().for_each(ControlGroup::remove);
        let _ = &self.scratch;
    }
}

fn write_units(scratch: &Scratch, edit: impl Fn(String) -> String) -> Result<()> {
    fs::create_dir(scratch.path("units"))?;
    for name in TARGETS {
        let text = format!("[Unit]\nDescription={name}\nDefaultDependencies=no\n");
        scratch.write(&format!("units/{name}.target"), text)?;
    }
    for name in JOURNAL {
        let path = UNITS.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists());
        fs::copy(path.with_context(|| format!("no {name}"))?, scratch.path(&format!("units/{name}")))?;
    }
    for name in NAMES {
        let text = unit(name)?;
        ensure!(text.contains(INSTALLED), "{name} does not run {INSTALLED}");
        scratch.write(&format!("units/{name}"), edit(text.replace(INSTALLED, COPY)))?;
    }
    Ok(())
}

fn spawn(bed: &Topology, scratch: &Scratch, groups: &[ControlGroup]) -> Result<Child> {
    // It ends with this thread, whatever becomes of it.
    let mut command = bed.server.command("setpriv")?;
    let joining: Vec<String> =
        groups.iter().map(|group| format!("echo $$ > {}/cgroup.procs;", group.path.display())).collect();
    let script = format!(
        "{} exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child sh \"$0\" \"$@\"",
        joining.join(" ")
    );
    let mounts: Vec<String> = groups.iter().map(ControlGroup::mount).collect();
    command.args(["--pdeathsig", "KILL", "sh", "-c", &script]);
    command.arg(scratch.path("boot.sh")).arg(scratch.path("")).arg(mounts.join(" "));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    command.spawn().context("cannot start systemd")
}

/// A control group for the test alone, in one of the hierarchies that systemd uses.
struct ControlGroup {
    path: PathBuf,
    point: String,
    kind: String,
    options: &'static str,
}

impl ControlGroup {
    fn make_all() -> Result<Vec<Self>> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut groups = Vec::new();
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, point, kind, all_options, ..] = fields[..] else { continue };
            let options = match kind {
                "cgroup2" => "rw",
                "cgroup" if all_options.contains("name=systemd") => "none,name=systemd",
                _ => continue,
            };
            let path = Path::new(point).join(format!("dfnd-{}", std::process::id()));
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
            groups.push(Self { path, point: point.to_owned(), kind: kind.to_owned(), options });
        }
        ensure!(!groups.is_empty(), "no control groups are mounted");
        Ok(groups)
    }

    fn mount(&self) -> String {
        format!("{}={}={}", self.point, self.kind, self.options)
    }

    fn remove(&self) {
        let deadline = Instant::now() + PATIENCE;
        while remove_groups(&self.path).is_err() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
}

/// Removes a control group and those in it: their files cannot be removed.
fn remove_groups(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The first child of a process.
fn child_of(parent: u32) -> Option<Pid> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).map(Pid::from_raw).next()
}

fn parent_of(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn name_of(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}
