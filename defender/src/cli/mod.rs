//! The command line.

mod attach;
mod config;
mod conns;
mod detach;
mod doctor;
mod events;
mod explain;
mod get;
mod lists;
mod output;
mod set;
mod stats;
mod status;
mod why;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use defender_common::tcp_state::State;
use nix::sys::stat::{self, umask};

use crate::{
    control::recovery,
    dataplane::{features, pins::PinRoot},
    logger,
    model::{
        lists::entry::{List, parse_prefix},
        mode::Mode,
        prefix::Cidr,
    },
    report::{conns::parse_state, peer::Peer},
    state::{directory::StateDirectory, journal::Journal},
};

/// Protect this host's TCP services against SYN floods, at the network interface
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 3 needs privilege.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Arguments {
    /// Directory on a BPF file system for the pins; names the instance
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "DEFENDER_PIN_ROOT",
        default_value = "/sys/fs/bpf/defender"
    )]
    pin_root: PathBuf,
    /// Log more (DEFENDER_LOG=error|warn|info|debug sets the level)
    #[arg(long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach, protect services, and detach on SIGINT or SIGTERM
    Run(RunArguments),
    /// Attach like `run`, then exit and leave everything attached
    ///
    /// Until `run` takes over, keys are not rotated, and changes of listeners, addresses and sysctls go unnoticed.
    Attach(AttachArguments),
    /// Remove defender from interfaces; connections go on
    ///
    /// Works with or without a controller, and whatever has become of the pins.
    Detach(DetachArguments),
    /// Show what is defended, what is going on, and why
    ///
    /// Exit status, for monitoring: 0 if all is well, 1 if the defence is degraded or nothing is attached. The first line says
    /// what is wrong: an interface is gone, down or cannot be defended; the controller died, is stopped or stuck; challenging is
    /// suspended.
    Status(StatusArguments),
    /// Show services, verdicts, counters and connections
    Stats(StatsArguments),
    /// List connections to services
    ///
    /// Age, packets and how a connection was admitted are missing (-) if the flow table had no room for it.
    Conns(ConnsArguments),
    /// Show a peer's connections, its last verdicts, and what would become of its next SYN
    Why(WhyArguments),
    /// Show at what numbers `auto` challenges SYNs to a port, and where each number comes from
    Explain(ExplainArguments),
    /// List past events, or follow new ones
    Events(EventsArguments),
    /// Add, delete or list sources whose SYNs are never challenged
    Allow(ListArguments),
    /// Add, delete or list sources whose SYNs are dropped
    Deny(ListArguments),
    /// Change a setting at once
    Set(SetArguments),
    /// Show settings
    ///
    /// Without a key: mode, reply_budget, and whatever was set or is in the configuration file.
    Get(GetArguments),
    /// Check a configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check kernel, interfaces, sysctls, listeners and firewall, and say what to change
    ///
    /// Loads the programs into the verifier and unloads them, in about two seconds; changes nothing.
    Doctor(DoctorArguments),
}

#[derive(Args, Debug)]
struct AttachArguments {
    /// Interfaces to defend [default: those of the configuration file, or those with a default route]
    #[arg(long, value_delimiter = ',', value_name = "IF")]
    iface: Vec<String>,
    /// What happens to SYNs [default: as before, or auto]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Defend only these ports [default: as before, or every port with a listener]
    #[arg(long, value_delimiter = ',', value_parser = parse_port)]
    port: Option<Vec<u16>>,
    /// Read settings and lists from this file; SIGHUP reloads it [default: /etc/defender/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Connections that the flow table has room for, 64 bytes each; fixed until `detach` [default: as before, or 131072]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    flows: Option<u32>,
    /// Do not put the address of your SSH session on the allow list
    #[arg(long)]
    no_allow_ssh: bool,
}

#[derive(Args, Debug)]
struct RunArguments {
    #[command(flatten)]
    attach: AttachArguments,
    /// Leave everything attached on exit
    #[arg(long)]
    keep: bool,
    /// Take over from a running controller without a gap; settings and lists stay [default: fail if there is one]
    #[arg(long)]
    replace: bool,
}

