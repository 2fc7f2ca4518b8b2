//! The verdict on a packet, and the reason for it.
//!
//! Every packet that the XDP program sees is counted under exactly one [`Reason`]. A reason belongs to one [`Verdict`]. Its name,
//! `verdict.reason`, is the same in code, JSON and documentation.

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to the kernel unchanged.
    Pass,
    /// It is dropped.
    Drop,
    /// It was turned into a SYN-ACK and leaves by the interface it came from.
    Tx,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $verdict:ident $variant:ident = $name:literal,)+) => {
        /// Why a packet got its verdict; the discriminant is its index in [`crate::abi::Counters::verdicts`].
        // As wide as a register: the compiler for eBPF clears the upper half of anything narrower before each comparison.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the counters.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The verdict this reason leads to.
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                // A bit for each reason: comparing with each costs more.
                const PASS: u64 = 0 $(| (matches!(Verdict::$verdict, Verdict::Pass) as u64) << Reason::$variant as u64)+;
                const TX: u64 = 0 $(| (matches!(Verdict::$verdict, Verdict::Tx) as u64) << Reason::$variant as u64)+;
                if PASS >> self as u64 & 1 != 0 {
                    Verdict::Pass
                } else if TX >> self as u64 & 1 != 0 {
                    Verdict::Tx
                } else {
                    Verdict::Drop
                }
            }

            /// `verdict.reason`, as counters, JSON and documentation name it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// One sentence for people.
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii_start(),)+
                }
            }
        }
    };
}

