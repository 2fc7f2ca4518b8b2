//! Loads the programs and pins their maps.

use std::{collections::BTreeMap, io};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::MapData,
    programs::{BtfTracePoint, Iter, Program, ProgramError, SchedClassifier, Xdp},
};
use defender_common::abi::{self, program};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::{
    dataplane::{
        OBJECT,
        features::{self, Kernel},
        in_place, listeners,
        logs::{self, Logs},
        maps::Maps,
        members,
        pins::{PinRoot, Rollback, remove_file},
        socket_iter::SocketIter,
    },
    host::links::XdpMode,
    problem::Problem,
};

/// The tracepoint of [`program::SOCK_STATE`].
const TRACEPOINT: &str = "inet_sock_set_state";
/// What [`program::SOCKETS`], [`program::FLOWS`] and [`program::LISTENERS`] iterate over.
const ITERATOR: &str = "tcp";
/// The verifier's message where a program may not read kernel memory.
const READS_KERNEL: &str = "cannot use helper bpf_probe_read_kernel";

/// The programs, verified by the kernel but not attached yet.
pub struct Programs {
    ebpf: Ebpf,
    /// Kept open for programs loaded later, see [`in_place::patch`].
    _in_place: Vec<MapData>,
}

impl Programs {
    /// Loads the programs with the maps pinned below `root`. Creates missing maps, with `flow_buckets` of
    /// [`abi::FlowBucket`].
    pub fn load(root: &PinRoot, flow_buckets: u32, rollback: &mut Rollback) -> Result<Self> {
        let kernel = Kernel::probe()?;
        require_same_version(root)?;
        root.create(rollback)?;
        let mut object = object_for(&kernel)?;
        let in_place = in_place::patch(&mut object, root, rollback)?;
        let mut ebpf = load_object(&object, root, &kernel, flow_buckets, rollback)?;
        without_signals(|| load_programs(&mut ebpf, &kernel))?;
        Ok(Self { ebpf, _in_place: in_place })
    }

    /// Loads the programs with maps of their own, then frees both. Shows whether this kernel accepts them.
    pub fn try_load() -> Result<()> {
        let kernel = Kernel::probe()?;
        let mut object = object_for(&kernel)?;
        let in_place = in_place::patch_unpinned(&mut object)?;
        let constants = Constants::new();
        let mut ebpf = loader(&kernel, &constants, 1).load(&object).context("cannot load the eBPF object")?;
        without_signals(|| load_programs(&mut ebpf, &kernel))?;
        Self { ebpf, _in_place: in_place }.xdp(XdpMode::Generic).map(drop)
    }

    /// The XDP program for a mode. The one for generic mode is loaded on first use, since few hosts need
    /// it.
    pub fn xdp(&mut self, mode: XdpMode) -> Result<&mut Xdp> {
        if mode != XdpMode::Generic {
            return Ok(find(&mut self.ebpf, program::XDP)?.try_into()?);
        }
        let program: &mut Xdp = find(&mut self.ebpf, program::XDP_SKB)?.try_into()?;
        if program.fd().is_err() {
            without_signals(|| explain(program::XDP_SKB, program.load()))?;
        }
        Ok(program)
    }

    /// The tcx ingress program.
    pub fn handoff(&mut self) -> Result<&mut SchedClassifier> {
        Ok(find(&mut self.ebpf, program::HANDOFF)?.try_into()?)
    }

    /// The tcx egress program.
    pub fn egress(&mut self) -> Result<&mut SchedClassifier> {
        Ok(find(&mut self.ebpf, program::EGRESS)?.try_into()?)
    }

    /// The tracepoint program.
    pub fn sock_state(&mut self) -> Result<&mut BtfTracePoint> {
        Ok(find(&mut self.ebpf, program::SOCK_STATE)?.try_into()?)
    }

    /// The program that lists the connections to services.
    pub fn flows(&mut self) -> Result<&mut Iter> {
        Ok(find(&mut self.ebpf, program::FLOWS)?.try_into()?)
    }

