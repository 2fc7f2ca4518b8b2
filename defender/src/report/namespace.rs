//! Reports are made in the network namespace that is defended.

use anyhow::{Result, bail};
use defender_common::abi;

use crate::{
    dataplane::{maps::Maps, pins::PinRoot},
    host::namespace,
    state::{directory::StateDirectory, lock::ControllerLock},
};

/// Fails where nothing is attached, and in another network namespace than the defended one, where other interfaces and
/// connections would be reported.
pub fn require_attached_here(root: &PinRoot) -> Result<()> {
    root.require_attached()?;
    require_its_own(root, &Maps::open(root)?.config.get(0)?)
}

/// The second half of it, by this configuration.
pub(super) fn require_its_own(root: &PinRoot, config: &abi::Config) -> Result<()> {
    if config.namespace == 0 || config.namespace == namespace::number()? {
        return Ok(());
    }
    let way = ControllerLock::holder(&StateDirectory::of(root))
        .map_or_else(String::new, |pid| format!(", by `nsenter --net=/proc/{pid}/ns/net`"));
    bail!("defender is attached in another network namespace: run this command there{way}")
}
