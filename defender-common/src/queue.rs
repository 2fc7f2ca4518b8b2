//! The queues of a listener, as its socket has them.

/// The SYN queue and the accept queue of a listener (`inet_csk(sk)->icsk_accept_queue`, include/net/request_sock.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Half-open connections (`qlen`).
    pub half_open: u32,
    /// Of these, whose SYN-ACK was sent once (`young`): they are less than a second old.
    pub young: u32,
    /// How the accept queue stands.
    pub accept: Accept,
}

/// How full an accept queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Accept {
    /// There is room.
    #[default]
    Room,
    /// Less than a quarter is free: for clients that have been answered already it may not be enough.
    Short,
    /// The kernel drops every SYN (`sk_acceptq_is_full`, include/net/sock.h).
    Full,
}

impl Accept {
    /// Of a queue with so many connections, of which `most` may wait.
    #[inline(always)]
    pub const fn of(waiting: u32, most: u32) -> Self {
        if waiting > most {
            Self::Full
        } else if waiting > most - most / 4 {
            Self::Short
        } else {
            Self::Room
        }
    }
}

/// Larger counts are cut.
const MOST: u32 = (1 << COUNT_BITS) - 1;
const COUNT_BITS: u32 = 28;
const YOUNG_SHIFT: u32 = 64 - COUNT_BITS;
const HALF_OPEN_SHIFT: u32 = YOUNG_SHIFT - COUNT_BITS;

impl Queue {
    /// In one word, of which the lowest four bits are free.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (cut(self.young) as u64) << YOUNG_SHIFT
            | (cut(self.half_open) as u64) << HALF_OPEN_SHIFT
            | (self.accept as u64) << 4
    }

    /// From [`Self::pack`].
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        let accept = match word >> 4 & 3 {
            0 => Accept::Room,
            1 => Accept::Short,
            _ => Accept::Full,
        };
        Self {
            half_open: (word >> HALF_OPEN_SHIFT) as u32 & MOST,
            young: (word >> YOUNG_SHIFT) as u32,
            accept,
        }
    }

    /// Half-open connections that are older than a second.
    #[inline(always)]
    pub const fn aged(self) -> u32 {
        self.half_open.saturating_sub(self.young)
    }
}

#[inline(always)]
const fn cut(count: u32) -> u32 {
    if count < MOST { count } else { MOST }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_accept_queue_is_full_as_the_kernel_has_it() {
        // One more than the limit gets in: `sk_ack_backlog > sk_max_ack_backlog`.
        let of = |most| (0..=most + 2).map(move |waiting| Accept::of(waiting, most)).collect::<Vec<_>>();
        assert_eq!(of(0), [Accept::Room, Accept::Full, Accept::Full]);
        assert_eq!(of(1), [Accept::Room, Accept::Room, Accept::Full, Accept::Full]);
        assert_eq!(Accept::of(96, 128), Accept::Room);
        assert_eq!(Accept::of(97, 128), Accept::Short);
        assert_eq!(Accept::of(128, 128), Accept::Short);
        assert_eq!(Accept::of(129, 128), Accept::Full);
    }

    proptest! {
        #[test]
        fn packing_keeps_everything(half_open in 0u32..=MOST, young in 0u32..=MOST, accept in 0usize..3, kind in 0u64..16) {
            let accept = [Accept::Room, Accept::Short, Accept::Full][accept];
            let queue = Queue { half_open, young, accept };
            prop_assert_eq!(Queue::unpack(queue.pack() | kind), queue);
            prop_assert_eq!(queue.pack() & 15, 0);
        }

        #[test]
        fn large_counts_are_cut(half_open: u32, young: u32) {
            let queue = Queue::unpack(Queue { half_open, young, accept: Accept::Room }.pack());
            prop_assert_eq!((queue.half_open, queue.young), (half_open.min(MOST), young.min(MOST)));
        }
    }
}
