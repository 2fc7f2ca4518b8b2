//! `get`.

use anyhow::Result;

use super::{GetArguments, output::show, values::parse_key};
use crate::{
    dataplane::{maps::Maps, pins::PinRoot},
    model::export,
    problem::Problem,
    report::outcome,
    state::{self, lists},
};

pub(super) fn get(root: &PinRoot, arguments: &GetArguments) -> Result<()> {
    let key = arguments.key.as_deref().map(parse_key).transpose()?;
    if arguments.export && arguments.output.is_json() {
        let problem = "--export prints a configuration file, not JSON; leave one of them out";
        return Err(Problem::Usage(problem.to_owned()).into());
    }
    root.require_attached()?;
    let settings = state::in_force(root, state::settings::read)?;
    if arguments.export {
        let entries = lists::entries(&Maps::open(root)?)?;
        return show(&export::export(&settings, &entries, &root.interfaces()?));
    }
    if arguments.output.is_json() {
        return show(&outcome::settings(&settings, &key.map_or_else(|| settings.keys(), |key| vec![key]))?);
    }
    show(&match key {
        Some(key) => format!("{}\n", settings.get(key)),
        None => settings.keys().into_iter().map(|key| format!("{key} {}\n", settings.get(key))).collect(),
    })
}
