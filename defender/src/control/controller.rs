//! The loop that keeps a session true until a signal ends it.

use std::{
    future::pending,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use defender_common::abi;
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinHandle, spawn_blocking},
    time::{Interval, MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::{
    control::{
        filter, keys,
        session::{Attached, Session},
    },
    dataplane::maps::Events,
    host::firewall::Firewall,
};

/// How often everything is looked at, whether or not an event said so.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the firewall's rules are looked at.
const FIREWALL_PERIOD: Duration = Duration::from_secs(10);
/// A listener is announced a moment before the kernel lists it.
const SECOND_LOOK: Duration = Duration::from_millis(20);
/// Listeners that come and go all the time are looked at no more often than this.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// Why the loop has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A signal asked for it.
    Signal,
    /// Someone else has detached the datapath.
    Detached,
}

/// A loop that is ready to run. From its making on, a signal no longer kills the process but ends the loop, so that a
/// session begun meanwhile is ended in order.
pub struct Controller {
    runtime: Runtime,
    signals: Signals,
}

impl Controller {
    /// Makes the loop.
    pub fn new() -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the event loop")?;
        let signals = runtime.block_on(async { Signals::new() })?;
        Ok(Self { runtime, signals })
    }

    /// Keeps `session` true until a signal, or until someone detaches it.
    pub fn run(mut self, session: &mut Session) -> Result<Ended> {
        let ended = self.runtime.block_on(watch(session, &mut self.signals));
        session.keep_baselines();
        ended
    }
}

async fn watch(session: &mut Session, signals: &mut Signals) -> Result<Ended> {
    let mut events = Events::open(session.root())?;
    let mut tick = steady(PERIOD);
    let mut rotation = steady(keys::ROTATION);
    rotation.reset();
    let mut firewall = Box::pin(look_at_firewall());
    let mut pace = Pace::default();
    let mut failures = Failures::default();
    let mut walking = None;
    let mut logs = Box::pin(session.logs()?.pass_on());
    loop {
        if walking.is_none() {
            walking = begin_walk(session, &mut failures);
        }
        let attached = tokio::select! {
            signal = signals.next() => match signal {
                Asked::End => return Ok(Ended::Signal),
                Asked::Reload => session.reload(),
            },
            _ = rotation.tick() => session.rotate_keys(),
            _ = tick.tick() => session.refresh(),
            () = pace.due() => {
                pace.looked();
                session.refresh_services()
            }
            walked = join(&mut walking) => walked.and_then(|()| session.complete_generation()),
            found = events.next() => {
                let events = found?;
                if events.iter().any(is_about_listeners) {
                    pace.changed();
                }
                if !events.iter().any(is_step) {
                    continue;
                }
                session.see_steps(&events)
            }
            ended = &mut logs => {
                ended?;
                continue;
            }
            found = &mut firewall => {
                firewall.set(look_at_firewall());
                session.set_firewall(found?);
                continue;
            }
        };
        if failures.still_attached(attached) == Attached::No {
            return Ok(Ended::Detached);
        }
    }
}

/// Begins a generation of the filter if it is time. The walk through the sockets may take its time, so it has a thread.
fn begin_walk(session: &mut Session, failures: &mut Failures) -> Option<JoinHandle<Result<()>>> {
    match session.begin_generation() {
        Ok(walk) => walk.map(|walk| {
            spawn_blocking(move || {
                thread::sleep(filter::SETTLE);
                walk.run()
            })
        }),
        Err(error) => {
            failures.still_attached(Err(error));
            None
        }
    }
}

/// Waits for the walk that is under way, if one is.
async fn join(walking: &mut Option<JoinHandle<Result<()>>>) -> Result<()> {
    let Some(walk) = walking else { return pending().await };
    let walked = walk.await;
    *walking = None;
    walked.context("cannot walk through the sockets")?
}

/// Reads the firewall's rules after a while. That runs tools, which may take their time, so it has a thread.
async fn look_at_firewall() -> Result<Firewall> {
    sleep(FIREWALL_PERIOD).await;
    spawn_blocking(Firewall::read).await.context("cannot read the firewall's rules")
}

/// What fails once may work the next time, and what is attached keeps working meanwhile.
#[derive(Debug, Default)]
struct Failures {
    last: Option<String>,
}

impl Failures {
    fn still_attached(&mut self, attached: Result<Attached>) -> Attached {
        let failure = attached.as_ref().err().map(|error| format!("{error:#}"));
        if let Some(text) = failure.as_ref().filter(|text| self.last.as_ref() != Some(text)) {
            log::warn!("{text}; trying again");
        }
        self.last = failure;
        attached.unwrap_or(Attached::Yes)
    }
}

fn is_about_listeners(event: &abi::Event) -> bool {
    matches!(event.kind, abi::EVENT_LISTEN_BEGAN | abi::EVENT_LISTEN_ENDED)
}

fn is_step(event: &abi::Event) -> bool {
    event.kind == abi::EVENT_STEP
}

fn steady(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// When to look at the listeners after they have changed: at once, and once more a little later.
#[derive(Debug, Default)]
struct Pace {
    next: Option<Instant>,
    again: bool,
    last: Option<Instant>,
}

impl Pace {
    fn changed(&mut self) {
        let now = Instant::now();
        let earliest = self.last.map_or(now, |last| now.max(last + LEAST_PAUSE));
        self.next = Some(self.next.map_or(earliest, |next| next.min(earliest)));
        self.again = true;
    }

    fn looked(&mut self) {
        let now = Instant::now();
        self.last = Some(now);
        self.next = self.again.then(|| now + SECOND_LOOK);
        self.again = false;
    }

    async fn due(&self) {
        match self.next {
            Some(next) => sleep_until(next.into()).await,
            None => pending().await,
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End,
            _ = self.terminate.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// To end.
    End,
    /// To read the configuration file again.
    Reload,
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn sighup_asks_for_the_file_and_does_not_kill() {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut signals = Signals::new().expect("signals");
            raise(Signal::SIGHUP).expect("a signal");
            assert_eq!(signals.next().await, Asked::Reload);
        });
    }

    #[test]
    fn a_change_is_looked_at_twice_and_not_too_often() {
        let mut pace = Pace::default();
        pace.changed();
        assert!(pace.next.is_some_and(|next| next <= Instant::now()));
        pace.looked();
        let second = pace.next.expect("a second look");
        assert!(second > Instant::now());
        pace.changed();
        assert!(pace.next.expect("a look") >= pace.last.expect("looked") + LEAST_PAUSE);
        pace.looked();
        pace.looked();
        assert_eq!(pace.next, None);
    }
}
