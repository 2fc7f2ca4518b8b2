//! `detach`.

use anyhow::Result;

use super::DetachArguments;
use crate::{control::admin, dataplane::pins::PinRoot};

pub(super) fn detach(root: &PinRoot, arguments: &DetachArguments) -> Result<()> {
    if arguments.iface.is_empty() {
        admin::detach_all(root)?;
        log::info!("detached");
    }
    for interface in &arguments.iface {
        admin::detach_interface(root, interface)?;
        log::info!("{interface}: detached");
    }
    Ok(())
}
