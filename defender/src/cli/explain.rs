//! `explain`.

use anyhow::{Result, bail};

use super::{ExplainArguments, output::show};
use crate::{
    dataplane::pins::PinRoot,
    report::{explain, snapshot},
};

pub(super) fn explain(root: &PinRoot, arguments: &ExplainArguments) -> Result<()> {
    let port = arguments.port;
    let services = snapshot::defended_on(root, port)?;
    if services.is_empty() {
        bail!("no service on port {port}; `defender status` lists all services");
    }
    show(&if arguments.output.is_json() {
        explain::json(&services)? + "\n"
    } else {
        explain::text(&services)
    })
}
