//! `defender-testbed recording`.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::recording::{self, Plan};

/// Records `defender top` while a flood comes and goes, as a picture that moves.
#[derive(Debug, Args)]
pub(crate) struct Recording {
    /// Path of the defender
    #[arg(long, value_name = "PATH")]
    defender: PathBuf,
    /// Where to write the picture
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// SYNs per second of the flood
    #[arg(long, default_value_t = 20_000, value_name = "SYN/S")]
    rate: u64,
}

impl Recording {
    /// Records and writes the picture.
    pub(crate) fn run(self) -> Result<()> {
        ensure!((1..=1_000_000).contains(&self.rate), "--rate is between 1 and 1000000");
        let svg = recording::run(&Plan { defender: self.defender, rate: self.rate })?;
        fs::write(&self.to, &svg).with_context(|| format!("cannot write {}", self.to.display()))?;
        println!("wrote {} ({} bytes)", self.to.display(), svg.len());
        Ok(())
    }
}
