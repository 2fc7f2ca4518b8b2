//! TCP options (RFC 9293, section 3.1; RFC 7323; RFC 2018).
//!
//! Nearly every segment has one of a few layouts, which are recognised a word at a time. All others take
//! the general scan. Tests hold both to the same results. Like the kernel's `tcp_parse_options`
//! (net/ipv4/tcp_input.c), the scan stops at the first option with an impossible length and keeps those
//! before it. Of a repeated option, the last counts.

use super::{Packet, tcp::HEADER_LEN};

/// Maximum length of options, in bytes.
pub const MAX_LEN: usize = 40;

/// End of option list.
pub const END: u8 = 0;
/// No operation.
pub const NOP: u8 = 1;
/// Maximum segment size.
pub const MSS: u8 = 2;
/// Window scale.
pub const WINDOW_SCALE: u8 = 3;
/// SACK permitted.
pub const SACK_PERMITTED: u8 = 4;
/// Timestamps.
pub const TIMESTAMPS: u8 = 8;
const MD5: u8 = 19;
const AUTHENTICATION: u8 = 29;

/// The largest window scale (RFC 7323, section 2.3). Larger ones are treated as this.
pub const MAX_WINDOW_SCALE: u8 = 14;
/// [`Offer::window_scale`] of a client that offers none.
pub const NO_WINDOW_SCALE: u8 = 15;

const MSS_WORD: u32 = word(MSS, 4, 0, 0);
const SACK_TIMESTAMPS_WORD: u32 = word(SACK_PERMITTED, 2, TIMESTAMPS, 10);
const NOP_TIMESTAMPS_WORD: u32 = word(NOP, NOP, TIMESTAMPS, 10);
const NOP_WINDOW_SCALE_WORD: u32 = word(NOP, WINDOW_SCALE, 3, 0);
const NOP_SACK_WORD: u32 = word(NOP, NOP, SACK_PERMITTED, 2);

/// Four bytes as a word in host order.
#[inline(always)]
pub const fn word(a: u8, b: u8, c: u8, d: u8) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}

/// The position of a header's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the TCP header begins in the packet.
    pub header: usize,
    /// Length in bytes, a multiple of four.
    pub len: usize,
}

/// What a SYN offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// MSS, or 0 if absent.
    pub mss: u16,
    /// Window scale, at most [`MAX_WINDOW_SCALE`], or [`NO_WINDOW_SCALE`].
    pub window_scale: u8,
    /// SACK permitted.
    pub sack: bool,
    /// Timestamps are offered.
    pub timestamps: bool,
    /// The client's timestamp.
    pub timestamp: u32,
    /// The segment carries a TCP-MD5 or TCP-AO signature.
    pub signed: bool,
}

impl Offer {
    /// The offer encoded as a number.
    #[inline(always)]
    fn pack(self) -> u64 {
        (self.timestamp as u64) << 32
            | (self.mss as u64) << 16
            | (self.window_scale as u64) << 8
            | (self.signed as u64) << 2
            | (self.timestamps as u64) << 1
            | self.sack as u64
    }

    #[inline(always)]
    fn unpack(packed: u64) -> Self {
        Self {
            mss: (packed >> 16) as u16,
            window_scale: (packed >> 8) as u8,
            sack: packed & 1 != 0,
            timestamps: packed & 2 != 0,
            timestamp: (packed >> 32) as u32,
            signed: packed & 4 != 0,
        }
    }

    /// An empty offer.
    pub const NONE: Self = Self {
        mss: 0,
        window_scale: NO_WINDOW_SCALE,
        sack: false,
        timestamps: false,
        timestamp: 0,
        signed: false,
    };

    /// 1 with timestamps, 0 without: an index into `[without, with]` arrays. The compiler knows a flag's
    /// range and would omit the mask, but the eBPF verifier needs it.
    #[inline(always)]
    pub fn timestamps_index(&self) -> usize {
        core::hint::black_box(self.timestamps as usize) & 1
    }
}

/// The options of a SYN or SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// What they offer.
    pub offer: Offer,
    /// The sum of their words, for the checksum.
    pub sum: u64,
}

/// The relevant options of a segment other than a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The segment carries a TCP-MD5 or TCP-AO signature.
    pub signed: bool,
    /// The sum of their words, for the checksum.
    pub sum: u64,
}

