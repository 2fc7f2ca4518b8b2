//! What survives restarts and `detach`: past events and baselines, in a directory of each pin root.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    dataplane::pins::PinRoot,
    files,
    model::baseline::Baselines,
    state::{directory::escape, json},
};

/// Where all pin roots have theirs, unless `DEFENDER_STATE_DIR` says otherwise.
const BASE: &str = "/var/lib/defender";
/// So large events.jsonl grows, in bytes; then it becomes the old one.
const LARGEST: u64 = 4 << 20;

/// The directory of one pin root. It is made when something is written.
#[derive(Clone, Debug)]
pub struct Journal {
    directory: PathBuf,
    /// Why the last event was not saved.
    unsaved_event: Option<String>,
    /// The same of the baselines.
    unsaved_baselines: Option<String>,
}

impl Journal {
    /// The directory for `root`.
    pub fn of(root: &PinRoot) -> Self {
        let base = env::var_os("DEFENDER_STATE_DIR").filter(|path| !path.is_empty());
        let base = base.map_or_else(|| PathBuf::from(BASE), PathBuf::from);
        Self::at(base.join(escape(&root.path().to_string_lossy())))
    }

    fn at(directory: PathBuf) -> Self {
        Self { directory, unsaved_event: None, unsaved_baselines: None }
    }

    /// Adds an event, a line of JSON. A failure is a [warning](Self::warnings), and the defence goes on.
    pub fn append(&mut self, line: &str) {
        self.unsaved_event = self.try_append(line).err().map(|error| format!("{error:#}"));
    }

    fn try_append(&self, line: &str) -> Result<()> {
        self.create()?;
        let path = self.events();
        let size = path.symlink_metadata().map_or(0, |file| if file.is_file() { file.len() } else { 0 });
        if size != 0 && size + line.len() as u64 >= LARGEST {
            files::make_way(&self.old_events())?;
            fs::rename(&path, self.old_events())
                .with_context(|| format!("cannot rename {}", path.display()))?;
        }
        let mut file = files::open_to_write(&path, OpenOptions::new().read(true).append(true).create(true))?;
        let mut write = || -> io::Result<()> {
            // What was cut short by a full disk or a power failure keeps its line to itself.
            let begin = if ends_within_a_line(&file)? { "\n" } else { "" };
            file.write_all(format!("{begin}{line}\n").as_bytes())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Every line that is there, from the oldest; of files that others have made larger, the end.
    pub fn lines(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for path in [self.old_events(), self.events()] {
            let Some(file) = files::open_to_read(&path)? else { continue };
            let read = end_of(&file)
                .and_then(|end| BufReader::new(end).split(b'\n').collect::<io::Result<Vec<_>>>());
            let read = read.with_context(|| format!("cannot read {}", path.display()))?;
            lines.extend(read.iter().map(|line| String::from_utf8_lossy(line).into_owned()));
        }
        Ok(lines)
    }

    /// What is added from now on.
    pub fn follow(&self) -> Result<Follower> {
        Follower::new(self.events())
    }

    /// What is there, and what is added from now on: no line is missing between the two, and none is in both.
    pub fn follow_on(&self) -> Result<(Vec<String>, Follower)> {
        let mut follower = self.follow()?;
        let mut lines = follower.old_lines(&self.old_events())?;
        lines.extend(follower.past()?);
        Ok((lines, follower))
    }

    /// The baselines; none where they cannot be read.
    pub fn read_baselines(&self) -> Baselines {
        json::read(&self.baselines())
            .unwrap_or_else(|error| {
                log::warn!("learning the baseline from scratch: {error:#}");
                None
            })
            .unwrap_or_default()
    }

    /// Keeps the baselines, likewise.
    pub fn write_baselines(&mut self, baselines: &Baselines) {
        if baselines.is_empty() {
            return;
        }
        let written = self.create().and_then(|()| json::write(&self.baselines(), baselines));
        self.unsaved_baselines = written.err().map(|error| format!("{error:#}"));
    }

    /// What could not be saved when that was last tried.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let warning = |what: &str, error: &Option<String>| {
            let error = error.as_ref()?;
            Some(format!("{what} not saved: {error}. DEFENDER_STATE_DIR names another directory"))
        };
        [warning("events are", &self.unsaved_event), warning("baselines are", &self.unsaved_baselines)]
            .into_iter()
            .flatten()
    }

    fn create(&self) -> Result<()> {
        if let Some(base) = self.directory.parent() {
            files::create_passage(base)?;
        }
        files::create_directory(&self.directory).map(drop)
    }

    /// Fails where others can put files of theirs there.
    pub fn require_private(&self) -> Result<()> {
        if let Some(base) = self.directory.parent().filter(|path| path.is_dir()) {
            files::require_trusted_directory(base)?;
        }
        if self.directory.is_dir() { files::require_private_directory(&self.directory) } else { Ok(()) }
    }

