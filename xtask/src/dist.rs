//! `cargo xtask dist`: builds what is released, into `target/dist`.

mod architecture;
mod binary;
mod chart;
mod check;
mod checksums;
mod image;
mod licences;
mod packages;
mod release;
mod sbom;
mod shared_files;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Args;

use self::{architecture::Architecture, release::Release};
use crate::setup;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only these architectures.
    #[arg(long = "arch", value_enum, value_delimiter = ',', value_name = "ARCH", default_values_t = Architecture::ALL)]
    architectures: Vec<Architecture>,
    /// Then check the files: lint them, and install, upgrade and remove the packages in a Debian of its own.
    #[arg(long)]
    check: bool,
    /// Check the files of an earlier run and build none.
    #[arg(long, requires = "check")]
    no_build: bool,
}

/// Builds the files, and checks them if asked to.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::compiler()?;
    setup::distribution(&arguments.architectures.iter().map(|it| it.target()).collect::<Vec<_>>())?;
    if arguments.check {
        setup::distribution_checks()?;
    }
    let release = Release::new()?;
    if !arguments.no_build {
        release.clear()?;
        build(&release, &arguments.architectures)?;
    }
    if arguments.check {
        check::all(&release, &arguments.architectures)?;
    }
    println!("{}", release.directory().display());
    Ok(ExitCode::SUCCESS)
}

fn build(release: &Release, architectures: &[Architecture]) -> Result<()> {
    for architecture in architectures {
        step(&format!("binary for {architecture}"), || binary::build(release, *architecture))?;
    }
    step("man pages, completions, licences", || shared_files::write(release))?;
    for architecture in architectures {
        step(&format!("packages for {architecture}"), || packages::build(release, *architecture))?;
        step(&format!("image for {architecture}"), || image::build(release, *architecture))?;
    }
    step("chart", || chart::build(release))?;
    step("list of components", || sbom::write(release))?;
    step("checksums", || checksums::write(release))
}

/// Runs a step and prints what it was and how long it took.
fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    work()?;
    println!("dist: {name}: {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}
