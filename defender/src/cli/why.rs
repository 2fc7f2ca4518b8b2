//! `why`.

use anyhow::Result;

use super::{WhyArguments, show::show};
use crate::{
    dataplane::pins::PinRoot,
    report::{
        conns::{self, Order},
        peer::Known,
        why,
    },
};

pub(super) fn why(root: &PinRoot, arguments: &WhyArguments) -> Result<()> {
    let mut known = Known::gather(root, arguments.peer, arguments.port)?;
    conns::sort(&mut known.connections, Order::default());
    show(&if arguments.json { why::json(&known)? + "\n" } else { why::text(&known) })
}