    fn events(&self) -> PathBuf {
        self.directory.join("events.jsonl")
    }

    fn old_events(&self) -> PathBuf {
        self.directory.join("events.jsonl.1")
    }

    fn baselines(&self) -> PathBuf {
        self.directory.join("baselines.json")
    }
}

/// Reads what is added to the events.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Follower {
    fn new(path: PathBuf) -> Result<Self> {
        let mut file = files::open_to_read(&path)?;
        if let Some(file) = &mut file {
            file.seek(SeekFrom::End(0)).with_context(|| format!("cannot read {}", path.display()))?;
        }
        Ok(Self { path, file, rest: Vec::new() })
    }

    /// The lines before its file, unless that has just become the old one.
    fn old_lines(&self, path: &Path) -> Result<Vec<String>> {
        let Some(old) = files::open_to_read(path)? else { return Ok(Vec::new()) };
        if self.file.as_ref().is_some_and(|ours| is_same(ours, &old)) {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        let read = end_of(&old).and_then(|mut end| end.read_to_end(&mut bytes));
        read.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(whole_lines(&mut bytes))
    }

    /// The lines of its file before what it reads on from.
    fn past(&mut self) -> Result<Vec<String>> {
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        let mut read = || {
            let end = file.stream_position()?;
            let begin = end.saturating_sub(LARGEST);
            let mut bytes = vec![0; (end - begin) as usize];
            file.read_exact_at(&mut bytes, begin).map(|()| bytes)
        };
        let mut bytes = read().with_context(|| format!("cannot read {}", self.path.display()))?;
        let lines = whole_lines(&mut bytes);
        self.rest = bytes;
        Ok(lines)
    }

    /// The lines that came since the last time.
    pub fn read_on(&mut self) -> Result<Vec<String>> {
        let mut lines = self.read()?;
        if self.has_moved() {
            // What came to the old file between reading and looking.
            lines.extend(self.read()?);
            self.rest.clear();
            self.file = files::open_to_read(&self.path)?;
            lines.extend(self.read()?);
        }
        Ok(lines)
    }

    fn read(&mut self) -> Result<Vec<String>> {
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        file.read_to_end(&mut self.rest).with_context(|| format!("cannot read {}", self.path.display()))?;
        Ok(whole_lines(&mut self.rest))
    }

    /// Whether another file is there now, or the first.
    fn has_moved(&self) -> bool {
        let Ok(there) = fs::metadata(&self.path) else { return false };
        let ours = self.file.as_ref().and_then(|file| file.metadata().ok());
        ours.is_none_or(|ours| (ours.dev(), ours.ino()) != (there.dev(), there.ino()))
    }
}

/// Takes the lines whose end is there.
fn whole_lines(bytes: &mut Vec<u8>) -> Vec<String> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let whole: Vec<u8> = bytes.drain(..whole).collect();
    String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
}

fn is_same(one: &File, other: &File) -> bool {
    let inode = |file: &File| file.metadata().map(|file| (file.dev(), file.ino())).ok();
    inode(one) == inode(other)
}

/// The end of a file, no more than there can be in one of ours.
fn end_of(mut file: &File) -> io::Result<impl Read> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LARGEST)))?;
    Ok(file.take(LARGEST))
}

