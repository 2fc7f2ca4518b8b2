//! `doctor`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::DoctorArguments;
use crate::{
    dataplane::{features, pins::PinRoot},
    doctor::{self, Options},
    problem,
};

pub(super) fn doctor(root: &PinRoot, arguments: &DoctorArguments) -> Result<ExitCode> {
    let options =
        Options { interfaces: arguments.iface.clone(), ports: arguments.port.iter().copied().collect() };
    let report = doctor::run(&options, &features::survey(root))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).context("cannot write JSON")?);
    } else {
        println!("{report}");
    }
    Ok(if report.failed() { ExitCode::from(problem::FAILED) } else { ExitCode::SUCCESS })
}
