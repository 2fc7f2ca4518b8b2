//! Third-party programs as servers and clients.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use defender_testbed::netns::Namespace;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::eventually;

const POLL: Duration = Duration::from_millis(10);

/// How long a program may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that is removed on drop.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("defender-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and returns where it is.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, contents)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that runs in a namespace; dropping it ends it.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program; `arguments` are separated by spaces.
    pub(crate) fn start(namespace: &Namespace, program: &str, arguments: &str) -> Result<Self> {
        let mut command = command(namespace, program, arguments)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self(command.spawn().with_context(|| format!("cannot start {program}; is it installed?"))?))
    }

    /// Waits until it has ended, and returns its output, which must fit into a pipe.
    pub(crate) fn wait(mut self) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while self.0.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "it does not end");
            thread::sleep(POLL);
        }
        let output = take_output(&mut self.0)?;
        succeeded(&output)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// Starts an SSH server on port 22 with a key of its own. The key `user` opens it.
pub(crate) fn start_sshd(namespace: &Namespace, scratch: &Scratch) -> Result<Process> {
    for name in ["key", "user"] {
        let key = scratch.path(name).display().to_string();
        defender_testbed::command::run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key])?;
    }
    // sshd requires this directory; the package's service creates it.
    fs::create_dir_all("/run/sshd")?;
    let text = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPidFile none\nMaxStartups 1000\nUsePAM no\nUseDNS no\n\
         Port 22\n",
        scratch.path("key").display(),
        scratch.path("user.pub").display(),
    );
    let configuration = scratch.write("sshd_config", text)?;
    Process::start(namespace, "sshd", &format!("-D -e -f {}", configuration.display()))
}

/// Starts a web server on port 80 of both families, and waits until it listens. It has the files of `scratch`, and
/// `/hello`; ten thousand clients may stay connected.
pub(crate) fn start_nginx(namespace: &Namespace, scratch: &Scratch) -> Result<Process> {
    let root = scratch.path("");
    let root = root.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {root}{name};"))
        .join(" ");
    let text = format!(
        "daemon off; master_process off; pid {root}pid; error_log {root}error.log;\n\
         events {{ worker_connections 14000; }}\n\
         http {{ access_log off; keepalive_requests 1000; keepalive_timeout 600s; {temporary}\n\
         server {{ listen 80 backlog=4096; listen [::]:80 backlog=4096; root {root};\n\
         location /hello {{ return 200 hello\\n; }} }} }}\n"
    );
    let configuration = scratch.write("nginx.conf", text)?;
    let arguments = format!("-c {} -e {root}error.log", configuration.display());
    let nginx = Process::start(namespace, "nginx", &arguments)?;
    eventually("nginx listens", || Ok(run(namespace, "ss", "-Htln sport = :80")?.lines().count() == 2))?;
    Ok(nginx)
}

/// Runs a program in a namespace to its end, and returns what it printed; `arguments` are separated by spaces.
pub(crate) fn run(namespace: &Namespace, program: &str, arguments: &str) -> Result<String> {
    let output = command(namespace, program, arguments)?.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}; is it installed?"))?;
    succeeded(&output).with_context(|| format!("{program} {arguments}"))
}

/// What steps the clock of one process.
pub(crate) fn faketime_library() -> Result<String> {
    let places =
        fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    let found = places.into_iter().find(|path| path.exists()).context("libfaketime is not installed")?;
    Ok(found.display().to_string())
}

/// Lets a file be run.
pub(crate) fn make_executable(path: &Path) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn command(namespace: &Namespace, program: &str, arguments: &str) -> Result<Command> {
    let mut command = namespace.command(find(program))?;
    command.args(arguments.split_whitespace());
    Ok(command)
}

/// Servers are not on an ordinary user's path, and sshd must be started by its absolute path.
fn find(program: &str) -> PathBuf {
    let path = Path::new("/usr/sbin").join(program);
    if path.exists() { path } else { program.into() }
}

fn take_output(child: &mut Child) -> Result<Output> {
    use std::io::Read as _;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.take().context("no pipe")?.read_to_end(&mut stdout)?;
    child.stderr.take().context("no pipe")?.read_to_end(&mut stderr)?;
    Ok(Output { status: child.wait()?, stdout, stderr })
}

fn succeeded(output: &Output) -> Result<String> {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{}: {stdout}{stderr}", output.status);
    }
    Ok(stdout.into_owned())
}
