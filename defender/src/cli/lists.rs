//! `allow` and `deny`.

use std::path::Path;

use anyhow::Result;

use super::{
    AddArguments, DelArguments, FlushArguments, ListAction, PrefixArguments, ShowArguments,
    output::{OutputArguments, show, width},
    progress::Progress,
};
use crate::{
    dataplane::{maps::Maps, pins::PinRoot},
    host::wall_clock,
    model::lists::{
        entry::List,
        expiry,
        file::Prefixes,
        note::Note,
        plan::{Addition, Removal, names},
    },
    report::lists as report,
    state::{
        config_file,
        directory::StateDirectory,
        lists::{self, turns::Turns},
    },
};

pub(super) fn run(root: &PinRoot, list: List, action: &ListAction) -> Result<()> {
    match action {
        ListAction::Add(arguments) => add(root, list, arguments),
        ListAction::Del(arguments) => del(root, list, arguments),
        ListAction::Flush(arguments) => flush(root, list, arguments),
        ListAction::List(arguments) => show_list(root, list, arguments),
    }
}

fn add(root: &PinRoot, list: List, arguments: &AddArguments) -> Result<()> {
    let now = wall_clock::now();
    let expires = arguments.expires.map(|moment| expiry::resolve(moment, now)).transpose()?;
    let Prefixes { prefixes, mut notes } = read(&arguments.which)?;
    notes.fill(&prefixes, &Note { comment: arguments.comment.clone(), expires });
    let addition = turns(root, list, arguments.output)?.add(list, &prefixes, notes)?;
    if arguments.output.is_json() {
        return show(&report::added(&addition)?);
    }
    report_addition(list, &addition);
    Ok(())
}

/// The lists, with a bar for who waits.
fn turns(root: &PinRoot, list: List, output: OutputArguments) -> Result<Turns> {
    let progress = Progress::of(format!("{} list", list.name()), 0, output.format());
    Ok(Turns::of(root)?.showing(Box::new(move |done, total| progress.reach(done as u64, total as u64))))
}

fn read(which: &PrefixArguments) -> Result<Prefixes> {
    Ok(match &which.file {
        Some(path) if path == Path::new("-") => config_file::read_list_from_input()?,
        Some(path) => config_file::read_list(path)?,
        None => Prefixes { prefixes: which.prefixes.clone(), ..Prefixes::default() },
    })
}

fn report_addition(list: List, addition: &Addition) {
    let Addition { added, already, updated, moved, .. } = addition;
    let updated = if *updated == 0 { String::new() } else { format!(" ({updated} updated)") };
    log::info!(
        "{} list: {added} added, {already} there already{updated}, {} moved",
        list.name(),
        moved.len()
    );
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
    let Prefixes { prefixes, .. } = read(&arguments.which)?;
    let removal = turns(root, list, arguments.output)?.remove(list, &prefixes)?;
    report_removal(list, &removal, arguments.output.is_json())
}

fn flush(root: &PinRoot, list: List, arguments: &FlushArguments) -> Result<()> {
    let removal = turns(root, list, arguments.output)?.flush(list)?;
    report_removal(list, &removal, arguments.output.is_json())
}

fn report_removal(list: List, removal: &Removal, as_json: bool) -> Result<()> {
    if as_json {
        return show(&report::removed(removal)?);
    }
    let missing = match removal.missing.as_slice() {
        [] => String::new(),
        missing => format!(", {} not there: {}", missing.len(), names(missing)),
    };
    log::info!("{} list: {} removed{missing}", list.name(), removal.changes.len());
    let from_file = removal.from_file();
    if !from_file.is_empty() {
        log::warn!("in the configuration file, so they return when it is read again: {}", names(&from_file));
    }
    Ok(())
}

fn show_list(root: &PinRoot, list: List, arguments: &ShowArguments) -> Result<()> {
    root.require_attached()?;
    let mut entries = lists::entries(&Maps::open(root)?)?;
    entries.retain(|entry| entry.listing.list == list);
    let notes = lists::notes_of(&entries, &StateDirectory::of(root))?;
    let limit = arguments.limit.map(|limit| limit as usize);
    if arguments.output.is_json() {
        return show(&report::json(&entries, &notes, limit)?);
    }
    show(&report::text(&entries, &notes, limit, wall_clock::now(), width()))
}
