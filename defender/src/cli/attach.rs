//! `run` and `attach`.

use std::time::Duration;

use anyhow::Result;

use super::{AttachArguments, RunArguments, output::show};
#[cfg(feature = "metrics")]
use crate::report::metrics::exporter::Exporter;
use crate::{
    control::{
        controller::{Controller, Ended},
        session::{Session, SessionOptions},
    },
    dataplane::pins::PinRoot,
    host::ssh,
    model::{exported::Exported, section_table::SectionKey},
    report::outcome,
};

/// How long programs that are run for events may take at the end.
const LAST_HOOKS: Duration = Duration::from_secs(5);

pub(super) fn run(root: PinRoot, arguments: &RunArguments) -> Result<()> {
    let controller = Controller::new()?;
    let exported = Exported::default();
    let _exporter = export(&root, &exported);
    let mut session = begin(root, &arguments.attach, arguments.replace, &exported)?;
    let hooks = session.hooks();
    let ended = controller.run(&mut session, &exported).and_then(|ended| end(session, ended, arguments.keep));
    hooks.finish(LAST_HOOKS);
    ended
}

/// Ends a session in the way that was asked for.
fn end(mut session: Session, ended: Ended, keep: bool) -> Result<()> {
    match ended {
        Ended::Restart => {
            session.leave()?;
            log::info!("ending for a restart: everything stays attached");
            Ok(())
        }
        Ended::Signal if keep => {
            session.leave()?;
            log::info!("everything stays attached; keys are not rotated until `defender run` takes over");
            Ok(())
        }
        Ended::Signal => {
            session.finish()?;
            log::info!("detached");
            Ok(())
        }
        Ended::HandedOver => {
            drop(session);
            log::info!("another controller takes over: everything stays attached");
            Ok(())
        }
        Ended::Detached => {
            if let Err(error) = session.end_attacks() {
                log::warn!("cannot tell the end of current attacks: {error:#}");
            }
            session.finish()?;
            log::info!("detached by another process; exiting");
            Ok(())
        }
    }
}

pub(super) fn attach(root: PinRoot, arguments: &AttachArguments) -> Result<()> {
    let mut session = begin(root, arguments, false, &Exported::default())?;
    if let Some(reload) = session.take_due_reload() {
        reload.run()?;
    }
    if let Some(expiry) = session.begin_expiry() {
        session.complete_expiry(expiry.run());
    }
    let endpoints = session.table().services.values().map(|service| &service.endpoint);
    let done = outcome::attached(session.interfaces(), session.settings(), endpoints)?;
    session.leave()?;
    log::info!("keys are not rotated and new listeners not noticed until `defender run` takes over");
    if arguments.output.is_json() { show(&done) } else { Ok(()) }
}

/// Serves metrics, should the configuration file ask for them. What goes wrong with them does not end the defence.
#[cfg(feature = "metrics")]
fn export(root: &PinRoot, exported: &Exported) -> Option<Exporter> {
    Exporter::start(root, exported)
        .inspect_err(|error| log::warn!("no metrics: {error:#}; the defence goes on"))
        .ok()
}

#[cfg(not(feature = "metrics"))]
fn export(_: &PinRoot, _: &Exported) {}

fn begin(root: PinRoot, arguments: &AttachArguments, replace: bool, exported: &Exported) -> Result<Session> {
    let options = SessionOptions {
        interfaces: without_repetition(&arguments.iface),
        mode: arguments.mode,
        ports: arguments.port.clone(),
        config: arguments.config.clone(),
        flows: arguments.flows,
        replace,
        exported: exported.clone(),
        administrator: if arguments.no_allow_ssh { None } else { ssh::administrator() },
    };
    let session = Session::begin(root, &options)?;
    introduce(&session);
    if cfg!(not(feature = "metrics")) && session.settings().metrics.is_some() {
        log::warn!(
            "no metrics: {} is set, but this defender was built without them",
            SectionKey::MetricsListen
        );
    }
    Ok(session)
}

fn without_repetition(names: &[String]) -> Vec<String> {
    let mut unique = Vec::new();
    for name in names {
        if !unique.contains(name) {
            unique.push(name.clone());
        }
    }
    unique
}

/// Logs what is defended, and what was requested but is not.
fn introduce(session: &Session) {
    let settings = session.settings();
    let services = &session.table().services;
    let names: Vec<_> = services.values().map(|service| service.endpoint.to_string()).collect();
    let found = if names.is_empty() { "nothing listens yet".to_owned() } else { names.join(", ") };
    let only = if settings.ports.is_empty() { "" } else { " (other ports are not defended)" };
    if let Some((path, _)) = &settings.file {
        log::info!("settings of {} are in force", path.display());
    }
    log::info!("mode {} on {}: {found}{only}", settings.mode(), session.interfaces().join(", "));
    for port in &settings.ports {
        if !services.values().any(|service| service.endpoint.port == *port) {
            log::warn!("nothing listens on port {port}, except perhaps on loopback; waiting for it");
        }
    }
}
