//! What the service manager (systemd) is told: ready, reloading, stopping, what is going on, and that the controller lives.
//!
//! A thread of its own does the talking: whoever has something to tell never waits.

use std::{
    env,
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
    time::Duration,
};

use sd_notify::NotifyState;

/// What the service manager says to its services and to nobody else (sd_notify(3), sd_watchdog_enabled(3)).
pub(super) const VARIABLES: [&str; 3] = [SOCKET, "WATCHDOG_USEC", "WATCHDOG_PID"];
const SOCKET: &str = "NOTIFY_SOCKET";

/// Messages that may wait.
const QUEUE: usize = 64;
/// How long the last messages are waited for.
const LAST_WAIT: Duration = Duration::from_secs(1);

enum Message {
    Ready,
    Reloading,
    Stopping,
    Alive,
    Status(String),
}

/// The service manager, if one started this process.
#[derive(Debug, Default)]
pub struct ServiceManager {
    worker: Option<Worker>,
    /// What it was told last of what is going on.
    status: String,
}

#[derive(Debug)]
struct Worker {
    messages: SyncSender<Message>,
    done: Receiver<()>,
}

impl ServiceManager {
    /// Finds it by this process's environment.
    pub fn new() -> Self {
        let worker = env::var_os(SOCKET).and_then(|_| Worker::start());
        Self { worker, status: String::new() }
    }

    /// How long the controller may give no sign of life; none: as long as it likes.
    pub fn watchdog(&self) -> Option<Duration> {
        self.worker.as_ref().and_then(|_| sd_notify::watchdog_enabled()).filter(|limit| !limit.is_zero())
    }

    /// The service is started, or has read its configuration again.
    pub fn ready(&self) {
        self.send(Message::Ready);
    }

    /// It reads its configuration again.
    pub fn reloading(&self) {
        self.send(Message::Reloading);
    }

    /// It is alive.
    pub fn alive(&self) {
        self.send(Message::Alive);
    }

    /// What is going on, in a line. Sent if it is another line than before.
    pub fn status(&mut self, line: String) {
        if line != self.status && self.send(Message::Status(line.clone())) {
            self.status = line;
        }
    }

    /// The service ends.
    pub fn stopping(self) {
        self.send(Message::Stopping);
        if let Some(Worker { messages, done }) = self.worker {
            drop(messages);
            // It closes its end when all is said.
            let _ = done.recv_timeout(LAST_WAIT);
        }
    }

    /// Returns whether there is room for one more message; true where nobody listens.
    fn send(&self, message: Message) -> bool {
        self.worker.as_ref().is_none_or(|worker| worker.messages.try_send(message).is_ok())
    }
}

impl Worker {
    fn start() -> Option<Self> {
        let (messages, receiver) = mpsc::sync_channel(QUEUE);
        let (alive, done) = mpsc::channel();
        let talk = move || {
            let _alive = alive;
            tell_all(&receiver);
        };
        let started = thread::Builder::new().name("notify".to_owned()).spawn(talk);
        if let Err(error) = started {
            log::warn!("cannot talk to the service manager: {error}");
            return None;
        }
        Some(Self { messages, done })
    }
}

fn tell_all(messages: &Receiver<Message>) {
    let mut failed = false;
    for message in messages {
        let told = tell(&message);
        if let Err(error) = &told
            && !failed
        {
            log::warn!("the service manager cannot be told: {error}");
        }
        failed = told.is_err();
    }
}

fn tell(message: &Message) -> std::io::Result<()> {
    match message {
        Message::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Message::Reloading => {
            sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
        }
        Message::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        Message::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        Message::Status(line) => sd_notify::notify(&[NotifyState::Status(line)]),
    }
}
