//! The engine: how a cookie is made, checked and handed over. This part probes, names and selects it. The
//! programs' part is `defender-ebpf/src/engine`.

use anyhow::Result;
use aya::{Btf, EbpfLoader};
use defender_common::abi;

use crate::{dataplane::kfunc, problem::Problem};

/// An engine that this kernel supports, with the values its programs need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Cookies of our own, handed over by `bpf_sk_assign_tcp_reqsk`.
    Reqsk {
        /// The BTF id of that function.
        assign_reqsk: u32,
    },
}

/// The engine's name in reports. There is only one.
pub const NAME: &str = "reqsk";

impl Engine {
    /// The engine that the running kernel supports, where `release` is the kernel's release. Fails if there
    /// is none.
    pub fn probe(btf: &Btf, release: &str) -> Result<Self, Problem> {
        let assign_reqsk = kfunc::id(btf, abi::kfunc::ASSIGN_REQSK).ok_or_else(|| {
            Problem::Unsupported(format!(
                "kernel {release} has no {}, which hands proven connections to TCP: it came with 6.9, and needs \
                 CONFIG_SYN_COOKIES=y",
                abi::kfunc::ASSIGN_REQSK
            ))
        })?;
        Ok(Self::Reqsk { assign_reqsk })
    }

    /// Patches the object file with what depends on the engine and the running kernel.
    pub fn patch(self, object: &mut [u8]) -> Result<()> {
        match self {
            Self::Reqsk { assign_reqsk } => kfunc::patch(object, assign_reqsk).map(drop),
        }
    }

    /// Selects the engine. The verifier then removes the branches of all others.
    pub fn select<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.override_global(abi::engine::CONSTANT, self.number(), true);
    }

    fn number(&self) -> &'static u32 {
        match self {
            Self::Reqsk { .. } => &abi::engine::REQSK,
        }
    }
}
