//! Attaches the programs, or puts them in the place of those attached before.
//!
//! Every attachment is a `bpf_link`, pinned, and its descriptor closed at once: the pin alone decides whether the
//! program stays attached, whoever removes it.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as AyaXdpMode,
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
        pins::{Hook, LinkName, PinRoot, Rollback, remove_file},
    },
    host::links::{Link, Vlan},
    problem::Problem,
};

/// Attaches the tracepoint program in the place of one attached before: for a moment both are.
pub fn attach_sock_state(programs: &mut Programs, root: &PinRoot, rollback: &mut Rollback) -> Result<()> {
    let program = programs.sock_state()?;
    let id = program.attach().context("cannot attach to the tracepoint inet_sock_set_state")?;
    let link = FdLink::from(program.take_link(id)?);
    put_in_place(link, &root.sock_state(), rollback)
}

/// Makes the listing of connections ready to be read.
pub fn attach_listing(programs: &mut Programs, root: &PinRoot, rollback: &mut Rollback) -> Result<()> {
    let program = programs.flows()?;
    let id = program.attach().context("cannot iterate over the sockets")?;
    let link = FdLink::try_from(program.take_link(id)?).context("cannot pin the listing of connections")?;
    put_in_place(link, &root.flows(), rollback)
}

/// Pins a link of a kind that cannot be updated, in place of the one before.
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

/// Attaches the programs of one interface, XDP last: what it accepts, the others must be there to take over.
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
    attach_xdp(programs.xdp()?, root, interface, rollback)
}

/// Attaches the hand-off to a VLAN device on `interface`, unless it is. Returns whether it is new there.
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

/// Removes the pins of links to VLAN devices that are gone.
pub fn remove_stale_vlans(root: &PinRoot, interface: &Link) -> Result<()> {
    for link in root.links()?.into_iter().filter(|link| link.interface == interface.name) {
        if let Hook::VlanIngress(device) = &link.hook
            && !interface.vlans.iter().any(|vlan| vlan.name == *device)
        {
            remove_file(&root.link(&link))?;
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

fn attach_xdp(program: &mut Xdp, root: &PinRoot, interface: &Link, rollback: &mut Rollback) -> Result<()> {
    let pin = root.link(&LinkName::new(&interface.name, Hook::Xdp));
    if let Some(link) = open_live(&pin, interface.index)? {
        let link = XdpLink::try_from(link).with_context(|| format!("{} is no XDP link", pin.display()))?;
        let id = program.attach_to_link(link).with_context(|| cannot_replace(&pin))?;
        drop(program.take_link(id)?);
        return Ok(());
    }
    require_free(interface)?;
    let link = create_xdp(program, interface)?;
    rollback.note(pin.clone());
    pin_link(link, &pin)
}

fn create_xdp(program: &mut Xdp, interface: &Link) -> Result<FdLink> {
    let name = &interface.name;
    let id = match program.attach_to_if_index(interface.index, AyaXdpMode::Driver) {
        Ok(id) => id,
        Err(error) if is_permanent(&error) => {
            return Err(anyhow!(error).context(format!("cannot attach to {name}")));
        }
        Err(native) => {
            let id = program.attach_to_if_index(interface.index, AyaXdpMode::Skb).with_context(|| {
                format!("cannot attach to {name}, neither natively ({native}) nor generically")
            })?;
            log::warn!(
                "{name}: the driver {} does not take this XDP program ({:#}): it runs in generic mode, several times slower",
                interface.driver.as_deref().unwrap_or("of this device"),
                anyhow!(native)
            );
            id
        }
    };
    FdLink::try_from(program.take_link(id)?)
        .with_context(|| format!("{name}: this kernel attaches XDP programs without a link"))
}

/// Errors that another mode would not cure.
fn is_permanent(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(SyscallError { io_error, .. }) = error else { return false };
    matches!(io_error.raw_os_error(), Some(libc::EPERM | libc::EBUSY | libc::EEXIST | libc::ENODEV))
}

/// Fails where the interface runs an XDP program that is not pinned below `root`, and says which.
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
        // Before anyone who might drop or redirect what is to be handed over; last where only to watch.
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
    // Closes the descriptor: from here on the pin holds the link.
    link.pin(pin).map(drop).with_context(|| format!("cannot pin {}", pin.display()))
}

/// The link pinned at `pin`, if it is attached to the device `index`. One whose device has gone, or was made again
/// under the same name, is removed.
fn open_live(pin: &Path, index: u32) -> Result<Option<FdLink>> {
    if !pin.exists() {
        return Ok(None);
    }
    let link =
        FdLink::from(PinnedLink::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?);
    if ifindex_of(&link)? == index {
        return Ok(Some(link));
    }
    log::debug!("{} is attached to a device that has gone", pin.display());
    remove_file(pin)?;
    Ok(None)
}

/// Whether the link pinned at `pin` is attached to the device `index`.
fn is_live(pin: &Path, index: u32) -> Result<bool> {
    if !pin.exists() {
        return Ok(false);
    }
    let link =
        FdLink::from(PinnedLink::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?);
    Ok(ifindex_of(&link)? == index)
}

/// The device a link is attached to; 0 if it has gone. aya does not tell, so the kernel's text about the descriptor
/// is read.
fn ifindex_of(link: &FdLink) -> Result<u32> {
    let id = link.info().context("cannot look at a link")?.id().to_string();
    for descriptor in descriptors().context("cannot look at this process's descriptors")? {
        let text = match fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context("cannot look at this process's descriptors"),
        };
        if field(&text, "link_id") == Some(&id) {
            return Ok(field(&text, "ifindex").and_then(|index| index.parse().ok()).unwrap_or(0));
        }
    }
    Ok(0)
}

/// This process's descriptors, highest first: the one opened last is nearly always among the first.
fn descriptors() -> io::Result<Vec<u32>> {
    let names = fs::read_dir("/proc/self/fdinfo")?.map(|entry| entry.map(|entry| entry.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_the_kernel_s_text() {
        let text = "pos:\t0\nlink_type:\txdp\nlink_id:\t12\nprog_id:\t34\nifindex:\t5\n";
        assert_eq!(field(text, "link_id"), Some("12"));
        assert_eq!(field(text, "ifindex"), Some("5"));
        assert_eq!(field(text, "link"), None);
    }
}
