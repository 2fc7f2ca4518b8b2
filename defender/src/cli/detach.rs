//! `detach`.

use anyhow::Result;

use super::DetachArguments;
use crate::{control::outside, dataplane::pins::PinRoot};

pub(super) fn detach(root: &PinRoot, arguments: &DetachArguments) -> Result<()> {
    if arguments.iface.is_empty() {
        outside::detach_all(root)?;
        log::info!("detached");
    }
    for interface in &arguments.iface {
        outside::detach_interface(root, interface)?;
        log::info!("{interface}: detached");
    }
    Ok(())
}
