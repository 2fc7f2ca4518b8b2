//! `why`.

use anyhow::Result;

use super::{
    WhyArguments,
    output::{show, show_text, width},
};
use crate::{
    dataplane::pins::PinRoot,
    report::{
        conns::{self, Order},
        peer::PeerFacts,
        why,
    },
};

pub(super) fn why(root: &PinRoot, arguments: &WhyArguments) -> Result<()> {
    let mut known = PeerFacts::gather(root, arguments.peer, arguments.port)?;
    conns::sort(&mut known.connections, Order::default());
    if arguments.output.is_json() {
        show(&(why::json(&known)? + "\n"))
    } else {
        show_text(&why::text(&known, &arguments.port_names.names(), width()))
    }
}
