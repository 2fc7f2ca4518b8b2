//! Hears of settings under `/proc/sys` that somebody writes to, at once: cookies promise what they allow.
//!
//! Who writes by another mount of `/proc` is not heard, nor is the kernel itself: the controller looks every second as well.

use std::{fs::File, future::pending, os::fd::AsRawFd, path::Path};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::{Interest, unix::AsyncFd};

use crate::host::sysctl;

/// What waits for changes.
pub struct SysctlWatch {
    queue: Option<AsyncFd<Queue>>,
    /// Keeps the kernel from forgetting which files are watched.
    _watched: Vec<File>,
}

struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> i32 {
        use std::os::fd::AsFd as _;
        self.0.as_fd().as_raw_fd()
    }
}

impl SysctlWatch {
    /// Watches the settings of the calling thread's network namespace. To be called within the event loop.
    pub fn start() -> Self {
        match Self::try_new() {
            Ok(watch) => watch,
            Err(error) => {
                log::debug!("changes of sysctls are noticed within a second: {error}");
                Self { queue: None, _watched: Vec::new() }
            }
        }
    }

    fn try_new() -> std::io::Result<Self> {
        let queue = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut watched = Vec::new();
        for name in sysctl::NAMES {
            let path = Path::new("/proc/sys").join(name);
            // Some are not in every kernel.
            if let Ok(file) = File::open(&path) {
                queue.add_watch(&path, AddWatchFlags::IN_MODIFY)?;
                watched.push(file);
            }
        }
        // SAFETY: the queue owns its descriptor, and neither closes nor changes it while it lives.
        let queue = unsafe { AsyncFd::register_with_interest(Queue(queue), Interest::READABLE) };
        Ok(Self { queue: Some(queue?), _watched: watched })
    }

    /// Waits until one was written to.
    pub async fn changed(&self) {
        let Some(queue) = &self.queue else { return pending().await };
        match queue.readable().await {
            Ok(mut ready) => {
                // First, so that what comes while the queue is read wakes us again.
                ready.clear_ready();
                while queue.get_ref().0.read_events().is_ok() {}
            }
            Err(_) => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{runtime::Builder, time::timeout};

    use super::*;
    use crate::host::testing::{in_namespace, shell};

    #[test]
    fn what_is_written_in_this_namespace_is_heard_of_and_nothing_else() {
        in_namespace(|| {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let watch = SysctlWatch::start();
                let moment = Duration::from_millis(50);
                assert!(timeout(moment, watch.changed()).await.is_err());
                in_namespace(|| shell("sysctl -q net.ipv4.tcp_sack=0"));
                assert!(timeout(moment, watch.changed()).await.is_err(), "another namespace's");
                for _ in 0..2 {
                    shell("sysctl -q net.ipv4.tcp_sack=0 net.ipv4.tcp_timestamps=0");
                    assert!(timeout(Duration::from_secs(10), watch.changed()).await.is_ok());
                    // Two writes may be two.
                    let _ = timeout(moment, watch.changed()).await;
                }
            });
        });
    }
}
