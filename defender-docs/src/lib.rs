//! The reference pages, the man pages and the configuration file of packages, generated from the code that they describe.
//!
//! Each page is made of the tables that the program itself uses: clap's commands, the settings, the reasons, the counters, the
//! profiles. The JSON pages come from the structs that are serialized: names, types and doc comments are read from the source.
//! `cargo xtask docs` writes the pages; a test fails while they are not current.

mod cli;
mod config_file;
mod counters;
mod json;
mod markdown;
mod metrics;
mod options;
mod schema;
mod settings;
mod verdicts;

use std::path::{Path, PathBuf};

use anyhow::Result;

/// A generated file.
#[derive(Debug)]
pub struct Page {
    /// Where it belongs, below the workspace.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
}

/// Directories that hold generated files.
pub const DIRECTORIES: [&str; 2] = ["docs/reference", "docs/man"];

/// Files in these directories that people write.
pub const BY_HAND: [&str; 1] = ["docs/reference/kernels.md"];

/// Every generated file.
pub fn pages() -> Result<Vec<Page>> {
    let reference = [
        ("cli", cli::page()),
        ("settings", settings::page()),
        ("verdicts", verdicts::page()),
        ("counters", counters::page()),
        ("metrics", metrics::page()),
        ("json", json::page()?),
        ("events", json::events()?),
        ("options-kept", options::page()),
    ];
    let mut pages: Vec<_> = reference
        .into_iter()
        .map(|(name, text)| Page { path: format!("docs/reference/{name}.md").into(), text })
        .collect();
    pages.push(Page { path: "packaging/config.toml".into(), text: config_file::page() });
    pages.extend(cli::man()?);
    Ok(pages)
}

/// The workspace's directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}
