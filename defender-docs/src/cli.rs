//! The command line: `cli.md` and the man pages, both from clap.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, Command, CommandFactory as _};
use defender::cli::Arguments;

use crate::{
    Page,
    markdown::{code, head, sentence, table},
};

/// Commands that clap adds, and that need no page.
const BUILT_IN: &str = "help";

fn command() -> Command {
    let mut command = Arguments::command();
    command.build();
    command
}

/// `cli.md`.
pub(crate) fn page() -> String {
    let command = command();
    let introduction = format!(
        "{}\n\n`status` exits with 1 if the defence is degraded, `doctor` if a check fails, `config check` if the file is bad. \
         `defender help COMMAND` prints what this page says. The man pages are in [docs/man](../man).",
        about(&command)
    );
    let mut text = head("Command line", &introduction);
    text.push_str("\nOptions of every command:\n");
    text.push_str(&arguments(&command, Arg::is_global_set));
    for subcommand in subcommands(&command) {
        section(&mut text, subcommand, "defender", 2);
    }
    text
}

fn section(text: &mut String, command: &Command, parent: &str, depth: usize) {
    let name = format!("{parent} {}", command.get_name());
    let _ = write!(text, "\n{} {name}\n\n{}\n", "#".repeat(depth), about(command));
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let _ = write!(text, "\n```\n{usage}\n```\n");
    text.push_str(&arguments(command, |argument| !argument.is_global_set()));
    for subcommand in subcommands(command) {
        section(text, subcommand, &name, depth + 1);
    }
}

fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|subcommand| subcommand.get_name() != BUILT_IN)
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string);
    let about = about.unwrap_or_default();
    let paragraphs: Vec<_> = about.split("\n\n").map(sentence).collect();
    paragraphs.join("\n\n")
}

fn arguments(command: &Command, wanted: impl Fn(&Arg) -> bool) -> String {
    let shown = |argument: &&Arg| {
        wanted(argument)
            && !argument.is_hide_set()
            && !matches!(argument.get_id().as_str(), "help" | "version")
    };
    let rows: Vec<_> = command.get_arguments().filter(shown).map(row).collect();
    if rows.is_empty() { String::new() } else { table(["argument", "meaning"], &rows) }
}

fn row(argument: &Arg) -> [String; 2] {
    let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    let names: Vec<_> =
        argument.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let value = if takes_value { names.join(" ") } else { String::new() };
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let names: Vec<_> = short.into_iter().chain(long).collect();
    let name = [names.join(", "), value].join(" ").trim().to_owned();
    let mut meaning = sentence(&argument.get_help().map(ToString::to_string).unwrap_or_default());
    let possible = argument.get_possible_values();
    if takes_value && !possible.is_empty() {
        let values: Vec<_> = possible
            .iter()
            .map(|value| match value.get_help() {
                Some(help) => format!("`{}` ({help})", value.get_name()),
                None => code(value.get_name()),
            })
            .collect();
        let _ = write!(meaning, " One of {}.", values.join(", "));
    }
    let defaults = argument.get_default_values();
    if takes_value && !defaults.is_empty() {
        let defaults: Vec<_> = defaults.iter().map(|value| value.to_string_lossy()).collect();
        let _ = write!(meaning, " Default: `{}`.", defaults.join(","));
    }
    if let Some(variable) = argument.get_env() {
        let _ = write!(meaning, " Environment: `{}`.", variable.to_string_lossy());
    }
    [code(&name), meaning]
}

/// A man page for the program and for each command.
pub(crate) fn man() -> Result<Vec<Page>> {
    let mut pages = Vec::new();
    man_pages(&mut pages, &command(), "defender")?;
    Ok(pages)
}

fn man_pages(pages: &mut Vec<Page>, command: &Command, name: &str) -> Result<()> {
    let mut roff = Vec::new();
    // Built already; its display name is what the page is called.
    let named = command.clone().display_name(name.to_owned());
    clap_mangen::Man::new(named).render(&mut roff).context("cannot write a man page")?;
    pages.push(Page { path: format!("docs/man/{name}.1").into(), text: String::from_utf8(roff)? });
    for subcommand in subcommands(command) {
        man_pages(pages, subcommand, &format!("{name}-{}", subcommand.get_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_arguments_stay_hidden() {
        let argument = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
        let command = Command::new("x").arg(argument("shown").help("Shown")).arg(argument("old").hide(true));
        let text = arguments(&command, |_| true);
        assert!(text.contains("--shown") && !text.contains("--old"), "{text}");
    }
}
