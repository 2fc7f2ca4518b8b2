//! What the datapath is told about a service. Pure.

use defender_common::{abi, decide::Policy};

use crate::{
    control::{services::Service, settings::Mode},
    host::window::Rules,
};

/// What decides how this host's SYN-ACKs look where the kernel's own have not been seen yet.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// How the kernel computes windows.
    pub rules: Rules,
    /// The MSS of the first interface, `[IPv4, IPv6]`.
    pub mss: [u16; 2],
}

/// The window scale that is to come with the next key.
pub fn window_scale(service: &Service, learnt: &abi::Learnt, defaults: &Defaults) -> u8 {
    match learnt.window_scale_plus_one {
        0 => defaults.rules.offer(service.listening.receive_buffer, defaults.mss[0], true).scale,
        learnt => learnt - 1,
    }
}

/// The windows, `[IPv4, IPv6][without, with timestamps]`: as the kernel's own SYN-ACKs had them, or computed.
fn windows(service: &Service, learnt: &abi::Learnt, defaults: &Defaults) -> [[u16; 2]; 2] {
    let mut windows = learnt.window;
    for (family, windows) in windows.iter_mut().enumerate() {
        let mss = match learnt.mss[family] {
            0 => defaults.mss[family],
            learnt => learnt,
        };
        for (timestamps, window) in [false, true].into_iter().zip(windows) {
            if *window == 0 {
                *window = defaults.rules.offer(service.listening.receive_buffer, mss, timestamps).window;
            }
        }
    }
    windows
}

/// The slot of a service that had none before, without a mode.
pub fn new_slot(service: &Service, defaults: &Defaults) -> abi::Service {
    let scale = window_scale(service, &abi::Learnt::default(), defaults);
    update_slot(
        &abi::Service { flags: abi::SERVICE_IN_USE, window_scale: [scale; 2], ..abi::Service::default() },
        service,
        &abi::Learnt::default(),
        defaults,
    )
}

/// The slot with what is known now. Mode, flags and window scales stay.
pub fn update_slot(
    slot: &abi::Service,
    service: &Service,
    learnt: &abi::Learnt,
    defaults: &Defaults,
) -> abi::Service {
    abi::Service {
        window: windows(service, learnt, defaults),
        mss: learnt.mss,
        port: service.endpoint.port,
        address: service.endpoint.address_bytes(),
        families: service.endpoint.families,
        device: service.listening.device,
        ..*slot
    }
}

/// The slot in `mode`. Cookies of a service that was challenged a moment ago are still accepted, and so are the kernel's
/// own where it was not.
pub fn with_mode(slot: &abi::Service, mode: Mode) -> abi::Service {
    // In `auto` it may have been, and while it stays there the datapath itself knows.
    let leaves_auto = slot.mode == abi::MODE_AUTO && mode != Mode::Auto;
    let challenges = mode == Mode::Always || slot.mode == abi::MODE_ALWAYS || leaves_auto;
    let watches = matches!(slot.mode, abi::MODE_OFF | abi::MODE_MONITOR);
    let begins = match mode {
        Mode::Always => slot.mode != abi::MODE_ALWAYS,
        Mode::Auto => watches,
        Mode::Monitor | Mode::Off => false,
    };
    let flags = slot.flags
        | if challenges { abi::SERVICE_ACCEPTS_COOKIES } else { 0 }
        | if begins { abi::SERVICE_KERNEL_COOKIES } else { 0 };
    abi::Service { mode: mode.to_abi(), flags, ..*slot }
}

/// The slot with one flag set or cleared.
pub fn with_flag(slot: &abi::Service, flag: u32, set: bool) -> abi::Service {
    let flags = if set { slot.flags | flag } else { slot.flags & !flag };
    abi::Service { flags, ..*slot }
}

/// Whether SYNs of the service are challenged at this moment.
pub fn is_challenged(slot: &abi::Service, load: &abi::Load, config: &abi::Config) -> bool {
    Policy::challenges(slot, load, config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::services::{Endpoint, Listening};

    const DEFAULTS: Defaults = Defaults {
        rules: Rules { tcp_rmem: [4096, 131_072, 33_554_432], rmem_max: 212_992, signed_windows: false },
        mss: [1460, 1440],
    };

    fn service() -> Service {
        let endpoint = Endpoint {
            port: 80,
            address: "::".parse().expect("an address"),
            families: abi::SERVICE_FAMILY_V4 | abi::SERVICE_FAMILY_V6,
        };
        Service { endpoint, listening: Listening { receive_buffer: 131_072, ..Listening::default() } }
    }

    #[test]
    fn a_new_slot_offers_what_the_kernel_would() {
        let slot = new_slot(&service(), &DEFAULTS);
        assert_eq!(slot.window[0], [64_240, 65_160]);
        assert_eq!((slot.window_scale, slot.mss, slot.flags), ([10; 2], [0; 2], abi::SERVICE_IN_USE));
    }

    #[test]
    fn what_was_learnt_wins_and_the_scale_waits_for_the_next_key() {
        let before = new_slot(&service(), &DEFAULTS);
        let learnt = abi::Learnt {
            window: [[0, 28_960], [0, 0]],
            mss: [1400, 0],
            window_scale_plus_one: 8,
            ..abi::Learnt::default()
        };
        let after = update_slot(&before, &service(), &learnt, &DEFAULTS);
        assert_eq!(
            (after.window[0][1], after.mss, after.window_scale),
            (28_960, [1400, 0], before.window_scale)
        );
        assert_ne!(after.window[0][0], 0);
        assert_eq!(window_scale(&service(), &learnt, &DEFAULTS), 7);
    }

    #[test]
    fn the_kernels_cookies_are_looked_for_when_auto_begins() {
        // The load may have been on a higher step for long: in `monitor` the ladder goes up as well.
        let calm = with_mode(&new_slot(&service(), &DEFAULTS), Mode::Monitor);
        assert_ne!(with_mode(&calm, Mode::Auto).flags & abi::SERVICE_KERNEL_COOKIES, 0);
    }

    #[test]
    fn cookies_are_accepted_beyond_always() {
        let calm = with_mode(&new_slot(&service(), &DEFAULTS), Mode::Monitor);
        assert_eq!(calm.flags & abi::SERVICE_ACCEPTS_COOKIES, 0);
        let always = with_mode(&calm, Mode::Always);
        let (config, load) = (abi::Config::default(), abi::Load::default());
        assert!(is_challenged(&always, &load, &config));
        let auto = with_mode(&with_mode(&calm, Mode::Auto), Mode::Auto);
        assert_eq!(auto.flags & abi::SERVICE_ACCEPTS_COOKIES, 0);
        assert_ne!(with_mode(&auto, Mode::Monitor).flags & abi::SERVICE_ACCEPTS_COOKIES, 0);
        let off = with_mode(&always, Mode::Off);
        assert_ne!(off.flags & abi::SERVICE_ACCEPTS_COOKIES, 0);
        assert!(!is_challenged(&off, &load, &config));
        let suspended = abi::Config { flags: abi::CONFIG_SUSPENDED, ..config };
        assert!(!is_challenged(&always, &load, &suspended));
        assert!(!is_challenged(&with_flag(&always, abi::SERVICE_UNPROTECTABLE, true), &load, &config));
    }
}
