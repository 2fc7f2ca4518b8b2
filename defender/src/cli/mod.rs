//! The command line.

mod attach;
mod config;
mod conns;
mod detach;
mod events;
mod examine;
mod explain;
mod lists;
mod show;
mod tune;
mod why;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use defender_common::tcp_state::State;

use crate::{
    control::{
        lists::entry::{List, parse_prefix},
        settings::Mode,
    },
    dataplane::{features, pins::PinRoot},
    logger,
    report::{cidr::Cidr, conns::parse_state, peer::Peer},
};

/// Defends this host's TCP services against SYN floods, at the NIC
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 3 needs privilege.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Arguments {
    /// Directory on the BPF file system where everything is pinned
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "DEFENDER_PIN_ROOT",
        default_value = "/sys/fs/bpf/defender"
    )]
    pin_root: PathBuf,
    /// Say more about what is going on (DEFENDER_LOG=error|warn|info|debug sets the level)
    #[arg(long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach, find what listens, and stay in control until a signal; then detach
    Run(RunArguments),
    /// Attach as `run` does, but exit at once and leave everything attached
    Attach(AttachArguments),
    /// Detach
    Detach(DetachArguments),
    /// Say what is defended, what is going on, and why
    Status(StatusArguments),
    /// Show counters
    Stats(StatsArguments),
    /// List the connections to services
    Conns(ConnsArguments),
    /// Say what is known of a peer, and what would become of its next SYN
    Why(WhyArguments),
    /// Say when the services on a port are defended, and where each number comes from
    Explain(ExplainArguments),
    /// List past events, attacks above all, or print new ones as they come
    Events(EventsArguments),
    /// Sources whose SYNs are never challenged: add, del, list
    Allow(ListArguments),
    /// Sources whose SYNs are dropped: add, del, list
    Deny(ListArguments),
    /// Change a setting at once: mode, reply_budget, a threshold; PORT.KEY for one port
    Set(SetArguments),
    /// Show settings
    Get(GetArguments),
    /// Look at a configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Say what this kernel, driver and configuration can and cannot do, and what to change
    Doctor(DoctorArguments),
}

#[derive(Args, Debug)]
struct AttachArguments {
    /// Interfaces to defend
    #[arg(long, required = true, value_delimiter = ',', value_name = "IF")]
    iface: Vec<String>,
    /// What is done to SYNs [default: as it was, or auto]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Defend these ports only [default: as it was, or every port that something listens on]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<Vec<u16>>,
    /// Settings and lists are in this file as well; SIGHUP has it read again [default: no file]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Connections to keep track of, at 64 bytes each [default: as it was, or 131072]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    flows: Option<u32>,
    /// Do not put the address from which this host is administered over SSH on the allow list
    #[arg(long)]
    no_allow_ssh: bool,
}

#[derive(Args, Debug)]
struct RunArguments {
    #[command(flatten)]
    attach: AttachArguments,
    /// Leave everything attached at the end
    #[arg(long)]
    keep: bool,
}

#[derive(Args, Debug)]
struct DetachArguments {
    /// Detach from these interfaces only
    #[arg(long, value_delimiter = ',', value_name = "IF")]
    iface: Vec<String>,
}

#[derive(Args, Debug)]
struct StatusArguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct StatsArguments {
    /// As one JSON object (with --watch: one a line)
    #[arg(long)]
    json: bool,
    /// Again every so many seconds
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
}

