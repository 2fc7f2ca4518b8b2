//! The sets of options that a cookie can encode.
//!
//! A cookie has room for an index, not for the options themselves. A client's offer is rounded to a set
//! that the client can use. Sizes are rounded down, never up. SACK and window scaling are never claimed
//! unless offered.
//!
//! With timestamps, only the MSS is rounded; everything else has a bit of its own ([`mss_index`]). Rounding
//! loses at most 4 % of any MSS from 1200 up to that of an MTU of 1500, and never more than the kernel's
//! own cookies lose.
//!
//! Without timestamps, one of 16 profiles is chosen ([`best`]). They follow the clients that send no
//! timestamps, according to passive fingerprints (p0f's `p0f.fp`, nmap's `nmap-os-db`):
//!
//! * Windows 10 and 11, and Server since 2008: MSS, window scale 8, SACK. These profiles have almost the
//!   same MSS steps as cookies with timestamps.
//! * Windows XP and many embedded stacks (lwIP, Contiki): MSS, sometimes SACK, no scale.
//! * Linux with timestamps disabled: scale 7 (6 MB `tcp_rmem`), this host's own scale, or 14 (a very large
//!   `tcp_rmem`, where a smaller scale would leave almost nothing of the window).
//! * Others: the sizes of the kernel's own cookies, without a scale.

use crate::wire::options::{MAX_WINDOW_SCALE, NO_WINDOW_SCALE, Offer};

/// The index of the interface's MSS, see [`mss_index`].
pub const INTERFACE_MSS: u8 = 7;

/// Stands for the interface's MSS.
const INTERFACE: u16 = u16::MAX;
/// Stands for this host's own window scale.
const HOST: u8 = u8::MAX;

/// The part of an index with timestamps that names an MSS.
pub const MSS_INDEX: u8 = 7;

/// MSS values by index, `[IPv4, IPv6]`, ascending.
const MSS: [[u16; 8]; 2] = [
    [536, 1200, 1250, 1300, 1350, 1400, STANDARD, INTERFACE],
    [1220, 1260, 1310, 1360, 1400, 1420, 1440, INTERFACE],
];

/// Stands for 1460, common among clients of a host with jumbo frames, or for 1440 if 1460 is the
/// interface's own.
const STANDARD: u16 = u16::MAX - 1;

/// A set of options without timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The client's MSS.
    pub mss: u16,
    /// The client's window scale, or [`NO_WINDOW_SCALE`].
    pub window_scale: u8,
    /// SACK.
    pub sack: bool,
}

const fn profile(mss: u16, window_scale: u8, sack: bool) -> Profile {
    Profile { mss, window_scale, sack }
}

/// How many profiles there are.
pub const PROFILES: usize = 16;

const TABLE: [[Profile; PROFILES]; 2] = [
    [
        profile(INTERFACE, HOST, true),
        profile(INTERFACE, NO_WINDOW_SCALE, true),
        profile(INTERFACE, HOST, false),
        profile(INTERFACE, NO_WINDOW_SCALE, false),
        profile(INTERFACE, 8, true),
        profile(INTERFACE, 7, true),
        profile(INTERFACE, MAX_WINDOW_SCALE, true),
        profile(1402, 8, true),
        profile(1350, 8, true),
        profile(1300, 8, true),
        profile(1250, 8, true),
        profile(1200, 8, true),
        profile(1300, NO_WINDOW_SCALE, true),
        profile(1440, NO_WINDOW_SCALE, false),
        profile(1300, NO_WINDOW_SCALE, false),
        profile(536, NO_WINDOW_SCALE, false),
    ],
    [
        profile(INTERFACE, HOST, true),
        profile(INTERFACE, NO_WINDOW_SCALE, true),
        profile(INTERFACE, HOST, false),
        profile(INTERFACE, NO_WINDOW_SCALE, false),
        profile(INTERFACE, 8, true),
        profile(INTERFACE, 7, true),
        profile(INTERFACE, MAX_WINDOW_SCALE, true),
        profile(1400, 8, true),
        profile(1360, 8, true),
        profile(1310, 8, true),
        profile(1260, 8, true),
        profile(1220, 8, true),
        profile(1310, NO_WINDOW_SCALE, true),
        profile(1420, NO_WINDOW_SCALE, false),
        profile(1310, NO_WINDOW_SCALE, false),
        profile(1220, NO_WINDOW_SCALE, false),
    ],
];

/// A scale may be rounded down by at most this many steps, which makes the client's window appear a quarter
/// of its size. Beyond that, disabling scaling leaves more: the client then does not scale either.
const MAX_SCALE_LOSS: u8 = 2;

