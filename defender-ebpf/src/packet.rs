//! Packet bytes, for the parsers of `defender_common::wire`.

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{
        bpf_csum_diff, bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6,
        bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
    macros::map,
    maps::PerCpuArray,
    programs::{TcContext, XdpContext},
};
use defender_common::{
    verdict::Reason,
    wire::{
        Network, Packet,
        address::{V4, V6},
        in_memory, ipv4, ipv6, options, tcp,
    },
};

/// The number, hidden from the compiler. Unlike with `core::hint::black_box`, it stays in registers.
#[inline(always)]
pub(crate) fn hidden(number: usize) -> usize {
    let hidden;
    // SAFETY: it moves a number from one register to another.
    unsafe {
        asm!(
            "{hidden} = {number}",
            hidden = lateout(reg) hidden,
            number = in(reg) number,
            options(nomem, nostack, preserves_flags),
        );
    }
    hidden
}

/// The same reference in its own register. Where registers are scarce, the compiler would reload it for
/// each use.
#[inline(always)]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read where it points to")]
pub(crate) fn at_hand<T>(value: &T) -> &T {
    let mut address: *const T = value;
    // SAFETY: it changes nothing.
    unsafe {
        asm!("/* {address} */", address = inlateout(reg) address, options(pure, nomem, nostack, preserves_flags));
    }
    // SAFETY: it is the reference's.
    unsafe { &*address }
}

/// The linear part of a packet, which always contains the headers.
pub(crate) struct Linear<C> {
    start: usize,
    end: usize,
    pub(crate) context: C,
}

/// How packets at XDP and at tc differ.
pub(crate) trait Context: Copy {
    /// The full length of the packet.
    fn len(self) -> usize;
    fn scan_offer(self, header: usize) -> u64;
    fn scan_timestamps(self, header: usize) -> u64;
    fn scan_sum(self, header: usize) -> u64;
    fn scan_carried(self, header: usize) -> u64;
    fn scan_extensions(self, offset: usize, first: u8) -> u64;
}

/// A frame at XDP.
pub(crate) type XdpPacket = Linear<*mut xdp_md>;
/// A packet at tc.
pub(crate) type SkbPacket = Linear<*mut __sk_buff>;

impl XdpPacket {
    /// The frame at an XDP program.
    #[inline(always)]
    pub(crate) fn of_xdp(context: *mut xdp_md) -> Self {
        let ctx = XdpContext::new(context);
        Self { start: ctx.data(), end: ctx.data_end(), context }
    }

    /// The same frame, without the compiler's knowledge of earlier bounds checks. Otherwise it would omit
    /// checks that the verifier needs.
    #[inline(always)]
    pub(crate) fn afresh(&self) -> Self {
        Self { start: hidden(self.start), ..*self }
    }

    /// The interface it arrived on.
    #[inline(always)]
    pub(crate) fn ingress(&self) -> u32 {
        XdpContext::new(self.context).ingress_ifindex() as u32
    }

    /// Length of the whole frame. The linear part may be shorter.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        frame_len(self.context)
    }

    /// Swaps the Ethernet addresses.
    #[inline(always)]
    pub(crate) fn turn_round(&self) -> Option<()> {
        let at = self.start;
        if at + 12 > self.end {
            return None;
        }
        // SAFETY: the bytes are within the frame, which the verifier checks again; for alignment see `load`.
        unsafe { core::ptr::swap(at as *mut u32, (at + 6) as *mut u32) };
        // SAFETY: likewise.
        unsafe { core::ptr::swap((at + 4) as *mut u16, (at + 10) as *mut u16) };
        Some(())
    }

    /// Writes words.
    #[inline(always)]
    pub(crate) fn put<T: Copy, const N: usize>(&self, offset: usize, words: [T; N]) -> Option<()> {
        let at = self.start + offset;
        if at + size_of::<[T; N]>() > self.end {
            return None;
        }
        // SAFETY: the bytes are within the frame, which the verifier checks again; for alignment see `load`.
        unsafe { *(at as *mut [T; N]) = words };
        Some(())
    }
}

