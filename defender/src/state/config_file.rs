//! Reads the configuration file, and files of prefixes.

use std::path::{Path, PathBuf};

use crate::{
    files,
    model::{
        config_file::{self, ConfigFile},
        lists::file,
        prefix::Cidr,
    },
    problem::Problem,
};

/// The configuration file that is read where none is named, if it exists.
const USUAL: &str = "/etc/defender/config.toml";

/// The configuration file at its usual place, if it exists.
pub fn usual() -> Option<PathBuf> {
    let path = PathBuf::from(USUAL);
    path.exists().then_some(path)
}

/// Reads a configuration file, and the lists that it names. Errors name file, line and column.
pub fn read(path: &Path) -> Result<ConfigFile, Problem> {
    ConfigFile::parse(path, &files::read_named(path, config_file::MOST_BYTES)?, &read_list)
}

/// The same, without the prefixes of the lists that it names.
pub fn read_without_lists(path: &Path) -> Result<ConfigFile, Problem> {
    ConfigFile::parse(path, &files::read_named(path, config_file::MOST_BYTES)?, &|_| Ok(Vec::new()))
}

/// Reads a file of prefixes.
pub fn read_list(path: &Path) -> Result<Vec<Cidr>, Problem> {
    file::parse(path, &files::read_named(path, file::MOST_BYTES)?)
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::PathBuf, process};

    use super::*;

    /// A directory that goes when it is dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("defender-config-{name}-{}", process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn lists_are_read_from_beside_the_file() {
        let scratch = Scratch::new("lists");
        let path = scratch.0.join("config.toml");
        fs::write(&path, "allow = [\"192.0.2.1\"]\nallow_file = \"allow.txt\"\n").expect("a file");
        let list = scratch.0.join("allow.txt");
        fs::write(&list, "# all of them\n\n192.0.2.0/24 # ours\n  2001:db8::/32\r\n").expect("a file");
        assert_eq!(read(&path).expect("good").allow.len(), 3);
        fs::write(&list, "192.0.2.0/24\n # a comment\n  192.0.2.x\n").expect("a file");
        let error = read(&path).expect_err("a bad line").to_string();
        assert!(
            error.starts_with(&format!("{}:3:3: ", list.display())) && !error.contains("192.0.2.x"),
            "{error}"
        );
    }
}
