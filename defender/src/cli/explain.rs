//! `explain`.

use anyhow::{Result, bail};

use super::{
    ExplainArguments,
    output::{show, show_text, width},
};
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
    if arguments.output.is_json() {
        show(&(explain::json(&services)? + "\n"))
    } else {
        show_text(&explain::text(&services, width()))
    }
}
