//! What `top` waits for, each from a thread of its own: readings, an opened service, keys, signals.

use std::{
    io,
    os::fd::AsFd as _,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
    time::ClockId,
};
use ratatui::crossterm::event::{self, Event, KeyEvent};

use super::{screen, signals};
use crate::{
    dataplane::pins::PinRoot,
    model::endpoint::Endpoint,
    report::top::{
        detail::Detail,
        reading::{Reader, Reading},
    },
};

/// How long the first reading takes.
pub(super) const FIRST: Duration = Duration::from_millis(200);
/// How long every other one takes.
const PERIOD: Duration = Duration::from_secs(1);
/// A reading of this much processor time is followed by a rest, so that it takes no more than one part of so many: there may be a
/// million connections to count.
const PARTS: u32 = 50;
/// No rest is longer.
const LONGEST_REST: Duration = Duration::from_secs(9);
/// Who was told to end has so long, for a terminal that takes nothing may hold it up.
const END: Duration = Duration::from_secs(2);

/// Something that came.
pub(super) enum Input {
    Reading(Box<Reading>),
    Detail(Endpoint, Box<Result<Detail, String>>),
    Key(KeyEvent),
    /// The terminal is gone.
    NoMoreKeys,
    Signal(Signal),
}

/// Starts the threads. They end with the program.
pub(super) fn start(
    root: &PinRoot,
    mut reader: Reader,
    inputs: &Sender<Input>,
    requests: Receiver<Option<Endpoint>>,
) -> Result<()> {
    spawn("signals", inputs, forward_signals)?;
    spawn("keys", inputs, |inputs| {
        // Without keys nobody could quit.
        let _ = forward_keys(inputs);
        let _ = inputs.send(Input::NoMoreKeys);
    })?;
    spawn("readings", inputs, move |inputs| forward_readings(&mut reader, inputs))?;
    let root = root.clone();
    spawn("details", inputs, move |inputs| forward_details(&root, &requests, inputs))
}

fn spawn(
    name: &str,
    inputs: &Sender<Input>,
    job: impl FnOnce(&Sender<Input>) + Send + 'static,
) -> Result<()> {
    let inputs = inputs.clone();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || job(&inputs));
    thread.map(drop).context("cannot start a thread")
}

fn forward_signals(inputs: &Sender<Input>) {
    while let Ok(signal) = signals::next() {
        if inputs.send(Input::Signal(signal)).is_err() {
            return;
        }
        if signals::is_end(signal) {
            thread::sleep(END);
            screen::restore(&mut io::sink());
            let _ = signals::die_of(signal);
        }
    }
}

fn forward_keys(inputs: &Sender<Input>) -> Result<()> {
    let input = io::stdin();
    loop {
        let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            found => found?,
        };
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if fds[0].revents().is_none_or(|events| events.intersects(gone)) {
            return Ok(());
        }
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()? {
                inputs.send(Input::Key(key))?;
            }
        }
    }
}

fn forward_readings(reader: &mut Reader, inputs: &Sender<Input>) {
    loop {
        let (began, used) = (Instant::now(), processor_time());
        let reading = reader.read(PERIOD);
        if inputs.send(Input::Reading(Box::new(reading))).is_err() {
            return;
        }
        // A reading that fails takes no time.
        let left = PERIOD.saturating_sub(began.elapsed());
        thread::sleep(left + rest(processor_time().saturating_sub(used)));
    }
}

fn forward_details(root: &PinRoot, requests: &Receiver<Option<Endpoint>>, inputs: &Sender<Input>) {
    let mut open = None;
    let mut pause = PERIOD;
    loop {
        let request = match open {
            None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => requests.recv_timeout(pause),
        };
        match request {
            Ok(next) => open = next,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(endpoint) = open else { continue };
        let used = processor_time();
        let detail = Detail::read(root, endpoint).map_err(|error| format!("{error:#}"));
        pause = PERIOD + rest(processor_time().saturating_sub(used));
        if inputs.send(Input::Detail(endpoint, Box::new(detail))).is_err() {
            return;
        }
    }
}

/// What this thread has used.
fn processor_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map_or(Duration::ZERO, Duration::from)
}

/// The rest after what took so much processor time, besides the usual time.
fn rest(used: Duration) -> Duration {
    (used * PARTS).saturating_sub(PERIOD).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_much_comes_less_often() {
        for (used, expected) in [(0, 0), (20, 0), (40, 1000), (100, 4000), (5000, 9000)] {
            assert_eq!(rest(Duration::from_millis(used)), Duration::from_millis(expected), "{used}");
        }
    }
}
