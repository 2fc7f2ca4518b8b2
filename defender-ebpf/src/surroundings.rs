//! The answers to what a decision asks.

use defender_common::{
    abi::{
        BudgetLines, CONFIG_ECN, CONFIG_SACK, CONFIG_TIMESTAMPS, CONFIG_WINDOW_SCALING, Config, Counters,
        INTERFACE_PARTIAL_CHECKSUMS, Interface, Load, Service, in_place,
    },
    budget, checksum, cookie,
    cookie::{Host, Terms},
    decide::{self, Policy, Socket, Surroundings},
    filter::Noted,
    load,
    recent::{PASS_MS, What},
    wire::{
        Packet,
        address::Address,
        ethernet,
        options::{NO_WINDOW_SCALE, Offer},
        tcp::{CWR, ECE, Segment},
    },
};

use crate::{
    clock, config, filter,
    flow::{self, Known},
    known,
    maps::{entry_of, in_place},
    packet::{self, XdpPacket},
    recent,
    socket::{self, Tupled},
};

/// `Config::flags` where every option may be offered.
const EVERY_OPTION: u32 = CONFIG_TIMESTAMPS | CONFIG_SACK | CONFIG_WINDOW_SCALING;

/// A segment and all that is known around it.
pub(crate) struct Around<'a, A> {
    pub(crate) packet: &'a XdpPacket,
    pub(crate) network_offset: usize,
    pub(crate) segment: &'a Segment<A>,
    pub(crate) interface: &'a Interface,
    pub(crate) config: &'a Config,
    pub(crate) counters: &'a mut Counters,
    pub(crate) service: &'a Service,
    pub(crate) load: &'a Load,
    /// The service is watched, and the segment is to an address of this host.
    pub(crate) local: bool,
    /// Of the connection, as tables are ordered by.
    pub(crate) hash: u64,
    /// What the filter and the flow table know of the connection.
    pub(crate) known: Known,
    /// The filter has said that neither the flow table nor the socket table has it.
    pub(crate) ruled_out: bool,
    /// What a SYN offers and the sum of its options; read by `is_signed`.
    offer: Offer,
    options_sum: u64,
    /// Of a SYN and its answer; summed by `checksum_is_acceptable`, without which nothing is answered.
    pub(crate) addresses_sum: u64,
    /// Milliseconds: read as a SYN arrives, or when [`Self::now`] is first asked for them.
    pub(crate) now: Option<u32>,
}

impl<'a, A: Address> Around<'a, A> {
    #[inline(always)]
    pub(crate) fn new(
        packet: &'a XdpPacket,
        network_offset: usize,
        (segment, hash): (&'a Segment<A>, u64),
        interface: &'a Interface,
        config: &'a Config,
        counters: &'a mut Counters,
        (service, load, local): (&'a Service, &'a Load, bool),
    ) -> Self {
        let (offer, options_sum) = (Offer::NONE, 0);
        Self {
            packet,
            network_offset,
            segment,
            interface,
            config,
            counters,
            service,
            load,
            local,
            hash,
            known: Known::Perhaps,
            ruled_out: false,
            offer,
            options_sum,
            addresses_sum: 0,
            now: None,
        }
    }

    /// Milliseconds, read when first asked for: most packets need no clock.
    #[inline(always)]
    pub(crate) fn now(&mut self) -> u32 {
        *self.now.get_or_insert_with(clock::now)
    }

    /// Where the headers are: that of the network and, from bit 16, of TCP.
    #[inline(always)]
    fn offsets(&self) -> u64 {
        self.network_offset as u64 | (self.segment.header as u64) << 16
    }

    /// The sum of the TCP header, its options and data.
    #[inline(always)]
    fn segment_sum(&self) -> Option<u64> {
        let sum = self.segment.header_sum + self.options_sum;
        let data = self.segment.data_len();
        if data == 0 {
            return Some(sum);
        }
        Some(sum + packet::data_sum(self.packet.context, self.segment.data(), data)?)
    }

    /// What the client offers and this host's settings allow. The options have been read.
    #[inline(always)]
    pub(crate) fn offer(&self) -> Offer {
        let mut offer = self.offer;
        let allowed = self.config.flags;
        if allowed & EVERY_OPTION == EVERY_OPTION {
            // So it is nearly everywhere.
            return offer;
        }
        offer.timestamps &= allowed & CONFIG_TIMESTAMPS != 0;
        offer.sack &= allowed & CONFIG_SACK != 0;
        if allowed & CONFIG_WINDOW_SCALING == 0 {
            offer.window_scale = NO_WINDOW_SCALE;
        }
        offer
    }

    /// Whether ECN was asked for and this host takes part (`tcp_ecn_create_request`, net/ipv4/tcp_input.c).
    #[inline(always)]
    pub(crate) fn ecn(&self) -> bool {
        let asked = self.segment.flags & (ECE | CWR) == ECE | CWR;
        asked && !self.segment.ect && self.config.flags & CONFIG_ECN != 0
    }
}

impl<A: Tupled> Surroundings for Around<'_, A> {
    #[inline(always)]
    fn is_off(&mut self) -> bool {
        // What is watched has been asked for its address.
        !self.local && Policy::is_off(self.service)
    }

    #[inline(always)]
    fn policy(&mut self) -> Policy {
        Policy::of(self.service, self.load, self.config)
    }

