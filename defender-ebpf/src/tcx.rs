//! What tcx programs tell the kernel (include/uapi/linux/bpf.h, `enum tcx_action_base`).

/// Run the next program at this hook.
pub(crate) const NEXT: i32 = -1;
/// Drop the packet.
pub(crate) const DROP: i32 = 2;
