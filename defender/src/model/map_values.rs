//! The values in the maps that follow from services and settings. Pure.

use defender_common::{abi, decide::Policy};

use crate::model::{
    mode::Mode,
    services::Service,
    setting_table::Setting,
    settings::Settings,
    window::{Buffer, Metrics, Offer, WindowRules},
};

/// What decides, besides the listener, how this host's SYN-ACKs look.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// How the kernel computes windows.
    pub rules: WindowRules,
    /// The MSS of the first interface, `[IPv4, IPv6]`.
    pub mss: [u16; 2],
    /// What the default routes by it say, likewise.
    pub metrics: [Metrics; 2],
}

/// What is to come with the next key: an MSS to be no larger than, and a window scale.
pub fn with_key(service: &Service, defaults: &Defaults) -> (u16, u8) {
    (service.listening.options.unwrap_or_default().mss, offer(service, defaults, 0, true).scale)
}

/// Whether what cookies of the key slot `current` promise is what the listener and the host say now.
pub fn is_current(slot: &abi::Service, current: u32, service: &Service, defaults: &Defaults) -> bool {
    let current = (current & 1) as usize;
    (slot.mss[current], slot.window_scale[current]) == with_key(service, defaults)
}

/// What the kernel would offer.
fn offer(service: &Service, defaults: &Defaults, family: usize, timestamps: bool) -> Offer {
    let listening = &service.listening;
    let bytes = listening.receive_buffer;
    let options = listening.options.unwrap_or_default();
    let is_set = match listening.options {
        Some(options) => options.user_locks & abi::RECEIVE_BUFFER_LOCK != 0,
        // A buffer of another size than the initial one means that it was.
        None => bytes != defaults.rules.tcp_rmem[1],
    };
    let advertised = match defaults.metrics[family].advertised_mss {
        0 => defaults.mss[family],
        advertised => mss_from(advertised),
    };
    let mss = match options.mss {
        0 => advertised,
        limit => limit.min(advertised),
    };
    let buffer = Buffer { bytes, is_set, window_clamp: options.window_clamp };
    defaults.rules.offer(&buffer, &defaults.metrics[family], mss, timestamps)
}

fn mss_from(metric: u32) -> u16 {
    metric.min(u16::MAX.into()) as u16
}

/// The slot of a service that had none before, without a mode.
pub fn new_slot(service: &Service, defaults: &Defaults) -> abi::Service {
    let (mss, scale) = with_key(service, defaults);
    let slot = abi::Service {
        flags: abi::SERVICE_IN_USE,
        mss: [mss; 2],
        window_scale: [scale; 2],
        ..abi::Service::default()
    };
    update_slot(&slot, service, defaults)
}

/// The slot with what is known now. Mode, flags and what belongs to a key stay.
pub fn update_slot(slot: &abi::Service, service: &Service, defaults: &Defaults) -> abi::Service {
    let options = service.listening.options.unwrap_or_default();
    let window = |family| [false, true].map(|stamps| offer(service, defaults, family, stamps).window);
    abi::Service {
        window: [window(0), window(1)],
        advertised: defaults.metrics.map(|metrics| mss_from(metrics.advertised_mss)),
        ttl: options.ttl,
        tos: options.tos,
        port: service.endpoint.port,
        address: service.endpoint.address_bytes(),
        families: service.endpoint.families,
        device: service.listening.device,
        ..*slot
    }
}

/// The slot in `mode`.
pub fn with_mode(slot: &abi::Service, mode: Mode) -> abi::Service {
    abi::Service { mode: mode.to_abi(), ..*slot }
}

/// The slot with one flag set or cleared.
pub fn with_flag(slot: &abi::Service, flag: u32, set: bool) -> abi::Service {
    let flags = if set { slot.flags | flag } else { slot.flags & !flag };
    abi::Service { flags, ..*slot }
}

/// The configuration with what was set for all services.
pub fn with_settings(config: &abi::Config, settings: &Settings) -> abi::Config {
    abi::Config {
        reply_budget: settings.global(Setting::ReplyBudget),
        out_of_state_budget: settings.global(Setting::OutOfStateBudget),
        ..*config
    }
}

/// Whether SYNs of the service are challenged at this moment.
pub fn is_challenged(slot: &abi::Service, load: &abi::Load, config: &abi::Config) -> bool {
    Policy::challenges(slot, load, config)
}

#[cfg(test)]
mod tests {
    use defender_common::abi::ListenerOptions;