impl SkbPacket {
    /// The packet at a tc program.
    #[inline(always)]
    pub(crate) fn of_skb(context: *mut __sk_buff) -> Self {
        let ctx = TcContext::new(context);
        Self { start: ctx.data(), end: ctx.data_end(), context }
    }
}

/// [`options::scan_sum`] of a packet that ends too early. No sum of ten words is that large.
const NO_SUM: u64 = u64::MAX;
/// Bound on the offset of any header, for the verifier.
pub(crate) const MAX_HEADER: usize = 0x3fff;

/// Global functions: the verifier checks each once, however many paths lead to it.
macro_rules! out_of_line {
    ($context:ty, $new:path, $len:path, $offer:ident, $timestamps:ident, $sum:ident, $carried:ident, $extensions:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $offer(context: $context, header: u64) -> u64 {
            options::scan_offer(&InPlace($new(context)), header as usize & MAX_HEADER)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $timestamps(context: $context, header: u64) -> u64 {
            options::scan_timestamps(&InPlace($new(context)), header as usize & MAX_HEADER)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $sum(context: $context, header: u64) -> u64 {
            options::scan_sum(&InPlace($new(context)), header as usize & MAX_HEADER).unwrap_or(NO_SUM)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $carried(context: $context, header: u64) -> u64 {
            options::scan_carried(&InPlace($new(context)), header as usize & MAX_HEADER).unwrap_or(NO_SUM)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $extensions(context: $context, offset: u64, first: u64) -> u64 {
            ipv6::scan_extensions(&InPlace($new(context)), offset as usize & MAX_HEADER, first as u8)
        }

        impl Context for $context {
            #[inline(always)]
            fn len(self) -> usize {
                $len(self)
            }
            #[inline(always)]
            fn scan_offer(self, header: usize) -> u64 {
                $offer(self, header as u64)
            }
            #[inline(always)]
            fn scan_timestamps(self, header: usize) -> u64 {
                $timestamps(self, header as u64)
            }
            #[inline(always)]
            fn scan_sum(self, header: usize) -> u64 {
                $sum(self, header as u64)
            }
            #[inline(always)]
            fn scan_carried(self, header: usize) -> u64 {
                $carried(self, header as u64)
            }
            #[inline(always)]
            fn scan_extensions(self, offset: usize, first: u8) -> u64 {
                $extensions(self, offset as u64, first as u64)
            }
        }
    };
}

out_of_line!(
    *mut xdp_md,
    Linear::of_xdp,
    frame_len,
    xdp_scan_offer,
    xdp_scan_timestamps,
    xdp_scan_sum,
    xdp_scan_carried,
    xdp_scan_extensions
);
out_of_line!(
    *mut __sk_buff,
    Linear::of_skb,
    skb_len,
    skb_scan_offer,
    skb_scan_timestamps,
    skb_scan_sum,
    skb_scan_carried,
    skb_scan_extensions
);

#[inline(always)]
fn frame_len(context: *mut xdp_md) -> usize {
    // SAFETY: the context is the program's own.
    unsafe { bpf_xdp_get_buff_len(context) as usize }
}

#[inline(always)]
fn skb_len(context: *mut __sk_buff) -> usize {
    // SAFETY: a field of the program's own context.
    unsafe { (*context).len as usize }
}

macro_rules! load {
    ($packet:expr, $offset:expr, $type:ty) => {{
        let at = $packet.start + $offset;
        if at + size_of::<$type>() > $packet.end {
            return None;
        }
        // SAFETY: the bytes are within the packet, which the verifier checks again. The kernel aligns the
        // network header, not this address. Unaligned eBPF loads are efficient where the verifier permits
        // them (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS), and byte-wise loads would cost four instructions a
        // byte.
        Some(unsafe { *(at as *const $type) })
    }};
}

impl<C: Context> Packet for Linear<C> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        load!(self, offset, [u32; N])
    }

    #[inline(always)]
    fn pairs<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        Some(load!(self, offset, [u64; N])?.map(in_memory))
    }

    #[inline(always)]
    fn halves<const N: usize>(&self, offset: usize) -> Option<[u16; N]> {
        load!(self, offset, [u16; N])
    }

    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        let at = self.start + offset;
        // Hidden from the compiler. It would compare `at` itself with the end, which tells the verifier
        // nothing.
        if hidden(at + 1) > self.end {
            return None;
        }
        // SAFETY: the byte is within the packet, which the verifier checks again.
        Some(unsafe { *(at as *const u8) })
    }

    #[inline(always)]
    fn reaches(&self, end: usize) -> bool {
        self.start + end <= self.end || end <= self.context.len()
    }

    #[inline(always)]
    fn scan_offer(&self, header: usize) -> u64 {
        self.context.scan_offer(header)
    }

    #[inline(always)]
    fn scan_timestamps(&self, header: usize) -> u64 {
        self.context.scan_timestamps(header)
    }

    #[inline(always)]
    fn scan_sum(&self, header: usize) -> Option<u64> {
        match self.context.scan_sum(header) {
            NO_SUM => None,
            sum => Some(sum),
        }
    }

    #[inline(always)]
    fn scan_carried(&self, header: usize) -> Option<u64> {
        match self.context.scan_carried(header) {
            NO_SUM => None,
            carried => Some(carried),
        }
    }

    #[inline(always)]
    fn scan_extensions(&self, offset: usize, first: u8) -> u64 {
        self.context.scan_extensions(offset, first)
    }
}