    #[inline(always)]
    fn is_to_local(&mut self) -> bool {
        self.local
    }

    #[inline(always)]
    fn source_is_answerable(&mut self) -> bool {
        let source = self.segment.flow.source;
        source.is_answerable() && !config::is_local(self.interface, source)
    }

    #[inline(always)]
    fn listed(&mut self) -> u32 {
        config::listed(self.config, self.segment.flow.source)
    }

    #[inline(always)]
    fn source_is_known(&mut self) -> bool {
        known::is_known(self.segment.flow.source, self.config, clock::epoch())
    }

    #[inline(always)]
    fn is_within_limit(&mut self) -> bool {
        // It has been counted.
        load::is_within_limit(self.load, &self.service.lines, 0)
    }

    #[inline(always)]
    fn has_room(&mut self) -> bool {
        load::has_room(self.load, &self.service.lines)
    }

    #[inline(always)]
    fn is_fragment(&mut self) -> bool {
        self.segment.first_fragment
    }

    #[inline(always)]
    fn is_nested(&mut self) -> bool {
        self.network_offset > ethernet::behind_tags(self.interface.max_vlan_tags)
    }

    #[inline(always)]
    fn socket(&mut self) -> Socket {
        if self.known == Known::Surely || self.known == Known::Likely && flow::holds(self.hash) {
            return Socket::Connection;
        }
        let now = self.now();
        self.ruled_out = filter::rules_out(self.hash, self.config, &mut self.counters.looked_up, now);
        if self.ruled_out {
            return Socket::Listener;
        }
        let socket = socket::state(self.packet.context, &self.segment.flow, self.offsets());
        if socket == Socket::Connection {
            // In which state is not known.
            filter::note(self.hash, self.config, Noted::Followed);
        }
        socket
    }

    #[inline(always)]
    fn is_signed(&mut self) -> bool {
        // The header was seen to be whole, so the options are there. Were they not, the checksum would not match.
        let Some(syn) = self.segment.options().syn(self.packet) else { return false };
        self.options_sum = syn.sum;
        self.offer = syn.offer;
        self.offer.signed
    }

    #[inline(always)]
    fn checksum_is_acceptable(&mut self) -> bool {
        self.addresses_sum = self.segment.flow.addresses_sum();
        let pseudo_header = checksum::pseudo_header(self.addresses_sum, self.segment.len);
        let partial = self.interface.flags & INTERFACE_PARTIAL_CHECKSUMS != 0;
        let Some(sum) = self.segment_sum() else { return false };
        checksum::acceptable(pseudo_header, sum, self.segment.checksum, partial)
    }

    #[inline(always)]
    fn charge_budget(&mut self) -> bool {
        let limit = self.config.reply_budget;
        if limit == 0 {
            return true;
        }
        let place = budget::place(self.segment.flow.source.budget_prefix(), self.config.secret);
        let now = self.now();
        let lines: *mut BudgetLines = in_place!(in_place::BUDGET);
        // SAFETY: an entry of a map's value, of integers. CPUs may count at the same time and lose one another's replies,
        // which makes the budget a little larger, not smaller.
        let line = unsafe { &mut *entry_of(lines, place.line) };
        budget::charge_line(line, place, now) <= limit
    }

    #[inline(always)]
    fn accepts_cookies(&mut self) -> bool {
        let (service, load, config) = (self.service, self.load, self.config);
        // Not `self.now()`: read on some ways only, it would have to be asked for on all that follow.
        Policy::accepts_cookies(service, load, config, clock::now)
    }

    #[inline(always)]
    fn proves_cookie(&mut self) -> bool {
        proven(self.packet, self.segment, self.interface, self.service).is_some()
    }

    #[inline(always)]
    fn accepts_kernel_cookies(&mut self) -> bool {
        decide::kernel_cookies(self.service, self.load, self.now())
    }

    #[inline(always)]
    fn proves_kernel_cookie(&mut self) -> bool {
        packet::kernel_cookie(self.packet.context, self.offsets(), A::FAMILY)
    }

    #[inline(always)]
    fn proved_recently(&mut self) -> bool {
        let now = self.now();
        recent::seen(&self.segment.flow, self.config, What::Proved, now, PASS_MS)
    }
}

/// The terms of a segment that acknowledges a valid cookie, and its timestamp and echo.
#[inline(always)]
pub(crate) fn proven<A: Address>(
    packet: &impl Packet,
    segment: &Segment<A>,
    interface: &Interface,
    service: &Service,
) -> Option<(Terms, (u32, u32))> {
    let slot = cookie::slot_of(segment.acknowledgement);
    let key = config::key(slot)?;
    let stamps = segment.options().timestamps(packet);
    let host = host::<A>(interface, service, slot);
    let echo = stamps.map(|(_, echo)| echo);
    let terms = cookie::check(&segment.flow, segment.sequence, segment.acknowledgement, echo, host, key)?;
    Some((terms, stamps.unwrap_or_default()))
}

/// This host's part in the terms of a connection.
#[inline(always)]
pub(crate) fn host<A: Address>(interface: &Interface, service: &Service, slot: u32) -> Host {
    Host {
        mss: if A::FAMILY == 0 { interface.mss4 } else { interface.mss6 },
        window_scale: service.window_scale[(slot & 1) as usize],
    }
}
