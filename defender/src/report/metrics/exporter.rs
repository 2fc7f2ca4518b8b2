//! The thread that serves metrics where the configuration file says, for as long as the controller runs.
//!
//! Whatever goes wrong here is a warning: the defence goes on without metrics.

use std::{
    cell::RefCell,
    future::pending,
    io,
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hyper::body::Bytes;
use tokio::{
    runtime,
    sync::{oneshot, watch},
    task::LocalSet,
    time::sleep,
};

use super::{
    http::{self, Pages},
    kept::Kept,
    page::{self, Format},
    reading::Reading,
    socket::Socket,
};
use crate::{
    dataplane::pins::PinRoot,
    model::{exported::Exported, listen::Listen, section_table::SectionKey},
    report::health::SILENCE,
};

/// A reading serves whoever asks within this time: however many scrape, maps are read no more often.
const FRESH: Duration = Duration::from_secs(1);
/// When it is tried again to listen.
const RETRY: Duration = Duration::from_secs(1);
/// From which try on it is a warning: a controller that was replaced may take a moment to go.
const WARN_AT: u32 = 3;

/// Serves metrics until it is dropped.
pub struct Exporter {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Serves what is pinned below `root`, where and as `exported` tells.
    pub fn start(root: &PinRoot, exported: &Exported) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a thread for metrics")?;
        let (root, exported) = (root.clone(), exported.clone());
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let listen = exported.listen();
            let pages = Rc::new(Live { root, exported, read: RefCell::default() });
            let until_stopped = async {
                tokio::select! {
                    _ = stopped => {}
                    () = follow(listen, pages) => {}
                }
            };
            LocalSet::new().block_on(&runtime, until_stopped);
        };
        let thread = thread::Builder::new()
            .name("metrics".into())
            .spawn(serve)
            .context("cannot start a thread for metrics")?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves where it is told, and elsewhere as soon as it is told otherwise.
async fn follow(mut listen: watch::Receiver<Option<Listen>>, pages: Rc<Live>) {
    loop {
        let wanted = listen.borrow_and_update().clone();
        tokio::select! {
            changed = listen.changed() => if changed.is_err() {
                return;
            },
            () = serve(wanted, Rc::clone(&pages)) => {}
        }
    }
}

async fn serve(listen: Option<Listen>, pages: Rc<Live>) {
    let Some(listen) = listen else { return pending().await };
    let socket = bind(&listen).await;
    log::info!("metrics at {listen}");
    http::serve(socket, pages).await;
}

/// Listens there, as soon as that can be done.
async fn bind(listen: &Listen) -> Socket {
    let mut tries = 0;
    loop {
        match Socket::bind(listen).await {
            Ok(socket) => return socket,
            Err(error) => {
                tries += 1;
                if tries == WARN_AT {
                    log::warn!("{}", complaint(listen, &error));
                }
                sleep(RETRY).await;
            }
        }
    }
}

fn complaint(listen: &Listen, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "end what listens there, or choose another address",
        io::ErrorKind::AddrNotAvailable => "choose an address of this host",
        _ => "choose another address",
    };
    format!(
        "no metrics: cannot listen at {listen}: {error}; {remedy} ({} in the configuration file, then SIGHUP). Trying again; \
         the defence goes on",
        SectionKey::MetricsListen
    )
}

/// What is served, read when somebody asks.
struct Live {
    root: PinRoot,
    exported: Exported,
    read: RefCell<Read>,
}

/// What was read last, and as which pages.
#[derive(Default)]
struct Read {
    kept: Kept,
    reading: Option<Arc<Reading>>,
    pages: Vec<(Format, Bytes)>,
    /// How large the last page was, in bytes.
    size: usize,
}

impl Live {
    fn reading(&self) -> Arc<Reading> {
        let read = &mut *self.read.borrow_mut();
        if let Some(reading) = read.reading.as_ref().filter(|reading| reading.at.elapsed() < FRESH) {
            return Arc::clone(reading);
        }
        let reading = Arc::new(Reading::take(&self.root, &self.exported, &mut read.kept));
        read.pages.clear();
        read.reading = Some(Arc::clone(&reading));
        reading
    }
}

impl Pages for Live {
    fn metrics(&self, format: Format) -> Bytes {
        let reading = self.reading();
        let read = &mut *self.read.borrow_mut();
        if let Some((_, page)) = read.pages.iter().find(|(of, _)| *of == format) {
            return page.clone();
        }
        // Writing to memory does not fail.
        let page = Bytes::from(page::page(&reading, format, read.size + read.size / 8).unwrap_or_default());
        read.size = page.len();
        read.pages.push((format, page.clone()));
        page
    }

    fn health(&self) -> Result<(), String> {
        let age = self.exported.turn().map(|turn| turn.age(Instant::now()));
        match age.filter(|age| *age >= SILENCE) {
            Some(age) => Err(format!("the controller has not answered for {} s", age.as_secs())),
            None => Ok(()),
        }
    }

    fn readiness(&self) -> Result<(), String> {
        // Orchestrators ask seldom and decide by it: not by what was a moment ago.
        let faults = Reading::faults_now(&self.root, &mut self.read.borrow_mut().kept);
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }
}
