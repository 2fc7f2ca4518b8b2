//! Writes the generated pages: `cargo xtask docs`.

use std::fs;

use anyhow::{Context as _, Result};
use defender_docs::{BY_HAND, DIRECTORIES, pages, workspace};

fn main() -> Result<()> {
    let pages = pages()?;
    for directory in DIRECTORIES {
        let directory = workspace().join(directory);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let kept = BY_HAND.iter().any(|name| path == workspace().join(name))
                || pages.iter().any(|page| path == workspace().join(&page.path));
            if !kept {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
    }
    for page in &pages {
        let path = workspace().join(&page.path);
        fs::write(&path, &page.text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
