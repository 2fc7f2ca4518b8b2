//! Progress of what takes longer than a second: a bar on standard error, if that is a terminal.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{Format, is_cursor_movable};

/// What ends sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(120);
const TEMPLATE: &str = "{spinner} {msg} [{bar:30}] {human_pos}/{human_len} {elapsed}";

/// A bar that appears when a second has passed, and goes when it is dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    appearing: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// So much is to be done. Who reads JSON sees no bar.
    pub(super) fn of(what: impl Into<Cow<'static, str>>, total: u64, format: Format) -> Self {
        let bar =
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_style(style());
        bar.set_message(what);
        let is_shown = format == Format::Text && io::stderr().is_terminal() && is_cursor_movable();
        let appearing = is_shown.then(|| appear_later(bar.clone()));
        Self { bar, appearing }
    }

    /// So much more is done.
    pub(super) fn advance(&self, more: u64) {
        self.bar.inc(more);
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn appear_later(bar: ProgressBar) -> (Sender<()>, JoinHandle<()>) {
    let (ended, end) = mpsc::channel();
    let appear = move || {
        if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TICK);
        }
    };
    (ended, thread::spawn(appear))
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((ended, appearing)) = self.appearing.take() {
            drop(ended);
            // Not before it knows: the bar would come back.
            let _ = appearing.join();
        }
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid_and_a_bar_counts() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
        let progress = Progress::of("doing", 3, Format::Json);
        assert!(progress.appearing.is_none());
        progress.advance(2);
        assert_eq!(progress.bar.position(), 2);
    }
}
