//! Counters of a service: values of `SERVICE_COUNTERS`.
//!
//! A counter is declared here, once. Its sum over CPUs and its row in reports follow; `defender-ebpf/src/account.rs` counts it.

macro_rules! counters {
    ($(#[doc = $of:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $counter:ident,)+ }) => {
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
        syn_received,
        /// SYNs answered with a cookie.
        syn_challenged,
        /// Segments that proved a valid cookie.
        ack_accepted,
        /// Out-of-state ACKs without a valid cookie, dropped or passed within the budget for these.
        ack_rejected,
        /// Connections assigned to the listener.
        handoff_assigned,
        /// Connections that proved a cookie and were not handed over.
        handoff_failed,
        /// Connections that reached ESTABLISHED, by handshake or cookie.
        established,
        /// SYNs that passed in mode `monitor` and would have been challenged in `auto`.
        syn_would_challenge,
        /// Connections that reached ESTABLISHED after such a SYN: real clients.
        client_would_challenge,
        /// Out-of-state packets other than RSTs: ACKs, mostly.
        out_of_state_acks,
        /// Out-of-state RSTs.
        out_of_state_rsts,
        /// SYNs beyond the reply limit, from sources that are not validated: dropped.
        syn_limited,
        /// Connections that proved a cookie, each once. Not counted: what the kernel may still drop (IP options, extension headers, a partial checksum).
        proved,
        /// Assigned connections whose socket was seen to reach ESTABLISHED.
        handoff_established,
        /// Packets that proved a cookie and were dropped because the accept queue was full.
        handoff_queue_full,
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
