//! Which sets of options a cookie can hold.
//!
//! A cookie has room for an index, not for the options themselves. What a client offers is rounded to a set that it
//! can live with: sizes down and never up, SACK and window scaling never claimed where they were not offered.
//!
//! With timestamps only the MSS is rounded: everything else has its own bits in the timestamp ([`mss_index`]). Without
//! them, one of 16 profiles is picked ([`best`]). Who sends no timestamps, and what they send, as passive fingerprints
//! have it (p0f's `p0f.fp`, nmap's `nmap-os-db`): Windows 10 and 11 and Server since 2008: MSS, window scale 8, SACK;
//! Windows 7: scale 2 or 8; Windows XP and many embedded stacks (lwIP, Contiki): MSS, sometimes SACK, no scale;
//! Linux with timestamps switched off: scale 7 (6 MB `tcp_rmem`) or this host's own; small scales: 0. Sizes below the
//! interface's are those of PPPoE (1452, IPv6 1432), IPv6 through a translator or tunnel (1440, 1400) and VPNs (1360,
//! 1300, 1220); 536 and 1220 are what a path must carry at least.

use crate::wire::options::{NO_WINDOW_SCALE, Offer};

/// The index of the interface's MSS, see [`mss_index`].
pub const INTERFACE_MSS: u8 = 7;

/// Stands for the interface's MSS.
const INTERFACE: u16 = u16::MAX;
/// Stands for the window scale this host itself offers.
const HOST: u8 = u8::MAX;

/// MSS values by index, `[IPv4, IPv6]`, rising.
const MSS: [[u16; 8]; 2] = [
    [536, 1300, 1360, 1400, 1440, 1452, 1460, INTERFACE],
    [1220, 1300, 1360, 1380, 1400, 1432, 1440, INTERFACE],
];

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
        profile(INTERFACE, 2, true),
        profile(INTERFACE, 0, true),
        profile(1440, 8, true),
        profile(1400, 8, true),
        profile(1360, 8, true),
        profile(1220, 8, true),
        profile(1360, 7, true),
        profile(1220, NO_WINDOW_SCALE, true),
        profile(536, NO_WINDOW_SCALE, true),
        profile(536, NO_WINDOW_SCALE, false),
    ],
    [
        profile(INTERFACE, HOST, true),
        profile(INTERFACE, NO_WINDOW_SCALE, true),
        profile(INTERFACE, HOST, false),
        profile(INTERFACE, NO_WINDOW_SCALE, false),
        profile(INTERFACE, 8, true),
        profile(INTERFACE, 7, true),
        profile(INTERFACE, 2, true),
        profile(INTERFACE, 0, true),
        profile(1432, 8, true),
        profile(1400, 8, true),
        profile(1360, 8, true),
        profile(1220, 8, true),
        profile(1360, 7, true),
        profile(1300, NO_WINDOW_SCALE, true),
        profile(1220, NO_WINDOW_SCALE, true),
        profile(1220, NO_WINDOW_SCALE, false),
    ],
];

/// A scale may be rounded down by this many steps, which makes the client's window look a quarter of what it is.
/// Beyond that, no scaling at all leaves more: the client then does not scale either.
const MAX_SCALE_LOSS: u8 = 2;

/// The index that a cookie holds for an offer: [`mss_index`] with timestamps, [`best`] without.
#[inline(always)]
pub fn index(family: usize, offer: &Offer, interface: u16, host_scale: u8) -> u8 {
    if offer.timestamps {
        mss_index(family, offer.mss, interface)
    } else {
        best(family, offer, interface, host_scale)
    }
}

/// The index of the largest MSS that is no more than the client's. Clients below the smallest get the smallest, as
/// from the kernel's own cookies.
#[inline(always)]
pub fn mss_index(family: usize, offered: u16, interface: u16) -> u8 {
    if offered >= interface {
        return INTERFACE_MSS;
    }
    let mut index = 0;
    let table = &MSS[family & 1];
    for (candidate, mss) in (1..).zip(&table[1..7]) {
        if offered >= *mss {
            index = candidate;
        }
    }
    index
}

/// The MSS of an index.
#[inline(always)]
pub fn mss(family: usize, index: u8, interface: u16) -> u16 {
    let mss = match index & 7 {
        0 => MSS[family & 1][0],
        1 => MSS[family & 1][1],
        2 => MSS[family & 1][2],
        3 => MSS[family & 1][3],
        4 => MSS[family & 1][4],
        5 => MSS[family & 1][5],
        6 => MSS[family & 1][6],
        _ => INTERFACE,
    };
    if mss < interface { mss } else { interface }
}

/// The profile of an index: sizes of the interface and of this host put in.
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

/// The index of the profile that takes least from what a client offers.
///
/// Losing window scaling costs most, then SACK, then MSS, then steps of scale.
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

/// How much of the offer a profile keeps; 0 where it claims what was not offered.
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
            (1460, 2, true),
            (1460, 0, true),
            (1440, 8, true),
            (1400, 8, true),
            (1360, 8, true),
            (1220, 8, true),
        ] {
            assert_eq!(chosen(0, mss, scale, sack), (mss, scale, sack));
        }
        assert_eq!(chosen(1, 1440, 8, true), (1440, 8, true));
    }

    #[test]
    fn others_lose_as_little_as_possible() {
        assert_eq!(chosen(0, 1452, 8, true), (1440, 8, true));
        assert_eq!(chosen(0, 1460, 9, true), (1460, 8, true));
        assert_eq!(chosen(0, 1460, 5, true), (1460, NO_WINDOW_SCALE, true));
        assert_eq!(chosen(0, 1400, 7, true), (1360, 7, true));
        assert_eq!(chosen(0, 100, 8, true), (536, NO_WINDOW_SCALE, false));
        assert_eq!(chosen(0, 600, 8, true), (536, NO_WINDOW_SCALE, true));
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
