//! Ports of this host by service name, in what people read.

use std::{cell::RefCell, collections::BTreeMap};

use clap::Args;

use crate::host::service_names;

/// `-n`, of every command that shows ports by name.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct PortNameArguments {
    /// Show ports as numbers, not by service name; JSON has numbers always
    #[arg(short, long)]
    numeric: bool,
}

impl PortNameArguments {
    /// Names of ports; none if numbers are asked for. The database is asked once for each.
    pub(super) fn names(self) -> impl Fn(u16) -> Option<String> {
        let known = RefCell::new(BTreeMap::new());
        move |port| {
            let name = || known.borrow_mut().entry(port).or_insert_with(|| service_names::name(port)).clone();
            (!self.numeric).then(name).flatten()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_numbers_gets_no_names() {
        let names = |numeric| PortNameArguments { numeric }.names();
        assert_eq!(names(false)(22), service_names::name(22));
        assert_eq!(names(true)(22), None);
    }
}
