//! Kernel functions that programs call.
//!
//! Each is called through a sentinel immediate of its own, until the loader has put the function's BTF id in
//! (`defender-ebpf/src/conntrack/kfunc.rs`, `engine/reqsk.rs`).

/// `bpf_sk_assign_tcp_reqsk`, kernel 6.9 (`net/core/filter.c`).
pub const ASSIGN_REQSK: &str = "bpf_sk_assign_tcp_reqsk";
/// The immediate that stands for it in the object file; no helper has that number.
pub const ASSIGN_REQSK_SENTINEL: i32 = 0x7dfd_0001;

/// A function of conntrack, kernel 6.0 (`net/netfilter/nf_conntrack_bpf.c`); it may belong to a module.
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// The immediate that stands for it.
    pub sentinel: i32,
}

/// Finds a packet's entry.
pub const SKB_CT_LOOKUP: Function = Function { name: "bpf_skb_ct_lookup", sentinel: 0x7dfd_0002 };
/// Releases it.
pub const CT_RELEASE: Function = Function { name: "bpf_ct_release", sentinel: 0x7dfd_0003 };
/// Says when it expires.
pub const CT_CHANGE_TIMEOUT: Function = Function { name: "bpf_ct_change_timeout", sentinel: 0x7dfd_0004 };
/// Adds bits to its status.
pub const CT_CHANGE_STATUS: Function = Function { name: "bpf_ct_change_status", sentinel: 0x7dfd_0005 };

/// All functions of conntrack: only together they are of use.
pub const CONNTRACK: [Function; 4] = [SKB_CT_LOOKUP, CT_RELEASE, CT_CHANGE_TIMEOUT, CT_CHANGE_STATUS];
