//! `why`.

use anyhow::Result;

use super::{WhyArguments, output::show};
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
    show(&if arguments.output.is_json() { why::json(&known)? + "\n" } else { why::text(&known) })
}
