//! Messages for the person who watches: one line each, on standard error.

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Stderr;

/// Lets messages out. `DEFENDER_LOG` (error, warn, info, debug or trace) wins over `verbose`.
pub fn install(verbose: bool) {
    let usual = if verbose { LevelFilter::Debug } else { LevelFilter::Info };
    let level = std::env::var("DEFENDER_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(usual);
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries are heard only when something is wrong with them, or on request.
        let ours = metadata.target().starts_with("defender");
        ours || metadata.level() <= Level::Warn || log::max_level() == LevelFilter::Trace
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match record.level() {
            Level::Error => eprintln!("defender: error: {}", record.args()),
            Level::Warn => eprintln!("defender: warning: {}", record.args()),
            Level::Info => eprintln!("defender: {}", record.args()),
            Level::Debug | Level::Trace => eprintln!("defender: {}: {}", record.target(), record.args()),
        }
    }

    fn flush(&self) {}
}
