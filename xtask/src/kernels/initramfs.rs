//! The guest's file system: the testbed as process 1, the defender, the tools they run, and the kernel's
//! modules.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use defender_build::program;

use super::{cpio::Archive, output};

/// Programs that the testbed and the defender run. Their shared libraries come with them.
const TOOLS: [&str; 3] = ["ethtool", "ip", "nft"];

/// Where the testbed mounts or writes something.
const DIRECTORIES: [&str; 6] = ["dev", "etc", "proc", "run", "sys", "tmp"];

/// Writes the file system of a guest with these modules.
pub(crate) fn write(path: &Path, testbed: &Path, defender: &Path, modules: &[PathBuf]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    let mut programs =
        vec![("init".to_owned(), testbed.to_owned()), ("bin/defender".to_owned(), defender.to_owned())];
    for tool in TOOLS {
        programs.push((format!("bin/{tool}"), find(tool)?));
    }
    for library in libraries(programs.iter().map(|(_, program)| program.as_path()))? {
        archive.file(&library, &fs::read(&library)?)?;
    }
    for (name, program) in &programs {
        archive.file(name, &fs::read(program)?)?;
    }
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), &fs::read(module)?)?;
    }
    Ok(archive.finish()?)
}

/// Network tools are in directories that only root's PATH contains.
fn find(tool: &str) -> Result<PathBuf> {
    let in_sbin =
        || ["/usr/sbin", "/sbin"].iter().map(|path| Path::new(path).join(tool)).find(|path| path.exists());
    program::find(tool).or_else(in_sbin).with_context(|| format!("{tool} not found"))
}

/// The libraries that these programs load, and the loader, at the paths where the loader finds them.
fn libraries<'a>(programs: impl Iterator<Item = &'a Path>) -> Result<BTreeSet<String>> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        libraries.extend(paths(&output(Command::new("ldd").arg(program))?));
    }
    Ok(libraries)
}

/// The paths in the output of `ldd`.
fn paths(text: &str) -> Vec<String> {
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::paths;

    #[test]
    fn libraries_and_their_loader_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(paths(text), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
