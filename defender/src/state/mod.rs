//! What a controller leaves in files for other processes and for one to come: settings, what it knows that maps do not hold,
//! lists, events.

pub mod config_file;
pub mod directory;
pub mod findings;
pub mod heartbeat;
pub mod journal;
mod json;
pub mod lists;
pub mod lock;
pub mod settings;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    dataplane::pins::PinRoot,
    state::{directory::StateDirectory, lock::ControllerLock},
};

/// How long a controller that lives is given to write a file again that was removed or damaged. It looks once a second.
const REPAIR: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

/// What `read` finds. Where it finds nothing, a controller that lives is given time to write it again.
pub fn in_force<T: Default>(
    root: &PinRoot,
    read: impl Fn(&StateDirectory) -> Result<Option<T>>,
) -> Result<T> {
    let directory = StateDirectory::of(root);
    let deadline = Instant::now() + REPAIR;
    loop {
        if let Some(found) = read(&directory)? {
            return Ok(found);
        }
        if ControllerLock::holder(&directory).is_none() {
            return Ok(T::default());
        }
        if Instant::now() >= deadline {
            log::warn!("settings and findings are unknown: the controller does not restore them");
            return Ok(T::default());
        }
        thread::sleep(POLL);
    }
}
