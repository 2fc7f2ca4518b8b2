//! What stands between the flood and the server, and how strong the flood is.

use std::fmt;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use defender_testbed::{
    controller::Controller,
    flood::source_cpu,
    programs::{Attached, Program},
    topology::{SERVER_INTERFACE, Topology},
};

use super::Plan;

/// A defence, or a ceiling to compare it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Defence {
    /// The kernel alone, without SYN cookies
    Undefended,
    /// The kernel's own SYN cookies
    Cookies,
    /// The defender in mode `always`
    Defender,
    /// The defender in mode `auto`
    Auto,
    /// A program that knows the attacker's addresses and drops them
    Drop,
    /// A program that sends SYNs back and does nothing else
    Swap,
}

/// How strong the flood is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// No flood.
    Calm,
    /// At the rate of the plan.
    Paced,
    /// As fast as the source goes.
    Full,
}

/// A defence that is in place; dropping it takes it away.
pub(super) enum Standing<'a> {
    /// One of the testbed's programs.
    Program { _attached: Attached },
    /// The controller.
    Defender(Controller<'a>),
}

impl Defence {
    /// All, in the order of the table.
    pub(super) const ALL: [Self; 6] =
        [Self::Undefended, Self::Cookies, Self::Defender, Self::Auto, Self::Drop, Self::Swap];

    /// The floods it is measured with. Swapping is a ceiling for answers only: at any rate it answers everything.
    pub(super) fn levels(self) -> &'static [Level] {
        match self {
            Self::Swap => &[Level::Full],
            _ => &[Level::Calm, Level::Paced, Level::Full],
        }
    }

    /// It is the defender.
    pub(super) fn needs_controller(self) -> bool {
        matches!(self, Self::Defender | Self::Auto)
    }

    /// What it is called in the table.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Undefended => "undefended",
            Self::Cookies => "kernel SYN cookies",
            Self::Defender => "defender always",
            Self::Auto => "defender auto",
            Self::Drop => "ceiling: drop by address",
            Self::Swap => "ceiling: bare swap and send",
        }
    }

    /// What it is called in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Undefended => "undefended",
            Self::Cookies => "cookies",
            Self::Defender => "defender",
            Self::Auto => "defender_auto",
            Self::Drop => "drop",
            Self::Swap => "swap",
        }
    }

    /// Puts it in place.
    pub(super) fn set_up<'a>(self, bed: &'a Topology, plan: &Plan) -> Result<Standing<'a>> {
        // The defender needs the sysctl at 1, its default.
        let cookies = u8::from(self != Self::Undefended);
        bed.server.set_sysctl("net.ipv4.tcp_syncookies", cookies)?;
        Ok(match self {
            Self::Undefended | Self::Cookies => {
                Standing::Program { _attached: bed.attach_server_end(Program::Pass)? }
            }
            Self::Defender | Self::Auto => {
                let program = plan.defender.as_deref().context("no defender to start")?;
                let mode = ["--mode", if self == Self::Auto { "auto" } else { "always" }];
                Standing::Defender(Controller::start(&bed.server, program, SERVER_INTERFACE, &mode)?)
            }
            Self::Drop => Standing::Program { _attached: bed.attach_server_end(Program::DropRange)? },
            Self::Swap => Standing::Program { _attached: bed.attach_server_end(Program::SwapTx)? },
        })
    }
}

impl Level {
    /// Where the client end takes the answers. At full speed it is the source's processor, as the client's host would do
    /// it itself; at other speeds there is time for it on the server's.
    pub(super) fn client_cpu(self) -> Option<usize> {
        (self == Self::Full).then(source_cpu).flatten()
    }

    /// What it is called in the table and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Paced => "paced",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for Defence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.title())
    }
}
