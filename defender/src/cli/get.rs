//! `get`.

use anyhow::Result;

use super::{GetArguments, output::show};
use crate::{
    dataplane::{maps::Maps, pins::PinRoot},
    model::{export, settings::Key},
    state::{self, directory::StateDirectory, lists},
};

pub(super) fn get(root: &PinRoot, arguments: &GetArguments) -> Result<()> {
    let key = arguments.key.as_deref().map(str::parse::<Key>).transpose()?;
    root.require_attached()?;
    let settings = state::in_force(root, state::settings::read)?;
    if arguments.export {
        let entries = lists::entries(&Maps::open(root)?)?;
        let notes = lists::notes_of(&entries, &StateDirectory::of(root))?;
        return show(&export::export(&settings, &entries, &notes, &root.interfaces()?));
    }
    show(&match key {
        Some(key) => format!("{}\n", settings.get(key)),
        None => settings.keys().into_iter().map(|key| format!("{key} {}\n", settings.get(key))).collect(),
    })
}
