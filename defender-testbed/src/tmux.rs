//! A real terminal for programs that need one: tmux, with a server of its own inside a namespace.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cleanup::{Guard, PREFIX},
    netns::Namespace,
};

/// Deadline for the server. Generous: the machine may be slow and busy.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What the prompt of the shell is.
pub const PROMPT: &str = "$";

/// A window with a shell in it; dropping it ends both.
#[derive(Debug)]
pub struct Tmux {
    socket: PathBuf,
    _end: Guard,
}

impl Tmux {
    /// Opens a window of this size. The shell has these variables besides those of this process.
    pub fn start(
        namespace: &Namespace,
        (width, height): (u16, u16),
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = env::temp_dir().join(format!("{PREFIX}{}-{number}-tmux", process::id()));
        fs::create_dir_all(&directory)?;
        let socket = directory.join("socket");
        // The server is a child: it gets a signal if this process dies.
        let mut command = namespace.command("tmux")?;
        command.args(["-u", "-D", "-f", "/dev/null", "-S"]).arg(&socket);
        command
            .env_remove("NO_COLOR")
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8")
            .env("PS1", PROMPT.to_owned() + " ");
        command.envs(environment.iter().copied());
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = Mutex::new(server.context("cannot start tmux; is it installed?")?);
        let end = Guard::new(move || end(&server, &directory));
        let tmux = Self { socket, _end: end };
        tmux.wait("the server answers", || Ok(tmux.ask(&["show-options", "-g"]).is_ok()))?;
        let size = [width.to_string(), height.to_string()];
        tmux.ask(&["set-option", "-g", "status", "off"])?;
        tmux.ask(&["set-option", "-g", "default-terminal", "screen-256color"])?;
        let shell = ["bash", "--norc", "--noprofile"];
        tmux.ask(&[&["new-session", "-d", "-x", &size[0], "-y", &size[1]], &shell[..]].concat())?;
        tmux.wait("there is a prompt", || Ok(tmux.screen()?.contains(PROMPT)))?;
        Ok(tmux)
    }

    /// Types a line.
    pub fn line(&self, text: &str) -> Result<()> {
        self.ask(&["send-keys", "-l", text])?;
        self.key("Enter")
    }

    /// Presses a key, as tmux names it: `q`, `Escape`, `C-z`.
    pub fn key(&self, key: &str) -> Result<()> {
        self.ask(&["send-keys", key]).map(drop)
    }

    /// What the window shows, without spaces at the ends of lines.
    pub fn screen(&self) -> Result<String> {
        self.ask(&["capture-pane", "-p"])
    }

    /// The same with the escape sequences of colours and styles.
    pub fn styled(&self) -> Result<String> {
        self.ask(&["capture-pane", "-e", "-p"])
    }

    /// Changes the size of the window.
    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        self.ask(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]).map(drop)
    }

    /// One of tmux's variables, such as `alternate_on`.
    pub fn variable(&self, name: &str) -> Result<String> {
        Ok(self.ask(&["display-message", "-p", &format!("#{{{name}}}")])?.trim().to_owned())
    }

    /// Waits until the window shows something; returns what it shows then.
    pub fn wait_for(&self, what: &str, shown: impl Fn(&str) -> bool) -> Result<String> {
        let mut screen = String::new();
        self.wait(what, || {
            screen = self.screen()?;
            Ok(shown(&screen))
        })
        .with_context(|| format!("the window shows\n{screen}"))?;
        Ok(screen)
    }

    fn wait(&self, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition()? {
            ensure!(Instant::now() < deadline, "not after {} s: {what}", PATIENCE.as_secs());
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").args(["-u", "-S"]).arg(&self.socket).args(arguments);
        let output = command.stdin(Stdio::null()).output().context("cannot run tmux; is it installed?")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tmux {}: {}", arguments.join(" "), complaint.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn end(server: &Mutex<Child>, directory: &Path) {
    let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
    let socket = directory.join("socket");
    let _ = Command::new("tmux").arg("-S").arg(socket).arg("kill-server").stderr(Stdio::null()).status();
    let _ = server.kill();
    let _ = server.wait();
    let _ = fs::remove_dir_all(directory);
}
