//! Careful reading and writing of files.
//!
//! Our own files and directories are private: no other user can write, read or lock them. Damaged or
//! unexpected entries are set aside. Files named by a user may be anything, so only regular files of
//! bounded size are read.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::unistd::geteuid;

use crate::problem::Problem;

/// Mode of a private directory: access for the owner only.
const DIRECTORY: u32 = 0o700;
/// Mode of a directory that other users may traverse to reach theirs.
const PASSAGE: u32 = 0o711;
/// Mode of a private file.
const FILE: u32 = 0o600;
/// Mode bits that let other users change an entry.
const OTHERS_WRITE: u32 = 0o022;
/// Everybody may add files to such a directory, but remove only their own.
const STICKY: u32 = 0o1000;
/// Opening must neither follow a link nor wait for the other end of a FIFO.
const CAREFULLY: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;
/// Size limit of our own files, in bytes, but for those that grow with the lists.
const LARGEST: u64 = 64 << 20;

/// Creates a private directory. Returns whether it was missing.
pub fn create_directory(path: &Path) -> Result<bool> {
    let missing = !path.is_dir();
    if missing && path.symlink_metadata().is_ok() {
        set_aside(path, "no directory")?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY)
        .create(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    require_private_directory(path)?;
    Ok(missing)
}

/// Creates a directory shared by all pin roots, some of which may belong to another user.
pub fn create_passage(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        let make = DirBuilder::new().recursive(true).mode(PASSAGE).create(path);
        make.and_then(|()| fs::set_permissions(path, Permissions::from_mode(PASSAGE)))
            .with_context(|| format!("cannot create {}", path.display()))?;
    }
    require_trusted_directory(path).map(drop)
}

/// Fails if other users own a directory or can add files to it. Removes their other permissions.
pub fn require_private_directory(path: &Path) -> Result<()> {
    let directory = require_trusted_directory(path)?;
    if directory.mode() & OTHERS_WRITE != 0 {
        return Err(unsafe_to_use(path, "other users can write to it", "chmod 700").into());
    }
    if directory.mode() & 0o777 != DIRECTORY && may_change(&directory) {
        fs::set_permissions(path, Permissions::from_mode(DIRECTORY))
            .with_context(|| format!("cannot make {} private: `chmod 700` it", path.display()))?;
    }
    Ok(())
}

/// Fails if other users can replace a directory's entries. They may read it, and add to it if it is sticky.
pub fn require_trusted_directory(path: &Path) -> Result<Metadata> {
    let directory = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    if !is_ours(&directory) {
        let owner = format!("it belongs to uid {}", directory.uid());
        return Err(unsafe_to_use(path, &owner, "chown 0").into());
    }
    if directory.mode() & OTHERS_WRITE != 0 && directory.mode() & STICKY == 0 {
        return Err(unsafe_to_use(path, "other users can write to it", "chmod go-w").into());
    }
    Ok(directory)
}

/// Fails if a file in a directory belongs to another user.
pub fn require_own_files(directory: &Path) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", directory.display()))?.path();
        match path.symlink_metadata() {
            Ok(file) if !is_ours(&file) => {
                let owner = format!("it belongs to uid {}", file.uid());
                return Err(unsafe_to_use(&path, &owner, "rm").into());
            }
            // It may have been removed meanwhile.
            _ => {}
        }
    }
    Ok(())
}

fn unsafe_to_use(path: &Path, why: &str, command: &str) -> Problem {
    Problem::Unsafe(format!(
        "{} is not safe to use: {why}, and could put files there. Check what is in it, then \
         `{command} {}`",
        path.display(),
        path.display()
    ))
}

fn is_ours(file: &Metadata) -> bool {
    file.uid() == 0 || file.uid() == geteuid().as_raw()
}

fn may_change(file: &Metadata) -> bool {
    geteuid().is_root() || file.uid() == geteuid().as_raw()
}

/// Reads a file that this program wrote. `None` if it does not exist. Sets a damaged file aside, with a
/// warning.
pub fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>> {
    read_up_to(path, LARGEST, parse)
}

