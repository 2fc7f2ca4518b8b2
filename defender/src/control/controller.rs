//! The loop that keeps a session true until a signal ends it.

use std::{
    future::pending,
    mem, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use defender_common::{abi, lifetimes};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinHandle, spawn_blocking},
    time::{Interval, MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::{
    control::{
        reload::Reload,
        session::{Attached, Session},
        succession::HAND_OVER,
        sysctl_watch::SysctlWatch,
    },
    dataplane::maps::Events,
    host::{firewall::Firewall, service_manager::ServiceManager, tool},
    model::{config_file::ConfigFile, presence_filter},
};

/// How often everything is looked at, whether or not an event said so.
const PERIOD: Duration = Duration::from_secs(1);
/// When a step is tried again that another process was in the way of.
const SOON: Duration = Duration::from_millis(20);
/// How often the firewall's rules are looked at.
const FIREWALL_PERIOD: Duration = Duration::from_secs(10);
/// How long tools may take to list them.
const FIREWALL_PATIENCE: Duration = Duration::from_secs(20);
/// How long what still runs in other threads is waited for at the end.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// How often the service manager learns in the time that it allows that the loop lives.
const FEEDS: u32 = 4;
/// SIGRTMIN+1 as glibc and systemd count: ends the controller and leaves everything attached.
const RESTART: libc::c_int = 35;
/// A listener is announced a moment before the kernel lists it.
const SECOND_LOOK: Duration = Duration::from_millis(20);
/// Listeners that come and go all the time are looked at no more often than this.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// Why the loop has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A signal asked for it.
    Signal,
    /// Likewise, and everything is to stay attached: the service is started anew in a moment.
    Restart,
    /// Someone else has detached the datapath.
    Detached,
    /// Another controller takes over.
    HandedOver,
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
        let mut manager = ServiceManager::new();
        let ended = self.runtime.block_on(watch(session, &mut self.signals, &mut manager));
        manager.stopping();
        tool::end_all();
        self.runtime.shutdown_timeout(LAST_WAIT);
        session.keep_baselines();
        ended
    }
}

async fn watch(session: &mut Session, signals: &mut Signals, manager: &mut ServiceManager) -> Result<Ended> {
    let mut events = Events::open(session.root())?;
    let mut tick = steady(PERIOD);
    let mut rotation = steady(lifetimes::KEY_PERIOD);
    rotation.reset();
    let mut firewall = Box::pin(look_at_firewall());
    let mut pace = Pace::default();
    let mut failures = Failures::default();
    let mut walking = None;
    let sysctls = SysctlWatch::start();
    let mut reloading = session.take_due_reload().map(spawn_reload);
    let mut reload_again = false;
    let mut logs = Box::pin(session.logs()?.pass_on());
    // Fed by this loop itself, so that a loop that hangs is noticed.
    let mut watchdog = manager.watchdog().map(|limit| steady(limit / FEEDS));
    manager.status(session.status_line());
    // Where clients are defended already, lists of the file are read only now.
    if reloading.is_none() {
        manager.ready();
    }
    loop {
        manager.status(session.status_line());
        if walking.is_none() {
            walking = begin_walk(session, &mut failures);
        }
        let attached = tokio::select! {
            signal = signals.next() => match signal {
                Asked::End => return Ok(Ended::Signal),
                Asked::Restart => return Ok(Ended::Restart),
                Asked::HandOver if session.is_to_hand_over() => return Ok(Ended::HandedOver),
                Asked::HandOver => continue,
                Asked::Reload => {
                    reload_again = reloading.is_some();
                    reloading = reloading.or_else(|| session.begin_reload().map(spawn_reload));
                    if reloading.is_some() {
                        manager.reloading();
                    }
                    continue;
                }
            },
            read = join(&mut reloading) => {
                if mem::take(&mut reload_again) {
                    reloading = session.begin_reload().map(spawn_reload);
                }
                let attached = session.complete_reload(read);
                if reloading.is_none() {
                    manager.ready();
                }
                attached
            }
            () = due(&mut watchdog) => {
                manager.alive();
                continue;
            }
            _ = rotation.tick() => session.rotate_keys(),
            _ = tick.tick() => {
                let attached = session.refresh();
                if attached.is_ok() && session.needs_new_key().unwrap_or(false) {
                    rotation.reset();
                    session.rotate_keys()
                } else {
                    attached
                }
            }
            () = pace.due() => {
                pace.looked();
                session.refresh_services()
            }
            () = sysctls.changed() => session.refresh(),
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
        match failures.still_attached(attached) {
            Attached::Yes => {}
            Attached::Later => tick.reset_after(SOON),
            Attached::No => return Ok(Ended::Detached),
        }
    }
}

/// Begins a generation of the filter if it is time. The walk through the sockets may take its time, so it has a thread.
fn begin_walk(session: &mut Session, failures: &mut Failures) -> Option<JoinHandle<Result<()>>> {
    match session.begin_generation() {
        Ok(socket_iter) => socket_iter.map(|socket_iter| {
            spawn_blocking(move || {
                thread::sleep(presence_filter::SETTLE);
                socket_iter.run()
            })
        }),
        Err(error) => {
            failures.still_attached(Err(error));
            None
        }
    }
}

fn spawn_reload(reload: Reload) -> JoinHandle<Result<ConfigFile>> {
    spawn_blocking(move || reload.run())
}

/// Waits for the next tick, if there is one.
async fn due(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => pending().await,
    }
}

/// Waits for what another thread is at, if it is.
async fn join<T>(working: &mut Option<JoinHandle<Result<T>>>) -> Result<T> {
    let Some(work) = working else { return pending().await };
    let done = work.await;
    *working = None;
    done.context("a thread of the controller has failed")?
}

/// Reads the firewall's rules after a while. That runs tools, which may take their time, so it has a thread.
async fn look_at_firewall() -> Result<Firewall> {
    sleep(FIREWALL_PERIOD).await;
    spawn_blocking(|| Firewall::read(FIREWALL_PATIENCE)).await.context("cannot read the firewall's rules")
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
            log::warn!("{text}; retrying");
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

/// Signals that would kill the process and mean nothing to it. SIGXFSZ: what was written to has reached a limit, as a disk
/// that is full.
const MEANINGLESS: [libc::c_int; 9] = [
    libc::SIGUSR1,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    restart: Signal,
    hangup: Signal,
    assign: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot catch signals");
        // Not ignored: programs that are run from here would ignore them as well. Caught once, they stay caught.
        for number in MEANINGLESS {
            drop(listen(SignalKind::from_raw(number))?);
        }
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            quit: listen(SignalKind::quit())?,
            restart: listen(SignalKind::from_raw(RESTART))?,
            hangup: listen(SignalKind::hangup())?,
            assign: listen(SignalKind::from_raw(HAND_OVER as i32))?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End,
            _ = self.terminate.recv() => Asked::End,
            _ = self.quit.recv() => Asked::End,
            _ = self.restart.recv() => Asked::Restart,
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.assign.recv() => Asked::HandOver,
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// To end.
    End,
    /// To end and leave everything attached.
    Restart,
    /// To read the configuration file again.
    Reload,
    /// To leave everything to another controller.
    HandOver,
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
            for number in MEANINGLESS {
                raise(Signal::try_from(number).expect("a signal")).expect("still alive");
            }
            raise(Signal::SIGQUIT).expect("a signal");
            assert_eq!(signals.next().await, Asked::End);
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
