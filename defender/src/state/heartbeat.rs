//! Whether the controller lives, as others can see: it writes down when it has last looked after everything.

use std::{fs::OpenOptions, io::Read as _, os::unix::fs::FileExt as _, time::Duration};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};

use crate::{files, state::directory::StateDirectory};

/// Of what is written, in bytes: twenty digits and the end of the line.
const LENGTH: u64 = 21;

/// Notes that all has been looked after. In one write of a fixed length, so that who reads sees the old or the new.
pub fn beat(directory: &StateDirectory) -> Result<()> {
    let path = directory.heartbeat();
    let file = files::open_to_write(&path, OpenOptions::new().write(true).create(true).truncate(false))?;
    let text = format!("{:020}\n", now()?.as_millis());
    file.write_all_at(text.as_bytes(), 0).with_context(|| format!("cannot write {}", path.display()))
}

/// How long ago that was; none where that is not known.
pub fn age(directory: &StateDirectory) -> Option<Duration> {
    let mut text = String::new();
    files::open_to_read(&directory.heartbeat()).ok()??.take(LENGTH).read_to_string(&mut text).ok()?;
    let then = Duration::from_millis(text.trim().parse().ok()?);
    Some(now().ok()?.saturating_sub(then))
}

/// Neither goes back nor jumps, and is the same for all processes.
fn now() -> nix::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}
