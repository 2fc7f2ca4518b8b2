//! `defender-testbed checks` and `defender-testbed guest`.

use std::{io, path::PathBuf};

use anyhow::{Result, ensure};
use clap::Args;

use crate::checks::{self, CheckMachine};

/// Checks that everything in the defender that depends on the kernel works on the running one.
#[derive(Debug, Args)]
pub(crate) struct Checks {
    /// Path of the defender
    #[arg(long, value_name = "PATH")]
    defender: PathBuf,
    #[command(flatten)]
    which: Which,
}

/// Runs the same checks as process 1 of a virtual machine: sets up the system first, and powers it off afterwards.
#[derive(Debug, Args)]
pub(crate) struct Guest {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// Only these checks
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    check: Vec<String>,
}

impl Checks {
    /// Prints a line for each check.
    pub(crate) fn run(self) -> Result<()> {
        let machine = CheckMachine { defender: self.defender, may_take_devices: false };
        let failed = checks::run(&machine, &self.which.check, &mut io::stdout())?;
        ensure!(failed == 0, "{failed} checks failed");
        Ok(())
    }
}

impl Guest {
    /// Never returns where it may do what it is for.
    pub(crate) fn run(self) -> Result<()> {
        checks::guest::run(&self.which.check)
    }
}
