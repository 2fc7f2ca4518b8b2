//! `cargo xtask kernels`: boots kernels from Debian's archive in software emulation, and checks the
//! defender on each.

pub(crate) mod archive;
mod cpio;
mod guest;
mod initramfs;
mod qemu;
mod rows;
mod table;
mod unpack;
mod verdict;
mod version;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use self::{
    archive::{DebianKernel, Mirrors, Suite},
    guest::Guest,
    qemu::Qemu,
    rows::{ExpectedResult, KernelRow, ROWS},
    table::{KernelTable, Tried},
    unpack::Unpacked,
    verdict::GuestReport,
};
use crate::{build, cargo, setup};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only these kernels: names from `--list`, `oldest`, `newest`.
    #[arg(long, value_delimiter = ',', value_name = "KERNEL")]
    only: Vec<String>,
    /// Only these checks: columns of the table.
    #[arg(long, value_delimiter = ',', value_name = "CHECK")]
    check: Vec<String>,
    /// List the kernels, and check none.
    #[arg(long)]
    list: bool,
}

/// Checks the kernels and prints the table.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::kernel_programs()?;
    let cache = cargo::target_directory()?.join("kernels");
    let available = Available::open(&cache, &arguments.only)?;
    if arguments.list {
        for (row, kernel) in &available.kernels {
            println!("{:20} {}", row.name, kernel.version);
        }
        return Ok(ExitCode::SUCCESS);
    }
    setup::compiler()?;
    build::packages(&["defender", "defender-testbed"], true)?;
    let qemu = Qemu::find(&cache)?;
    let logs = cache.join("logs");
    fs::create_dir_all(&logs)?;
    let mut tried = Vec::new();
    let chosen = rows::select(&available.kernels, &arguments.only)?;
    let bar = bar(chosen.len());
    for (row, kernel) in chosen {
        bar.set_message(row.name);
        let report = available.boot(&qemu, row, kernel, &logs, &arguments.check, &bar);
        let report = report.unwrap_or_else(|error| GuestReport::failed(&format!("{error:#}")));
        tried.push(Tried { name: row.name, release: kernel.version.to_string(), report });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(conclude(&tried, &logs))
}

fn conclude(tried: &[Tried], logs: &Path) -> ExitCode {
    println!("\n{}", KernelTable(tried));
    let mut code = ExitCode::SUCCESS;
    for Tried { name, report, .. } in tried {
        for (check, why) in report.failures() {
            println!("{name}: {check}: {why}");
            code = ExitCode::FAILURE;
        }
    }
    if code != ExitCode::SUCCESS {
        println!("logs of the guests: {}", logs.display());
    }
    code
}

/// The kernels available now.
struct Available {
    cache: PathBuf,
    suites: BTreeMap<&'static str, Suite>,
    kernels: Vec<(&'static KernelRow, DebianKernel)>,
}

impl Available {
    /// Looks up the kernels of all rows, or of those named.
    fn open(cache: &Path, only: &[String]) -> Result<Self> {
        let mirrors = Mirrors::find()?;
        let by_name = !only.is_empty() && only.iter().all(|name| ROWS.iter().any(|row| row.name == name));
        let mut available = Self { cache: cache.to_owned(), suites: BTreeMap::new(), kernels: Vec::new() };
        for row in ROWS.iter().filter(|row| !by_name || only.iter().any(|name| name == row.name)) {
            if !available.suites.contains_key(row.suite) {
                available.suites.insert(row.suite, Suite::open(cache, &mirrors, row.suite)?);
            }
            let kernel = available.suites[row.suite].newest(row.series)?;
            available.kernels.push((row, kernel));
        }
        Ok(available)
    }

    /// Boots the kernel of a row and runs the checks on it.
    fn boot(
        &self,
        qemu: &Qemu,
        row: &KernelRow,
        kernel: &DebianKernel,
        logs: &Path,
        checks: &[String],
        bar: &ProgressBar,
    ) -> Result<GuestReport> {
        let unpacked = Unpacked::new(&self.cache, &self.suites[row.suite], kernel)?;
        let initramfs = self.cache.join("initramfs");
        let [testbed, defender] = [cargo::built("defender-testbed", true)?, cargo::built("defender", true)?];
        initramfs::write(&initramfs, &testbed, &defender, &unpacked.modules()?)?;
        let mut arguments: Vec<_> =
            checks.iter().flat_map(|check| ["--check".to_owned(), check.clone()]).collect();
        if row.expected == ExpectedResult::Refused {
            arguments = vec!["--check".to_owned(), "refused".to_owned()];
        }
        bar.suspend(|| println!("{}: {}", row.name, kernel.version));
        let guest = Guest {
            qemu,
            kernel: unpacked.kernel(),
            initramfs,
            arguments,
            log: logs.join(format!("{}.log", row.name)),
        };
        guest.run(|line| bar.suspend(|| println!("  {line}")))
    }
}

/// How many kernels are done, on a terminal.
fn bar(kernels: usize) -> ProgressBar {
    const TEMPLATE: &str = "{spinner} kernels [{bar:30}] {pos}/{len}, {elapsed} so far: {msg}";
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(kernels as u64).with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A program's output, if it succeeds.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {}", complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
