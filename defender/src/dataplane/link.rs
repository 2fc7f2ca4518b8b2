//! Attaches the programs, or replaces those attached before.
//!
//! Every attachment is a pinned `bpf_link`, so it outlives this process.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, XdpMode as AyaXdpMode,
        links::{FdLink, PinnedLink},
        loaded_programs,
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
    sys::SyscallError,
};

use crate::{
    dataplane::{
        loader::Programs,
        open_link::OpenLink,
        pins::{Hook, LinkName, PinRoot, Rollback, remove_file},
    },
    host::links::{Link, Vlan, XdpMode},
    problem::Problem,
};

/// Attaches the tracepoint program in place of an earlier one. For a moment both are attached.
pub fn attach_sock_state(programs: &mut Programs, root: &PinRoot, rollback: &mut Rollback) -> Result<()> {
    let program = programs.sock_state()?;
    let id = program.attach().context("cannot attach to the tracepoint inet_sock_set_state")?;
    let link = FdLink::from(program.take_link(id)?);
    put_in_place(link, &root.sock_state(), rollback)
}

/// Makes the connection listing ready to read.
pub fn attach_listing(programs: &mut Programs, root: &PinRoot, rollback: &mut Rollback) -> Result<()> {
    let program = programs.flows()?;
    let id = program.attach().context("cannot iterate over the sockets")?;
    let link = FdLink::try_from(program.take_link(id)?).context("cannot pin the listing of connections")?;
    put_in_place(link, &root.flows(), rollback)
}

/// Pins a link of a kind that cannot be updated, in place of the earlier one.
fn put_in_place(link: FdLink, pin: &Path, rollback: &mut Rollback) -> Result<()> {
    if !pin.exists() {
        rollback.note(pin.to_owned());
        return pin_link(link, pin);
    }
    let replacement = PinRoot::replacement(pin);
    remove_file(&replacement)?;
    pin_link(link, &replacement)?;
    fs::rename(&replacement, pin).with_context(|| format!("cannot replace {}", pin.display()))
}

/// Attaches the programs of one interface. XDP comes last, since the others must be ready to take over what
/// it accepts.
pub fn attach_interface(
    programs: &mut Programs,
    root: &PinRoot,
    interface: &Link,
    rollback: &mut Rollback,
) -> Result<()> {
    let name = interface.name.as_str();
    attach_classifier(
        programs.egress()?,
        root,
        &LinkName::new(name, Hook::Egress),
        interface.index,
        rollback,
    )?;
    attach_classifier(
        programs.handoff()?,
        root,
        &LinkName::new(name, Hook::Ingress),
        interface.index,
        rollback,
    )?;
    attach_xdp(programs, root, interface, rollback)
}

/// Attaches the hand-off to a VLAN device on `interface`, unless it is attached. Returns whether it was
/// not.
pub fn attach_vlan(
    programs: &mut Programs,
    root: &PinRoot,
    interface: &Link,
    vlan: &Vlan,
    rollback: &mut Rollback,
) -> Result<bool> {
    let link = LinkName::new(&interface.name, Hook::VlanIngress(vlan.name.clone()));
    if is_live(&root.link(&link), vlan.index)? {
        return Ok(false);
    }
    attach_classifier(programs.handoff()?, root, &link, vlan.index, rollback)?;
    Ok(true)
}

/// Detaches from VLAN devices that are gone or were renamed.
pub fn remove_stale_vlans(root: &PinRoot, interface: &Link) -> Result<()> {
    for link in root.links()?.into_iter().filter(|link| link.interface == interface.name) {
        if let Hook::VlanIngress(device) = &link.hook
            && !interface.vlans.iter().any(|vlan| vlan.name == *device)
        {
            let pin = root.link(&link);
            OpenLink::from_pin(&pin)?.detach()?;
            remove_file(&pin)?;
        }
    }
    Ok(())
}

