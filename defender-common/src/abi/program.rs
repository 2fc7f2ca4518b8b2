//! Names of the programs.

/// XDP in the driver, on every defended interface whose driver takes it.
pub const XDP: &str = "defender_xdp";
/// XDP in generic mode, on the others.
pub const XDP_SKB: &str = "defender_xdp_skb";
/// tcx ingress, on every defended interface and the VLAN devices on it: the hand-off of proven connections.
pub const HANDOFF: &str = "defender_handoff";
/// Called by the hand-off, where there is conntrack.
pub const CONNTRACK: &str = "defender_conntrack";
/// tcx egress, on every defended interface: follows what this host sends.
pub const EGRESS: &str = "defender_egress";
/// BTF tracepoint `inet_sock_set_state`, once: listeners that come and go, handed-over connections established.
pub const SOCK_STATE: &str = "defender_sock_state";
/// Iterator over TCP sockets, run by the controller: fills the filter, confirms flows.
pub const SOCKETS: &str = "defender_sockets";
/// Iterator over TCP sockets, pinned for whoever asks: lists the connections to services as [`super::Listed`].
pub const FLOWS: &str = "defender_flows";
/// Iterator over TCP sockets, run by the controller: socket options of listeners, as [`super::ListenerOptions`].
pub const LISTENERS: &str = "defender_listeners";