/// The index that a cookie encodes for an offer: [`mss_index`] with timestamps, [`best`] without.
#[inline(always)]
pub fn index(family: usize, offer: &Offer, interface: u16, host_scale: u8) -> u8 {
    if offer.timestamps {
        mss_index(family, offer.mss, interface)
    } else {
        best(family, offer, interface, host_scale)
    }
}

/// The index of the largest MSS that is at most the client's. A client below the smallest gets the
/// smallest, as with the kernel's own cookies.
#[inline(always)]
pub fn mss_index(family: usize, offered: u16, interface: u16) -> u8 {
    if offered >= interface {
        return INTERFACE_MSS;
    }
    let mut index = 0;
    for candidate in 1..INTERFACE_MSS {
        if offered >= mss(family, candidate, interface) {
            index = candidate;
        }
    }
    index
}

/// The MSS of an index.
#[inline(always)]
pub fn mss(family: usize, index: u8, interface: u16) -> u16 {
    // Not a table lookup: the compiler turns these into constants and needs no memory access.
    let mss = match index & MSS_INDEX {
        0 => MSS[family & 1][0],
        1 => MSS[family & 1][1],
        2 => MSS[family & 1][2],
        3 => MSS[family & 1][3],
        4 => MSS[family & 1][4],
        5 => MSS[family & 1][5],
        6 => MSS[family & 1][6],
        _ => INTERFACE,
    };
    let mss = match mss {
        STANDARD if interface > 1460 => 1460,
        STANDARD => 1440,
        mss => mss,
    };
    if mss < interface { mss } else { interface }
}

/// The profile of an index, with the interface's and this host's sizes filled in.
#[inline(always)]
pub fn get(family: usize, index: u8, interface: u16, host_scale: u8) -> Profile {
    let profile = TABLE[family & 1][(index & 15) as usize];
    resolve(profile, interface, host_scale)
}

#[inline(always)]
fn resolve(profile: Profile, interface: u16, host_scale: u8) -> Profile {
    Profile {
        mss: if profile.mss < interface { profile.mss } else { interface },
        window_scale: if profile.window_scale == HOST { host_scale } else { profile.window_scale },
        sack: profile.sack,
    }
}

/// The index of the profile that loses least of a client's offer.
///
/// Losing window scaling costs most, then SACK, then MSS, then scale steps.
#[inline(always)]
pub fn best(family: usize, offer: &Offer, interface: u16, host_scale: u8) -> u8 {
    let mut best = PROFILES as u8 - 1;
    let mut best_score = 0;
    for (index, profile) in TABLE[family & 1].iter().enumerate() {
        let score = score(resolve(*profile, interface, host_scale), offer);
        if score > best_score {
            best = index as u8;
            best_score = score;
        }
    }
    best
}

