//! `run` and `attach`.

use anyhow::Result;

use super::{AttachArguments, RunArguments};
use crate::{
    control::{
        controller::{Controller, Ended},
        session::{Options, Session},
    },
    dataplane::pins::PinRoot,
    host::ssh,
};

pub(super) fn run(root: PinRoot, arguments: &RunArguments) -> Result<()> {
    let controller = Controller::new()?;
    let mut session = begin(root, &arguments.attach)?;
    match controller.run(&mut session)? {
        Ended::Signal if arguments.keep => {
            log::info!("everything stays attached; keys are not renewed until `defender run` takes over");
            Ok(())
        }
        Ended::Signal => {
            session.finish()?;
            log::info!("detached");
            Ok(())
        }
        Ended::Detached => {
            session.finish()?;
            log::info!("someone has detached everything: nothing is left to do");
            Ok(())
        }
    }
}

pub(super) fn attach(root: PinRoot, arguments: &AttachArguments) -> Result<()> {
    begin(root, arguments)?;
    log::info!("keys are not renewed, nor new listeners noticed, until `defender run` takes over");
    Ok(())
}

fn begin(root: PinRoot, arguments: &AttachArguments) -> Result<Session> {
    let options = Options {
        interfaces: without_repetition(&arguments.iface),
        mode: arguments.mode,
        ports: arguments.port.clone(),
        config: arguments.config.clone(),
        flows: arguments.flows,
        administrator: if arguments.no_allow_ssh { None } else { ssh::administrator() },
    };
    let session = Session::begin(root, &options)?;
    introduce(&session);
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

/// Says what is defended, and what was asked for and is not.
fn introduce(session: &Session) {
    let settings = session.settings();
    let services = &session.table().services;
    let names: Vec<_> = services.values().map(|service| service.endpoint.to_string()).collect();
    let found = if names.is_empty() { "nothing listens yet".to_owned() } else { names.join(", ") };
    let only = if settings.ports.is_empty() { "" } else { " (other ports are left alone)" };
    log::info!("mode {} on {}: {found}{only}", settings.mode(), session.interfaces().join(", "));
    for port in &settings.ports {
        if !services.values().any(|service| service.endpoint.port == *port) {
            log::warn!("nothing listens on port {port} (except perhaps on loopback): waiting for it");
        }
    }
}
