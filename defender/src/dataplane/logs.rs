//! The programs' log: rare events, and only if this process was asked for that level (`--verbose`).

use std::future::pending;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use log::{LevelFilter, Log};
use tokio::io::{Interest, unix::AsyncFd};

/// The log level that the programs are loaded with. The verifier removes log calls below it.
pub(super) fn level() -> u8 {
    if log::max_level() >= LevelFilter::Debug { Level::Debug as u8 } else { 0 }
}

/// The programs' log, read as it is written.
pub struct Logs(Option<EbpfLogger<&'static dyn Log>>);

impl Logs {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        if level() == 0 {
            return Ok(Self(None));
        }
        Ok(Self(Some(EbpfLogger::init(ebpf).context("cannot read what the programs log")?)))
    }

    /// Forwards log messages for ever. Call it within the event loop.
    pub async fn pass_on(self) -> Result<()> {
        let Some(logger) = self.0 else { return pending().await };
        // SAFETY: the logger owns its map's descriptor, and neither closes nor changes it while it lives.
        let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let mut logger = registered.context("cannot wait for what the programs log")?;
        loop {
            let mut ready = logger.readable_mut().await.context("cannot wait for what the programs log")?;
            ready.clear_ready();
            ready.get_inner_mut().flush();
        }
    }
}