reasons! {
    /// Neither IPv4 nor IPv6.
    Pass NotIp = "pass.not_ip",
    /// An IP packet that carries no TCP for this host.
    Pass NotTcp = "pass.not_tcp",
    /// A fragment that is not the first: it holds no TCP header.
    Pass LaterFragment = "pass.later_fragment",
    /// The destination MAC address is not this interface's.
    Pass OtherMac = "pass.other_mac",
    /// The destination address is not this host's.
    Pass NotLocal = "pass.not_local",
    /// To a port that no known service listens on.
    Pass Unprotected = "pass.unprotected",
    /// The service's mode is off.
    Pass ServiceOff = "pass.service_off",
    /// Data on an established connection to a service whose SYNs are not challenged: most of a server's traffic.
    Pass Established = "pass.established",
    /// Another segment that is no SYN, to a service whose SYNs are not challenged now.
    Pass NotMitigating = "pass.not_mitigating",
    /// Another segment that is no SYN, to a service in mode `monitor`.
    Pass MonitorMode = "pass.monitor_mode",
    /// The kernel's socket table holds this connection.
    Pass Connection = "pass.connection",
    /// No connection and no listener: the kernel answers as it always does.
    Pass NoListener = "pass.no_listener",
    /// Segment that proved a cookie: the kernel is given the connection.
    Pass Cookie = "pass.cookie",
    /// SYN cookie of the kernel's own, from before this service was challenged.
    Pass KernelCookie = "pass.kernel_cookie",
    /// Further segment of a connection whose cookie was valid a moment ago.
    Pass CookieRecent = "pass.cookie_recent",
    /// Out-of-state segment, within the budget for these: the kernel resets its sender, who need not wait.
    Pass AckOutOfState = "pass.ack_out_of_state",

    /// SYN to a service in mode `monitor`.
    Pass SynMonitorMode = "pass.syn_monitor_mode",
    /// SYN to a service that is not mitigating.
    Pass SynNotMitigating = "pass.syn_not_mitigating",
    /// SYN from a source on the allow list.
    Pass SynAllowed = "pass.syn_allowed",
    /// SYN to a service whose connections cannot be handed over (Multipath TCP, DNAT, another namespace).
    Pass SynUnprotectable = "pass.syn_unprotectable",
    /// SYN while challenging is suspended: net.ipv4.tcp_syncookies is 0.
    Pass SynSuspended = "pass.syn_suspended",
    /// SYN whose tuple the kernel holds (SYN_RECV, TIME_WAIT or another state): the kernel decides.
    Pass SynKnown = "pass.syn_known",
    /// SYN to a port where nothing listens any more.
    Pass SynNoListener = "pass.syn_no_listener",
    /// SYN signed with TCP-MD5 or TCP-AO: only the kernel can answer it.
    Pass SynSigned = "pass.syn_signed",
    /// SYN to a listener whose accept queue is nearly full. The kernel answers it, and again until there is room.
    Pass SynAcceptQueueShort = "pass.syn_accept_queue_short",
    /// SYN answered with a cookie.
    Tx SynChallenged = "tx.syn_challenged",
    /// SYN from an address that no host has: multicast, broadcast, loopback, unspecified or this host itself.
    Drop SynOddSource = "drop.syn_odd_source",
    /// SYN from a MAC address that no other host has: a group's, or this interface's own.
    Drop SynOddMac = "drop.syn_odd_mac",
    /// SYN whose TTL or hop limit is 0.
    Drop SynExpired = "drop.syn_expired",
    /// SYN with a wrong IPv4 header checksum.
    Drop SynBadIpChecksum = "drop.syn_bad_ip_checksum",
    /// SYN below more VLAN tags than any VLAN device here takes off.
    Drop SynNestedVlan = "drop.syn_nested_vlan",
    /// SYN with a wrong TCP checksum.
    Drop SynBadChecksum = "drop.syn_bad_checksum",
    /// SYN in a fragment: no TCP sends that.
    Drop SynFragment = "drop.syn_fragment",
    /// SYN beyond the reply budget of its source prefix.
    Drop SynOverBudget = "drop.syn_over_budget",
    /// SYN beyond the reply limit of its service, from a source that is not validated.
    Drop SynOverLimit = "drop.syn_over_limit",
    /// SYN from a source that is not validated, beyond the part of the reply limit that is left for those.
    Drop SynUnknownSource = "drop.syn_unknown_source",
    /// SYN that only the kernel could answer (signed), while the listener's queue is beyond `critical`.
    Drop SynNoRoom = "drop.syn_no_room",
    /// SYN to a listener whose accept queue is full: the kernel drops it as well, and the client tries again.
    Drop SynAcceptQueueFull = "drop.syn_accept_queue_full",
    /// SYN from a source on the deny list.
    Drop SynDenied = "drop.syn_denied",
    /// SYN that could not be turned into a SYN-ACK: the driver refused to change the frame's length.
    Drop SynRewriteFailed = "drop.syn_rewrite_failed",

    /// Out-of-state segment without a valid cookie, beyond the budget for these, or that TCP would drop: damaged, signed, a fragment.
    Drop AckBadCookie = "drop.ack_bad_cookie",
    /// Out-of-state RST, as hosts send whose address was spoofed.
    Drop RstUnknown = "drop.rst_unknown",
    /// Out-of-state SYN-ACK.
    Drop SynAckUnknown = "drop.syn_ack_unknown",
    /// Flags that no TCP sends, out of state.
    Drop BadFlags = "drop.bad_flags",
    /// First fragment without the whole TCP header.
    Drop FragmentHeader = "drop.fragment_header",
    /// More IPv6 extension headers than are followed, to this host: they might lead to TCP.
    Drop ExtensionChain = "drop.extension_chain",
    /// Frame or IP header cut short or inconsistent.
    Drop MalformedIp = "drop.malformed_ip",
    /// TCP header cut short or inconsistent.
    Drop MalformedTcp = "drop.malformed_tcp",
}

