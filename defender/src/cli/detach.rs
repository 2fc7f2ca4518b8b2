//! `detach`.

use anyhow::{Result, bail};

use super::{DetachArguments, output::show};
use crate::{control::admin, dataplane::pins::PinRoot, host::links, report::outcome};

pub(super) fn detach(root: &PinRoot, arguments: &DetachArguments) -> Result<()> {
    let detached = if arguments.iface.is_empty() { everything(root)? } else { some(root, &arguments.iface)? };
    if arguments.output.is_json() { show(&outcome::detached(&detached)?) } else { Ok(()) }
}

fn everything(root: &PinRoot) -> Result<Vec<String>> {
    let interfaces = admin::detach_all(root)?;
    match &interfaces {
        Some(_) => log::info!("detached"),
        None => log::info!("nothing was attached below {}", root.path().display()),
    }
    Ok(interfaces.unwrap_or_default())
}

fn some(root: &PinRoot, interfaces: &[String]) -> Result<Vec<String>> {
    let mut detached = Vec::new();
    for interface in interfaces {
        if admin::detach_interface(root, interface)? {
            log::info!("{interface}: detached");
            detached.push(interface.clone());
        } else {
            // To have detached it before is no mistake; to have misspelt it is one.
            require_interface(interface)?;
            log::info!("{interface}: was not attached");
        }
    }
    Ok(detached)
}

fn require_interface(name: &str) -> Result<()> {
    let names = links::names()?;
    if !names.iter().any(|known| known == name) {
        bail!("unknown interface {name}; expected one of {}", names.join(", "));
    }
    Ok(())
}