/// Whether every program of `interface` is attached.
pub fn is_attached(root: &PinRoot, interface: &Link) -> Result<bool> {
    for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
        if !is_live(&root.link(&LinkName::new(&interface.name, hook)), interface.index)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn attach_xdp(
    programs: &mut Programs,
    root: &PinRoot,
    interface: &Link,
    rollback: &mut Rollback,
) -> Result<()> {
    let pin = root.link(&LinkName::new(&interface.name, Hook::Xdp));
    if let Some(link) = open_live(&pin, interface.index)? {
        // The link keeps the mode it was created with.
        let mode = interface.xdp.first().map_or(XdpMode::Native, |program| program.mode);
        let program = programs.xdp(mode)?;
        let link = XdpLink::try_from(link).with_context(|| format!("{} is no XDP link", pin.display()))?;
        let id = program.attach_to_link(link).with_context(|| cannot_replace(&pin))?;
        drop(program.take_link(id)?);
        return Ok(());
    }
    require_free(interface)?;
    let link = create_xdp(programs, interface)?;
    rollback.note(pin.clone());
    pin_link(link, &pin)
}

fn create_xdp(programs: &mut Programs, interface: &Link) -> Result<FdLink> {
    let name = &interface.name;
    let native = match make_xdp(programs, interface, XdpMode::Native) {
        Ok(link) => return Ok(link),
        Err(error) => error,
    };
    if is_permanent(&native) {
        return Err(native.context(format!("cannot attach to {name}")));
    }
    let link = make_xdp(programs, interface, XdpMode::Generic)
        .with_context(|| format!("cannot attach to {name}, neither natively ({native}) nor generically"))?;
    log::warn!(
        "{name}: the driver {} does not take this XDP program ({native:#}): it runs in generic mode, several times slower",
        interface.driver.as_deref().unwrap_or("of this device"),
    );
    Ok(link)
}

fn make_xdp(programs: &mut Programs, interface: &Link, mode: XdpMode) -> Result<FdLink> {
    let program = programs.xdp(mode)?;
    let flags = if mode == XdpMode::Generic { AyaXdpMode::Skb } else { AyaXdpMode::Driver };
    let id = program.attach_to_if_index(interface.index, flags)?;
    FdLink::try_from(program.take_link(id)?)
        .with_context(|| format!("{}: this kernel attaches XDP programs without a link", interface.name))
}

/// Errors that another mode would not fix.
fn is_permanent(error: &anyhow::Error) -> bool {
    let Some(ProgramError::SyscallError(SyscallError { io_error, .. })) = error.downcast_ref() else {
        return false;
    };
    matches!(io_error.raw_os_error(), Some(libc::EPERM | libc::EBUSY | libc::EEXIST | libc::ENODEV))
}

/// Fails and names the program if the interface runs an XDP program that is not pinned below `root`.
pub fn require_free_or_ours(root: &PinRoot, interface: &Link) -> Result<()> {
    if is_live(&root.link(&LinkName::new(&interface.name, Hook::Xdp)), interface.index)? {
        return Ok(());
    }
    require_free(interface)
}

fn require_free(interface: &Link) -> Result<()> {
    let Some(program) = interface.xdp.first() else { return Ok(()) };
    let name = program_name(program.id).unwrap_or_else(|| "a program".into());
    let remedy = if name.starts_with("defender") {
        "another defender holds it: `defender detach` with its --pin-root".to_owned()
    } else {
        format!("stop what attached it, or `ip link set dev {} xdp off`", interface.name)
    };
    Err(Problem::InUse(format!(
        "{} already runs the XDP program {name} (id {}, {}), and an interface runs one only: {remedy}",
        interface.name,
        program.id,
        program.mode.name(),
    ))
    .into())
}

fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

fn attach_classifier(
    program: &mut SchedClassifier,
    root: &PinRoot,
    name: &LinkName,
    index: u32,
    rollback: &mut Rollback,
) -> Result<()> {
    let pin = root.link(name);
    if let Some(link) = open_live(&pin, index)? {
        let link = SchedClassifierLink::try_from(link)
            .with_context(|| format!("{} is no tcx link", pin.display()))?;
        let id = program.attach_to_link(link).with_context(|| cannot_replace(&pin))?;
        drop(program.take_link(id)?);
        return Ok(());
    }
    let (hook, order, words) = match name.hook {
        // First, before programs that might drop or redirect what is to be handed over. Last where it only
        // observes.
        Hook::Egress | Hook::Xdp => (TcAttachType::Egress, LinkOrder::last(), "egress"),
        Hook::Ingress | Hook::VlanIngress(_) => (TcAttachType::Ingress, LinkOrder::first(), "ingress"),
    };
    let device = name.device();
    let id = program
        .attach_with_options(device, hook, TcAttachOptions::TcxOrder(order))
        .with_context(|| format!("cannot attach to tcx {words} of {device}"))?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    rollback.note(pin.clone());
    pin_link(link, &pin)
}

fn cannot_replace(pin: &Path) -> String {
    format!("cannot replace the program behind {}", pin.display())
}

fn pin_link(link: FdLink, pin: &Path) -> Result<()> {
    // Closes the descriptor: from now on the pin holds the link.
    link.pin(pin).map(drop).with_context(|| format!("cannot pin {}", pin.display()))
}

/// The link pinned at `pin`, if it is attached to device `index`. Removes a link whose device is gone or
/// was recreated under the same name.
fn open_live(pin: &Path, index: u32) -> Result<Option<FdLink>> {
    if !pin.exists() {
        return Ok(None);
    }
    if is_live(pin, index)? {
        let link = PinnedLink::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
        return Ok(Some(FdLink::from(link)));
    }
    log::debug!("{} is attached to a device that has gone", pin.display());
    remove_file(pin)?;
    Ok(None)
}

/// Whether the link pinned at `pin` is attached to the device `index`.
fn is_live(pin: &Path, index: u32) -> Result<bool> {
    Ok(pin.exists() && OpenLink::from_pin(pin)?.about()?.ifindex == index)
}