/// How much of the offer a profile keeps. 0 if it claims something that was not offered.
#[inline(always)]
fn score(profile: Profile, offer: &Offer) -> u32 {
    let scaled = profile.window_scale != NO_WINDOW_SCALE;
    let offered = offer.window_scale;
    let scale_fits = !scaled
        || offered != NO_WINDOW_SCALE
            && profile.window_scale <= offered
            && offered - profile.window_scale <= MAX_SCALE_LOSS;
    if profile.mss > offer.mss || profile.sack && !offer.sack || !scale_fits {
        return 0;
    }
    let scale = if scaled { 1 << 21 | profile.window_scale as u32 } else { 0 };
    scale | (profile.sack as u32) << 20 | (profile.mss as u32) << 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer(mss: u16, window_scale: u8, sack: bool) -> Offer {
        Offer { mss, window_scale, sack, ..Offer::NONE }
    }

    fn chosen(family: usize, mss: u16, window_scale: u8, sack: bool) -> (u16, u8, bool) {
        let index = best(family, &offer(mss, window_scale, sack), [1460, 1440][family], 10);
        let profile = get(family, index, [1460, 1440][family], 10);
        (profile.mss, profile.window_scale, profile.sack)
    }

    #[test]
    fn common_clients_keep_everything() {
        for (mss, scale, sack) in [
            (1460, 10, true),
            (1460, NO_WINDOW_SCALE, true),
            (1460, 10, false),
            (1460, NO_WINDOW_SCALE, false),
            (1460, 8, true),
            (1460, 7, true),
            (1460, 14, true),
            (1300, 8, true),
        ] {
            assert_eq!(chosen(0, mss, scale, sack), (mss, scale, sack));
        }
        for (mss, scale, sack) in [(1440, 8, true), (1440, 14, true), (1400, 8, true), (1220, 8, true)] {
            assert_eq!(chosen(1, mss, scale, sack), (mss, scale, sack));
        }
    }

    #[test]
    fn others_lose_as_little_as_possible() {
        assert_eq!(chosen(0, 1452, 8, true), (1402, 8, true));
        assert_eq!(chosen(0, 1460, 9, true), (1460, 8, true));
        assert_eq!(chosen(0, 1460, 5, true), (1460, NO_WINDOW_SCALE, true));
        assert_eq!(chosen(0, 1400, 7, true), (1300, NO_WINDOW_SCALE, true));
        assert_eq!(chosen(0, 1440, NO_WINDOW_SCALE, false), (1440, NO_WINDOW_SCALE, false));
        assert_eq!(chosen(0, 100, 8, true), (536, NO_WINDOW_SCALE, false));
    }

    #[test]
    fn a_client_of_a_host_with_jumbo_frames_keeps_its_mss() {
        assert_eq!(mss(0, mss_index(0, 1460, 8960), 8960), 1460);
        assert_eq!(mss(1, mss_index(1, 1440, 8940), 8940), 1440);
    }

    /// The sizes of the kernel's own cookies (`msstab`, net/ipv4/syncookies.c and net/ipv6/syncookies.c).
    const KERNEL: [[u16; 4]; 2] = [[536, 1300, 1440, 1460], [1220, 1420, 1440, 8940]];

    /// Every MSS from `least` up to that of an MTU of 1500, at every such MTU.
    fn up_to_1500(least: u16) -> impl Iterator<Item = (usize, u16, u16)> {
        [(0, 1460), (1, 1440)].into_iter().flat_map(move |(family, greatest)| {
            (least.max([536, 1220][family])..=greatest).flat_map(move |interface| {
                (least.max([536, 1220][family])..=greatest).map(move |offered| (family, offered, interface))
            })
        })
    }

    fn is_within_4_percent(left: u16, offered: u16, interface: u16) -> bool {
        u32::from(left) * 100 >= u32::from(offered.min(interface)) * 96
    }

    #[test]
    fn with_timestamps_no_mss_loses_more_than_4_percent_nor_more_than_from_the_kernel() {
        for (family, offered, interface) in up_to_1500(536) {
            let left = mss(family, mss_index(family, offered, interface), interface);
            assert!(offered < 1200 || is_within_4_percent(left, offered, interface), "{offered} {left}");
            let kernel = KERNEL[family].into_iter().filter(|mss| *mss <= offered).max().unwrap_or_default();
            assert!(left >= kernel.min(interface), "{offered} {left} {kernel}");
        }
    }

    #[test]
    fn windows_offers_lose_no_more_than_4_percent() {
        for (family, offered, interface) in up_to_1500(1200) {
            let index = best(family, &offer(offered, 8, true), interface, 10);
            let left = get(family, index, interface, 10);
            assert!(is_within_4_percent(left.mss, offered, interface), "{offered} {left:?}");
            assert_eq!((left.window_scale, left.sack), (8, true), "{offered}");
        }
    }

    #[test]
    fn without_scale_and_sack_no_mss_is_less_than_from_the_kernel() {
        for (family, offered, interface) in up_to_1500(536) {
            let index = best(family, &offer(offered, NO_WINDOW_SCALE, false), interface, 10);
            let left = get(family, index, interface, 10).mss;
            let kernel = KERNEL[family].into_iter().filter(|mss| *mss <= offered).max().unwrap_or_default();
            assert!(left >= kernel.min(interface), "{offered} {left} {kernel}");
        }
    }

    proptest! {
        #[test]
        fn never_more_than_offered(
            family in 0usize..2, mss: u16, scale in 0u8..=15, sack: bool, interface in 600u16..9000, host in 0u8..=14,
        ) {
            let offer = offer(mss, scale, sack);
            let profile = get(family, best(family, &offer, interface, host), interface, host);
            let least = [536, 1220][family].min(interface);
            prop_assert!(profile.mss <= mss.max(least));
            prop_assert!(profile.mss <= interface);
            prop_assert!(!profile.sack || sack);
            if profile.window_scale != NO_WINDOW_SCALE {
                prop_assert!(scale != NO_WINDOW_SCALE && profile.window_scale <= scale);
            }
        }

        #[test]
        fn mss_is_rounded_down(family in 0usize..2, offered: u16, interface in 600u16..9000) {
            let rounded = mss(family, mss_index(family, offered, interface), interface);
            prop_assert!(rounded <= offered.max([536, 1220][family].min(interface)));
            prop_assert!(rounded <= interface);
            if offered >= interface {
                prop_assert_eq!(rounded, interface);
            }
        }
    }
}
