//! Counters of the datapath: the value of `COUNTERS`.
//!
//! A counter is declared here, once: its place, its name and its description.

use crate::verdict::Reason;

macro_rules! counted {
    ($(#[doc = $of:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $key:literal,)+ }) => {
        $(#[doc = $of])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// All, in the order of the counters.
            pub const ALL: [Self; [$($key),+].len()] = [$(Self::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The counter's name in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $key,)+
                }
            }

            /// What it counts, in words.
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii_start(),)+
                }
            }
        }
    };
}

counted! {
    /// What became of a proven connection; the discriminant is its index in [`Counters::handoff`].
    Handoff {
        /// Assigned to its listener.
        Assigned = "handoff_assigned",
        /// The connection's socket was seen to reach ESTABLISHED.
        Established = "handoff_established",
        /// Not assigned again: an earlier segment of the same connection was, a moment ago.
        Repeated = "handoff_repeated",
        /// The listener had gone when the packet reached it.
        NoListener = "handoff_no_listener",
        /// The connection's socket was there already.
        AlreadyKnown = "handoff_already_known",
        /// The kernel refused with EINVAL.
        RefusedInvalid = "handoff_refused_invalid",
        /// The kernel refused with ENETUNREACH: a listener of another network namespace.
        RefusedNamespace = "handoff_refused_namespace",
        /// The kernel refused with ENOMEM.
        RefusedMemory = "handoff_refused_memory",
        /// The kernel refused with another error.
        RefusedOther = "handoff_refused_other",
        /// The packet could not be read again at the hand-off.
        Unreadable = "handoff_unreadable",
        /// The packet was dropped, as the kernel does: the listener's accept queue is full. The client sends it again.
        QueueFull = "handoff_queue_full",
    }
}

impl Handoff {
    /// Whether this is a connection that was proven and yet not handed over.
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::NoListener
                | Self::RefusedInvalid
                | Self::RefusedNamespace
                | Self::RefusedMemory
                | Self::RefusedOther
                | Self::Unreadable
        )
    }
}

counted! {
    /// What happened in the flow table; the discriminant is its index in [`Counters::tracked`].
    Tracked {
        /// A SYN passed and opened a connection.
        Opened = "flows_opened",
        /// A half-open connection was pushed out by a newer one; the kernel may still have it.
        PushedOut = "flows_pushed_out",
        /// A connection reached ESTABLISHED.
        Established = "flows_established",
        /// An established connection found no room; the kernel has it nevertheless.
        NoRoom = "flows_no_room",
        /// A connection ended that was counted as `flows_established` and found room.
        Ended = "flows_ended",
    }
}

/// All counters of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Packets by [`Reason`]; their sum is the number of packets received.
    pub verdicts: [u64; Reason::COUNT],
    /// Counts of the hand-off, by [`Handoff`].
    pub handoff: [u64; Handoff::COUNT],
    /// Counts of the flow table, by [`Tracked`].
    pub tracked: [u64; Tracked::COUNT],
    /// Look-ups of unknown connections in the socket table in this second, a cell of [`crate::budget::charge_cell`].
    pub looked_up: u32,
    /// Verdicts on unproven peers noted in this second, likewise.
    pub noted: u32,
    /// Out-of-state segments considered in this second, likewise.
    pub out_of_state: u32,
    /// Those of validated sources that passed beyond these, likewise.
    pub out_of_state_validated: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            verdicts: [0; Reason::COUNT],
            handoff: [0; Handoff::COUNT],
            tracked: [0; Tracked::COUNT],
            looked_up: 0,
            noted: 0,
            out_of_state: 0,
            out_of_state_validated: 0,
        }
    }
}

impl Counters {
    /// Adds what another CPU has counted. Cells of the present second stay as they are.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.verdicts[..], &other.verdicts[..]),
            (&mut self.handoff, &other.handoff),
            (&mut self.tracked, &other.tracked),
        ] {
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }
}