/// A packet in the functions that run out of line.
struct InPlace<C>(Linear<C>);

impl<C: Context> Packet for InPlace<C> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.0.words(offset)
    }
    #[inline(always)]
    fn pairs<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        self.0.pairs(offset)
    }
    #[inline(always)]
    fn halves<const N: usize>(&self, offset: usize) -> Option<[u16; N]> {
        self.0.halves(offset)
    }
    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        self.0.byte(offset)
    }
    #[inline(always)]
    fn reaches(&self, end: usize) -> bool {
        self.0.reaches(end)
    }
}

/// `bpf_csum_diff` takes at most this many bytes per call on kernels up to 6.12.
const CHUNK: usize = 512;
/// A jumbo frame's data (9,000 bytes) needs at most this many chunks. A SYN with more data is treated as
/// having a wrong checksum.
const MAX_CHUNKS: usize = 18;

/// Maximum length of data to sum.
pub(crate) const MOST_SUMMED: usize = CHUNK * MAX_CHUNKS;

/// Buffer for data to sum, too large for the stack.
#[map]
static SCRATCH: PerCpuArray<[u32; CHUNK / 4]> = PerCpuArray::with_max_entries(1, 0);

/// The checksum sum of `len` bytes of data from `offset`. SYNs with data are rare, so this need not be
/// fast.
#[inline(always)]
pub(crate) fn data_sum(context: *mut xdp_md, offset: usize, len: usize) -> Option<u64> {
    match xdp_data_sum(context, offset as u64, len as u64) {
        NO_SUM => None,
        sum => Some(sum),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn xdp_data_sum(context: *mut xdp_md, offset: u64, len: u64) -> u64 {
    sum_chunks(context, offset as usize & MAX_HEADER, len as usize).unwrap_or(NO_SUM)
}

#[inline(always)]
fn sum_chunks(context: *mut xdp_md, offset: usize, len: usize) -> Option<u64> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    let mut sum = 0u64;
    let mut rest = len;
    for chunk in 0..=MAX_CHUNKS {
        // Hidden from the compiler, so that the verifier sees all rounds in the same state and need not
        // follow each.
        rest = hidden(rest) & 0xffff;
        if rest == 0 {
            return Some(sum);
        }
        let size = if rest < CHUNK { rest } else { CHUNK };
        // Missing bytes of the last word count as zero. SAFETY: `scratch` is this CPU's map value, which
        // nothing else uses while the program runs.
        unsafe { (*scratch)[((size - 1) / 4) & (CHUNK / 4 - 1)] = 0 };
        // SAFETY: `size` is at most the size of the map value.
        let read = unsafe {
            bpf_xdp_load_bytes(context, (offset + chunk * CHUNK) as u32, scratch.cast(), size as u32)
        };
        if read != 0 {
            return None;
        }
        // SAFETY: that many bytes of the map value have been written.
        let part = unsafe {
            bpf_csum_diff(core::ptr::null_mut(), 0, scratch.cast(), size.next_multiple_of(4) as u32, 0)
        };
        sum += part as u32 as u64;
        rest -= size;
    }
    None
}

/// Checks the headers before TCP's for what no host sends ([`Network::flaw`]). The result is a number that
/// [`flaw`] decodes, so that the verifier follows one path on.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn xdp_flaw4(context: *mut xdp_md, network: u64, mac: u64) -> u64 {
    let packet = InPlace(XdpPacket::of_xdp(context));
    number_of(V4::flaw(&packet, network as usize & MAX_HEADER, mac))
}

