//! How far a long measurement is: a line for each result, and on a terminal a bar below them.
//!
//! The bar is drawn when a result comes and at no other time: nothing runs beside the measurement.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TEMPLATE: &str = "{msg} [{bar:30}] {pos}/{len}, {elapsed} so far, {eta} left";

/// A measurement of several steps. The bar goes when it is dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// So many results are to come.
    pub(crate) fn of(what: &'static str, results: usize) -> Self {
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(results as u64), ProgressDrawTarget::stderr());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what);
        Self(bar)
    }

    /// One has come.
    pub(crate) fn step(&self, line: &str) {
        self.say(line);
        self.0.inc(1);
    }

    /// Something happened besides.
    pub(crate) fn say(&self, line: &str) {
        self.0.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
        let progress = Progress::of("measuring", 2);
        progress.step("one");
        progress.say("besides");
        assert_eq!((progress.0.position(), progress.0.length()), (1, Some(2)));
    }
}