/// The same, of at most `most` bytes.
pub fn read_up_to<T>(
    path: &Path,
    most: u64,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>> {
    read_stream(path, most, |file| {
        // What has grown meanwhile.
        let Some(bytes) = read_at_most(file, most)? else { return Ok(Err(too_large(most))) };
        Ok(match String::from_utf8(bytes) {
            Ok(text) if text.trim().is_empty() => Err("empty file".to_owned()),
            Ok(text) => parse(&text),
            Err(_) => Err("not UTF-8 text".to_owned()),
        })
    })
}

/// The same for what reads the file itself, and says if that is damaged.
pub fn read_stream<T>(
    path: &Path,
    most: u64,
    parse: impl FnOnce(&File) -> io::Result<Result<T, String>>,
) -> Result<Option<T>> {
    let read = || match open_regular(path, OpenOptions::new().read(true)) {
        Ok(file) if file.metadata()?.len() > most => Ok(Some(Err(too_large(most)))),
        Ok(file) => parse(&file).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if is_no_file(&error) => Ok(Some(Err("not a regular file".to_owned()))),
        Err(error) => Err(error),
    };
    match read().with_context(|| format!("cannot read {}", path.display()))? {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(damage)) => {
            set_aside(path, &damage)?;
            Ok(None)
        }
    }
}

fn too_large(most: u64) -> String {
    format!("larger than {} MiB", most >> 20)
}

/// The whole of it, or `None` if it exceeds `most` bytes.
fn read_at_most(source: impl Read, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    source.take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// Reads a text file named by a user, of at most `most` bytes. It may belong to anyone and be anything, so
/// only a regular file is read.
pub fn read_named(path: &Path, most: u64) -> Result<String, Problem> {
    let name = path.display();
    let file = open_named(path)
        .map_err(|error| cannot_read(&name, &error))?
        .ok_or_else(|| cannot_read(&name, &"not a regular file"))?;
    read_text(&name, &file, most)
}

/// Reads a text of at most `most` bytes from anything; messages call it `name`.
pub fn read_text(name: &dyn Display, source: impl Read, most: u64) -> Result<String, Problem> {
    let cannot = |why: &dyn Display| cannot_read(name, why);
    let bytes = read_at_most(source, most).map_err(|error| cannot(&error))?;
    let bytes = bytes.ok_or_else(|| cannot(&format!("larger than {most} bytes")))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        cannot(&format!("line {line} is not UTF-8"))
    })
}

fn cannot_read(name: &dyn Display, why: &dyn Display) -> Problem {
    Problem::Configuration(format!("cannot read {name}: {why}"))
}

/// `None` if it is not a regular file.
fn open_named(path: &Path) -> io::Result<Option<File>> {
    // Checked before opening: opening has side effects on some devices.
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    // It may have been replaced since, and must not block us or become our terminal.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Opens one of our files if it is a regular file. Otherwise the error satisfies [`is_no_file`].
fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.mode(FILE).custom_flags(CAREFULLY).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || !is_ours(&found) {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    Ok(file)
}

/// Errors from opening something other than a regular file: a link, a directory, a FIFO, a socket.
fn is_no_file(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EISDIR | libc::ENXIO))
}

/// Opens a private regular file for writing, as `options` say. Sets aside anything else in its place.
pub fn open_to_write(path: &Path, options: &mut OpenOptions) -> Result<File> {
    let file = match open_regular(path, options) {
        Err(error) if is_no_file(&error) => {
            set_aside(path, "not a regular file")?;
            open_regular(path, options)
        }
        opened => opened,
    };
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    let found = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
    if found.mode() & 0o777 != FILE && may_change(&found) {
        file.set_permissions(Permissions::from_mode(FILE))
            .with_context(|| format!("cannot make {} private: `chmod 600` it", path.display()))?;
    }
    Ok(file)
}