impl Reason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason of an index in [`crate::abi::Counters::verdicts`].
    pub fn from_index(index: u16) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }

    /// Whether packets counted here belong to a connection or prove a cookie: spoofing the source is not enough.
    #[inline(always)]
    pub const fn is_proven(self) -> bool {
        matches!(self, Self::Connection | Self::Cookie | Self::KernelCookie | Self::CookieRecent)
    }

    /// Whether packets counted here are SYNs to a service.
    pub const fn is_syn(self) -> bool {
        matches!(
            self,
            Self::SynMonitorMode
                | Self::SynNotMitigating
                | Self::SynAllowed
                | Self::SynUnprotectable
                | Self::SynSuspended
                | Self::SynKnown
                | Self::SynNoListener
                | Self::SynSigned
                | Self::SynAcceptQueueShort
                | Self::SynOddSource
                | Self::SynOddMac
                | Self::SynExpired
                | Self::SynBadIpChecksum
                | Self::SynNestedVlan
                | Self::SynChallenged
                | Self::SynBadChecksum
                | Self::SynFragment
                | Self::SynOverBudget
                | Self::SynOverLimit
                | Self::SynUnknownSource
                | Self::SynNoRoom
                | Self::SynAcceptQueueFull
                | Self::SynDenied
                | Self::SynRewriteFailed
        )
    }

    /// Whether a SYN counted here would be half open now had it passed.
    #[inline(always)]
    pub const fn would_be_half_open(self) -> bool {
        matches!(
            self,
            Self::SynChallenged | Self::SynOverBudget | Self::SynOverLimit | Self::SynUnknownSource
        )
    }

    /// Whether a SYN counted here may become a connection to a service: the kernel gets it, and something listens there, as far
    /// as is known. A service whose mode is off may be challenged a moment later.
    #[inline(always)]
    pub const fn may_open(self) -> bool {
        matches!(self.verdict(), Verdict::Pass)
            && (self.is_syn() || matches!(self, Self::ServiceOff))
            && !matches!(self, Self::SynNoListener)
    }

    /// Whether a SYN counted here was answered, or would have been but for the reply limit.
    #[inline(always)]
    pub const fn wants_reply(self) -> bool {
        matches!(self, Self::SynChallenged | Self::SynOverLimit | Self::SynUnknownSource)
    }

    /// Whether packets counted here, if they are of no connection, are what floods of ACKs and RSTs consist of.
    #[inline(always)]
    pub const fn is_out_of_state(self) -> bool {
        matches!(
            self,
            Self::NotMitigating
                | Self::MonitorMode
                | Self::AckOutOfState
                | Self::AckBadCookie
                | Self::RstUnknown
                | Self::SynAckUnknown
                | Self::BadFlags
        )
    }

    /// Whether packets counted here are malformed.
    pub const fn is_malformed(self) -> bool {
        matches!(
            self,
            Self::MalformedIp
                | Self::MalformedTcp
                | Self::FragmentHeader
                | Self::ExtensionChain
                | Self::BadFlags
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_their_verdict_and_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            let verdict = match reason.verdict() {
                Verdict::Pass => "pass.",
                Verdict::Drop => "drop.",
                Verdict::Tx => "tx.",
            };
            assert!(reason.name().starts_with(verdict), "{}", reason.name());
            assert!(seen.insert(reason.name()), "{} twice", reason.name());
            assert!(!reason.describe().is_empty());
        }
    }

    #[test]
    fn indices_lead_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_index(reason as u16), Some(reason));
        }
        assert_eq!(Reason::from_index(Reason::COUNT as u16), None);
        assert_eq!(Reason::from_index(u16::MAX), None);
    }

    #[test]
    fn nothing_dropped_and_no_syn_is_proven() {
        for reason in Reason::ALL {
            let spoofable = reason.verdict() != Verdict::Pass || reason.is_syn();
            assert!(!(spoofable && reason.is_proven()), "{}", reason.name());
        }
    }

    #[test]
    fn syn_reasons_are_those_named_syn() {
        for reason in Reason::ALL {
            let name = reason.name().split_once('.').expect("verdict.reason").1;
            let named_syn = name.starts_with("syn_") && reason != Reason::SynAckUnknown;
            assert_eq!(reason.is_syn(), named_syn, "{name}");
        }
    }
}
