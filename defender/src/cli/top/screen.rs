//! The terminal: taken, drawn on, and given back as it was, whatever ends the program.

use std::{
    io::{self, BufWriter, Stdout, Write},
    panic, process,
};

use anyhow::{Context as _, Result};
use log::LevelFilter;
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        execute,
        style::force_color_output,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::{Position, Rect},
};

use crate::report::top::{state::Top, view};

/// Exit status of a program that panics.
const PANICKED: i32 = 101;

/// The terminal while it is ours. Dropping it gives it back.
pub struct Screen {
    // A frame is one write.
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    logged: LevelFilter,
}

impl Screen {
    /// Takes the terminal. From now on a panic of any thread gives it back and ends the program.
    pub fn enter() -> Result<Self> {
        restore_on_panic();
        // Whether there are colours is decided where styles are made.
        force_color_output(true);
        let backend = CrosstermBackend::new(BufWriter::new(io::stdout()));
        let terminal = Terminal::new(backend).context("cannot draw on this terminal")?;
        // Messages would be written across the screen; what they are about is shown there.
        let logged = log::max_level();
        log::set_max_level(LevelFilter::Off);
        let mut screen = Self { terminal, logged };
        screen.enter_again()?;
        Ok(screen)
    }

    /// Takes it again, whoever had it meanwhile.
    pub(super) fn enter_again(&mut self) -> Result<()> {
        let mut take = || {
            // The mode may have been changed meanwhile.
            disable_raw_mode()?;
            enable_raw_mode()?;
            execute!(self.terminal.backend_mut(), EnterAlternateScreen)?;
            self.terminal.hide_cursor()
        };
        take().context("cannot take the terminal")?;
        self.clear()
    }

    /// Gives it back.
    pub(super) fn leave(&mut self) {
        restore(self.terminal.backend_mut());
    }

    /// Forgets what is on the screen, so that the next frame is drawn as a whole.
    pub(super) fn clear(&mut self) -> Result<()> {
        // `Terminal::clear` asks where the cursor is, and the answer comes among keys, which another thread waits for. A new
        // size clears as well.
        let size = self.terminal.size().context("cannot draw")?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size))).context("cannot draw")
    }

    /// Draws a frame: what differs from the last one.
    pub(super) fn draw(&mut self, top: &mut Top) -> Result<()> {
        self.terminal.draw(|frame| view::draw(frame, top)).context("cannot draw")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
        log::set_max_level(self.logged);
    }
}

/// Gives the terminal back, as far as it is still there.
pub(super) fn restore(output: &mut impl Write) {
    let _ = execute!(output, LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// The message of a panic is for the screen that was there before.
fn restore_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore(&mut io::stdout());
        report(info);
        // Where it was a thread, nothing would end the others.
        process::exit(PANICKED);
    }));
}
