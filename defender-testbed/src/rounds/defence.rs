//! The defence between the flood and the server, and the strength of the flood.

use std::fmt;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use defender_testbed::{
    cleanup::Guard,
    command,
    controller::Controller,
    flood::source_cpu,
    programs::{Attached, Program},
    topology::{SERVER_INTERFACE, Topology},
};

use super::{RoundsPlan, learnt::Learnt};

/// A defence, or a ceiling to compare it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Defence {
    /// The kernel alone, without SYN cookies
    Undefended,
    /// The kernel's own SYN cookies
    Cookies,
    /// The kernel's own SYN cookies for every SYN
    CookiesAlways,
    /// nftables' SYN proxy
    Synproxy,
    /// The defender in mode `auto`
    Auto,
    /// The defender in mode `always`
    Defender,
    /// A program that knows the attacker's addresses and drops them
    Drop,
    /// A program that sends SYNs back and does nothing else
    Swap,
    /// A program that reads and writes every byte of SYNs, and sends them back
    Rewrite,
}

/// The strength of the flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FloodLevel {
    /// No flood.
    NoFlood,
    /// So many SYNs per second.
    Paced(u64),
    /// As fast as the source can send.
    Full,
}

/// A defence in place, removed on drop.
pub(super) enum DefenceInPlace<'a> {
    /// One of the testbed's programs.
    Program { _attached: Attached },
    /// The controller.
    Defender(Controller<'a>),
    /// Rules of nftables, and a program that passes everything.
    Rules { _attached: Attached, _flush: Guard },
}

impl Defence {
    /// Whether the controller is part of it.
    pub(crate) fn needs_controller(self) -> bool {
        matches!(self, Self::Auto | Self::Defender)
    }

    /// Its name in the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Undefended => "undefended",
            Self::Cookies => "kernel SYN cookies",
            Self::CookiesAlways => "kernel SYN cookies, always",
            Self::Synproxy => "nftables synproxy",
            Self::Auto => "defender auto",
            Self::Defender => "defender always",
            Self::Drop => "ceiling: drop by address",
            Self::Swap => "ceiling: bare swap and send",
            Self::Rewrite => "ceiling: all bytes, and send",
        }
    }

    /// Its name in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Undefended => "undefended",
            Self::Cookies => "cookies",
            Self::CookiesAlways => "cookies_always",
            Self::Synproxy => "synproxy",
            Self::Auto => "defender_auto",
            Self::Defender => "defender",
            Self::Drop => "drop",
            Self::Swap => "swap",
            Self::Rewrite => "rewrite",
        }
    }

    /// Puts it in place. The defender in mode `auto` gets its learnt baseline.
    pub(super) fn set_up<'a>(
        self,
        bed: &'a Topology,
        plan: &RoundsPlan,
        learnt: Option<&Learnt>,
    ) -> Result<DefenceInPlace<'a>> {
        // The defender needs the sysctl at 1, its default.
        let cookies = match self {
            Self::Undefended => 0,
            Self::CookiesAlways => 2,
            _ => 1,
        };
        bed.server.set_sysctl("net.ipv4.tcp_syncookies", cookies)?;
        Ok(match self {
            Self::Undefended | Self::Cookies | Self::CookiesAlways => {
                DefenceInPlace::Program { _attached: bed.attach_server_end(Program::Pass)? }
            }
            Self::Synproxy => synproxy(bed)?,
            Self::Auto | Self::Defender => {
                let program = plan.defender.as_deref().context("no defender to start")?;
                let mode = ["--mode", if self == Self::Auto { "auto" } else { "always" }];
                DefenceInPlace::Defender(match learnt {
                    Some(learnt) if self == Self::Auto => learnt.start(bed, program)?,
                    _ => Controller::start(&bed.server, program, SERVER_INTERFACE, &mode)?,
                })
            }
            Self::Drop => DefenceInPlace::Program { _attached: bed.attach_server_end(Program::DropRange)? },
            Self::Swap => DefenceInPlace::Program { _attached: bed.attach_server_end(Program::SwapTx)? },
            Self::Rewrite => {
                DefenceInPlace::Program { _attached: bed.attach_server_end(Program::RewriteTx)? }
            }
        })
    }
}

impl FloodLevel {
    /// The processor on which the client end receives answers. At full speed it is the source's, as on a
    /// real client's host. At other speeds the server's has time for it.
    pub(super) fn client_cpu(self) -> Option<usize> {
        (self == Self::Full).then(source_cpu).flatten()
    }

    /// Its name in the table and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoFlood => "no flood",
            Self::Paced(_) => "paced",
            Self::Full => "full",
        }
    }

    /// The same with the rate.
    pub(crate) fn rate(self) -> String {
        match self {
            Self::Paced(rate) if rate % 1_000_000 == 0 => format!("{}M/s", rate / 1_000_000),
            Self::Paced(rate) if rate % 1000 == 0 => format!("{}k/s", rate / 1000),
            Self::Paced(rate) => format!("{rate}/s"),
            _ => self.name().to_owned(),
        }
    }
}

impl fmt::Display for Defence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.title())
    }
}

/// nftables' SYN proxy as documented (wiki.nftables.org, "Synproxy"), for the server's port. It needs loose
/// pick-up of connections disabled, so that conntrack classifies the acknowledgement of a cookie as
/// invalid.
const SYNPROXY: &str = "\
table ip dfnd {
  chain pre {
    type filter hook prerouting priority raw; policy accept;
    tcp dport 80 tcp flags syn notrack
  }
  chain in {
    type filter hook input priority filter; policy accept;
    tcp dport 80 ct state invalid,untracked synproxy mss 1460 wscale 10 timestamp sack-perm
    tcp dport 80 ct state invalid drop
  }
}
";

fn synproxy<'a>(bed: &Topology) -> Result<DefenceInPlace<'a>> {
    let attached = bed.attach_server_end(Program::Pass)?;
    let name = bed.server.name().to_owned();
    let nft = |input: &str| {
        command::run_with_input("ip", &["netns", "exec", &name, "nft", "-f", "-"], input).map(drop)
    };
    nft(SYNPROXY).context("cannot set up nftables' SYN proxy")?;
    bed.server.set_sysctl("net.netfilter.nf_conntrack_tcp_loose", 0)?;
    let name = bed.server.name().to_owned();
    let flush = Guard::new(move || {
        let flush = ["netns", "exec", &name, "nft", "delete", "table", "ip", "dfnd"];
        if let Err(error) = command::run("ip", &flush) {
            eprintln!("cannot remove nftables' SYN proxy: {error:#}");
        }
    });
    Ok(DefenceInPlace::Rules { _attached: attached, _flush: flush })
}