impl Options {
    /// Reads the options of a SYN. `None` if the packet ends before them.
    #[inline(always)]
    pub fn syn(&self, packet: &(impl Packet + ?Sized)) -> Option<Syn> {
        if let Some(syn) = self.known_syn(packet) {
            return Some(syn);
        }
        let sum = packet.scan_sum(self.header)?;
        Some(Syn { offer: Offer::unpack(packet.scan_offer(self.header)), sum })
    }

    /// Reads the timestamp value and echo of any segment.
    #[inline(always)]
    pub fn timestamps(&self, packet: &(impl Packet + ?Sized)) -> Option<(u32, u32)> {
        // Every stack sends this on an established connection (RFC 7323, appendix A).
        if self.len == 12 {
            let [first, value, echo] = packet.words(self.at())?;
            if u32::from_be(first) == NOP_TIMESTAMPS_WORD {
                return Some((u32::from_be(value), u32::from_be(echo)));
            }
        }
        if self.len < 12 {
            return None;
        }
        match packet.scan_timestamps(self.header) {
            0 => None,
            both => Some(((both >> 32) as u32, both as u32)),
        }
    }

    /// Reads the options of a segment other than a SYN. `None` if the packet ends before them.
    #[inline(always)]
    pub fn carried(&self, packet: &(impl Packet + ?Sized)) -> Option<Carried> {
        if self.len == 0 {
            return Some(Carried { signed: false, sum: 0 });
        }
        // Every stack sends this on an established connection (RFC 7323, appendix A).
        if self.len == 12 {
            let words: [u32; 3] = packet.words(self.at())?;
            if u32::from_be(words[0]) == NOP_TIMESTAMPS_WORD {
                return Some(Carried { signed: false, sum: sum(words) });
            }
        }
        let packed = packet.scan_carried(self.header)?;
        Some(Carried { signed: packed & SIGNED != 0, sum: packed & !SIGNED })
    }

    #[inline(always)]
    fn at(&self) -> usize {
        self.header + HEADER_LEN
    }

    /// The layouts of Linux, Android, Windows and bare-bones stacks.
    #[inline(always)]
    fn known_syn(&self, packet: &(impl Packet + ?Sized)) -> Option<Syn> {
        match self.len {
            20 => linux(packet.words(self.at())?),
            12 => windows(packet.words(self.at())?),
            4 => bare(packet.words(self.at())?),
            _ => None,
        }
    }
}

/// MSS, SACK permitted, timestamps, NOP, window scale.
#[inline(always)]
fn linux(words: [u32; 5]) -> Option<Syn> {
    let [first, second, timestamp, _, last] = words.map(u32::from_be);
    if first & 0xffff_0000 != MSS_WORD
        || second != SACK_TIMESTAMPS_WORD
        || last & 0xffff_ff00 != NOP_WINDOW_SCALE_WORD
    {
        return None;
    }
    let window_scale = clamp_scale(last as u8);
    let offer =
        Offer { mss: first as u16, window_scale, sack: true, timestamps: true, timestamp, signed: false };
    Some(Syn { offer, sum: sum(words) })
}

/// MSS, NOP, window scale, NOP, NOP, SACK permitted.
#[inline(always)]
fn windows(words: [u32; 3]) -> Option<Syn> {
    let [first, second, third] = words.map(u32::from_be);
    if first & 0xffff_0000 != MSS_WORD
        || second & 0xffff_ff00 != NOP_WINDOW_SCALE_WORD
        || third != NOP_SACK_WORD
    {
        return None;
    }
    let window_scale = clamp_scale(second as u8);
    Some(Syn { offer: Offer { mss: first as u16, window_scale, sack: true, ..Offer::NONE }, sum: sum(words) })
}

/// MSS.
#[inline(always)]
fn bare(words: [u32; 1]) -> Option<Syn> {
    let [first] = words.map(u32::from_be);
    if first & 0xffff_0000 != MSS_WORD {
        return None;
    }
    Some(Syn { offer: Offer { mss: first as u16, ..Offer::NONE }, sum: sum(words) })
}

#[inline(always)]
fn sum<const N: usize>(words: [u32; N]) -> u64 {
    let mut sum = 0;
    for word in words {
        sum += word as u64;
    }
    sum
}

