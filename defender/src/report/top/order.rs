//! What services are sorted by.

use std::cmp::{Ordering, Reverse};

use crate::report::snapshot::ServiceStatus;

/// A sort key. Ties are sorted by endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By port.
    #[default]
    Port,
    /// The most SYNs a second first.
    Rate,
    /// The fullest queue first.
    HalfOpen,
    /// The highest level first.
    Level,
}

impl Order {
    /// The key after this one.
    pub const fn next(self) -> Self {
        match self {
            Self::Port => Self::Rate,
            Self::Rate => Self::HalfOpen,
            Self::HalfOpen => Self::Level,
            Self::Level => Self::Port,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Rate => "syn/s",
            Self::HalfOpen => "half-open",
            Self::Level => "level",
        }
    }

    /// Sorts.
    pub fn sort(self, services: &mut [&ServiceStatus]) {
        services.sort_by(|a, b| self.compare(a, b).then(a.endpoint.cmp(&b.endpoint)));
    }

    fn compare(self, a: &ServiceStatus, b: &ServiceStatus) -> Ordering {
        match self {
            Self::Port => Ordering::Equal,
            Self::Rate => Reverse(a.syn_rate).cmp(&Reverse(b.syn_rate)),
            Self::HalfOpen => filled(b).total_cmp(&filled(a)),
            Self::Level => Reverse((a.active, a.level)).cmp(&Reverse((b.active, b.level))),
        }
    }
}

/// The share of the limit that half-open connections take.
pub(super) fn filled(service: &ServiceStatus) -> f64 {
    service.half_open() as f64 / f64::from(service.critical.max(1))
}

#[cfg(test)]
mod tests {
    use defender_common::mitigation::Level;

    use super::*;
    use crate::report::snapshot::tests::example;

    #[test]
    fn each_key_puts_what_matters_first() {
        let mut services = example().services;
        services.extend(services.clone());
        for (service, port) in services.iter_mut().zip([1, 2, 3, 4]) {
            (service.endpoint.port, service.syn_rate, service.active) = (port, 0, false);
            service.states.insert("SYN_RECV", 0);
        }
        services[1].syn_rate = 7;
        services[2].states.insert("SYN_RECV", 40);
        (services[3].active, services[3].level) = (true, Level::Limit);
        let mut order = Order::default();
        for ports in [[1, 2, 3, 4], [2, 1, 3, 4], [3, 1, 2, 4], [4, 1, 2, 3]] {
            let mut sorted: Vec<_> = services.iter().collect();
            order.sort(&mut sorted);
            assert_eq!(
                sorted.iter().map(|service| service.endpoint.port).collect::<Vec<_>>(),
                ports,
                "{order:?}"
            );
            order = order.next();
        }
        assert_eq!(order, Order::default());
    }
}
