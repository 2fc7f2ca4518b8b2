//! Numbers that stand for members of kernel structures.
//!
//! Programs read these members behind a socket's pointer. The verifier wants each at a constant offset of its own. The numbers stand
//! for the offsets until the loader has put those in (`defender-ebpf/src/socket.rs`).

/// `icsk_accept_queue.qlen` of `struct inet_connection_sock`: half-open connections of a listener.
pub const QLEN: i16 = 0x7d01;
/// `icsk_accept_queue.young`: of these, whose SYN-ACK was sent once.
pub const YOUNG: i16 = 0x7d02;
/// `sk_ack_backlog` of `struct sock`: connections that wait to be accepted.
pub const ACK_BACKLOG: i16 = 0x7d03;
/// `sk_max_ack_backlog`: how many may.
pub const MAX_ACK_BACKLOG: i16 = 0x7d04;