#[derive(Args, Debug)]
struct ConnsArguments {
    /// Those in these states only: names as the kernel or ss has them, in either case
    #[arg(long, value_delimiter = ',', value_name = "S", value_parser = parse_state)]
    state: Vec<State>,
    /// Those to these ports only
    #[arg(long, value_delimiter = ',', value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Those from these addresses or prefixes only
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    source: Vec<Cidr>,
    /// The first so many only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// What to sort by: age and packets from the largest
    #[arg(long, value_enum, value_name = "KEY", default_value = "port")]
    sort: SortKey,
    /// Count them by port and state instead
    #[arg(long, conflicts_with_all = ["limit", "sort"])]
    summary: bool,
    /// As JSON
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
    /// Its address, and its port if only that one matters ([ADDR]:PORT for IPv6)
    #[arg(value_name = "ADDR[:PORT]")]
    peer: Peer,
    /// Only what concerns this port of this host
    #[arg(long, value_name = "LOCALPORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ExplainArguments {
    /// The port
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// As JSON
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
    /// Put prefixes on this list, and take them off the other one
    Add(AddArguments),
    /// Take prefixes off this list
    Del(DelArguments),
    /// Show what is on this list
    List(ShowArguments),
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct AddArguments {
    /// Addresses and prefixes, as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32
    #[arg(value_delimiter = ',', value_name = "PREFIX", value_parser = parse_prefix)]
    prefixes: Vec<Cidr>,
    /// A file of them: one a line, # begins a comment
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct DelArguments {
    /// Addresses and prefixes, as they are listed
    #[arg(required = true, value_delimiter = ',', value_name = "PREFIX", value_parser = parse_prefix)]
    prefixes: Vec<Cidr>,
}

#[derive(Args, Debug)]
struct ShowArguments {
    /// The first so many only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a configuration file is good; nothing else is done with it
    Check {
        /// The file
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
struct EventsArguments {
    /// As JSON, one event a line
    #[arg(long)]
    json: bool,
    /// The last so many only
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Those of services on these ports only
    #[arg(long, value_delimiter = ',', value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Print each new event as it comes, as one line of JSON
    #[arg(long, conflicts_with = "limit")]
    follow: bool,
    /// With --follow: in words
    #[arg(long, requires = "follow", conflicts_with = "json")]
    text: bool,
}

#[derive(Args, Debug)]
struct SetArguments {
    /// mode, reply_budget or a threshold; PORT.KEY for one port
    key: String,
    /// What it is to be; `default` removes what was set
    value: String,
}

#[derive(Args, Debug)]
struct GetArguments {
    /// Show this setting only
    key: Option<String>,
}

#[derive(Args, Debug)]
struct DoctorArguments {
    /// Look at these interfaces [default: all hardware that is up]
    #[arg(long, value_delimiter = ',', value_name = "IF")]
    iface: Vec<String>,
    /// Look at these ports only [default: every port that something listens on]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Does what the command line says.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    logger::install(arguments.verbose);
    let root = PinRoot::new(&arguments.pin_root)?;
    if !matches!(arguments.command, Command::Doctor(_) | Command::Config(_) | Command::Events(_)) {
        features::require_privilege()?;
    }
    match &arguments.command {
        Command::Run(arguments) => attach::run(root, arguments)?,
        Command::Attach(arguments) => attach::attach(root, arguments)?,
        Command::Detach(arguments) => detach::detach(&root, arguments)?,
        Command::Status(arguments) => show::status(&root, arguments)?,
        Command::Stats(arguments) => show::stats(&root, arguments)?,
        Command::Conns(arguments) => conns::conns(&root, arguments)?,
        Command::Why(arguments) => why::why(&root, arguments)?,
        Command::Explain(arguments) => explain::explain(&root, arguments)?,
        Command::Allow(arguments) => lists::run(&root, List::Allow, &arguments.action)?,
        Command::Deny(arguments) => lists::run(&root, List::Deny, &arguments.action)?,
        Command::Events(arguments) => events::events(&root, arguments)?,
        Command::Set(arguments) => tune::set(&root, arguments)?,
        Command::Get(arguments) => tune::get(&root, arguments)?,
        Command::Config(command) => config::config(command)?,
        Command::Doctor(arguments) => return examine::doctor(&root, arguments),
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
            "defender run --iface eth0 --no-allow-ssh",
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
            "defender doctor --iface eth0 --json",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "defender",
            "defender run",
            "defender run --iface eth0 --mode on",
            "defender attach --port 0",
            "defender conns --state listen",
            "defender conns --source 192.0.2.0/33",
            "defender conns --sort name",
            "defender conns --summary --limit 3",
            "defender events --text",
            "defender events --limit 0",
            "defender events --follow --limit 5",
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
