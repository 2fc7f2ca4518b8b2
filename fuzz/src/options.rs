//! Any bytes as TCP options. The scan, the known layouts and an independent reference agree, and nothing
//! beyond the options is read.

use defender_common::wire::options::{
    Carried, MAX_LEN, NO_WINDOW_SCALE, Offer, Options, scan_offer, scan_sum,
};

use crate::{bytes::FuzzInput, frame::Frame};

const HEADER: usize = 20;

pub(crate) fn run(data: &[u8]) {
    let mut input = FuzzInput(data);
    let (layout, cut, room) = (input.u8(), input.u8(), usize::from(input.u8()) % (MAX_LEN / 4 + 1) * 4);
    let mut options = known_layout(layout, &mut input).unwrap_or_else(|| input.0.to_vec());
    options.truncate(MAX_LEN);
    options.resize(if layout & 8 == 0 { options.len().next_multiple_of(4) } else { room }, 0);

    let mut packet = vec![0; HEADER];
    packet[12] = (((HEADER + options.len()) / 4) << 4) as u8 | layout & 0xf;
    packet.extend(&options);
    // Data that looks like options.
    packet.extend([8, 10, 9, 9, 9, 9, 9, 9, 9, 9, 3, 3, 9, 4, 2, 19, 18]);

    let at = Options { header: 0, len: options.len() };
    let frame = Frame(&packet);
    let (expected, stamps) = reference(&options);
    let syn = at.syn(&frame).expect("the options are whole");
    assert_eq!(syn.offer, expected);
    assert_eq!(scan_offer(&frame, 0), packed(&expected));
    let words = options.as_chunks().0.iter().map(|word| u64::from(u32::from_ne_bytes(*word)));
    assert_eq!(syn.sum, words.sum::<u64>());
    assert_eq!(scan_sum(&frame, 0), Some(syn.sum));
    assert_eq!(at.carried(&frame), Some(Carried { signed: expected.signed, sum: syn.sum }));
    // The scan does not distinguish zero timestamps from absent ones: they prove nothing.
    let nonzero = |stamps: &(u32, u32)| *stamps != (0, 0);
    assert_eq!(at.timestamps(&frame).filter(nonzero), stamps.filter(nonzero));

    // The packet ends within the options: nothing panics, and there is no sum.
    let end = HEADER + usize::from(cut) % (options.len() + 1);
    let short = Frame(&packet[..end]);
    let _ = (at.timestamps(&short), scan_offer(&short, 0));
    if end < HEADER + options.len() {
        assert_eq!(at.syn(&short), None);
        assert_eq!(at.carried(&short), None);
        assert_eq!(scan_sum(&short, 0), None);
    }
}

/// The layouts recognised a word at a time, with any values, sometimes with one byte changed.
fn known_layout(layout: u8, input: &mut FuzzInput<'_>) -> Option<Vec<u8>> {
    let [m, n] = input.take();
    let [scale] = input.take();
    let [a, b, c, d, e, f, g, h] = input.take();
    let mut options = match layout & 7 {
        0 => vec![2, 4, m, n, 4, 2, 8, 10, a, b, c, d, e, f, g, h, 1, 3, 3, scale],
        1 => vec![2, 4, m, n, 1, 3, 3, scale, 1, 1, 4, 2],
        2 => vec![2, 4, m, n],
        3 => vec![1, 1, 8, 10, a, b, c, d, e, f, g, h],
        _ => return None,
    };
    if layout & 0x80 != 0 {
        let at = usize::from(input.u8()) % options.len();
        options[at] = input.u8();
    }
    Some(options)
}

/// [`scan_offer`]'s number.
fn packed(offer: &Offer) -> u64 {
    u64::from(offer.timestamp) << 32
        | u64::from(offer.mss) << 16
        | u64::from(offer.window_scale) << 8
        | u64::from(offer.signed) << 2
        | u64::from(offer.timestamps) << 1
        | u64::from(offer.sack)
}

/// The options according to RFC 9293 (section 3.1) and RFC 7323. The last of a kind counts.
fn reference(options: &[u8]) -> (Offer, Option<(u32, u32)>) {
    let mut offer = Offer { window_scale: NO_WINDOW_SCALE, ..Offer::NONE };
    let mut stamps = None;
    let mut at = 0;
    while at < options.len() && options[at] != 0 {
        if options[at] == 1 {
            at += 1;
            continue;
        }
        let Some(len) = options.get(at + 1).map(|len| usize::from(*len)) else { break };
        if len < 2 || at + len > options.len() {
            break;
        }
        let data = &options[at + 2..at + len];
        let word = |at: usize| u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
        match (options[at], data.len()) {
            (2, 2) => offer.mss = u16::from_be_bytes([data[0], data[1]]),
            (3, 1) => offer.window_scale = data[0].min(14),
            (4, 0) => offer.sack = true,
            (8, 8) => {
                (offer.timestamps, offer.timestamp) = (true, word(0));
                stamps = Some((word(0), word(4)));
            }
            (19 | 29, _) => offer.signed = true,
            _ => {}
        }
        at += len;
    }
    (offer, stamps)
}