/// Opens a regular file for reading. `None` if it does not exist or is not one.
pub fn open_to_read(path: &Path) -> Result<Option<File>> {
    match open_regular(path, OpenOptions::new().read(true)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound || is_no_file(&error) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file atomically: readers see the old or the new content, even after a power failure.
pub fn write(path: &Path, text: &str) -> Result<()> {
    write_stream(path, |mut file| file.write_all(text.as_bytes()))
}

/// The same for what writes the file itself.
pub fn write_stream(path: &Path, fill: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
    let temporary = path.with_extension("new");
    let file = open_to_write(&temporary, OpenOptions::new().write(true).create(true).truncate(true))?;
    make_way(path)?;
    fill(&file)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a file of ours, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// Sets aside a directory that is in a file's place.
pub fn make_way(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok_and(|there| there.is_dir()) {
        set_aside(path, "a directory")?;
    }
    Ok(())
}

/// Moves a damaged entry away, so that it can be inspected, and logs a warning.
fn set_aside(path: &Path, damage: &str) -> Result<()> {
    let aside = aside(path);
    // An earlier one is no longer of interest, and a file cannot replace a directory.
    if aside.is_dir() && !aside.is_symlink() {
        let _ = fs::remove_dir_all(&aside);
    } else {
        let _ = fs::remove_file(&aside);
    }
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        renamed => renamed.with_context(|| {
            format!(
                "{} is damaged ({damage}) and cannot be moved away; remove \
         it",
                path.display()
            )
        })?,
    }
    log::warn!("{} is damaged ({damage}); moved to {}, starting without it", path.display(), aside.display());
    Ok(())
}

/// Where a damaged entry is moved.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".damaged");
    path.with_file_name(name)
}

/// The last error of each operation, so that only changes are logged.
#[derive(Debug, Default)]
pub struct Complaints(BTreeMap<&'static str, String>);

impl Complaints {
    /// Logs an error unless it is the same as last time.
    pub fn heard<T>(&mut self, tried: &'static str, result: Result<T>) -> Option<T> {
        let Err(error) = &result else {
            self.0.remove(tried);
            return result.ok();
        };
        let text = format!("{error:#}");
        if self.0.get(tried) != Some(&text) {
            log::warn!("{text}; the defence goes on");
            self.0.insert(tried, text);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{env, os::unix::fs::symlink, process};

    use nix::{
        sys::stat::{Mode, umask},
        unistd::{Gid, Uid, chown, mkfifo},
    };

    use super::*;

    /// A directory that is removed on drop.
    struct Scene(PathBuf);

    impl Scene {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("defender-files-{}-{name}", process::id()));
            let _ = fs::remove_dir_all(&path);
            create_directory(&path).expect("a directory");
            Self(path)
        }

        fn mode(&self, name: &str) -> u32 {
            self.0.join(name).symlink_metadata().expect("it is there").mode() & 0o777
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn number(text: &str) -> Result<u32, String> {
        text.trim().parse().map_err(|_| "no number".to_owned())
    }

    #[test]
    fn damaged_files_are_set_aside_and_written_again() {
        let scene = Scene::new("damaged");
        let path = scene.0.join("x.json");
        let damages: [(&str, &dyn Fn()); 9] = [
            ("empty", &|| fs::write(&path, "").expect("written")),
            ("blank", &|| fs::write(&path, "\n").expect("written")),
            ("garbage", &|| fs::write(&path, "{").expect("written")),
            ("no text", &|| fs::write(&path, [0xff, 0xfe]).expect("written")),
            ("a directory", &|| fs::create_dir_all(path.join("within")).expect("made")),
            ("a link", &|| symlink("/etc/hostname", &path).expect("made")),
            ("a FIFO", &|| mkfifo(&path, Mode::S_IRUSR).expect("made")),
            ("huge", &|| File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("made")),
            ("foreign", &|| {
                fs::write(&path, "4").expect("written");
                chown(&path, Some(Uid::from_raw(4711)), None::<Gid>).expect("needs root");
            }),
        ];
        for (name, damage) in damages {
            damage();
            assert_eq!(read(&path, number).expect(name), None, "{name}");
            assert!(!path.exists() && aside(&path).symlink_metadata().is_ok(), "{name}");
            damage();
            write(&path, "7").expect(name);
            assert_eq!(read(&path, number).expect(name), Some(7), "{name}");
            assert_eq!(scene.mode("x.json"), FILE, "{name}");
            fs::remove_file(&path).expect("removed");
        }
        assert_eq!(read(&path, number).expect("nothing"), None);
    }

    #[test]
    fn written_files_are_private_despite_umask_and_predecessor() {
        let scene = Scene::new("private");
        let before = umask(Mode::empty());
        for mask in [0, 0o777] {
            umask(Mode::from_bits_truncate(mask));
            let inner = scene.0.join(format!("{mask}"));
            assert!(create_directory(&inner).expect("made"));
            write(&inner.join("x.json"), "7").expect("written");
            let lock = open_to_write(&inner.join("lock"), OpenOptions::new().write(true).create(true));
            drop(lock.expect("opened"));
            umask(before);
            let modes = ["", "/x.json", "/lock"].map(|name| scene.mode(&format!("{mask}{name}")));
            assert_eq!(modes, [DIRECTORY, FILE, FILE]);
        }
        let old = scene.0.join("old");
        fs::create_dir(&old).expect("made");
        fs::write(old.join("lock"), "").expect("written");
        for (path, mode) in [(old.clone(), 0o755), (old.join("lock"), 0o644)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
        }
        assert!(!create_directory(&old).expect("it is there"));
        create_passage(&scene.0.join("passage")).expect("made");
        assert_eq!(scene.mode("passage"), PASSAGE);
        drop(open_to_write(&old.join("lock"), OpenOptions::new().append(true)).expect("opened"));
        assert_eq!((scene.mode("old"), scene.mode("old/lock")), (DIRECTORY, FILE));
    }

    #[test]
    fn directories_that_others_can_write_are_refused() {
        let scene = Scene::new("loose");
        let complaint = || format!("{:#}", create_directory(&scene.0).expect_err("refused"));
        for mode in [0o777, 0o770, 0o1777] {
            fs::set_permissions(&scene.0, Permissions::from_mode(mode)).expect("changed");
            assert!(complaint().contains("`chmod "), "{}", complaint());
        }
        fs::set_permissions(&scene.0, Permissions::from_mode(0o700)).expect("changed");
        chown(&scene.0, Some(Uid::from_raw(4711)), None::<Gid>).expect("needs root");
        assert!(complaint().contains("uid 4711") && complaint().contains("chown 0"), "{}", complaint());
        chown(&scene.0, Some(Uid::from_raw(0)), None::<Gid>).expect("needs root");
        fs::write(scene.0.join("theirs"), "").expect("written");
        require_own_files(&scene.0).expect("ours");
        chown(&scene.0.join("theirs"), Some(Uid::from_raw(4711)), None::<Gid>).expect("needs root");
        require_own_files(&scene.0).expect_err("theirs");
        require_own_files(Path::new("/nowhere")).expect("nothing");
    }

    #[test]
    fn an_entry_in_a_directorys_place_is_set_aside() {
        let scene = Scene::new("place");
        let path = scene.0.join("directory");
        fs::write(&path, "").expect("written");
        assert!(create_directory(&path).expect("made"));
        fs::remove_dir(&path).expect("removed");
        symlink("/nowhere", &path).expect("made");
        assert!(create_directory(&path).expect("made"));
    }

    #[test]
    fn large_and_binary_files_are_refused() {
        let path = env::temp_dir().join(format!("defender-text-{}", process::id()));
        let read_of = |bytes: &[u8], most| {
            fs::write(&path, bytes).expect("written");
            read_named(&path, most).map_err(|error| error.to_string())
        };
        assert_eq!(read_of(b"text\n", 5), Ok("text\n".to_owned()));
        let refused = |what: &str| Err(format!("cannot read {}: {what}", path.display()));
        assert_eq!(read_of(b"text\n", 4), refused("larger than 4 bytes"));
        assert_eq!(read_of(b"a\nb\n\xff", 9), refused("line 3 is not UTF-8"));
        fs::remove_file(&path).expect("removed");
        // Its reported size is 0.
        assert!(read_named(Path::new("/proc/self/stat"), 3).is_err());
        assert!(read_named(Path::new("/proc/self/stat"), 9999).is_ok());
        for path in ["/dev/zero", "/dev", "/no/such/file"] {
            assert!(read_named(Path::new(path), 9999).is_err(), "{path}");
        }
    }
}