    /// An iteration over the sockets of this thread's network namespace. It enters them in the presence
    /// filter and the flow table.
    pub fn socket_iter(&mut self) -> Result<SocketIter> {
        let iterator: &mut Iter = find(&mut self.ebpf, program::SOCKETS)?.try_into()?;
        SocketIter::new(iterator)
    }

    /// The socket options of the listeners in this thread's network namespace, by cookie.
    pub fn listener_options(&mut self) -> Result<BTreeMap<u64, abi::ListenerOptions>> {
        let iterator: &mut Iter = find(&mut self.ebpf, program::LISTENERS)?.try_into()?;
        listeners::read(SocketIter::new(iterator)?)
    }

    /// What the programs log.
    pub fn logs(&mut self) -> Result<Logs> {
        Logs::open(&mut self.ebpf)
    }

    /// The kernel's ids of the programs.
    pub fn ids(&self) -> Vec<u32> {
        let loaded = self.ebpf.programs().filter(|(_, program)| program.fd().is_ok());
        loaded.filter_map(|(_, program)| Some(program.info().ok()?.id())).collect()
    }

    /// How many instructions the verifier processed for each program, by name.
    pub fn verified_instructions(&self) -> Result<Vec<(String, u32)>> {
        let mut counts = Vec::new();
        for (name, program) in self.ebpf.programs() {
            if program.fd().is_err() {
                continue;
            }
            let info = program.info().with_context(|| format!("cannot look at the program {name}"))?;
            counts.push((name.to_owned(), info.verified_instruction_count().unwrap_or(0)));
        }
        counts.sort();
        Ok(counts)
    }
}

fn find<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name)
        .with_context(|| format!("the eBPF object inside this binary has no program {name}"))
}

/// Maps of another version have a different meaning and are left untouched.
fn require_same_version(root: &PinRoot) -> Result<()> {
    let missing = abi::map::ALL.len() - root.pinned_maps().len();
    match Maps::pinned_version(root)? {
        // No program uses the remaining maps, so the missing ones cannot be recovered.
        Some(abi::ABI_VERSION) if missing != 0 && root.link_files()?.is_empty() => remove_unfilled_maps(root),
        Some(abi::ABI_VERSION) if Maps::open(root).is_ok() => Ok(()),
        Some(_) => Err(Problem::InUse(format!(
            "another version of defender is attached below {}, and its maps are laid out differently: \
             `defender detach` first; connections go on, only the defence pauses",
            root.path().display(),
        ))
        .into()),
        None => remove_unfilled_maps(root),
    }
}

/// Removes maps that were never filled: they are left over from an attempt that was killed.
fn remove_unfilled_maps(root: &PinRoot) -> Result<()> {
    for name in root.pinned_maps() {
        remove_file(&root.map(name))?;
    }
    Ok(())
}

/// The object file, patched for the running kernel.
fn object_for(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut object = OBJECT.to_vec();
    kernel.engine.patch(&mut object)?;
    members::patch(&mut object, &members::places()?)?;
    Ok(object)
}

fn load_object(
    object: &[u8],
    root: &PinRoot,
    kernel: &Kernel,
    flow_buckets: u32,
    rollback: &mut Rollback,
) -> Result<Ebpf> {
    let constants = Constants::new();
    let mut loader = loader(kernel, &constants, flow_buckets);
    for name in abi::map::ALL {
        let pin = root.map(name);
        if !pin.exists() {
            rollback.note(pin.clone());
        }
        loader.map_pin_path(name, pin);
    }
    loader.load(object).context("cannot load the eBPF object")
}

/// Program constants that are set at load time.
struct Constants {
    log_level: u8,
    listener_offsets: listeners::Offsets,
}

impl Constants {
    fn new() -> Self {
        Self { log_level: logs::level(), listener_offsets: listeners::offsets() }
    }
}

