//! The packet at hand and its context: answers to what a decision asks ([`Lookups`]).

use defender_common::{
    abi::{
        CONFIG_ECN, CONFIG_SACK, CONFIG_TIMESTAMPS, CONFIG_WINDOW_SCALING, Config, Counters,
        INTERFACE_PARTIAL_CHECKSUMS, Interface, Load, Service,
    },
    checksum, cookie,
    decide::{Lookups, Policy, Socket},
    field, load,
    mitigation::Level,
    presence_filter::Noted,
    queue::{Accept, Queue},
    shared::Shared,
    validated_sources::places,
    verdict::Reason,
    wire::{
        ECN, Packet,
        address::Address,
        ethernet, ipv4, ipv6,
        options::{NO_WINDOW_SCALE, Offer},
        tcp::{CWR, ECE, Segment},
    },
};

use crate::{
    clock, config, engine,
    flow::{self, Presence},
    limits,
    packet::{self, XdpPacket},
    presence_filter,
    socket::{self, Looked, Tupled},
    validated_cookies,
};

/// `Config::flags` where every option may be offered.
const EVERY_OPTION: u32 = CONFIG_TIMESTAMPS | CONFIG_SACK | CONFIG_WINDOW_SCALING;

/// No IPv6 address.
const NONE6: [[u64; 2]; 2] = [[0; 2]; 2];

/// A segment and what is known about it.
pub(crate) struct PacketContext<'a, A> {
    pub(crate) packet: &'a XdpPacket,
    pub(crate) network_offset: usize,
    pub(crate) segment: &'a Segment<A>,
    pub(crate) interface: &'a Interface,
    pub(crate) config: &'a Config,
    pub(crate) counters: &'a Shared<Counters>,
    /// Of the service.
    pub(crate) id: u32,
    pub(crate) service: &'a Service,
    pub(crate) load: &'a Shared<Load>,
    /// The mitigation level that a SYN leads to, once it is counted; of other segments none.
    pub(crate) level: Option<Level>,
    /// The service is watched, and the segment is to an address of this host.
    pub(crate) local: bool,
    /// Of the connection, as tables are ordered by.
    pub(crate) hash: u64,
    /// Whether the kernel has the connection, by the presence filter and the flow table.
    pub(crate) presence: Presence,
    /// The filter has said that neither the flow table nor the socket table has it.
    pub(crate) ruled_out: bool,
    /// What the socket table has said, if it was asked.
    pub(crate) looked: Looked,
    /// What a SYN offers and the sum of its options; read by `is_signed`.
    offer: Offer,
    options_sum: u64,
    /// Of a SYN and its answer; summed by `checksum_is_acceptable`, without which nothing is answered.
    pub(crate) addresses_sum: u64,
    /// 1: it proves a cookie for the first time, and nothing that can be seen from here keeps the kernel from making a connection
    /// of it; else 0.
    pub(crate) proofs: usize,
    /// Milliseconds: read as a SYN arrives, or when [`Self::now`] is first asked for them.
    pub(crate) now: Option<u32>,
}

