//! `defender-testbed first-use`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::first_use::{self, Container};

/// Installs the .deb in a container, as a new user does, floods it, looks at what a user sees of that, and purges it.
#[derive(Debug, Args)]
pub(crate) struct FirstUse {
    /// First process of the container, seen from here
    #[arg(long, value_name = "PID")]
    container: u32,
    /// Root directory of the container, seen from here
    #[arg(long, value_name = "DIRECTORY")]
    root: PathBuf,
    /// Path of the .deb, seen from the container
    #[arg(long, value_name = "PATH")]
    package: String,
}

impl FirstUse {
    /// Stops at the first thing that a user would not have expected.
    pub(crate) fn run(self) -> Result<()> {
        first_use::run(&Container::new(self.container, self.root), &self.package)
    }
}
