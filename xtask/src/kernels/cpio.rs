//! Archives in the kernel's initramfs format: cpio, "newc" (Documentation/driver-api/early-userspace/
//! buffer-format.rst).

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::Path,
};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive in progress.
pub(crate) struct Archive<W> {
    out: W,
    entries: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0, directories: BTreeSet::new() }
    }

    /// Adds an empty directory, and its parents.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str)
            && !parent.is_empty()
        {
            self.directory(parent)?;
        }
        if self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, b"")?;
        }
        Ok(())
    }

    /// Adds an executable file, and its parent directories.
    pub(crate) fn file(&mut self, path: &str, contents: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.entry(path, PROGRAM, contents)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, b"")?;
        self.out.flush()
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(contents.len()).map_err(io::Error::other)?;
        // Inode, mode, owner, group, links, time, size, device and device of the file (two numbers each),
        // length of the name including the final zero, and an unused checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0]
            .map(|n| format!("{n:08x}"));
        let header = format!("070701{}{name}\0", fields.concat());
        self.padded(header.as_bytes())?;
        self.padded(contents)
    }

    /// Everything begins at a multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.write_all(&[0; 3][..bytes.len().next_multiple_of(4) - bytes.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn a_file_lies_in_its_directories() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file("/a/b/c", b"hello").unwrap();
        archive.file("a/d", b"").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let names: Vec<_> =
            text.split("070701").skip(1).map(|entry| entry[104..].split('\0').next().unwrap()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/d", "TRAILER!!!"]);
        // The name ends at a multiple of four without padding. The contents are padded.
        assert!(text.contains("a/b/c\0hello\0\0\x00070701"), "{text:?}");
    }
}
