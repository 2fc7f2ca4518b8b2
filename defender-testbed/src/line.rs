//! A link with latency: relays real frames both ways after a delay.
//!
//! This is what netem does where a kernel has it. Frames go whole from one packet socket to the other, in order, so both
//! ends must send them as they would on a wire: no longer than the MTU, checksums filled in.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    capture::Capture,
    netns::Namespace,
    programs::{Attached, Program},
};

/// The line's interface to the client.
pub const LINE_CLIENT_INTERFACE: &str = "lin0";
/// The line's interface to the server.
pub const LINE_SERVER_INTERFACE: &str = "lin1";
/// How soon a relay notices that it is to stop.
const STOP: Duration = Duration::from_millis(20);

/// The line. Dropping it cuts it.
#[derive(Debug)]
pub(crate) struct Line {
    stop: Arc<AtomicBool>,
    relays: Vec<JoinHandle<Result<()>>>,
    // The server end can be sent to by XDP only if there is a program at its other end.
    _server_end: Attached,
    _namespace: Namespace,
}

impl Line {
    /// Relays between both interfaces of the namespace, each way after `delay`.
    pub(crate) fn new(namespace: Namespace, delay: Duration) -> Result<Self> {
        let server_end = Attached::new(&namespace, LINE_SERVER_INTERFACE, Program::Pass)?;
        let stop = Arc::new(AtomicBool::new(false));
        let relay = |from, to| -> Result<_> {
            let relay = Relay {
                from: Capture::incoming(&namespace, from)?,
                to: Capture::incoming(&namespace, to)?,
                delay,
                stop: Arc::clone(&stop),
            };
            namespace.spawn("line", move || relay.run())
        };
        let relays = vec![
            relay(LINE_CLIENT_INTERFACE, LINE_SERVER_INTERFACE)?,
            relay(LINE_SERVER_INTERFACE, LINE_CLIENT_INTERFACE)?,
        ];
        Ok(Self { stop, relays, _server_end: server_end, _namespace: namespace })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for relay in self.relays.drain(..) {
            let _ = relay.join();
        }
    }
}

/// One way of a line.
struct Relay {
    from: Capture,
    to: Capture,
    delay: Duration,
    stop: Arc<AtomicBool>,
}

impl Relay {
    fn run(self) -> Result<()> {
        let mut under_way = VecDeque::new();
        while !self.stop.load(Ordering::Relaxed) {
            let due = under_way.front().map(|(due, _)| *due);
            let wait =
                due.map_or(STOP, |due: Instant| due.saturating_duration_since(Instant::now()).min(STOP));
            if let Some(frame) = self.from.next(wait)? {
                under_way.push_back((Instant::now() + self.delay, frame.bytes));
            }
            while let Some((_, frame)) = under_way.pop_front_if(|(due, _)| *due <= Instant::now()) {
                // The other end may be gone by now.
                let _ = self.to.send(frame);
            }
        }
        Ok(())
    }
}
