//! Loads the programs, with their maps pinned.

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    programs::{BtfTracePoint, Iter, Program, ProgramError, SchedClassifier, Xdp},
};
use defender_common::abi::{self, program};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::{
    dataplane::{
        OBJECT,
        features::Kernel,
        in_place, kfunc,
        logs::{self, Logs},
        maps::Maps,
        pins::{PinRoot, Rollback, remove_file},
        walk::Walk,
    },
    problem::Problem,
};

/// The tracepoint of [`program::SOCK_STATE`].
const TRACEPOINT: &str = "inet_sock_set_state";
/// What [`program::SOCKETS`] and [`program::FLOWS`] iterate over.
const ITERATOR: &str = "tcp";
/// Lines of the verifier's log that a message shows.
const VERIFIER_LINES: usize = 4;

/// The programs, verified by the kernel and not attached yet.
pub struct Programs(Ebpf);

impl Programs {
    /// Loads the programs onto the maps pinned below `root`, which are created where they are missing, with
    /// `flow_buckets` of [`abi::FlowBucket`].
    pub fn load(root: &PinRoot, flow_buckets: u32, rollback: &mut Rollback) -> Result<Self> {
        let kernel = Kernel::probe()?;
        require_same_version(root)?;
        root.create(rollback)?;
        let mut object = OBJECT.to_vec();
        kfunc::patch(&mut object, kernel.assign_reqsk)?;
        let _in_place = in_place::patch(&mut object, root, rollback)?;
        let mut ebpf = load_object(&object, root, &kernel, flow_buckets, rollback)?;
        without_signals(|| load_programs(&mut ebpf, &kernel))?;
        Ok(Self(ebpf))
    }

    /// The XDP program.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        Ok(find(&mut self.0, program::XDP)?.try_into()?)
    }

    /// The tcx ingress program.
    pub fn handoff(&mut self) -> Result<&mut SchedClassifier> {
        Ok(find(&mut self.0, program::HANDOFF)?.try_into()?)
    }

    /// The tcx egress program.
    pub fn egress(&mut self) -> Result<&mut SchedClassifier> {
        Ok(find(&mut self.0, program::EGRESS)?.try_into()?)
    }

    /// The tracepoint program.
    pub fn sock_state(&mut self) -> Result<&mut BtfTracePoint> {
        Ok(find(&mut self.0, program::SOCK_STATE)?.try_into()?)
    }

    /// The program that lists the connections to services.
    pub fn flows(&mut self) -> Result<&mut Iter> {
        Ok(find(&mut self.0, program::FLOWS)?.try_into()?)
    }

    /// A walk through the sockets of this thread's network namespace, which tells the filter and the flow table of them.
    pub fn walk(&mut self) -> Result<Walk> {
        let iterator: &mut Iter = find(&mut self.0, program::SOCKETS)?.try_into()?;
        Walk::new(iterator)
    }

    /// What the programs log.
    pub fn logs(&mut self) -> Result<Logs> {
        Logs::open(&mut self.0)
    }

    /// How many instructions the verifier walked for each program, by name.
    pub fn verified_instructions(&self) -> Result<Vec<(String, u32)>> {
        let mut counts = Vec::new();
        for (name, program) in self.0.programs() {
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

/// Another version's maps have another meaning: they are not touched.
fn require_same_version(root: &PinRoot) -> Result<()> {
    match Maps::pinned_version(root)? {
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

/// Maps that were never filled are left from an attempt that was killed.
fn remove_unfilled_maps(root: &PinRoot) -> Result<()> {
    for name in root.pinned_maps() {
        remove_file(&root.map(name))?;
    }
    Ok(())
}

fn load_object(
    object: &[u8],
    root: &PinRoot,
    kernel: &Kernel,
    flow_buckets: u32,
    rollback: &mut Rollback,
) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    let log_level = logs::level();
    loader.btf(Some(&kernel.btf)).override_global(aya_log::LEVEL, &log_level, true);
    loader.map_max_entries(abi::map::FLOWS, flow_buckets);
    for name in abi::map::ALL {
        let pin = root.map(name);
        if !pin.exists() {
            rollback.note(pin.clone());
        }
        loader.map_pin_path(name, pin);
    }
    loader.load(object).context("cannot load the eBPF object")
}

/// Lets signals wait until `job` is done. The verifier gives up when one comes (`do_check`, `EAGAIN`), and aya then has it
/// begin again and write a log: that takes many times as long, and fails at the end.
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
    for name in [program::SOCKETS, program::FLOWS] {
        let iterator: &mut Iter = find(ebpf, name)?.try_into()?;
        explain(name, iterator.load(ITERATOR, &kernel.btf))?;
    }
    Ok(())
}

/// The verifier refuses with "permission denied", which has nothing to do with privilege, and a very long log.
fn explain(name: &str, result: Result<(), ProgramError>) -> Result<()> {
    match result {
        Err(ProgramError::LoadError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EPERM) => {
            Err(Problem::Privilege(format!(
                "the kernel does not let this process load {name}: try again with sudo"
            ))
            .into())
        }
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            log::debug!("the verifier on {name}:\n{log}");
            let lines: Vec<_> =
                log.lines().rev().filter(|line| !line.trim().is_empty()).take(VERIFIER_LINES).collect();
            let tail = lines.into_iter().rev().collect::<Vec<_>>().join(" | ");
            Err(anyhow!(
                "this kernel's verifier refuses {name} ({io_error}); --verbose shows all of it: {tail}"
            ))
        }
        result => result.with_context(|| format!("cannot load {name}")),
    }
}