#[inline(always)]
fn clamp_scale(scale: u8) -> u8 {
    if scale > MAX_WINDOW_SCALE { MAX_WINDOW_SCALE } else { scale }
}

/// The general scan of the options of a SYN whose TCP header begins at `header`. Returns an [`Offer`],
/// packed.
#[inline(always)]
pub fn scan_offer(packet: &(impl Packet + ?Sized), header: usize) -> u64 {
    let mut offer = Offer::NONE;
    let Some(found) = FoundOptions::scan(packet, header) else { return offer.pack() };
    if let Some(data) = found.data(MSS) {
        offer.mss = packet.halves(data).map_or(0, |[mss]| u16::from_be(mss));
    }
    if let Some(data) = found.data(WINDOW_SCALE) {
        offer.window_scale = clamp_scale(packet.byte(data).unwrap_or_default());
    }
    if let Some(data) = found.data(TIMESTAMPS) {
        offer.timestamps = true;
        offer.timestamp = quad(packet, data);
    }
    offer.sack = found.data(SACK_PERMITTED).is_some();
    offer.signed = found.data(MD5).is_some() || found.data(AUTHENTICATION).is_some();
    offer.pack()
}

/// The general scan for timestamps: value in the upper half, echo in the lower. 0 if absent or if both are
/// 0, which no connection has.
#[inline(always)]
pub fn scan_timestamps(packet: &(impl Packet + ?Sized), header: usize) -> u64 {
    let Some(found) = FoundOptions::scan(packet, header) else { return 0 };
    let Some(data) = found.data(TIMESTAMPS) else { return 0 };
    (quad(packet, data) as u64) << 32 | quad(packet, data + 4) as u64
}

/// The sum of all option words, or `None` if the packet ends before them.
#[inline(always)]
pub fn scan_sum(packet: &(impl Packet + ?Sized), header: usize) -> Option<u64> {
    let len = options_len(packet, header)?;
    let mut sum = 0;
    for index in 0..MAX_LEN / 4 {
        if index * 4 >= len {
            break;
        }
        let [word] = packet.words(header + HEADER_LEN + index * 4)?;
        sum += word as u64;
    }
    Some(sum)
}

/// Flag in the result of [`scan_carried`]: a signature is present. No sum of ten words is that large.
const SIGNED: u64 = 1 << 62;

/// The sum of all option words, with [`SIGNED`] if a signature is among them. `None` if the packet ends
/// before them.
#[inline(always)]
pub fn scan_carried(packet: &(impl Packet + ?Sized), header: usize) -> Option<u64> {
    let sum = scan_sum(packet, header)?;
    let found = FoundOptions::scan(packet, header)?;
    let signed = found.data(MD5).is_some() || found.data(AUTHENTICATION).is_some();
    Some(if signed { sum | SIGNED } else { sum })
}

/// Four bytes of an option's data.
#[inline(always)]
fn quad(packet: &(impl Packet + ?Sized), at: usize) -> u32 {
    match packet.words(at) {
        Some([word]) => u32::from_be(word),
        None => 0,
    }
}

/// Bound on the option kinds that are told apart, a power of two.
const KINDS: usize = 32;
/// Bound on positions within the options, a power of two.
const PLACES: usize = 64;
/// The byte that holds the header's length.
const DATA_OFFSET: usize = 12;

/// The options of a header, by position.
///
/// The eBPF verifier follows every path through the scan, so this keeps the number of distinct states
/// small. It records only positions, masks instead of checking, and reads the header's length again rather
/// than keeping it.
struct FoundOptions {
    /// Where the options begin.
    at: usize,
    /// For each kind, the offset from `at` of the data of the last valid option of that kind, or 0 if
    /// absent.
    places: [u8; KINDS],
}

impl FoundOptions {
    #[inline(always)]
    fn scan(packet: &(impl Packet + ?Sized), header: usize) -> Option<Self> {
        let len = options_len(packet, header)?;
        let at = header + HEADER_LEN;
        let mut found = Self { at, places: [0; KINDS] };
        let mut place = 0;
        // An option has at least one byte, so there are never more than this.
        for _ in 0..MAX_LEN {
            place = bounded(place);
            if place >= len {
                break;
            }
            let kind = packet.byte(at + place)?;
            // Kept apart from `kind`. The verifier soon learns the value of `kind`, and would keep one
            // state for each.
            let index = core::hint::black_box(kind as usize & (KINDS - 1));
            if kind == END {
                break;
            }
            if kind == NOP {
                place += 1;
                continue;
            }
            if place + 1 >= len {
                break;
            }
            let size = packet.byte(at + place + 1)? as usize;
            if size < 2 || place + size > len {
                break;
            }
            if is_valid(kind, size) {
                found.places[index & (KINDS - 1)] = place as u8 + 2;
            }
            place += size;
        }
        Some(found)
    }

