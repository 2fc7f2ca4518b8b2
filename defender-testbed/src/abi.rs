//! What the testbed and its eBPF programs share: map layouts, counter indices and the spoofed ranges.
//!
//! The eBPF crate includes this very file, so it uses nothing but `core`.

/// Bytes of a flood frame's buffer; a frame is at most [`FLOOD_FRAME_MAX`] long, the rest is cut off each time.
pub const FLOOD_FRAME_ROOM: usize = 128;

/// Longest flood frame, in bytes. It is shorter than its buffer because the program must shrink every frame: only
/// then does the kernel refresh the length of a recycled frame.
pub const FLOOD_FRAME_MAX: usize = FLOOD_FRAME_ROOM - 8;

/// Bytes of an injected frame's buffer.
pub const INJECT_ROOM: usize = 2048;

/// Longest frame that can be injected, in bytes.
pub const INJECT_MAX: usize = INJECT_ROOM - 8;

/// Most frames of one injection; also what a veth's NAPI takes in one poll.
pub const INJECT_FRAMES: usize = 64;

/// The flood's orders and its progress; the only entry of the map `FLOOD`.
///
/// Masks and the template are in network byte order, as they lie in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FloodState {
    /// The frame, with zeroes where the program puts random bits.
    pub template: [u64; FLOOD_FRAME_ROOM / 8],
    /// Sum of the IPv4 header's 16-bit words, checksum field taken as zero; unused for IPv6.
    pub ip_sum: u32,
    /// Sum of the TCP segment's and its pseudo-header's 16-bit words, checksum field taken as zero.
    pub tcp_sum: u32,
    /// Length of the frame in bytes.
    pub len: u32,
    /// Interface to send out of, in the network namespace of the caller.
    pub ifindex: u32,
    /// Bits of an IPv4 source address that are random.
    pub source_mask: u32,
    /// Bits of the TCP sequence number that are random.
    pub seq_mask: u32,
    /// Bits of the TCP acknowledgement number that are random.
    pub ack_mask: u32,
    /// Random bits of the word 28 bytes into the TCP header: TSval of a Linux SYN, TSecr of any later segment.
    pub stamp_mask: u32,
    /// State of the random number generator; never zero.
    pub random: u64,
    /// Frames per nanosecond, as a fixed-point number with 32 fractional bits; 0 for as fast as it goes.
    pub pace: u64,
    /// Frames that are sent back to back when paced.
    pub burst: u64,
    /// Frames to send at most.
    pub max_frames: u64,
    /// Nanoseconds after the first frame when sending stops.
    pub max_ns: u64,
    /// When the first frame was sent, monotonic nanoseconds; 0 before.
    pub started_ns: u64,
    /// When sending stopped, monotonic nanoseconds; 0 before.
    pub ended_ns: u64,
    /// Value of `sent` at which the clock is read again.
    pub allowed: u64,
    /// Frames that the pace owed and that were given up because the source had fallen too far behind.
    pub forgiven: u64,
    /// Frames sent so far.
    pub sent: u64,
    /// Runs of the program that sent nothing because the pace was ahead of the clock or the flood was over.
    pub idle: u64,
}

/// One frame to inject, exactly as given.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InjectFrame {
    /// Length in bytes.
    pub len: u32,
    /// Interface to send out of, in the network namespace of the caller.
    pub ifindex: u32,
    /// The frame, Ethernet header first.
    pub bytes: [u8; INJECT_ROOM],
}

/// Longest frame that a program can be measured with, in bytes.
pub const MEASURED_MAX: usize = 128;

/// Most acknowledgement numbers that a measurement can use.
pub const MEASURED_ANSWERS: u32 = 1 << 20;

/// Lines of the table that the floor `one_read` reads: a power of two, 64 MiB, for as many flows as are measured with.
pub const MEASURED_LINES: u32 = 1 << 20;

/// Programs that a measurement switches between.
pub const MEASURED_PROGRAMS: u32 = 16;

/// What frame a program is measured with; the only entry of the map `ORDERS`.
///
/// The low half of the source address and the ports are zero in the template. The program fills them in and makes up for
/// it in the low half of the sequence number, which is all ones; likewise for the acknowledgement number in the urgent
/// pointer. So checksums stay true.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    /// The frame.
    pub template: [u64; MEASURED_MAX / 8],
    /// Its length in bytes, even.
    pub len: u32,
    /// Where the low half of its source address is, in bytes from its start.
    pub source: u32,
    /// Where its TCP header is; 0: it has none.
    pub tcp: u32,
    /// The binary logarithm of the number of flows.
    pub flow_bits: u32,
    /// The source port of the first flow.
    pub first_port: u32,
    /// The destination port of the first service, and how many services in a row are addressed.
    pub service_port: u32,
    /// See [`Self::service_port`].
    pub services: u32,
    /// 1: acknowledgement numbers are those of `ANSWERS`, one after the other.
    pub answers: u32,
    /// The program to call, by its place in `PROGRAMS`.
    pub program: u32,
    /// Where the identification of its IPv4 header is, all ones in the template: it makes up for the source in that header's
    /// checksum. 0: it has none.
    pub identification: u32,
    /// Frames so far: the flow of the next frame follows from it.
    pub next: u64,
}

/// Spreads the numbers of frames over flows, so that neighbours are no neighbours in memory. Odd, so that every flow comes
/// once in as many frames as there are flows.
pub const SPREAD: u64 = 0x9e37_79b1;

/// Counters of the programs at both ends: indices into the per-CPU map `COUNTERS`.
pub mod counter {
    /// Packets seen.
    pub const PACKETS: u32 = 0;
    /// SYN-ACKs to an address of the spoofed ranges.
    pub const SPOOFED_SYN_ACKS: u32 = 1;
    /// Other packets to (client end) or from (server end) an address of the spoofed ranges.
    pub const SPOOFED_OTHERS: u32 = 2;
    /// SYN-ACKs to any other address.
    pub const SYN_ACKS: u32 = 3;
    /// Packets the program dropped.
    pub const DROPPED: u32 = 4;
    /// Packets the program sent back.
    pub const SENT_BACK: u32 = 5;
    /// Number of counters.
    pub const COUNT: u32 = 6;
}

/// IPv4 ranges that floods come from, as (network, mask) of host-order addresses. The widest, which is the default
/// source, stands first so that it is compared first.
pub const SPOOFED_V4: [(u32, u32); 4] = [
    (0xc612_0000, 0xfffe_0000), // 198.18.0.0/15
    (0xc000_0200, 0xffff_ff00), // 192.0.2.0/24
    (0xc633_6400, 0xffff_ff00), // 198.51.100.0/24
    (0xcb00_7100, 0xffff_ff00), // 203.0.113.0/24
];

/// The first 48 bits of the IPv6 range that floods come from, 2001:db8:f::/48, as 16-bit groups.
pub const SPOOFED_V6: [u16; 3] = [0x2001, 0x0db8, 0x000f];

/// The part of [`SPOOFED_V4`] that clients made of frames use, as (network, mask): 198.19.0.0/16.
pub const FRAMES_V4: (u32, u32) = (0xc613_0000, 0xffff_0000);

/// The first 96 bits of the part of the IPv6 range that clients made of frames use, 2001:db8:f::/96, as 32-bit words. A flood
/// from the whole /48 never meets it.
pub const FRAMES_V6: [u32; 3] = [0x2001_0db8, 0x000f_0000, 0];
