//! The command line.

mod attach;
mod completion;
mod config;
mod conns;
mod detach;
mod doctor;
mod events;
mod explain;
mod get;
mod lists;
mod output;
mod port_names;
mod progress;
mod set;
mod stats;
mod status;
#[cfg(feature = "top")]
pub mod top;
mod values;
mod watch;
mod why;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use defender_common::tcp_state::State;
use nix::sys::stat::{self, umask};

use self::{
    completion::Shell, output::OutputArguments, port_names::PortNameArguments, values::parse_port,
    watch::WatchArguments,
};
use crate::{
    control::recovery,
    dataplane::{features, pins::PinRoot},
    logger,
    model::{
        lists::{
            entry::{List, parse_prefix},
            note::Comment,
        },
        mode::Mode,
        prefix::Cidr,
        timestamp::Moment,
    },
    problem::{self, Problem},
    report::{conns::parse_state, peer::Peer},
    state::{directory::StateDirectory, journal::Journal},
};

/// Where pins are, unless the command line or the environment says otherwise.
const DEFAULT_PIN_ROOT: &str = "/sys/fs/bpf/defender";
/// Names another pin root.
const PIN_ROOT_VARIABLE: &str = "DEFENDER_PIN_ROOT";

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
        env = PIN_ROOT_VARIABLE,
        default_value = DEFAULT_PIN_ROOT
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
    /// Works with or without a controller, and whatever has become of the pins. Where nothing is attached, it says so and
    /// succeeds.
    Detach(DetachArguments),
    /// Show what is defended, what is going on, and why
    ///
    /// Exit status, for monitoring: 0 if all is well, 1 if the defence is degraded or nothing is attached. The first line says
    /// what is wrong: an interface is gone, down or cannot be defended; the controller died, is stopped or stuck; challenging is
    /// suspended.
    Status(StatusArguments),
    /// Show services, verdicts, counters and connections
    Stats(StatsArguments),
    /// Watch services, verdicts, networks and events on a terminal
    ///
    /// Keys: ? shows them, q quits. NO_COLOR turns colours off.
    #[cfg(feature = "top")]
    Top,
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
    ///
    /// The longest prefix that covers a source decides. Changes count at once and last until `detach`.
    Allow(ListArguments),
    /// Add, delete or list sources whose SYNs are dropped
    ///
    /// The longest prefix that covers a source decides. Changes count at once and last until `detach`.
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
    /// Print a script that lets a shell complete commands, ports, interfaces and settings
    ///
    /// For example: `source <(defender completions bash)`. Packages install the scripts.
    Completions(CompletionsArguments),
}

#[derive(Args, Debug)]
struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args, Debug)]
struct AttachArguments {
    /// Interfaces to defend [default: those of the configuration file, or those with a default route]
    #[arg(long, value_delimiter = ',', value_name = "IF", add = ArgValueCandidates::new(completion::interfaces))]
    iface: Vec<String>,
    /// What happens to SYNs [default: as before, or auto]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Defend only these ports, by number or service name [default: as before, or every port with a listener]
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = parse_port,
        add = ArgValueCandidates::new(completion::ports)
    )]
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
    #[command(flatten)]
    output: OutputArguments,
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
    #[arg(long, value_delimiter = ',', value_name = "IF", add = ArgValueCandidates::new(completion::attached))]
    iface: Vec<String>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args, Debug)]
struct StatusArguments {
    #[command(flatten)]
    watch: WatchArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args, Debug)]
struct StatsArguments {
    #[command(flatten)]
    watch: WatchArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args, Debug)]
