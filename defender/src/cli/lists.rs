//! `allow` and `deny`.

use anyhow::Result;

use super::{AddArguments, DelArguments, ListAction, ShowArguments, output::show};
use crate::{
    dataplane::{maps::Maps, pins::PinRoot},
    model::{
        lists::{
            entry::{List, Origin},
            plan::{Addition, Change, names},
        },
        prefix::Cidr,
    },
    report::lists as report,
    state::{
        config_file,
        lists::{self, turns::Turns},
    },
};

pub(super) fn run(root: &PinRoot, list: List, action: &ListAction) -> Result<()> {
    match action {
        ListAction::Add(arguments) => add(root, list, arguments),
        ListAction::Del(arguments) => del(root, list, arguments),
        ListAction::List(arguments) => show_list(root, list, arguments),
    }
}

fn add(root: &PinRoot, list: List, arguments: &AddArguments) -> Result<()> {
    let prefixes = match &arguments.file {
        Some(path) => config_file::read_list(path)?,
        None => arguments.prefixes.clone(),
    };
    let addition = Turns::of(root)?.add(list, &prefixes)?;
    report_addition(list, &addition);
    Ok(())
}

fn report_addition(list: List, addition: &Addition) {
    let Addition { added, already, moved, .. } = addition;
    log::info!("{} list: {added} added, {already} there already, {} moved", list.name(), moved.len());
    if !moved.is_empty() {
        log::warn!(
            "moved from the {} list to the {} list: {}",
            list.other().name(),
            list.name(),
            names(moved)
        );
    }
}

fn del(root: &PinRoot, list: List, arguments: &DelArguments) -> Result<()> {
    let changes = lists::change(root, |lists| lists.remove(list, &arguments.prefixes))?;
    log::info!("{} list: {} removed", list.name(), changes.len());
    let from_file = from_file(&changes);
    if !from_file.is_empty() {
        log::warn!("in the configuration file, so they return when it is read again: {}", names(&from_file));
    }
    Ok(())
}

fn from_file(changes: &[Change]) -> Vec<Cidr> {
    let is_from_file = |change: &&Change| change.before.is_some_and(|before| before.origin == Origin::File);
    changes.iter().filter(is_from_file).map(|change| change.prefix).collect()
}

fn show_list(root: &PinRoot, list: List, arguments: &ShowArguments) -> Result<()> {
    root.require_attached()?;
    let mut entries = lists::entries(&Maps::open(root)?)?;
    entries.retain(|entry| entry.listing.list == list);
    let limit = arguments.limit.map(|limit| limit as usize);
    show(&if arguments.json { report::json(&entries, limit)? + "\n" } else { report::text(&entries, limit) })
}