#[derive(Args, Debug)]
struct DetachArguments {
    /// Detach only from these interfaces
    #[arg(long, value_delimiter = ',', value_name = "IF")]
    iface: Vec<String>,
}

#[derive(Args, Debug)]
struct StatusArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct StatsArguments {
    /// Print one JSON object (with --watch: one a line)
    #[arg(long)]
    json: bool,
    /// Repeat every SECS seconds
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
}

#[derive(Args, Debug)]
struct ConnsArguments {
    /// Only these states, as the kernel or ss names them, in either case
    #[arg(long, value_delimiter = ',', value_name = "S", value_parser = parse_state)]
    state: Vec<State>,
    /// Only these local ports
    #[arg(long, value_delimiter = ',', value_name = "P", value_parser = parse_port)]
    port: Vec<u16>,
    /// Only these client addresses or prefixes
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    source: Vec<Cidr>,
    /// Show at most N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Sort by this; age and packets from the largest
    #[arg(long, value_enum, value_name = "KEY", default_value = "port")]
    sort: SortKey,
    /// Count by port and state instead
    #[arg(long, conflicts_with_all = ["limit", "sort"])]
    summary: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a listing of connections is sorted by.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SortKey {
    Age,
    Packets,
    State,
    Peer,
    Port,
}

#[derive(Args, Debug)]
struct WhyArguments {
    /// The peer's address, or address and port ([ADDR]:PORT for IPv6)
    #[arg(value_name = "ADDR[:PORT]")]
    peer: Peer,
    /// Only this port of this host
    #[arg(long, value_name = "LOCALPORT", value_parser = parse_port)]
    port: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ExplainArguments {
    /// The service's port
    #[arg(value_parser = parse_port)]
    port: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ListArguments {
    #[command(subcommand)]
    action: ListAction,
}

#[derive(Debug, Subcommand)]
enum ListAction {
    /// Add prefixes, and remove them from the other list
    Add(AddArguments),
    /// Delete prefixes
    Del(DelArguments),
    /// Show the list
    List(ShowArguments),
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct AddArguments {
    /// Addresses and prefixes, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32
    #[arg(value_delimiter = ',', value_name = "PREFIX", value_parser = parse_prefix)]
    prefixes: Vec<Cidr>,
    /// Read them from a file: one a line, # begins a comment
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct DelArguments {
    /// Prefixes as they are listed
    #[arg(required = true, value_delimiter = ',', value_name = "PREFIX", value_parser = parse_prefix)]
    prefixes: Vec<Cidr>,
}

#[derive(Args, Debug)]
struct ShowArguments {
    /// Show at most N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration file without loading it; needs no privilege
    Check {
        /// The file
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
struct EventsArguments {
    /// Print JSON, one event a line
    #[arg(long)]
    json: bool,
    /// Show the last N
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only services on these ports
    #[arg(long, value_delimiter = ',', value_name = "P", value_parser = parse_port)]
    port: Vec<u16>,
    /// Print each new event as one line of JSON
    #[arg(long, conflicts_with = "limit")]
    follow: bool,
    /// With --follow: print words instead of JSON
    #[arg(long, requires = "follow", conflicts_with = "json")]
    text: bool,
}

#[derive(Args, Debug)]
struct SetArguments {
    /// A setting, or PORT.SETTING for one port; docs/reference/settings.md lists them
    key: String,
    /// The new value; `default` removes what was set
    value: String,
}

#[derive(Args, Debug)]
struct GetArguments {
    /// Show the value in force of this setting
    key: Option<String>,
    /// Print settings and lists in force as a configuration file
    #[arg(long, conflicts_with = "key")]
    export: bool,
}

#[derive(Args, Debug)]
struct DoctorArguments {
    /// Check these interfaces [default: all hardware interfaces that are up]
    #[arg(long, value_delimiter = ',', value_name = "IF")]
    iface: Vec<String>,
    /// Check only these ports [default: every port with a listener]
    #[arg(long, value_delimiter = ',', value_parser = parse_port)]
    port: Vec<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A port of the command line.
fn parse_port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| "expected a port number from 1 to 65535".to_owned())
}

/// Runs the given command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    // Whatever is created is private to its owner, who has full access.
    umask(stat::Mode::from_bits_truncate(0o077));
    logger::install(arguments.verbose);
    let root = PinRoot::new(&arguments.pin_root)?;
    if !matches!(arguments.command, Command::Doctor(_) | Command::Config(_) | Command::Events(_)) {
        features::require_privilege()?;
        root.require_private()?;
        StateDirectory::of(&root).require_private()?;
        if !matches!(arguments.command, Command::Run(_) | Command::Attach(_) | Command::Detach(_)) {
            recovery::recover(&root)?;
        }
    }
    if matches!(arguments.command, Command::Run(_) | Command::Attach(_)) {
        Journal::of(&root).require_private()?;
    }
    match &arguments.command {
        Command::Run(arguments) => attach::run(root, arguments)?,
        Command::Attach(arguments) => attach::attach(root, arguments)?,
        Command::Detach(arguments) => detach::detach(&root, arguments)?,
        Command::Status(arguments) => return status::status(&root, arguments),
        Command::Stats(arguments) => stats::stats(&root, arguments)?,
        Command::Conns(arguments) => conns::conns(&root, arguments)?,
        Command::Why(arguments) => why::why(&root, arguments)?,
        Command::Explain(arguments) => explain::explain(&root, arguments)?,
        Command::Allow(arguments) => lists::run(&root, List::Allow, &arguments.action)?,
        Command::Deny(arguments) => lists::run(&root, List::Deny, &arguments.action)?,
        Command::Events(arguments) => events::events(&root, arguments)?,
        Command::Set(arguments) => set::set(&root, arguments)?,
        Command::Get(arguments) => get::get(&root, arguments)?,
        Command::Config(command) => config::config(command)?,
        Command::Doctor(arguments) => return doctor::doctor(&root, arguments),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_contract_parses() {
        for line in [
            "defender run --iface eth0,eth1 --mode always --port 80,443 --pin-root /sys/fs/bpf/x --keep",
            "defender --pin-root /sys/fs/bpf/x attach --iface eth0",
            "defender detach --iface eth0",
            "defender status --json",
            "defender stats --json --watch 2",
            "defender conns",
            "defender conns --state estab,SYN_RECV,time-wait --port 80,443 --source 192.0.2.0/24,2001:db8::7",
            "defender conns --limit 10 --sort age --json",
            "defender conns --port 80 --summary --json",
            "defender why 192.0.2.7",
            "defender why [2001:db8::7]:5000 --port 443 --json",
            "defender run --iface eth0 --config /etc/defender/config.toml",
            "defender attach --iface eth0 --config config.toml",
            "defender explain 443",
            "defender explain 443 --json",
            "defender config check config.toml",
            "defender run",
            "defender run --config /etc/defender/config.toml --replace",
            "defender run --iface eth0 --no-allow-ssh",
            "defender run --iface eth0 --replace",
            "defender allow add 192.0.2.7,192.0.2.0/24 2001:db8::/32",
            "defender allow add --file /etc/defender/allow",
            "defender deny del 192.0.2.0/24",
            "defender deny list --json --limit 10",
            "defender events --limit 10 --port 80,443 --json",
            "defender events --follow --port 443",
            "defender events --follow --text",
            "defender set 443.mode off",
            "defender set 443.up 30%",
            "defender set reply_limit default",
            "defender get",
            "defender get --export",
            "defender doctor --iface eth0 --json",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "defender",
            "defender run --iface eth0 --mode on",
            "defender attach --port 0",
            "defender conns --state listen",
            "defender conns --source 192.0.2.0/33",
            "defender conns --sort name",
            "defender conns --summary --limit 3",
            "defender events --text",
            "defender events --limit 0",
            "defender events --follow --limit 5",
            "defender get mode --export",
            "defender why",
            "defender why 192.0.2.0/24",
            "defender explain",
            "defender explain 0",
            "defender config",
            "defender config check",
            "defender allow",
            "defender allow add",
            "defender allow add 192.0.2.7/24",
            "defender allow add 192.0.2.7 --file x",
            "defender deny add ::/0",
            "defender deny del",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