fn loader<'a>(kernel: &'a Kernel, constants: &'a Constants, flow_buckets: u32) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&kernel.btf)).override_global(aya_log::LEVEL, &constants.log_level, true);
    kernel.engine.select(&mut loader);
    loader.override_global(abi::LISTENER_OFFSETS, &constants.listener_offsets, true);
    loader.map_max_entries(abi::map::FLOWS, flow_buckets);
    loader
}

/// Blocks signals until `job` is done. On a signal the verifier gives up (`do_check`, `EAGAIN`). aya then
/// retries with a log, which takes many times as long and fails in the end.
fn without_signals<T>(job: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).context("cannot let signals wait")?;
    let result = job();
    before.thread_set_mask().context("cannot let signals come again")?;
    result
}

fn load_programs(ebpf: &mut Ebpf, kernel: &Kernel) -> Result<()> {
    let xdp: &mut Xdp = find(ebpf, program::XDP)?.try_into()?;
    explain(program::XDP, xdp.load())?;
    for name in [program::HANDOFF, program::EGRESS] {
        let classifier: &mut SchedClassifier = find(ebpf, name)?.try_into()?;
        explain(name, classifier.load())?;
    }
    let sock_state: &mut BtfTracePoint = find(ebpf, program::SOCK_STATE)?.try_into()?;
    explain(program::SOCK_STATE, sock_state.load(TRACEPOINT, &kernel.btf))?;
    for name in [program::SOCKETS, program::FLOWS, program::LISTENERS] {
        let iterator: &mut Iter = find(ebpf, name)?.try_into()?;
        explain(name, iterator.load(ITERATOR, &kernel.btf))?;
    }
    Ok(())
}

/// The verifier rejects with "permission denied", which is unrelated to privilege, and a very long log.
fn explain(name: &str, result: Result<(), ProgramError>) -> Result<()> {
    let Err(ProgramError::LoadError { io_error, verifier_log }) = result else {
        return result.with_context(|| format!("cannot load {name}"));
    };
    let log = verifier_log.to_string();
    log::debug!("the verifier on {name}:\n{log}");
    if io_error.raw_os_error() == Some(libc::EPERM) && !features::is_locked_down() {
        return Err(Problem::Privilege(format!(
            "the kernel does not let this process load {name}: try again with sudo; in a container, give it \
             CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and let seccomp pass bpf(2)"
        ))
        .into());
    }
    Err(refusal(name, &features::release(), features::is_locked_down(), &io_error, &log).into())
}

fn refusal(name: &str, kernel: &str, locked_down: bool, error: &io::Error, log: &str) -> Problem {
    if locked_down || log.contains(READS_KERNEL) {
        return Problem::Refused {
            found: format!(
                "kernel {kernel} refuses {name}, because it is locked down (lockdown=confidentiality): \
                 no program may read kernel memory"
            ),
            remedy: "boot with lockdown=integrity, or without Secure Boot's lockdown".to_owned(),
        };
    }
    Problem::Refused {
        found: format!("kernel {kernel} refuses {name}: its verifier does not accept the program ({error})"),
        remedy:
            "update the kernel or defender (docs/reference/kernels.md lists kernels that were tried); --verbose \
             shows the \
                 verifier's log, which a report to the project should contain"
                .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_with_kernel_program_and_remedy() {
        let error = io::Error::from_raw_os_error(libc::EACCES);
        let message =
            refusal("defender_xdp", "6.12.118", false, &error, "0: R1=ctx()\nmath between map_value pointer")
                .to_string();
        assert!(message.starts_with("kernel 6.12.118 refuses defender_xdp: its verifier"), "{message}");
        assert!(
            message.contains("--verbose") && !message.contains("R1=") && !message.contains('\n'),
            "{message}"
        );
    }

    #[test]
    fn lockdown_is_named_as_the_cause() {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        let log = "program of this type cannot use helper bpf_probe_read_kernel#113";
        for (locked_down, log) in [(true, ""), (false, log)] {
            let message = refusal("defender_flows", "6.12.118", locked_down, &error, log).to_string();
            assert!(
                message.contains("lockdown=confidentiality") && message.contains("defender_flows"),
                "{message}"
            );
        }
    }
}
