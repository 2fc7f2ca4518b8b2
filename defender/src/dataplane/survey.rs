//! The kernel's eBPF features, for checks before anything is attached.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aya::{Btf, programs::loaded_programs};

use crate::{
    dataplane::{conntrack, engine::Engine, features, loader::Programs, pins::PinRoot},
    problem::Problem,
};

/// The kernel's eBPF features as the loader finds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The kernel's release.
    pub release: String,
    /// Its version, major and minor.
    pub kernel: (u32, u32),
    /// Its type information is readable (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// It has `bpf_sk_assign_tcp_reqsk`, which hands over proven connections. `None` if unknown.
    pub assign_reqsk: Option<bool>,
    /// It has tcx. `None` if unknown.
    pub tcx: Option<bool>,
    /// Whether it accepts the programs.
    pub loading: Loading,
    /// It has the functions that let eBPF reach conntrack. Without conntrack they are useless.
    pub conntrack: bool,
    /// The BPF file system is mounted where programs will be pinned.
    pub bpffs: bool,
    /// This process may load and attach programs.
    pub privileged: bool,
    /// Names of the loaded programs, by id. Empty if this process may not list them.
    pub programs: BTreeMap<u32, String>,
}

/// Result of loading the programs with maps of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Loading {
    /// Not tried: a prerequisite is missing.
    #[default]
    Untried,
    /// The kernel accepts them. Loading took this long.
    Loads(Duration),
    /// The kernel rejects them.
    Refused {
        /// Why.
        found: String,
        /// What to do.
        remedy: String,
    },
}

/// What `defender doctor` needs to know. Nothing fails here; missing features are recorded as missing.
pub fn survey(root: &PinRoot) -> Features {
    let btf = Btf::from_sys_fs().ok();
    let has = |function: fn(&Btf) -> bool| btf.as_ref().map(function);
    let privileged = features::require_privilege().is_ok();
    let programs = loaded_programs().flatten();
    let programs = programs.filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())));
    Features {
        release: features::release(),
        kernel: features::version(&features::release()).unwrap_or_default(),
        btf: btf.is_some(),
        assign_reqsk: has(|btf| Engine::probe(btf, &features::release()).is_ok()),
        tcx: has(features::has_tcx),
        loading: if privileged { try_load() } else { Loading::Untried },
        conntrack: conntrack::functions_are_there(),
        bpffs: root.is_on_bpffs(),
        privileged,
        programs: programs.collect::<BTreeMap<_, _>>(),
    }
}

fn try_load() -> Loading {
    let begun = Instant::now();
    match Programs::try_load() {
        Ok(()) => Loading::Loads(begun.elapsed()),
        Err(error) => match error.downcast::<Problem>() {
            Ok(Problem::Refused { found, remedy }) => Loading::Refused { found, remedy },
            // A missing feature has a check of its own.
            Ok(Problem::Unsupported(_)) => Loading::Untried,
            Ok(problem) => failed(&problem.into()),
            Err(error) => failed(&error),
        },
    }
}

fn failed(error: &anyhow::Error) -> Loading {
    let remedy = "`defender --verbose doctor` says more".to_owned();
    Loading::Refused { found: format!("{error:#}"), remedy }
}