/// Whether a file's last byte is no newline.
fn ends_within_a_line(mut file: &File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    /// A directory that goes away at the end.
    struct Scene(Journal);

    impl Scene {
        fn new(name: &str) -> Self {
            let directory = env::temp_dir().join(format!("defender-journal-{}-{name}", process::id()));
            Self(Journal::at(directory.join("root")))
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = self.0.directory.parent().map(fs::remove_dir_all);
        }
    }

    #[test]
    fn what_is_added_is_there_and_bounded() {
        let mut scene = Scene::new("bounded");
        assert!(scene.0.lines().expect("none").is_empty());
        let line = |number: u32| format!("{number:>10} {}", "x".repeat(1 << 20));
        for number in 0..10 {
            scene.0.append(&line(number));
        }
        let lines = scene.0.lines().expect("lines");
        assert_eq!(lines, (4..10).map(line).filter(|line| lines.contains(line)).collect::<Vec<_>>());
        assert_eq!(lines.last(), Some(&line(9)));
        for path in [scene.0.events(), scene.0.old_events()] {
            assert!(fs::metadata(path).expect("a file").len() <= LARGEST);
        }
    }

    #[test]
    fn a_follower_sees_what_comes_even_into_a_new_file() {
        let mut scene = Scene::new("follow");
        let mut early = scene.0.follow().expect("a follower");
        assert!(early.read_on().expect("nothing").is_empty());
        scene.0.append("one");
        let mut late = scene.0.follow().expect("a follower");
        assert_eq!(early.read_on().expect("a line"), ["one"]);
        scene.0.append("two");
        fs::rename(scene.0.events(), scene.0.old_events()).expect("renamed");
        scene.0.append("three");
        assert_eq!(early.read_on().expect("lines"), ["two", "three"]);
        assert_eq!(late.read_on().expect("lines"), ["two", "three"]);
        let mut file = OpenOptions::new().append(true).open(scene.0.events()).expect("a file");
        file.write_all(b"half").expect("written");
        assert!(late.read_on().expect("nothing").is_empty());
        file.write_all(b" a line\n").expect("written");
        assert_eq!(late.read_on().expect("a line"), ["half a line"]);
    }

    #[test]
    fn who_follows_on_misses_nothing_and_sees_nothing_twice() {
        let mut scene = Scene::new("follow-on");
        assert!(scene.0.follow_on().expect("nothing").0.is_empty());
        scene.0.append("one");
        fs::rename(scene.0.events(), scene.0.old_events()).expect("renamed");
        scene.0.append("two");
        let mut file = OpenOptions::new().append(true).open(scene.0.events()).expect("a file");
        file.write_all(b"th").expect("written");
        let (past, mut follower) = scene.0.follow_on().expect("a follower");
        assert_eq!(past, ["one", "two"]);
        file.write_all(b"ree\n").expect("written");
        assert_eq!(follower.read_on().expect("a line"), ["three"]);
        // The file that it has open becomes the old one before that is read.
        let follower = scene.0.follow().expect("a follower");
        fs::rename(scene.0.events(), scene.0.old_events()).expect("renamed");
        assert!(follower.old_lines(&scene.0.old_events()).expect("no lines").is_empty());
    }

    #[test]
    fn half_a_line_of_a_full_disk_costs_no_later_event() {
        let mut scene = Scene::new("half");
        scene.0.append("one");
        let mut file = OpenOptions::new().append(true).open(scene.0.events()).expect("a file");
        // What write_all leaves when the disk fills up, or the machine goes down.
        file.write_all(b"{\"version\":1,").expect("written");
        scene.0.append("two");
        assert!(scene.0.lines().expect("lines").contains(&"two".to_owned()), "{:?}", scene.0.lines());
    }

    #[test]
    fn what_is_kept_is_private_and_what_is_in_its_place_is_set_aside() {
        let mut scene = Scene::new("private");
        scene.0.append("one");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
        assert_eq!((mode(&scene.0.directory), mode(&scene.0.events())), (0o700, 0o600));
        let events = scene.0.events();
        let others: [&dyn Fn() -> io::Result<()>; 3] = [
            &|| fs::create_dir_all(events.join("within")),
            &|| Ok(nix::unistd::mkfifo(&events, nix::sys::stat::Mode::S_IRUSR)?),
            &|| std::os::unix::fs::symlink("/etc/hostname", &events),
        ];
        for put in others {
            fs::remove_file(&events).expect("removed");
            put().expect("put there");
            assert!(scene.0.lines().expect("none").is_empty());
            assert!(scene.0.follow().expect("a follower").read_on().expect("none").is_empty());
            scene.0.append("two");
            assert_eq!(scene.0.lines().expect("one"), ["two"]);
        }
        // Someone has made it larger than there is memory.
        File::options().write(true).open(&events).and_then(|file| file.set_len(1 << 40)).expect("sparse");
        assert!(scene.0.lines().expect("its end").len() <= 1);
        scene.0.append("three");
        assert_eq!(scene.0.lines().expect("lines").last().map(String::as_str), Some("three"));
    }

    #[test]
    fn what_cannot_be_written_is_a_warning_until_it_can() {
        let mut journal = Journal::at("/proc/defender".into());
        assert_eq!(journal.warnings().count(), 0);
        journal.append("one");
        let warnings: Vec<_> = journal.warnings().collect();
        assert!(warnings.len() == 1 && warnings[0].starts_with("events are not saved: "), "{warnings:?}");
        let mut scene = Scene::new("saved");
        scene.0.unsaved_event = journal.unsaved_event;
        scene.0.append("two");
        assert_eq!(scene.0.warnings().count(), 0);
    }

    #[test]
    fn a_broken_baseline_is_set_aside() {
        let mut scene = Scene::new("baseline");
        let mut baselines = Baselines::default();
        scene.0.write_baselines(&baselines);
        assert!(!scene.0.directory.exists(), "nothing to keep");
        for _ in 0..70 {
            baselines.observe("0.0.0.0:443", true, 3, 100, 7);
        }
        scene.0.write_baselines(&baselines);
        assert_eq!(scene.0.read_baselines().of("0.0.0.0:443"), baselines.of("0.0.0.0:443"));
        fs::write(scene.0.baselines(), "{").expect("written");
        assert!(scene.0.read_baselines().is_empty());
        assert!(!scene.0.baselines().exists() && scene.0.directory.join("baselines.json.damaged").exists());
    }
}
