//! `cargo xtask test`: runs all tests, in two lanes side by side.

mod counts;

use std::{
    fs,
    io::{self, IsTerminal as _, PipeReader, Read as _, Write as _},
    path::PathBuf,
    process::{Command, ExitCode},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use self::counts::TestCounts;
use crate::{
    cargo::{cargo, workspace},
    cleanup::CleanupGuard,
    privilege, process, setup,
};

/// How long the tests may be silent before checking that they still run.
const SILENCE: Duration = Duration::from_millis(100);

/// The test program with one module per theme.
const END_TO_END: &str = "e2e";

/// Test programs and end-to-end modules that keep a processor busy for seconds, or measure time. Two of them never run at
/// once. They take about as long as all others.
const BUSY: [&str; 6] = ["auto", "bed", "datapath", "regressions", "round_trip", "states"];

/// Commands that run one after the other.
type Lane = Vec<Command>;

/// Builds and runs all tests of the crates that run on the host, or those whose name contains `filter`.
pub(crate) fn run(filter: Option<&str>) -> Result<ExitCode> {
    setup::compiler()?;
    setup::test_programs()?;
    process::must(cargo("test").arg("--no-run"))?;

    let guard = CleanupGuard::new()?;
    let mut counts = run_lane(units(filter).into(), show)?;
    for lane in run_lanes(lanes(filter)?)? {
        counts.add(lane);
    }
    drop(guard);

    println!("\n{counts}");
    Ok(if counts.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Unit tests and those in the documentation: all in parallel.
fn units(filter: Option<&str>) -> [Command; 2] {
    [&["--lib", "--bins"][..], &["--doc"]].map(|which| {
        let mut command = cargo("test");
        command.arg("--no-fail-fast").args(which).args(filter);
        command
    })
}

/// Integration tests load programs, send floods, and mostly wait. The busy ones run one by one in the first lane, all others
/// in the second.
fn lanes(filter: Option<&str>) -> Result<Vec<Lane>> {
    let (busy, others) = partition(programs());
    let (busy_tests, other_tests) = partition(end_to_end_tests(filter)?);
    let runner = runner()?;
    let lanes = [(busy, busy_tests), (others, other_tests)];
    Ok(lanes.map(|(programs, tests)| lane(&programs, &tests, filter, &runner)).into())
}

/// Splits programs, or tests by their module, into the busy ones and all others.
fn partition(names: Vec<String>) -> (Vec<String>, Vec<String>) {
    names.into_iter().partition(|name| BUSY.iter().any(|busy| name.split("::").next() == Some(busy)))
}

/// The programs' tests that match the filter, then these end-to-end tests.
fn lane(programs: &[String], tests: &[String], filter: Option<&str>, runner: &[String]) -> Lane {
    let mut lane = Lane::new();
    if !programs.is_empty() {
        lane.push(one_by_one(programs, runner, filter));
    }
    if !tests.is_empty() {
        // libtest cannot combine a module with a filter, so each test is named.
        let words = ["--exact"].into_iter().chain(tests.iter().map(String::as_str));
        lane.push(one_by_one(&[END_TO_END.to_owned()], runner, words));
    }
    lane
}

/// Runs test programs with these arguments, one test at a time.
fn one_by_one<'a>(
    programs: &[String],
    runner: &[String],
    words: impl IntoIterator<Item = &'a str>,
) -> Command {
    let mut command = cargo("test");
    command.arg("--no-fail-fast").args(runner);
    for program in programs {
        command.args(["--test", program]);
    }
    command.args(["--", "--test-threads=1"]).args(words);
    command
}

/// The names of the end-to-end tests that contain the filter.
fn end_to_end_tests(filter: Option<&str>) -> Result<Vec<String>> {
    let mut command = cargo("test");
    command.args(["--quiet", "--test", END_TO_END, "--", "--list", "--format=terse"]).args(filter);
    let output = command.output().context("cannot run cargo test")?;
    ensure!(
        output.status.success(),
        "cannot list the end-to-end tests: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(test_names(&String::from_utf8_lossy(&output.stdout)))
}

/// The names in a list of lines like "module::name: test".
fn test_names(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// The names of all test programs of the workspace but the end-to-end tests: files of `tests`, and directories with a
/// `main.rs`.
fn programs() -> Vec<String> {
    let Ok(packages) = fs::read_dir(workspace()) else { return Vec::new() };
    let directories = packages.filter_map(|package| fs::read_dir(package.ok()?.path().join("tests")).ok());
    let paths = directories.flatten().flatten().map(|entry| entry.path());
    let is_test = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists()
    };
    let names = paths.filter(is_test).filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<_> = names.filter(|name| name != END_TO_END).collect();
    names.sort_unstable();
    names
}

/// Runs each lane in its own thread. The first one prints at once; the output of the others follows when it is done.
fn run_lanes(lanes: Vec<Lane>) -> Result<Vec<TestCounts>> {
    thread::scope(|scope| {
        let mut lanes = lanes.into_iter();
        let first = lanes.next().map(|lane| scope.spawn(|| run_lane(lane, show)));
        let others: Vec<_> = lanes.map(|lane| scope.spawn(|| run_lane_quietly(lane))).collect();
        let mut all_counts = Vec::new();
        all_counts.extend(first.map(join).transpose()?);
        for other in others {
            let (counts, text) = join(other)?;
            show(&text)?;
            all_counts.push(counts);
        }
        Ok(all_counts)
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run_lane_quietly(lane: Lane) -> Result<(TestCounts, Vec<u8>)> {
    let mut text = Vec::new();
    let counts = run_lane(lane, |chunk| {
        text.extend_from_slice(chunk);
        Ok(())
    })?;
    Ok((counts, text))
}

fn run_lane(lane: Lane, mut pass_on: impl FnMut(&[u8]) -> Result<()>) -> Result<TestCounts> {
    let mut counts = TestCounts::default();
    for command in lane {
        counts.add(run_pass(command, &mut pass_on)?);
    }
    Ok(counts)
}

/// Makes Cargo run the tests as root; what it builds stays the user's.
fn runner() -> Result<Vec<String>> {
    let prefix = privilege::prefix()?;
    if prefix.is_empty() {
        return Ok(Vec::new());
    }
    let words: Vec<_> = prefix.iter().map(|word| format!("{word:?}")).collect();
    Ok(vec!["--config".to_owned(), format!("target.'cfg(unix)'.runner = [{}]", words.join(", "))])
}

fn show(chunk: &[u8]) -> Result<()> {
    io::stdout().write_all(chunk)?;
    io::stdout().flush()?;
    Ok(())
}

/// Runs a command, passes its output on as it arrives, and counts results.
fn run_pass(mut command: Command, mut pass_on: impl FnMut(&[u8]) -> Result<()>) -> Result<TestCounts> {
    let mut counts = TestCounts::default();
    // One pipe for both: otherwise results could overtake the names of their programs.
    let (output, input) = io::pipe()?;
    command.stdout(input.try_clone()?).stderr(input);
    if io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command.spawn().context("cannot run cargo test")?;
    // The pipe ends when its last writer is gone, and the command holds one.
    drop(command);

    let chunks = read_aside(output);
    loop {
        match chunks.recv_timeout(SILENCE) {
            Ok(chunk) => {
                pass_on(&chunk)?;
                counts.read(&chunk);
            }
            // A server that a test left behind may hold the pipe open: do not wait for it.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    counts.end_of_pass(child.wait()?.success());
    Ok(counts)
}

/// Reads in a thread, so that the receiver can time out.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_list() {
        assert_eq!(test_names("auto::floods::a: test\nlists::b: test\n\n"), ["auto::floods::a", "lists::b"]);
    }

    #[test]
    fn the_first_module_decides_on_the_lane() {
        let names =
            ["auto::floods::a", "operator::auto::b", "datapath", "states_of_things"].map(str::to_owned);
        let (busy, others) = partition(names.into());
        assert_eq!(busy, ["auto::floods::a", "datapath"]);
        assert_eq!(others, ["operator::auto::b", "states_of_things"]);
    }

    /// Renaming a theme must not move it to another lane unnoticed.
    #[test]
    fn everything_busy_exists() {
        let programs = programs();
        let modules = workspace().join("defender/tests").join(END_TO_END);
        for name in BUSY {
            let module = [modules.join(name).join("mod.rs"), modules.join(format!("{name}.rs"))];
            assert!(
                programs.iter().any(|it| it == name) || module.iter().any(|path| path.exists()),
                "{name}"
            );
        }
    }
}
