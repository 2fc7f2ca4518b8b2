//! `cargo xtask test`

mod tally;

use std::{
    fs,
    io::{self, IsTerminal as _, PipeReader, Read as _, Write as _},
    process::{Command, ExitCode},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use self::tally::Tally;
use crate::{
    cargo::{cargo, workspace},
    cleanup::Guard,
    privilege, process, setup,
};

/// How long nothing is heard before it is looked whether the tests are still running.
const SILENCE: Duration = Duration::from_millis(100);

/// Builds and runs all tests of the crates that run on the host, or those whose name contains `filter`.
pub(crate) fn run(filter: Option<&str>) -> Result<ExitCode> {
    setup::compiler()?;
    setup::test_programs()?;
    process::must(cargo("test").arg("--no-run"))?;

    let guard = Guard::new()?;
    let mut tally = Tally::default();
    for command in passes(filter)? {
        run_pass(command, &mut tally)?;
    }
    drop(guard);

    println!("\n{tally}");
    Ok(if tally.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Unit tests run side by side; integration tests load programs and share the machine, so they take turns.
fn passes(filter: Option<&str>) -> Result<Vec<Command>> {
    let mut units = cargo("test");
    units.args(["--no-fail-fast", "--lib", "--bins"]).args(filter);
    let mut docs = cargo("test");
    docs.args(["--no-fail-fast", "--doc"]).args(filter);
    let mut passes = vec![units, docs];
    if has_integration_tests() {
        let mut integration = cargo("test");
        integration.args(["--no-fail-fast", "--test", "*"]).args(runner()?).args(filter);
        integration.args(["--", "--test-threads=1"]);
        passes.push(integration);
    }
    Ok(passes)
}

/// Cargo takes a pattern that fits no test for a mistake.
fn has_integration_tests() -> bool {
    let Ok(packages) = fs::read_dir(workspace()) else { return false };
    let directories = packages.filter_map(|package| fs::read_dir(package.ok()?.path().join("tests")).ok());
    directories
        .flatten()
        .flatten()
        .any(|file| file.path().extension().is_some_and(|extension| extension == "rs"))
}

/// Has Cargo start the tests as root; what it builds stays the user's.
fn runner() -> Result<Vec<String>> {
    let prefix = privilege::prefix()?;
    if prefix.is_empty() {
        return Ok(Vec::new());
    }
    let words: Vec<_> = prefix.iter().map(|word| format!("{word:?}")).collect();
    Ok(vec!["--config".to_owned(), format!("target.'cfg(unix)'.runner = [{}]", words.join(", "))])
}

/// Runs one of the passes, shows all it prints as it comes, and counts.
fn run_pass(mut command: Command, tally: &mut Tally) -> Result<()> {
    // One pipe for both, or the results would get ahead of the names of the programs they belong to.
    let (output, input) = io::pipe()?;
    command.stdout(input.try_clone()?).stderr(input);
    if io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command.spawn().context("cannot run cargo test")?;
    // The pipe ends when nobody holds its other end, and the command does.
    drop(command);

    let chunks = read_aside(output);
    loop {
        match chunks.recv_timeout(SILENCE) {
            Ok(chunk) => {
                io::stdout().write_all(&chunk)?;
                io::stdout().flush()?;
                tally.read(&chunk);
            }
            // A server that a test left running holds the pipe open; it is not waited for.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    tally.end_of_pass(child.wait()?.success());
    Ok(())
}

/// Reads in a thread, so that whoever takes the chunks need not wait for the end.
fn read_aside(mut output: PipeReader) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut chunk) {
            if sender.send(chunk[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}
