//! `top`: waits for readings, keys and signals, and draws what they change.

mod inputs;
pub mod screen;
mod signals;

use std::{
    env,
    io::{self, IsTerminal as _},
    process::ExitCode,
    sync::mpsc::{Receiver, Sender, channel},
};

use anyhow::Result;
use nix::sys::signal::Signal;

use self::{inputs::Input, screen::Screen};
use crate::{
    dataplane::pins::PinRoot,
    model::endpoint::Endpoint,
    problem::Problem,
    report::top::{
        data::Data,
        keys::{self, Outcome},
        look::Look,
        reading::Reader,
        state::Top,
    },
};

/// What ended it.
enum End {
    Quit,
    Signal(Signal),
}

/// Shows what goes on until it is told to quit.
pub(super) fn top(root: &PinRoot) -> Result<ExitCode> {
    require_terminal()?;
    let mut reader = Reader::new(root)?;
    let first = reader.read(inputs::FIRST);
    let found = first.found.clone().map_err(anyhow::Error::msg)?;
    let top = Top::new(Look::of(variable), Data::new(found, &first));

    // Before there are threads: they inherit what is blocked.
    signals::block()?;
    let (sender, received) = channel();
    let (open, requests) = channel();
    inputs::start(root, reader, &sender, requests)?;
    let mut screen = Screen::enter()?;
    let end = show(&mut screen, top, &received, &open);
    drop(screen);
    match end? {
        End::Quit => Ok(ExitCode::SUCCESS),
        End::Signal(signal) => signals::die_of(signal),
    }
}

fn variable(name: &str) -> Option<String> {
    env::var_os(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
}

/// Fails where nothing can be drawn, or no key can come.
fn require_terminal() -> Result<(), Problem> {
    let why = if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        "standard input and output are not both one"
    } else if variable("TERM").is_none_or(|name| name == "dumb") {
        "TERM names one that can only write lines"
    } else {
        return Ok(());
    };
    Err(Problem::Usage(format!(
        "top needs a terminal, and {why}: `defender status --watch 1` and `defender stats --watch 1` work without"
    )))
}

/// Draws, waits, and takes in what comes.
fn show(
    screen: &mut Screen,
    mut top: Top,
    inputs: &Receiver<Input>,
    open: &Sender<Option<Endpoint>>,
) -> Result<End> {
    let mut changed = true;
    loop {
        if changed {
            screen.draw(&mut top)?;
            changed = false;
        }
        // A burst of keys is drawn once.
        let first = inputs.recv().ok();
        for input in first.into_iter().chain(inputs.try_iter()) {
            match take_in(screen, &mut top, input, open)? {
                Taken::Nothing => {}
                Taken::Changed => changed = true,
                Taken::End(end) => return Ok(end),
            }
        }
    }
}

/// What an input has led to.
enum Taken {
    Nothing,
    Changed,
    End(End),
}

fn take_in(
    screen: &mut Screen,
    top: &mut Top,
    input: Input,
    open: &Sender<Option<Endpoint>>,
) -> Result<Taken> {
    let changed = match input {
        Input::Reading(reading) => top.update(*reading),
        Input::Detail(endpoint, detail) => top.show_detail(endpoint, *detail),
        Input::Key(key) => match keys::press(top, key) {
            Outcome::Nothing => false,
            Outcome::Draw => true,
            Outcome::DrawAnew => screen.clear().map(|()| true)?,
            Outcome::Open(service) => {
                // The thread that reads it lives as long as this one.
                let _ = open.send(service);
                true
            }
            Outcome::Suspend => suspend(screen)?,
            Outcome::Quit => return Ok(Taken::End(End::Quit)),
        },
        Input::Signal(Signal::SIGCONT) => screen.enter_again().map(|()| true)?,
        Input::Signal(Signal::SIGWINCH) => true,
        Input::Signal(signal) => return Ok(Taken::End(End::Signal(signal))),
        Input::NoMoreKeys => return Ok(Taken::End(End::Quit)),
    };
    Ok(if changed { Taken::Changed } else { Taken::Nothing })
}

/// Gives the terminal back, stops until it is continued, and takes the terminal again.
fn suspend(screen: &mut Screen) -> Result<bool> {
    screen.leave();
    signals::stop()?;
    screen.enter_again()?;
    Ok(true)
}
