//! Which interfaces `run` defends where the command line names none: those of the configuration file, else those with a
//! default route.

use std::path::Path;

use anyhow::Result;

use crate::{
    dataplane::pins::PinRoot,
    host::{
        links::{self, Link},
        routes,
    },
    problem::Problem,
    state::config_file,
};

/// The interfaces to defend, and says which and why. `config` is the configuration file, if there is one.
pub fn choose(root: &PinRoot, config: Option<&Path>) -> Result<Vec<String>> {
    if let Some(path) = config {
        let names = config_file::read_without_lists(path)?.interfaces;
        if !names.is_empty() {
            log::info!("interfaces of {}: {}", path.display(), names.join(", "));
            return Ok(names);
        }
    }
    let (mut chosen, mut unfit) = (Vec::new(), Vec::new());
    for (index, families) in routes::default_interfaces()? {
        let Some(link) = link_of(index)? else { continue };
        let name = &link.name;
        match link.obstacle() {
            None => {
                log::info!("{name} has a default route ({}) and is defended", families.join(", "));
                chosen.push(link.name);
            }
            Some(obstacle) => unfit.push(format!("{name} cannot be defended: {}", obstacle.describe())),
        }
    }
    unfit.iter().for_each(|reason| log::warn!("of the interfaces with a default route, {reason}"));
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    // A route may be away for a moment, while the controller starts anew.
    let attached = root.interfaces()?;
    if !attached.is_empty() {
        log::warn!(
            "no interface that can be defended has a default route; going on with {}",
            attached.join(", ")
        );
        return Ok(attached);
    }
    Err(none_found(&unfit).into())
}

fn link_of(index: u32) -> Result<Option<Link>> {
    let found = links::name_by_index(index)?.map(|name| links::interface(&name));
    found.transpose()
}

fn none_found(unfit: &[String]) -> Problem {
    let why = if unfit.is_empty() {
        "no interface has a default route".to_owned()
    } else {
        format!("of the interfaces with a default route, {}", unfit.join("; "))
    };
    Problem::Configuration(format!(
        "{why}: name the interfaces to defend, by --iface or under [interfaces] in the configuration file"
    ))
}