/// The same over IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn xdp_flaw6(context: *mut xdp_md, network: u64, mac: u64) -> u64 {
    let packet = InPlace(XdpPacket::of_xdp(context));
    number_of(V6::flaw(&packet, network as usize & MAX_HEADER, mac))
}

#[inline(always)]
fn number_of(flaw: Option<Reason>) -> u64 {
    match flaw {
        None => 0,
        Some(Reason::SynOddMac) => 1,
        Some(Reason::SynExpired) => 2,
        Some(_) => 3,
    }
}

/// The reason encoded in the result of [`xdp_flaw4`].
#[inline(always)]
pub(crate) fn flaw(number: u64) -> Option<Reason> {
    match number {
        0 => None,
        1 => Some(Reason::SynOddMac),
        2 => Some(Reason::SynExpired),
        _ => Some(Reason::SynBadIpChecksum),
    }
}

/// Whether a segment acknowledges one of the kernel's own SYN cookies. `offsets` holds the offset of the
/// network header and, from bit 16, that of the TCP header.
#[inline(always)]
pub(crate) fn kernel_cookie(context: *mut xdp_md, offsets: u64, family: usize) -> bool {
    let valid =
        if family == 0 { xdp_kernel_cookie4(context, offsets) } else { xdp_kernel_cookie6(context, offsets) };
    valid != 0
}

macro_rules! kernel_cookie {
    ($name:ident, $helper:ident, $header_len:expr) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(context: *mut xdp_md, offsets: u64) -> u64 {
            let packet = XdpPacket::of_xdp(context);
            // Hidden from the compiler, which would check one sum and pass on another. The verifier sees no
            // relation between them.
            let network = hidden(packet.start + (offsets as usize & 31));
            let tcp = hidden(packet.start + ((offsets >> 16) as usize & MAX_HEADER));
            if network + $header_len > packet.end || tcp + tcp::HEADER_LEN > packet.end {
                return 0;
            }
            // SAFETY: both headers are within the packet, which the verifier checks again.
            let result = unsafe { $helper(network as *mut _, tcp as *mut _) };
            (result as i32 == 0) as u64
        }
    };
}

kernel_cookie!(xdp_kernel_cookie4, bpf_tcp_raw_check_syncookie_ipv4, ipv4::HEADER_LEN);
kernel_cookie!(xdp_kernel_cookie6, bpf_tcp_raw_check_syncookie_ipv6, ipv6::HEADER_LEN);