struct ConnsArguments {
    /// Only these states, as the kernel or ss names them, in either case
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "S",
        value_parser = parse_state,
        add = ArgValueCandidates::new(completion::states)
    )]
    state: Vec<State>,
    /// Only these local ports, by number or service name
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "P",
        value_parser = parse_port,
        add = ArgValueCandidates::new(completion::ports)
    )]
    port: Vec<u16>,
    /// Only connections over IPv4
    #[arg(short = '4', long)]
    ipv4: bool,
    /// Only connections over IPv6
    #[arg(short = '6', long)]
    ipv6: bool,
    #[command(flatten)]
    port_names: PortNameArguments,
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
    #[command(flatten)]
    watch: WatchArguments,
    #[command(flatten)]
    output: OutputArguments,
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
    /// Only this port of this host, by number or service name
    #[arg(
        long,
        value_name = "LOCALPORT",
        value_parser = parse_port,
        add = ArgValueCandidates::new(completion::ports)
    )]
    port: Option<u16>,
    #[command(flatten)]
    port_names: PortNameArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args, Debug)]
struct ExplainArguments {
    /// The service's port, by number or service name
    #[arg(value_parser = parse_port, add = ArgValueCandidates::new(completion::ports))]
    port: u16,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args, Debug)]
struct ListArguments {
    #[command(subcommand)]
    action: ListAction,
}

#[derive(Debug, Subcommand)]
enum ListAction {
    /// Add prefixes, and remove them from the other list
    ///
    /// A prefix that is there already gets the comment and time of expiry given now, or none.
    Add(AddArguments),
    /// Delete prefixes; names those that are not there
    Del(DelArguments),
    /// Delete all prefixes
    Flush(FlushArguments),
    /// Show the list
    List(ShowArguments),
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct PrefixArguments {
    /// Addresses and prefixes, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32
    #[arg(value_delimiter = ',', value_name = "PREFIX", value_parser = parse_prefix)]
    prefixes: Vec<Cidr>,
    /// Read them from a file, or from standard input (-): one a line, with a comment behind #
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct AddArguments {
    #[command(flatten)]
    which: PrefixArguments,
    /// Why they are there; up to 100 characters, shown by `list`. A line's own comment counts instead
    #[arg(long, value_name = "TEXT", value_parser = parse_comment)]
    comment: Option<Comment>,
    /// Remove them then: after a duration such as 90s, 1h or 7days, or at a time in UTC such as
    /// 2026-01-31T23:59:59Z [default: never]
    #[arg(long, value_name = "WHEN")]
    expires: Option<Moment>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args, Debug)]
struct DelArguments {
    #[command(flatten)]
    which: PrefixArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args, Debug)]
struct FlushArguments {
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args, Debug)]
struct ShowArguments {
    /// Show at most N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration file without loading it; needs no privilege
    Check {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Args, Debug)]
struct EventsArguments {
    #[command(flatten)]
    output: OutputArguments,
    /// Show the last N [default: 50; all with --since or --until]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only events since then: a duration back from now, such as 90s, 1h or 2days, or a time in UTC such as
    /// 2026-01-31T23:59:59Z
    #[arg(long, value_name = "WHEN")]
    since: Option<Moment>,
    /// Only events until then, given likewise
    #[arg(long, value_name = "WHEN")]
    until: Option<Moment>,
    /// Only services on these ports, by number or service name
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "P",
        value_parser = parse_port,
        add = ArgValueCandidates::new(completion::ports)
    )]
    port: Vec<u16>,
    /// Print each new event as it comes; with --since, what has happened since then first
    #[arg(long, conflicts_with_all = ["limit", "until"])]
    follow: bool,
    // It was needed when --follow printed JSON unless asked for text.
    #[arg(long, hide = true, requires = "follow", conflicts_with_all = ["json", "output"])]
    text: bool,
}

#[derive(Args, Debug)]
struct SetArguments {
    /// A setting, or PORT.SETTING for one port; docs/reference/settings.md lists them
    #[arg(add = ArgValueCandidates::new(completion::settings))]
    key: String,
    /// The new value, with or without its unit (30s, 10k, 25%); `default` removes what was set
    #[arg(add = ArgValueCandidates::new(completion::values))]
    value: String,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args, Debug)]
