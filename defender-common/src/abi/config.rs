//! Settings of the whole datapath: the value of `CONFIG`.

use super::TableKeys;

/// Settings of the whole datapath.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`ABI_VERSION`] of who filled the maps.
    pub abi_version: u32,
    /// The slot of `KEYS` that new cookies are made with: 0 or 1.
    pub key_current: u32,
    /// `CONFIG_*` bits.
    pub flags: u32,
    /// SYN-ACKs a second that one source prefix (/24, /64) is answered at most; 0: no limit.
    pub reply_budget: u32,
    /// Secret of the timestamp offsets and of the reply budget; drawn once, never rotated.
    pub secret: [u64; 2],
    /// Keys of the hashes that order the tables and make timestamp offsets; drawn once, never rotated.
    pub table_keys: TableKeys,
    /// The filter's newest generation, which is written; the lowest seven bits count.
    pub filter_newest: u32,
    /// The oldest generation that counts as present.
    pub filter_oldest: u32,
    /// Until when the filter may stand in for the socket table, in milliseconds of the datapath's clock; 0: not at all.
    /// The controller extends it while it keeps the filter and the services current.
    pub filter_until: u32,
    /// Where `struct inet_timewait_sock` has `tw_substate`, in bytes; 0: not known, and all are in TIME_WAIT.
    pub substate_offset: u16,
    /// Where `struct inet_sock` has `inet_sport`, in bytes: a socket's own port, which stays when the socket gives it back.
    pub source_port_offset: u16,
    /// The number of buckets of `FLOWS` less one.
    pub flow_mask: u32,
    /// The network namespace that is defended, as `/proc/PID/ns/net` numbers it; 0: not known, and all are heard of.
    pub namespace: u32,
    /// Where `struct net` has that number, in bytes.
    pub namespace_offset: u32,
    /// For how many age buckets the kernel keeps a half-open connection (`net.ipv4.tcp_synack_retries`), see [`crate::load`].
    pub age_buckets: u32,
    /// Where `struct tcp_sock` has `segs_in` and `segs_out`, in bytes: how many segments a socket has received and sent.
    pub segments_in_offset: u16,
    /// See [`Self::segments_in_offset`].
    pub segments_out_offset: u16,
    /// Where `struct sock` has `sk_protocol`, in bytes.
    pub protocol_offset: u16,
    /// Zero.
    pub reserved: u16,
    /// For how long conntrack keeps an established connection (`nf_conntrack_tcp_timeout_established`), in milliseconds;
    /// 0: not known.
    pub conntrack_established_ms: u32,
    /// Out-of-state segments that pass in a second from one source prefix (/24, /64), so that the kernel resets them;
    /// 0: none.
    pub out_of_state_budget: u32,
}

/// `Config::flags`: nothing is challenged (tcp_syncookies is 0).
pub const CONFIG_SUSPENDED: u32 = 1 << 0;
/// `Config::flags`: net.ipv4.tcp_timestamps is not 0.
pub const CONFIG_TIMESTAMPS: u32 = 1 << 1;
/// `Config::flags`: net.ipv4.tcp_sack is not 0.
pub const CONFIG_SACK: u32 = 1 << 2;
/// `Config::flags`: net.ipv4.tcp_window_scaling is not 0.
pub const CONFIG_WINDOW_SCALING: u32 = 1 << 3;
/// `Config::flags`: net.ipv4.tcp_ecn accepts ECN that a client asks for (1 or 2).
pub const CONFIG_ECN: u32 = 1 << 4;
/// `Config::flags`: there are prefixes in `PREFIXES`.
pub const CONFIG_PREFIXES: u32 = 1 << 5;
/// `Config::flags`: net.ipv4.tcp_reflect_tos: a SYN-ACK has its SYN's type of service.
pub const CONFIG_REFLECT_TOS: u32 = 1 << 6;
