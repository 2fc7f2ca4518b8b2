//! Completion by the shell: the scripts, and the candidates for values. All that is unstable in `clap_complete` is used here.
//!
//! The shell's script asks the program itself for candidates, so ports and interfaces are those of this host at that moment.

use std::{collections::BTreeSet, env, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, ValueEnum};
use clap_complete::{CompleteEnv, engine::CompletionCandidate, env::Shells};

use super::{Arguments, DEFAULT_PIN_ROOT, PIN_ROOT_VARIABLE, output::show};
use crate::{
    dataplane::pins::PinRoot,
    host::{links, service_names, sockets},
    model::{mode::Mode, setting_table::Setting},
    report::{connection_list::STATES, snapshot},
};

/// What the scripts set in the environment to ask for candidates.
const VARIABLE: &str = "_DEFENDER_COMPLETE";
const NAME: &str = "defender";
/// Where zsh loads the script at the first completion, it takes part in that one.
const ZSH_AT_ONCE: &str = "if [[ $funcstack[1] == _defender ]]; then $_comps[defender] \"$@\"; fi\n";

/// A shell that there is a script for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints candidates and exits if a shell asks for them.
pub(super) fn complete() {
    CompleteEnv::with_factory(Arguments::command).var(VARIABLE).complete();
}

/// `completions`.
pub(super) fn completions(shell: Shell) -> Result<()> {
    show(&script(shell)?)
}

fn script(shell: Shell) -> Result<String> {
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let shells = Shells::builtins();
    let completer = shells.completer(name).context("there is no script for this shell")?;
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, NAME, NAME, NAME, &mut script)
        .context("cannot write the script")?;
    let script = String::from_utf8(script).context("the script is no text")?;
    Ok(match shell {
        Shell::Zsh => script + ZSH_AT_ONCE,
        Shell::Bash | Shell::Fish => script,
    })
}

/// Ports of services by number and name: those that are defended, or else those that have a listener.
pub(super) fn ports() -> Vec<CompletionCandidate> {
    let ports = defended().filter(|ports| !ports.is_empty()).unwrap_or_else(listening);
    let names: Vec<_> = ports.iter().map(|port| (*port, service_names::name(*port))).collect();
    let numbers = names
        .iter()
        .map(|(port, name)| CompletionCandidate::new(port.to_string()).help(name.clone().map(Into::into)));
    let by_name = names.iter().filter_map(|(port, name)| {
        Some(CompletionCandidate::new(name.clone()?).help(Some(port.to_string().into())))
    });
    numbers.chain(by_name).collect()
}

fn defended() -> Option<BTreeSet<u16>> {
    let root = pin_root()?;
    root.require_private().ok()?;
    snapshot::ports(&root).ok()
}

fn listening() -> BTreeSet<u16> {
    let listeners = sockets::listeners().unwrap_or_default();
    listeners
        .iter()
        .filter(|listener| !listener.address.is_loopback())
        .map(|listener| listener.port)
        .collect()
}

/// Interfaces that can be defended: all but loopback and dummies.
pub(super) fn interfaces() -> Vec<CompletionCandidate> {
    let silent: Vec<String> = links::silent().unwrap_or_default().into_iter().map(|(_, name)| name).collect();
    let names = links::names().unwrap_or_default().into_iter().filter(|name| !silent.contains(name));
    names.map(CompletionCandidate::new).collect()
}

/// Interfaces that are defended; where that cannot be read, all that can be.
pub(super) fn attached() -> Vec<CompletionCandidate> {
    let names = pin_root().and_then(|root| root.interfaces().ok()).unwrap_or_default();
    if names.is_empty() { interfaces() } else { names.into_iter().map(CompletionCandidate::new).collect() }
}

/// States of connections.
pub(super) fn states() -> Vec<CompletionCandidate> {
    STATES.iter().map(|state| CompletionCandidate::new(state.name())).collect()
}

/// Names of settings.
pub(super) fn settings() -> Vec<CompletionCandidate> {
    let candidate =
        |setting: Setting| CompletionCandidate::new(setting.name()).help(Some(setting.description().into()));
    Setting::ALL.into_iter().map(candidate).collect()
}

/// Values that are words.
pub(super) fn values() -> Vec<CompletionCandidate> {
    Mode::ALL.map(Mode::name).into_iter().chain(["default"]).map(CompletionCandidate::new).collect()
}

/// The pin root unless the command line names another.
fn pin_root() -> Option<PinRoot> {
    let path = env::var_os(PIN_ROOT_VARIABLE).unwrap_or_else(|| DEFAULT_PIN_ROOT.into());
    PinRoot::new(&PathBuf::from(path)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(candidates: &[CompletionCandidate]) -> Vec<String> {
        candidates.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn every_shell_has_a_script_that_asks_this_program() {
        for shell in Shell::value_variants() {
            let script = script(*shell).expect("a script");
            assert!(script.contains(VARIABLE) && script.contains(NAME), "{script}");
        }
    }

    #[test]
    fn words_come_from_the_tables() {
        assert!(words(&states()).contains(&"ESTABLISHED".to_owned()));
        assert!(words(&settings()).contains(&"reply_limit".to_owned()));
        assert!(words(&values()).contains(&"monitor".to_owned()));
    }
}