struct GetArguments {
    /// Show the value in force of this setting
    #[arg(add = ArgValueCandidates::new(completion::settings))]
    key: Option<String>,
    /// Print settings and lists in force as a configuration file
    #[arg(long, conflicts_with = "key")]
    export: bool,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args, Debug)]
struct DoctorArguments {
    /// Check these interfaces [default: all hardware interfaces that are up]
    #[arg(long, value_delimiter = ',', value_name = "IF", add = ArgValueCandidates::new(completion::interfaces))]
    iface: Vec<String>,
    /// Check only these ports, by number or service name [default: every port with a listener]
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = parse_port,
        add = ArgValueCandidates::new(completion::ports)
    )]
    port: Vec<u16>,
    #[command(flatten)]
    output: OutputArguments,
}

/// Prints completions and exits if a shell asks for them. Nothing may be printed before.
pub fn complete() {
    completion::complete();
}

/// Reads the command line. If it is wrong, or asks for help only, the exit status is returned.
pub fn parse() -> Result<Arguments, ExitCode> {
    let asks_for_json = output::asks_for_json(env::args_os());
    if asks_for_json {
        logger::use_json();
    }
    Arguments::try_parse().map_err(|error| {
        if asks_for_json && error.use_stderr() {
            logger::failure(&complaint(&error), problem::WRONG_USAGE);
        } else {
            // Nobody may read it.
            let _ = error.print();
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(problem::WRONG_USAGE))
    })
}

/// What is wrong with the command line, on one line and without the usage.
fn complaint(error: &clap::Error) -> String {
    let text = error.to_string();
    let complaint = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = complaint.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
}

/// A comment of the command line.
fn parse_comment(text: &str) -> Result<Comment, Problem> {
    text.to_owned().try_into()
}

/// Runs the given command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    // Whatever is created is private to its owner, who has full access.
    umask(stat::Mode::from_bits_truncate(0o077));
    logger::install(arguments.verbose);
    let root = PinRoot::new(&arguments.pin_root)?;
    if !matches!(
        arguments.command,
        Command::Doctor(_) | Command::Config(_) | Command::Events(_) | Command::Completions(_)
    ) {
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
        #[cfg(feature = "top")]
        Command::Top => return top::top(&root),
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
        Command::Completions(arguments) => completion::completions(arguments.shell)?,
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
            "defender status -o json",
            "defender stats --output text",
            "defender status --watch 2",
            "defender conns -46n --watch 1 --port 80",
            "defender conns --ipv4 --numeric",
            "defender events --since 1h --until 2026-01-31T23:59:59Z",
            "defender events --follow --since 5m -o json",
            "defender get -o json",
            "defender set mode off -o json",
            "defender config check config.toml -o json",
            "defender detach --json",
            "defender attach --iface eth0 -o json",
            "defender run --iface eth0 -o json",
            "defender completions fish",
            "defender stats --json --watch 2",
            #[cfg(feature = "top")]
            "defender top",
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
            "defender allow add --file - --comment scanners --expires 1h",
            "defender deny add 192.0.2.7 --expires 2026-01-31T12:00:00Z -o json",
            "defender deny del 192.0.2.0/24",
            "defender deny del --file blocked.txt --json",
            "defender deny flush",
            "defender allow flush -o json",
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
            "defender status -o yaml",
            "defender status -o text --json",
            "defender attach --port 0",
            "defender conns --state listen",
            "defender conns --source 192.0.2.0/33",
            "defender conns --sort name",
            "defender conns --summary --limit 3",
            "defender events --text",
            "defender events --since yesterday",
            "defender events --follow --until 1h",
            "defender status --watch 0",
            "defender completions",
            "defender completions tcsh",
            "defender completions bash --json",
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
            "defender allow add 192.0.2.7 --expires soon",
            "defender allow add 192.0.2.7 --expires 3600",
            "defender allow add --comment x",
            "defender allow add --expires 1h",
            "defender deny del",
            "defender deny del 192.0.2.7 --file x",
            "defender deny del 192.0.2.7 --expires 1h",
            "defender deny flush 192.0.2.7",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
