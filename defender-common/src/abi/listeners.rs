//! Socket options of listeners, as an iterator reads them from the kernel.

/// Socket options of a listener: a record of the iterator. The kernel iterates over listeners first; a record of zeros ends
/// them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerOptions {
    /// The kernel's number of the socket, as sock_diag gives it (`sk_cookie`).
    pub cookie: u64,
    /// The receive buffer that its connections start with, in bytes.
    pub receive_buffer: u32,
    /// `TCP_WINDOW_CLAMP`, in bytes; 0: none.
    pub window_clamp: u32,
    /// `TCP_MAXSEG`; 0: none.
    pub mss: u16,
    /// `IP_TTL` and `IPV6_UNICAST_HOPS`; 0: the default.
    pub ttl: [u8; 2],
    /// `IP_TOS` and `IPV6_TCLASS`.
    pub tos: [u8; 2],
    /// Bits that say which buffers were set by the application (`sk_userlocks`).
    pub user_locks: u8,
    /// Not zero: this is a listener.
    pub listens: u8,
}

/// [`ListenerOptions::user_locks`]: the receive buffer was set (`SOCK_RCVBUF_LOCK`).
pub const RECEIVE_BUFFER_LOCK: u8 = 1 << 1;

/// Where the kernel's structures have what [`ListenerOptions`] says, in bytes. A constant of the programs, put in as they
/// are loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerOffsets {
    /// In `struct sock_common`: `skc_cookie`.
    pub cookie: u16,
    /// In `struct sock`: `sk_rcvbuf`.
    pub receive_buffer: u16,
    /// In `struct sock`: `sk_userlocks`.
    pub user_locks: u16,
    /// In `struct inet_sock`: `uc_ttl`.
    pub ttl: u16,
    /// In `struct inet_sock`: `tos`.
    pub tos: u16,
    /// In `struct inet_sock`: `pinet6`, a pointer.
    pub ipv6: u16,
    /// In `struct ipv6_pinfo`: `hop_limit`.
    pub hop_limit: u16,
    /// In `struct ipv6_pinfo`: `tclass`.
    pub traffic_class: u16,
    /// In `struct tcp_sock`: `rx_opt.user_mss`.
    pub mss: u16,
    /// In `struct tcp_sock`: `window_clamp`.
    pub window_clamp: u16,
    /// 0: not known, and nothing is read.
    pub known: u16,
}

/// Name of the constant of the programs that holds [`ListenerOffsets`].
pub const LISTENER_OFFSETS: &str = "LISTENER_OFFSETS";
