//! Counters of a service: values of `SERVICE_COUNTERS`.
//!
//! A counter is declared here, once, with the metric that it is exported as. Its sum over CPUs, its row in reports and its series
//! follow; `defender-ebpf/src/account.rs` counts it.

/// A metric of services. Its name and description are in `report::metrics::families`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceMetric {
    /// SYNs, by outcome.
    Syns,
    /// ACKs that were checked for a cookie, by outcome.
    CookieAcks,
    /// Out-of-state packets, by kind.
    OutOfState,
    /// Hand-offs, by outcome.
    Handoffs,
    /// Connections that proved a cookie.
    Proved,
    /// Connections that reached ESTABLISHED.
    Established,
    /// Of these: by a cookie.
    EstablishedByCookie,
    /// Of these: those that mode `auto` would have challenged.
    WouldHaveChallenged,
}

/// How a counter is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportedAs {
    /// The metric.
    pub metric: ServiceMetric,
    /// The value of the metric's label; none: the counter is the metric's sum, or all of it.
    pub label: Option<&'static str>,
}

macro_rules! exported {
    () => {
        None
    };
    ($metric:ident) => {
        Some(ExportedAs { metric: ServiceMetric::$metric, label: None })
    };
    ($metric:ident, $label:literal) => {
        Some(ExportedAs { metric: ServiceMetric::$metric, label: Some($label) })
    };
}

macro_rules! counters {
    ($(#[doc = $of:literal])+ $name:ident {
        $($(#[doc = $doc:literal])+ $counter:ident $(in $metric:ident $(. $label:literal)?)?,)+
    }) => {
        $(#[doc = $of])+
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $counter: u64,)+
        }

        impl $name {
            /// Name and description of each counter.
            pub const ALL: [(&'static str, &'static str); [$(stringify!($counter)),+].len()] =
                [$((stringify!($counter), concat!($($doc),+).trim_ascii_start())),+];

            /// How each is exported, in the order of [`Self::ALL`]; none: not by service.
            pub const EXPORTED: [Option<ExportedAs>; Self::ALL.len()] = [$(exported!($($metric $(, $label)?)?)),+];

            /// The values, in the order of [`Self::ALL`].
            pub const fn values(&self) -> [u64; Self::ALL.len()] {
                [$(self.$counter),+]
            }

            /// The name and value of each counter.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                Self::ALL.into_iter().map(|(name, _)| name).zip(self.values())
            }

            /// Adds what another CPU has counted.
            pub fn add(&mut self, other: &Self) {
                $(self.$counter += other.$counter;)+
            }
        }
    };
}

counters! {
    /// Counters of one service on one CPU.
    ServiceCounters {
        /// SYNs that arrived.
        syn_received in Syns,
        /// SYNs answered with a cookie.
        syn_challenged in Syns."challenged",
        /// Segments that proved a valid cookie.
        ack_accepted in CookieAcks."accepted",
        /// Out-of-state ACKs without a valid cookie, dropped or passed within the budget for these.
        ack_rejected in CookieAcks."rejected",
        /// Connections assigned to the listener.
        handoff_assigned in Handoffs."assigned",
        /// Connections that proved a cookie and were not handed over.
        handoff_failed in Handoffs."failed",
        /// Connections that reached ESTABLISHED, by handshake or cookie.
        established in Established,
        /// SYNs that passed in mode `monitor` and would have been challenged in `auto`.
        syn_would_challenge in Syns."would_challenge",
        /// Connections that reached ESTABLISHED after such a SYN: real clients.
        client_would_challenge in WouldHaveChallenged,
        /// Out-of-state packets other than RSTs: ACKs, mostly.
        out_of_state_acks in OutOfState."ack",
        /// Out-of-state RSTs.
        out_of_state_rsts in OutOfState."rst",
        /// SYNs beyond the reply limit, from sources that are not validated: dropped.
        syn_limited in Syns."limited",
        /// Connections that proved a cookie, each once. Not counted: what the kernel may still drop (IP options, extension headers, a partial checksum).
        proved in Proved,
        /// Assigned connections whose socket was seen to reach ESTABLISHED.
        handoff_established in EstablishedByCookie,
        /// Packets that proved a cookie and were dropped because the accept queue was full.
        handoff_queue_full in Handoffs."queue_full",
        /// Hand-offs that the kernel refused with EINVAL.
        refused_invalid,
        /// Hand-offs that the kernel refused with ENETUNREACH: the listener is in another network namespace.
        refused_namespace,
        /// Hand-offs that the kernel refused with an error besides EINVAL, ENETUNREACH and ENOMEM.
        refused_other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_has_one_counter() {
        let exported: Vec<_> = ServiceCounters::EXPORTED.into_iter().flatten().collect();
        for (index, one) in exported.iter().enumerate() {
            assert!(!exported[..index].contains(one), "{one:?} twice");
        }
        let index = ServiceCounters::ALL.iter().position(|(name, _)| *name == "out_of_state_rsts");
        let rst = ServiceCounters::EXPORTED[index.expect("a counter")];
        assert_eq!(rst, Some(ExportedAs { metric: ServiceMetric::OutOfState, label: Some("rst") }));
    }

    #[test]
    fn every_counter_has_a_name_a_description_and_a_sum() {
        let one = ServiceCounters { syn_received: 1, refused_other: 5, ..ServiceCounters::default() };
        let mut sum = one;
        sum.add(&one);
        assert_eq!(sum.values().map(|value| value / 2), one.values());
        let names = ServiceCounters::ALL.map(|(name, _)| name);
        assert_eq!((names[0], names[17]), ("syn_received", "refused_other"));
        assert_eq!((sum.values()[0], sum.values()[17]), (2, 10));
        assert!(ServiceCounters::ALL.iter().all(|(_, description)| description.ends_with('.')));
    }
}