    use super::*;
    use crate::model::endpoint::{Endpoint, Listening};

    const DEFAULTS: Defaults = Defaults {
        rules: WindowRules {
            tcp_rmem: [4096, 131_072, 33_554_432],
            rmem_max: 212_992,
            signed_windows: false,
        },
        mss: [1460, 1440],
        metrics: [NOTHING; 2],
    };
    const NOTHING: Metrics =
        Metrics { mtu: 0, advertised_mss: 0, window: 0, initial_window: 0, hop_limit: 0 };

    fn service() -> Service {
        let endpoint = Endpoint {
            port: 80,
            address: "::".parse().expect("an address"),
            families: abi::SERVICE_FAMILY_V4 | abi::SERVICE_FAMILY_V6,
        };
        Service { endpoint, listening: Listening { receive_buffer: 131_072, ..Listening::default() } }
    }

    fn with_options(options: ListenerOptions) -> Service {
        let mut service = service();
        service.listening.options = Some(options);
        service
    }

    #[test]
    fn a_new_slot_offers_what_the_kernel_would() {
        let slot = new_slot(&service(), &DEFAULTS);
        assert_eq!(slot.window[0], [64_240, 65_160]);
        assert_eq!((slot.window_scale, slot.mss, slot.flags), ([10; 2], [0; 2], abi::SERVICE_IN_USE));
        assert_eq!((slot.ttl, slot.tos), ([0; 2], [0; 2]));
    }

    #[test]
    fn what_a_listener_was_told_is_in_its_slot_but_what_cookies_promise_waits_for_the_next_key() {
        let before = new_slot(&service(), &DEFAULTS);
        let service = with_options(ListenerOptions {
            ttl: [255, 254],
            tos: [0x10, 0xb8],
            mss: 1000,
            window_clamp: 20_000,
            ..ListenerOptions::default()
        });
        let after = update_slot(&before, &service, &DEFAULTS);
        assert_eq!((after.ttl, after.tos), ([255, 254], [0x10, 0xb8]));
        assert_eq!(after.window[0], [20_000, 19_760]);
        assert_eq!((after.mss, after.window_scale), (before.mss, before.window_scale));
        assert!(!is_current(&after, 0, &service, &DEFAULTS));
        assert_eq!(with_key(&service, &DEFAULTS), (1000, 0));
        let new = new_slot(&service, &DEFAULTS);
        assert!(is_current(&new, 0, &service, &DEFAULTS) && is_current(&new, 1, &service, &DEFAULTS));
    }

    #[test]
    fn a_buffer_that_was_not_set_is_none_when_tcp_rmem_changes() {
        let rules = WindowRules { tcp_rmem: [4096, 65_536, 6_291_456], ..DEFAULTS.rules };
        let service = with_options(ListenerOptions::default());
        assert_eq!(with_key(&service, &Defaults { rules, ..DEFAULTS }).1, 7);
        let set = with_options(ListenerOptions {
            user_locks: abi::RECEIVE_BUFFER_LOCK,
            ..ListenerOptions::default()
        });
        assert_eq!(with_key(&set, &Defaults { rules, ..DEFAULTS }).1, 1);
    }

    #[test]
    fn a_route_says_more_than_an_interface() {
        let metrics =
            [Metrics { advertised_mss: 1300, window: 30_000, initial_window: 2, ..NOTHING }, NOTHING];
        let slot = new_slot(&service(), &Defaults { metrics, ..DEFAULTS });
        assert_eq!(slot.window, [[2 * 1300, 2 * 1288], [64_800, 64_260]]);
        assert_eq!((slot.advertised, slot.mss), ([1300, 0], [0; 2]));
        assert_eq!(slot.window_scale, [0; 2]);
    }

    #[test]
    fn the_mode_the_service_and_the_host_decide_whether_it_is_challenged() {
        let always = with_mode(&new_slot(&service(), &DEFAULTS), Mode::Always);
        let (config, load) = (abi::Config::default(), abi::Load::default());
        assert!(is_challenged(&always, &load, &config));
        assert!(!is_challenged(&with_mode(&always, Mode::Off), &load, &config));
        let suspended = abi::Config { flags: abi::CONFIG_SUSPENDED, ..config };
        assert!(!is_challenged(&always, &load, &suspended));
        assert!(!is_challenged(&with_flag(&always, abi::SERVICE_UNPROTECTABLE, true), &load, &config));
    }
}