impl<'a, A: Address> PacketContext<'a, A> {
    #[inline(always)]
    pub(crate) fn new(
        packet: &'a XdpPacket,
        network_offset: usize,
        (segment, hash): (&'a Segment<A>, u64),
        interface: &'a Interface,
        config: &'a Config,
        counters: &'a Shared<Counters>,
        (id, service, load, local): (u32, &'a Service, &'a Shared<Load>, bool),
    ) -> Self {
        let (offer, options_sum) = (Offer::NONE, 0);
        Self {
            packet,
            network_offset,
            segment,
            interface,
            config,
            counters,
            id,
            service,
            load,
            level: None,
            local,
            hash,
            presence: Presence::Possible,
            ruled_out: false,
            looked: Looked::NOT,
            offer,
            options_sum,
            addresses_sum: 0,
            proofs: 0,
            now: None,
        }
    }

    /// Milliseconds, read when first asked for: most packets need no clock.
    #[inline(always)]
    pub(crate) fn now(&mut self) -> u32 {
        *self.now.get_or_insert_with(clock::now)
    }

    /// The mitigation level of the service.
    #[inline(always)]
    fn level(&self) -> Level {
        self.level.unwrap_or_else(|| load::mitigation(self.load).level)
    }

    /// Where the headers are: that of the network and, from bit 16, of TCP.
    #[inline(always)]
    fn offsets(&self) -> u64 {
        self.network_offset as u64 | (self.segment.header as u64) << 16
    }

    /// Asks the socket table, once.
    #[inline(always)]
    pub(crate) fn look(&mut self) -> Looked
    where
        A: Tupled,
    {
        if self.looked == Looked::NOT {
            self.looked = socket::look(self.packet.context, &self.segment.flow, self.offsets());
        }
        self.looked
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

    /// Whether TCP takes a segment that proves a cookie. What is incomplete, damaged or signed it drops without a word, and
    /// anybody can send that: it proves nothing.
    #[inline(always)]
    fn is_sound(&mut self) -> bool {
        if self.segment.first_fragment {
            return false;
        }
        let ip = if A::FAMILY == 0 { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
        let is_plain = self.segment.header == self.network_offset + ip;
        if A::FAMILY == 0 && is_plain && !ipv4::is_intact(self.packet, self.network_offset) {
            return false;
        }
        let Some(options) = self.segment.options().carried(self.packet) else { return false };
        self.options_sum = options.sum;
        if options.signed {
            return false;
        }
        if self.is_merged() {
            return true;
        }
        let Some((pseudo_header, sum)) = self.sums() else { return false };
        let is_certain = is_plain && checksum::is_right(pseudo_header, sum);
        // Hidden, so that the verifier need not follow what comes of the one and of the other.
        self.proofs = packet::hidden(is_certain as usize);
        is_certain || self.is_acceptable(pseudo_header, sum)
    }

    /// Whether the driver has made the segment of several. It has verified those, and the checksum is the first one's.
    #[inline(always)]
    fn is_merged(&self) -> bool {
        let mss = if A::FAMILY == 0 { self.interface.mss4 } else { self.interface.mss6 } as usize;
        let data = self.segment.data_len();
        data > mss || data > packet::MOST_SUMMED
    }

    /// The sums of the pseudo-header and of the segment, whose options have been read.
    #[inline(always)]
    fn sums(&mut self) -> Option<(u64, u64)> {
        self.addresses_sum = self.segment.flow.addresses_sum();
        Some((checksum::pseudo_header(self.addresses_sum, self.segment.len), self.segment_sum()?))
    }

    #[inline(always)]
    fn is_acceptable(&self, pseudo_header: u64, sum: u64) -> bool {
        let partial = self.interface.flags & INTERFACE_PARTIAL_CHECKSUMS != 0;
        checksum::acceptable(pseudo_header, sum, self.segment.checksum, partial)
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
        asked
            && self.config.flags & CONFIG_ECN != 0
            && (self.segment.tos & ECN == 0 || self.segment.reserved(self.packet) != 0)
    }
}

impl<A: Tupled> Lookups for PacketContext<'_, A> {
    #[inline(always)]
    fn is_off(&mut self) -> bool {
        // What is watched has been asked for its address.
        !self.local && Policy::is_off(self.service, self.load)
    }

    #[inline(always)]
    fn policy(&mut self) -> Policy {
        Policy::of(self.service, self.level(), self.config)
    }

    #[inline(always)]
    fn is_to_local(&mut self) -> bool {
        self.local
    }

    #[inline(always)]
    fn source_is_answerable(&mut self) -> bool {
        let (source, interface) = (self.segment.flow.source, packet::at_hand(self.interface));
        source.is_answerable()
            && !config::is_local(interface, source)
            && !source.is_any_of(&interface.broadcast4, &NONE6)
    }

    #[inline(always)]
    fn listed(&mut self) -> u32 {
        config::listed(self.config, self.segment.flow.source)
    }

    #[inline(always)]
    fn has_room(&mut self) -> bool {
        load::has_room(self.look().queue(), &self.service.triggers)
    }

    #[inline(always)]
    fn has_room_for_many(&mut self) -> bool {
        let (queue, now) = (self.look().queue(), self.now());
        load::has_room_besides_passing(self.load, queue, &self.service.triggers, now)
    }

    #[inline(always)]
    fn accept_queue(&mut self) -> Accept {
        // Where the filter spoke, it is looked only after somebody else found no room.
        let load = self.load;
        if self.looked == Looked::NOT && Queue::unpack(field!(load.queue).get()).accept == Accept::Room {
            return Accept::Room;
        }
        self.look().queue().accept
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
        if self.presence == Presence::Certain
            || self.presence == Presence::NotedEstablished && flow::holds(self.hash)
        {
            return Socket::Connection;
        }
        if self.looked == Looked::NOT {
            let (now, counters) = (self.now(), self.counters);
            self.ruled_out =
                presence_filter::rules_out(self.hash, self.config, field!(counters.looked_up), now);
            if self.ruled_out {
                return Socket::Listener;
            }
        }
        let socket = self.look().socket();
        if socket == Socket::Connection {
            // In which state is not known.
            presence_filter::note(self.hash, self.config, Noted::Tracked);
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
        let Some((pseudo_header, sum)) = self.sums() else { return false };
        self.is_acceptable(pseudo_header, sum)
    }

    #[inline(always)]
    fn flaw(&mut self) -> Option<Reason> {
        packet::flaw(A::xdp_flaw(self.packet.context, self.network_offset as u64, self.interface.mac))
    }

    #[inline(always)]
    fn beyond_limits(&mut self) -> Option<Reason> {
        let level = self.level();
        if level <= Level::Challenge && self.config.reply_budget == 0 {
            // So it is in most floods.
            return None;
        }
        let source = self.segment.flow.source;
        let [first, second] = places(source, &self.config.table_keys);
        let places = (first as u64) << 32 | second as u64;
        limits::beyond(self.id, level, source.budget_prefix(), places, self.now())
    }

    #[inline(always)]
    fn charge_out_of_state(&mut self) -> bool {
        let source = self.segment.flow.source;
        let [first, second] = places(source, &self.config.table_keys);
        let quota = limits::out_of_state_quota((first as u64) << 32 | second as u64, self.now() as u64);
        if quota == limits::NONE {
            return false;
        }
        let stamps = self.packet.scan_timestamps(self.segment.header);
        let offset = cookie::timestamp_offset(&self.segment.flow, self.hash, self.config.secret) as u32;
        let clocks = (self.now() as u64) << 32 | offset as u64;
        limits::charge_out_of_state(source.budget_prefix(), stamps, clocks, quota) != 0
    }

    #[inline(always)]
    fn is_monitored(&mut self) -> bool {
        Policy::is_monitored(self.service)
    }

    #[inline(always)]
    fn is_noted_established(&mut self) -> bool {
        self.presence == Presence::NotedEstablished
    }

    #[inline(always)]
    fn accepts_cookies(&mut self) -> bool {
        let (service, load, config) = (self.service, self.load, self.config);
        // Not `self.now()`: read on some ways only, it would have to be asked for on all that follow.
        Policy::accepts_cookies(service, load, config, clock::now)
    }

    #[inline(always)]
    fn proves_cookie(&mut self) -> bool {
        if engine::check(self.packet, self.segment, self.interface, self.service).is_none() {
            return false;
        }
        // Data behind an acknowledgement that was sound need not be summed.
        self.segment.data_len() != 0 && self.proved_recently() || self.is_sound()
    }

    #[inline(always)]
    fn accepts_kernel_cookies(&mut self) -> bool {
        load::awaits_kernel_cookies(self.load, self.now())
    }

    #[inline(always)]
    fn proves_kernel_cookie(&mut self) -> bool {
        packet::kernel_cookie(self.packet.context, self.offsets(), A::FAMILY)
    }

    #[inline(always)]
    fn proved_recently(&mut self) -> bool {
        let now = self.now();
        validated_cookies::has_proved(self.hash, now)
    }
}
