//! `detach`.

use anyhow::Result;

use super::DetachArguments;
use crate::{control::session, dataplane::pins::PinRoot};

pub(super) fn detach(root: &PinRoot, arguments: &DetachArguments) -> Result<()> {
    if arguments.iface.is_empty() {
        session::detach_all(root)?;
        log::info!("detached");
    }
    for interface in &arguments.iface {
        session::detach_interface(root, interface)?;
        log::info!("{interface}: detached");
    }
    Ok(())
}
