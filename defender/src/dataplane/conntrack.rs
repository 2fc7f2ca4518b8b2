//! Loads the program that the hand-off calls on hosts with conntrack, and installs it there.
//!
//! In most kernels, the kernel functions it calls belong to a module. A call names the module by index into
//! a list of descriptors (`fd_array` of bpf(2)). aya does not pass such a list, so this program is loaded
//! by direct system calls.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context as _, Result};
use aya_obj::{Object, generated::bpf_insn};
use defender_common::abi::{self, program};
use defender_maps::pinned;

use crate::dataplane::{
    OBJECT,
    bpf::{self, Program},
    in_place,
    kfunc::{self, Call},
    layout,
    pins::{PinRoot, Rollback},
};

/// The module of the kernel functions, where they are not built in.
const MODULE: &str = "nf_conntrack";
const LICENSE: &CStr = c"Dual MIT/GPL";

/// Keeps the program installed while the kernel has conntrack.
#[derive(Debug, Default)]
pub struct Conntrack {
    state: Option<State>,
}

/// What the installed program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Complete,
    /// Only what needs no kernel function: segments that arrive together do not disturb each other.
    BurstsOnly,
    /// Nothing: it cannot be loaded.
    Nothing,
}

impl Conntrack {
    /// Installs the program if conntrack is `there`, and removes it otherwise. Call this often: conntrack
    /// may be loaded at any time.
    pub fn keep(&mut self, root: &PinRoot, there: bool) -> Result<()> {
        match (there, self.state) {
            (true, None) => self.state = Some(put(root)?),
            (false, Some(_)) => {
                put_as(root, State::Nothing)?;
                self.state = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether conntrack classifies only one packet of a connection as new, as for ordinary connections.
    pub fn is_complete(&self) -> bool {
        self.state == Some(State::Complete)
    }

    /// A warning for the operator, if there is one.
    pub fn warning(&self) -> Option<&'static str> {
        match self.state? {
            State::Complete => None,
            State::BurstsOnly => Some(MISSING),
            State::Nothing => Some(
                "this kernel does not take the program for conntrack: behind stateful firewall rules the first request of a \
                 challenged client may wait for its retransmission; --verbose says why",
            ),
        }
    }
}

/// The warning for a kernel whose conntrack eBPF cannot call.
pub const MISSING: &str = "this kernel has conntrack, but not the functions by which eBPF can reach it (6.0, CONFIG_DEBUG_INFO_BTF_MODULES=y): \
     behind stateful firewall rules a challenged connection counts as new twice, and clients that use a port again within \
     two minutes may be dropped as invalid";

/// Whether the kernel has the functions. A kernel without conntrack may lack them.
pub fn functions_are_there() -> bool {
    matches!(Functions::find(), Ok(Some(_)))
}

/// Installs as much of the program as the kernel supports.
fn put(root: &PinRoot) -> Result<State> {
    for state in [State::Complete, State::BurstsOnly] {
        match put_as(root, state) {
            Ok(()) => return Ok(state),
            Err(error) => log::debug!("{} ({state:?}): {error:#}", program::CONNTRACK),
        }
    }
    // A program left by an earlier controller may come from another object file.
    put_as(root, State::Nothing)?;
    Ok(State::Nothing)
}

/// Installs the program in exactly this state.
pub fn put_as(root: &PinRoot, state: State) -> Result<()> {
    let array = pinned(&root.maps(), abi::map::CONNTRACK)?;
    let functions = match state {
        State::Nothing => return bpf::clear(&array),
        State::BurstsOnly => None,
        State::Complete => {
            Some(Functions::find()?.context("the kernel lacks conntrack's functions for eBPF")?)
        }
    };
    let mut object = OBJECT.to_vec();
    for (index, function) in abi::kfunc::CONNTRACK.iter().enumerate() {
        let call = functions.as_ref().map_or(Call::Missing, |functions| functions.call(index));
        kfunc::replace(&mut object, function.sentinel, call)?;
    }
    // All maps exist already, so nothing is created.
    let _in_place = in_place::patch(&mut object, root, &mut Rollback::default())?;
    // Index 0 stands for the kernel itself.
    let module = functions.as_ref().and_then(|functions| functions.module.as_ref());
    let btfs = [-1, module.map_or(-1, AsRawFd::as_raw_fd)];
    let program = Program::load(program::CONNTRACK, &instructions(&object)?, LICENSE, &btfs)?;
    bpf::put(&array, &program)
}

/// The program's instructions, followed by the functions it calls.
fn instructions(object: &[u8]) -> Result<Vec<bpf_insn>> {
    let mut object = Object::parse(object).context("the eBPF object inside this binary cannot be read")?;
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).context("the eBPF object inside this binary cannot be linked")?;
    let program = object.programs.get(program::CONNTRACK).with_context(|| {
        format!("the eBPF object inside this binary has no program {}", program::CONNTRACK)
    })?;
    let function = object.functions.get(&program.function_key()).context("a program without instructions")?;
    Ok(function.instructions.clone())
}

/// Where the kernel functions are.
struct Functions {
    ids: [u32; abi::kfunc::CONNTRACK.len()],
    /// The type information of their module, if they are in one.
    module: Option<OwnedFd>,
}

impl Functions {
    fn find() -> Result<Option<Self>> {
        let names = abi::kfunc::CONNTRACK.map(|function| function.name);
        if let Some(ids) = layout::functions(names)? {
            return Ok(Some(Self { ids, module: None }));
        }
        let Some(ids) = layout::functions_of_module(MODULE, names)? else { return Ok(None) };
        Ok(bpf::btf_of_module(MODULE)?.map(|module| Self { ids, module: Some(module) }))
    }

    fn call(&self, index: usize) -> Call {
        Call::Kernel { id: self.ids[index], btf: i16::from(self.module.is_some()) }
    }
}