    /// The position of an option's data in the packet.
    #[inline(always)]
    fn data(&self, kind: u8) -> Option<usize> {
        match self.places[kind as usize & (KINDS - 1)] {
            0 => None,
            place => Some(self.at + (place as usize & (PLACES - 1))),
        }
    }
}

/// Length of the options of the header at `header`.
#[inline(always)]
fn options_len(packet: &(impl Packet + ?Sized), header: usize) -> Option<usize> {
    let header_len = (packet.byte(header + DATA_OFFSET)? >> 2) as usize & 0x3c;
    Some(if header_len < HEADER_LEN { 0 } else { bounded(header_len - HEADER_LEN) })
}

/// A number below [`PLACES`], hidden from the compiler. Otherwise it would use it as a second counter,
/// whose bounds the verifier does not know.
#[inline(always)]
fn bounded(place: usize) -> usize {
    core::hint::black_box(place) & (PLACES - 1)
}

/// Whether this kind of option is used here and has the required length.
#[inline(always)]
fn is_valid(kind: u8, size: usize) -> bool {
    match kind {
        MSS => size == 4,
        WINDOW_SCALE => size == 3,
        SACK_PERMITTED => size == 2,
        TIMESTAMPS => size == 10,
        MD5 | AUTHENTICATION => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A TCP header with options as a packet. Data follows, so that reads beyond the options are detected.
    fn header(options: &[u8]) -> (Vec<u8>, Options) {
        let mut bytes = vec![0; 20];
        bytes.extend(options);
        bytes.resize(20 + options.len().next_multiple_of(4), END);
        let len = bytes.len() - 20;
        bytes[12] = ((bytes.len() / 4) << 4) as u8;
        bytes.extend([TIMESTAMPS, 10, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        (bytes, Options { header: 0, len })
    }

    fn read(options: &[u8]) -> Offer {
        let (packet, options) = header(options);
        options.syn(packet.as_slice()).expect("complete").offer
    }

    fn scanned(options: &[u8]) -> Syn {
        let (packet, options) = header(options);
        let sum = scan_sum(packet.as_slice(), options.header).expect("complete");
        Syn { offer: Offer::unpack(scan_offer(packet.as_slice(), options.header)), sum }
    }

    fn timestamps(options: &[u8]) -> Option<(u32, u32)> {
        let (packet, options) = header(options);
        options.timestamps(packet.as_slice())
    }

    #[test]
    fn linux() {
        let bytes = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 10];
        let expected = Offer {
            mss: 1460,
            window_scale: 10,
            sack: true,
            timestamps: true,
            timestamp: 0x0102_0304,
            signed: false,
        };
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn windows() {
        let bytes = [2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2];
        assert_eq!(read(&bytes), Offer { mss: 1460, window_scale: 8, sack: true, ..Offer::NONE });
    }

    #[test]
    fn macos() {
        let bytes = [2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 4, 2, 0, 0];
        let expected =
            Offer { mss: 1460, window_scale: 6, sack: true, timestamps: true, timestamp: 9, signed: false };
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn a_scale_of_15_counts_as_14() {
        assert_eq!(read(&[3, 3, 15, 0]).window_scale, 14);
        assert_eq!(read(&[3, 3, 255, 0]).window_scale, 14);
        assert_eq!(read(&[2, 4, 5, 0xb4, 1, 3, 3, 15, 1, 1, 4, 2]).window_scale, 14);
    }

    #[test]
    fn signatures_are_found() {
        let mut md5 = [0; 20];
        md5[..4].copy_from_slice(&[1, 1, 19, 18]);
        assert!(read(&md5).signed);
        let mut authentication = [0; 16];
        authentication[..2].copy_from_slice(&[29, 16]);
        assert!(read(&authentication).signed);
    }

    #[test]
    fn nothing_counts_after_a_broken_option_or_the_end() {
        assert_eq!(read(&[3, 3, 7, 2, 0, 0, 0, 0]), Offer { window_scale: 7, ..Offer::NONE });
        assert_eq!(read(&[0, 3, 3, 7]), Offer::NONE);
        assert_eq!(read(&[1, 1, 1, 3]), Offer::NONE);
        assert_eq!(read(&[1, 1, 3, 3]), Offer::NONE);
        assert_eq!(read(&[2, 4, 0, 0]).mss, 0);
        // The data after the options looks like timestamps.
        assert_eq!(read(&[1, 1, 1, 1]), Offer::NONE);
        assert_eq!(timestamps(&[1; 12]), None);
    }

    #[test]
    fn timestamps_of_later_segments() {
        assert_eq!(timestamps(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]), Some((1, 2)));
        assert_eq!(timestamps(&[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1]), Some((1, 2)));
        let behind_sack = [1, 1, 5, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(timestamps(&behind_sack), Some((1, 2)));
        assert_eq!(timestamps(&[]), None);
    }

    #[test]
    fn a_list_of_nops_is_read_to_its_end() {
        let mut bytes = [NOP; MAX_LEN];
        bytes[37..].copy_from_slice(&[3, 3, 5]);
        assert_eq!(read(&bytes).window_scale, 5);
    }

    /// The scan as a list of options, implemented independently.
    fn reference(bytes: &[u8]) -> Offer {
        let mut offer = Offer::NONE;
        let mut rest = bytes;
        loop {
            rest = match rest {
                [] | [END, ..] => return offer,
                [NOP, rest @ ..] => rest,
                [kind, len, ..] if *len >= 2 && usize::from(*len) <= rest.len() => {
                    let (option, behind) = rest.split_at(usize::from(*len));
                    match (*kind, &option[2..]) {
                        (2, [a, b]) => offer.mss = u16::from_be_bytes([*a, *b]),
                        (3, [scale]) => offer.window_scale = (*scale).min(14),
                        (4, []) => offer.sack = true,
                        (8, [a, b, c, d, _, _, _, _]) => {
                            offer.timestamps = true;
                            offer.timestamp = u32::from_be_bytes([*a, *b, *c, *d]);
                        }
                        (19 | 29, _) => offer.signed = true,
                        _ => {}
                    }
                    behind
                }
                _ => return offer,
            }
        }
    }

    fn options() -> impl Strategy<Value = Vec<u8>> {
        let option = prop_oneof![
            Just(vec![NOP]),
            any::<[u8; 2]>().prop_map(|[a, b]| vec![2, 4, a, b]),
            any::<u8>().prop_map(|scale| vec![3, 3, scale]),
            Just(vec![4, 2]),
            any::<[u8; 8]>().prop_map(|data| [&[8, 10], &data[..]].concat()),
            any::<[u8; 16]>().prop_map(|data| [&[19, 18], &data[..]].concat()),
            (0u8..40, 0u8..12).prop_map(|(kind, len)| vec![kind, len]),
            any::<[u8; 3]>().prop_map(Vec::from),
        ];
        prop::collection::vec(option, 0..10).prop_map(|list| list.concat().into_iter().take(40).collect())
    }

    proptest! {
        #[test]
        fn known_layouts_read_as_the_scan_does(mss: u16, scale: u8, value: [u8; 4], echo: [u8; 4], cut in 0usize..=5) {
            let [m, n] = mss.to_be_bytes();
            let mut linux = vec![2, 4, m, n, 4, 2, 8, 10];
            linux.extend(value.iter().chain(&echo));
            linux.extend([1, 3, 3, scale]);
            let windows = [2, 4, m, n, 1, 3, 3, scale, 1, 1, 4, 2];
            for bytes in [&linux[..], &windows[..], &linux[..linux.len() - cut * 4]] {
                let (packet, options) = header(bytes);
                prop_assert_eq!(options.syn(packet.as_slice()), Some(scanned(bytes)));
            }
        }

        #[test]
        fn any_list_reads_as_the_reference_does(mut bytes in options()) {
            bytes.resize(bytes.len().next_multiple_of(4), END);
            prop_assert_eq!(read(&bytes), reference(&bytes));
            let offer = reference(&bytes);
            prop_assert_eq!(timestamps(&bytes).map(|(value, _)| value), offer.timestamps.then_some(offer.timestamp));
        }
    }
}
