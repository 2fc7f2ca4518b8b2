//! The verdict on a TCP segment to a service of this host.
//!
//! The decision is a pure function of the segment's class and of what [`Lookups`] answers, the service's policy among it. It asks
//! as late as possible, the cheapest question first. It drops nothing that may belong to a connection, and challenges no SYN, before
//! it has asked the kernel's socket table.

use crate::{
    abi::{
        CONFIG_SUSPENDED, Config, Load, MODE_ALWAYS, MODE_AUTO, MODE_MONITOR, MODE_OFF, PREFIX_ALLOW,
        PREFIX_DENY, SERVICE_UNPROTECTABLE, Service, TriggerLimits,
    },
    classify::Class,
    load,
    mitigation::{Level, STRANGERS_PART},
    queue::Accept,
    shared::{Peek, peek},
    verdict::Reason,
};

/// What the kernel's socket table has for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// Nothing.
    Nothing,
    /// A listener that would take it.
    Listener,
    /// The connection itself, in whatever state.
    Connection,
}

/// What a decision may ask about the segment at hand. Each answer may cost.
pub trait Lookups {
    /// The service is not even watched, see [`Policy::is_off`].
    fn is_off(&mut self) -> bool;
    /// What becomes of the service's SYNs, see [`Policy::of`].
    fn policy(&mut self) -> Policy;
    /// The destination is an address of this host.
    fn is_to_local(&mut self) -> bool;
    /// The source is an address that may be answered: unicast, neither this host's nor a broadcast address of its subnets.
    fn source_is_answerable(&mut self) -> bool;
    /// `PREFIX_*` of the source: whether it is on a list.
    fn listed(&mut self) -> u32;
    /// The listener's SYN queue has room for what only the kernel can answer.
    fn has_room(&mut self) -> bool;
    /// How full the listener's accept queue is.
    fn accept_queue(&mut self) -> Accept;
    /// The listener's SYN queue has room for a SYN of which there may be many.
    fn has_room_for_many(&mut self) -> bool;
    /// It is a first fragment.
    fn is_fragment(&mut self) -> bool;
    /// It lies below more VLAN tags than the hand-off can reach.
    fn is_nested(&mut self) -> bool;
    /// What the kernel's socket table says.
    fn socket(&mut self) -> Socket;
    /// It carries a TCP-MD5 or TCP-AO signature.
    fn is_signed(&mut self) -> bool;
    /// What is wrong with the headers before TCP's, see [`crate::wire::Network::flaw`].
    fn flaw(&mut self) -> Option<Reason>;
    /// Its checksum is acceptable ([`crate::checksum::acceptable`]).
    fn checksum_is_acceptable(&mut self) -> bool;
    /// Why it gets no answer although it is as it should be, see [`beyond_limits`].
    fn beyond_limits(&mut self) -> Option<Reason>;
    /// One more out-of-state segment may pass, which is charged ([`crate::budget`]). Segments that a handshake under way may send
    /// before its proof do not count.
    fn charge_out_of_state(&mut self) -> bool;
    /// The mode never challenges, see [`Policy::is_monitored`].
    fn is_monitored(&mut self) -> bool;
    /// The presence filter notes the segment's connection as established, and the segment does not change that.
    fn is_noted_established(&mut self) -> bool;
    /// Cookies are looked for, see [`Policy::accepts_cookies`].
    fn accepts_cookies(&mut self) -> bool;
    /// It acknowledges a valid cookie, and TCP will not drop it for anything else.
    fn proves_cookie(&mut self) -> bool;
    /// Cookies of the kernel's own are looked for as well, see [`load::awaits_kernel_cookies`].
    fn accepts_kernel_cookies(&mut self) -> bool;
    /// It acknowledges a valid SYN cookie of the kernel's own.
    fn proves_kernel_cookie(&mut self) -> bool;
    /// An earlier segment of the connection proved a cookie a moment ago.
    fn proved_recently(&mut self) -> bool;
}

/// What a service's mode, level and state and the global settings come to for its SYNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The lists of prefixes count.
    pub lists: bool,
    /// On this level, or passed for this reason.
    pub syn: Result<Level, Reason>,
}

impl Policy {
    /// The policy of a service on this level.
    #[inline(always)]
    pub fn of(service: &Service, level: Level, config: &Config) -> Self {
        let challenges = !Self::is_monitored(service);
        let level = match level {
            Level::Pass if service.mode == MODE_ALWAYS => Level::Challenge,
            level => level,
        };
        let syn = if service.flags & SERVICE_UNPROTECTABLE != 0 {
            Err(Reason::SynUnprotectable)
        } else if !challenges {
            Err(Reason::SynMonitorMode)
        } else if matches!(level, Level::Pass) {
            Err(Reason::SynNotMitigating)
        } else if config.flags & CONFIG_SUSPENDED != 0 {
            Err(Reason::SynSuspended)
        } else {
            Ok(level)
        };
        Self { lists: challenges, syn }
    }

    /// Whether SYNs are challenged: [`Self::of`] has a level for them.
    #[inline(always)]
    pub fn challenges(service: &Service, load: &impl Peek<Load>, config: &Config) -> bool {
        // What is most often so first: every packet of a connection comes by here.
        let always = service.mode == MODE_ALWAYS;
        let auto = service.mode == MODE_AUTO && !matches!(load::mitigation(load).level, Level::Pass);
        (always || auto) && service.flags & SERVICE_UNPROTECTABLE == 0 && config.flags & CONFIG_SUSPENDED == 0
    }

    /// Whether cookies are looked for: those of a service that is challenged, and for as long as the last that was sent may
    /// live. The time, in milliseconds, is only asked for where something depends on it.
    #[inline(always)]
    pub fn accepts_cookies(
        service: &Service,
        load: &impl Peek<Load>,
        config: &Config,
        now: impl FnOnce() -> u32,
    ) -> bool {
        Self::challenges(service, load, config)
            || peek!(load.cookie_sent) != 0 && load::awaits_cookies(load, now())
    }

    /// Whether the service is watched, does not challenge, and no cookie may be on its way: every segment but SYNs passes.
    #[inline(always)]
    pub fn is_normal(service: &Service, load: &impl Peek<Load>, config: &Config) -> bool {
        service.mode != MODE_OFF && !Self::challenges(service, load, config) && peek!(load.cookie_sent) == 0
    }

    /// Whether the SYN at hand may start mitigation, or would in a dry run.
    #[inline(always)]
    pub fn may_begin(service: &Service, load: &impl Peek<Load>) -> bool {
        service.mode != MODE_ALWAYS && matches!(load::mitigation(load).level, Level::Pass)
    }

    /// Whether a service that is watched is never challenged. Mode `off` is watched as long as cookies may be on their way.
    #[inline(always)]
    pub fn is_monitored(service: &Service) -> bool {
        service.mode != MODE_AUTO && service.mode != MODE_ALWAYS
    }

    /// Whether a service is not even watched.
    #[inline(always)]
    pub fn is_off(service: &Service, load: &impl Peek<Load>) -> bool {
        service.mode == MODE_OFF && peek!(load.cookie_sent) == 0
    }

    /// Whether mode `auto` would have challenged a SYN that mode `monitor` lets pass on this level.
    #[inline(always)]
    pub fn would_challenge(service: &Service, level: Level) -> bool {
        let watched = service.mode == MODE_MONITOR && service.flags & SERVICE_UNPROTECTABLE == 0;
        watched && !matches!(level, Level::Pass)
    }
}

/// Decides about a segment to a known service.
#[inline(always)]
pub fn decide(class: Class, lookups: &mut impl Lookups) -> Reason {
    if lookups.is_off() {
        return Reason::ServiceOff;
    }
    if !lookups.is_to_local() {
        return Reason::NotLocal;
    }
    match class {
        Class::Syn => syn(lookups),
        _ => other(class, lookups),
    }
}

#[inline(always)]
fn syn(lookups: &mut impl Lookups) -> Reason {
    let policy = lookups.policy();
    let listed = if policy.lists { lookups.listed() } else { 0 };
    if listed & PREFIX_ALLOW != 0 {
        return Reason::SynAllowed;
    }
    let denied = listed & PREFIX_DENY != 0;
    if let Err(reason) = policy.syn
        && !denied
    {
        return reason;
    }
    match lookups.socket() {
        Socket::Nothing => return Reason::SynNoListener,
        Socket::Connection => return Reason::SynKnown,
        Socket::Listener => {}
    }
    if denied {
        return Reason::SynDenied;
    }
    if lookups.is_nested() {
        return Reason::SynNestedVlan;
    }
    if !lookups.source_is_answerable() {
        return Reason::SynOddSource;
    }
    let accept = lookups.accept_queue();
    if accept == Accept::Full {
        return Reason::SynAcceptQueueFull;
    }
    if lookups.is_signed() {
        return if lookups.has_room() { Reason::SynSigned } else { Reason::SynNoRoom };
    }
    if accept == Accept::Short && lookups.has_room_for_many() {
        return Reason::SynAcceptQueueShort;
    }
    if lookups.is_fragment() {
        return Reason::SynFragment;
    }
    if let Some(flaw) = lookups.flaw() {
        return flaw;
    }
    if !lookups.checksum_is_acceptable() {
        return Reason::SynBadChecksum;
    }
    lookups.beyond_limits().unwrap_or(Reason::SynChallenged)
}

/// Why a valid SYN gets no answer: the limit of its service or the budget of its network is used up, and its source is not
/// validated. `charge` counts a reply to the network, and says whether that is within the budget.
#[inline(always)]
pub fn beyond_limits(
    level: Level,
    load: &impl Peek<Load>,
    triggers: &TriggerLimits,
    charge: impl FnOnce() -> bool,
    is_known: impl FnOnce() -> bool,
) -> Option<Reason> {
    let reason = match level {
        Level::Limit if !load::is_within_limit(load, triggers, 1) => Reason::SynOverLimit,
        Level::KnownSources if !load::is_within_limit(load, triggers, STRANGERS_PART) => {
            Reason::SynUnknownSource
        }
        _ if !charge() => Reason::SynOverBudget,
        _ => return None,
    };
    // Last: most floods do not get here.
    if is_known() { None } else { Some(reason) }
}

#[inline(always)]
fn other(class: Class, lookups: &mut impl Lookups) -> Reason {
    if !lookups.accepts_cookies() {
        let established = class == Class::Ack && lookups.is_noted_established();
        return if established { Reason::Established } else { unchallenged(lookups) };
    }
    match lookups.socket() {
        Socket::Nothing => return Reason::NoListener,
        Socket::Connection => return Reason::Connection,
        Socket::Listener => {}
    }
    if class == Class::Ack && lookups.proves_cookie() {
        return Reason::Cookie;
    }
    if lookups.proved_recently() {
        return Reason::CookieRecent;
    }
    if class == Class::Ack && lookups.accepts_kernel_cookies() && lookups.proves_kernel_cookie() {
        return Reason::KernelCookie;
    }
    // Without challenges nothing is dropped: what is unknown here, the kernel answers as it always does.
    if lookups.policy().syn.is_err() {
        return unchallenged(lookups);
    }
    match class {
        // This host may have lost its connection. No sender waits for an answer to the others.
        Class::Syn | Class::Ack if lookups.charge_out_of_state() => Reason::AckOutOfState,
        Class::Syn | Class::Ack => Reason::AckBadCookie,
        Class::Rst => Reason::RstUnknown,
        Class::SynAck => Reason::SynAckUnknown,
        Class::Odd => Reason::BadFlags,
    }
}

/// Why a segment passes to a service whose SYNs are not challenged.
#[inline(always)]
fn unchallenged(lookups: &mut impl Lookups) -> Reason {
    if lookups.is_monitored() { Reason::MonitorMode } else { Reason::NotMitigating }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{abi::SECONDS, load::MitigationState, mitigation::Trigger, verdict::Verdict};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct World {
        off: bool,
        policy: Policy,
        local: bool,
        listed: u32,
        within: bool,
        accept: Accept,
        answerable: bool,
        fragment: bool,
        nested: bool,
        socket: Socket,
        signed: bool,
        checksum: bool,
        beyond: Option<Reason>,
        flaw: Option<Reason>,
        out_of_state: bool,
        cookie: bool,
        accepts: bool,
        accepts_kernel: bool,
        recent: bool,
        established: bool,
        kernel_cookie: bool,
        asked_socket: bool,
        asked_checksum: bool,
        charged: bool,
        charged_out_of_state: bool,
    }

    impl Lookups for World {
        fn is_off(&mut self) -> bool {
            self.off
        }
        fn policy(&mut self) -> Policy {
            self.policy
        }
        fn is_to_local(&mut self) -> bool {
            self.local
        }
        fn listed(&mut self) -> u32 {
            self.listed
        }
        fn has_room(&mut self) -> bool {
            self.within
        }
        fn accept_queue(&mut self) -> Accept {
            self.accept
        }
        fn has_room_for_many(&mut self) -> bool {
            self.within
        }
        fn source_is_answerable(&mut self) -> bool {
            self.answerable
        }
        fn is_fragment(&mut self) -> bool {
            self.fragment
        }
        fn is_nested(&mut self) -> bool {
            self.nested
        }
        fn socket(&mut self) -> Socket {
            self.asked_socket = true;
            self.socket
        }
        fn is_signed(&mut self) -> bool {
            self.signed
        }
        fn checksum_is_acceptable(&mut self) -> bool {
            self.asked_checksum = true;
            self.checksum
        }
        fn flaw(&mut self) -> Option<Reason> {
            self.flaw
        }
        fn beyond_limits(&mut self) -> Option<Reason> {
            self.charged = true;
            self.beyond
        }
        fn charge_out_of_state(&mut self) -> bool {
            self.charged_out_of_state = true;
            self.out_of_state
        }
        fn is_monitored(&mut self) -> bool {
            !self.policy.lists
        }
        fn is_noted_established(&mut self) -> bool {
            self.established
        }
        fn accepts_cookies(&mut self) -> bool {
            self.policy.syn.is_ok() || self.accepts
        }
        fn proves_cookie(&mut self) -> bool {
            self.cookie
        }
        fn proved_recently(&mut self) -> bool {
            self.recent
        }
        fn accepts_kernel_cookies(&mut self) -> bool {
            self.accepts_kernel
        }
        fn proves_kernel_cookie(&mut self) -> bool {
            self.kernel_cookie
        }
    }

    fn worlds() -> impl Strategy<Value = World> {
        let sockets = prop::sample::select(vec![Socket::Nothing, Socket::Listener, Socket::Connection]);
        let accepts = prop::sample::select(vec![Accept::Room, Accept::Short, Accept::Full]);
        (any::<[bool; 17]>(), 0u32..4, sockets, policies(), accepts).prop_map(
            |(bits, listed, socket, policy, accept)| {
                let [
                    off,
                    local,
                    answerable,
                    fragment,
                    nested,
                    signed,
                    checksum,
                    cookie,
                    accepts,
                    accepts_kernel,
                    recent,
                    kernel_cookie,
                    beyond,
                    within,
                    flawed,
                    out_of_state,
                    established,
                ] = bits;
                World {
                    off,
                    policy,
                    local,
                    listed,
                    within,
                    accept,
                    answerable,
                    fragment,
                    nested,
                    socket,
                    signed,
                    checksum,
                    beyond: beyond.then_some(Reason::SynOverLimit),
                    flaw: flawed.then_some(Reason::SynExpired),
                    out_of_state,
                    cookie,
                    accepts,
                    accepts_kernel,
                    recent,
                    kernel_cookie,
                    asked_socket: false,
                    asked_checksum: false,
                    charged: false,
                    charged_out_of_state: false,
                    established,
                }
            },
        )
    }

    fn stands(level: Level) -> Load {
        let mitigation = MitigationState { level, trigger: Trigger::Queue, since: 1 };
        Load { mitigation: mitigation.to_abi(), ..Load::default() }
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let levels = prop::sample::select(Level::ALL.to_vec());
        (0u32..4, 0u32..16, 0u32..2, levels).prop_map(|(mode, service_flags, config_flags, level)| {
            let service = Service { mode, flags: service_flags, ..Service::default() };
            Policy::of(&service, level, &Config { flags: config_flags, ..Config::default() })
        })
    }

    fn classes() -> impl Strategy<Value = Class> {
        prop::sample::select(vec![Class::Syn, Class::SynAck, Class::Ack, Class::Rst, Class::Odd])
    }

    proptest! {
        #[test]
        fn what_the_kernel_holds_is_never_touched(class in classes(), world in worlds()) {
            let mut world = World { socket: Socket::Connection, ..world };
            prop_assert_eq!(decide(class, &mut world).verdict(), Verdict::Pass);
        }

        #[test]
        fn the_socket_table_is_asked_before_anything_is_dropped_or_sent(
            class in classes(), mut world in worlds(),
        ) {
            if decide(class, &mut world).verdict() != Verdict::Pass {
                prop_assert!(world.asked_socket && world.socket == Socket::Listener && world.local);
            }
        }

        #[test]
        fn nothing_is_answered_whose_checksum_was_not_asked(class in classes(), mut world in worlds()) {
            if decide(class, &mut world) == Reason::SynChallenged {
                prop_assert!(world.asked_checksum && world.checksum);
            }
        }

        #[test]
        fn without_a_challenge_only_who_is_denied_is_dropped(
            class in classes(), mut world in worlds(),
        ) {
            if world.policy.syn.is_err() {
                let reason = decide(class, &mut world);
                prop_assert!(reason.verdict() == Verdict::Pass || reason == Reason::SynDenied);
            }
        }

        #[test]
        fn who_is_allowed_is_never_challenged_and_who_is_denied_never_answered(
            world in worlds(),
        ) {
            if world.policy.lists {
                let allowed = &mut World { listed: PREFIX_ALLOW, ..world.clone() };
                prop_assert_eq!(decide(Class::Syn, allowed).verdict(), Verdict::Pass);
                let denied = &mut World { listed: PREFIX_DENY, ..world };
                prop_assert!(decide(Class::Syn, denied) != Reason::SynChallenged);
            }
        }

        #[test]
        fn limits_are_for_strangers_and_budgets_for_what_is_within_them(
            level in prop::sample::select(Level::ALL.to_vec()),
            replies in 0u64..200, limit in 0u32..100, budget: bool, known: bool,
        ) {
            let load = Load { replies: [replies; SECONDS], ..stands(level) };
            let mut charged = false;
            let charge = || {
                charged = true;
                budget
            };
            let beyond = beyond_limits(level, &load, &TriggerLimits { replies: limit, ..TriggerLimits::default() }, charge, || known);
            let within = |parts| limit == 0 || replies * parts < u64::from(limit);
            let expected = match level {
                Level::Limit if !within(1) => Some(Reason::SynOverLimit),
                Level::KnownSources if !within(2) => Some(Reason::SynUnknownSource),
                _ if !budget => Some(Reason::SynOverBudget),
                _ => None,
            };
            prop_assert_eq!(beyond, expected.filter(|_| !known));
            prop_assert_eq!(charged, !matches!(expected, Some(Reason::SynOverLimit | Reason::SynUnknownSource)));
        }

        #[test]
        fn what_no_host_sends_is_not_answered(world in worlds()) {
            let reason = |change: fn(&mut World)| {
                let mut world = world.clone();
                change(&mut world);
                decide(Class::Syn, &mut world)
            };
            prop_assert!(reason(|world| world.flaw = Some(Reason::SynOddMac)) != Reason::SynChallenged);
            prop_assert!(reason(|world| world.answerable = false) != Reason::SynChallenged);
        }

        #[test]
        fn only_acknowledgements_of_nothing_pass_out_of_state(class in classes(), mut world in worlds()) {
            let reason = decide(class, &mut world);
            if reason == Reason::AckOutOfState {
                prop_assert!(world.out_of_state && class == Class::Ack);
                prop_assert!(world.socket == Socket::Listener && world.policy.syn.is_ok());
                prop_assert!(!world.recent && !world.cookie);
            }
            let charged = matches!(reason, Reason::AckBadCookie | Reason::AckOutOfState);
            prop_assert_eq!(world.charged_out_of_state, charged);
        }

        #[test]
        fn what_passes_without_challenges_says_why(class in classes(), world in worlds()) {
            let mut world = World { off: false, local: true, accepts: false, ..world };
            if world.policy.syn.is_err() && class != Class::Syn {
                let established = class == Class::Ack && world.established;
                let expected = match world.policy.lists {
                    _ if established => Reason::Established,
                    true => Reason::NotMitigating,
                    false => Reason::MonitorMode,
                };
                prop_assert_eq!(decide(class, &mut world), expected);
                // Where cookies may be on their way, only the socket table says that it is a connection.
                world.accepts = true;
                prop_assert!(decide(class, &mut world) != Reason::Established);
            }
        }

        #[test]
        fn proven_connections_pass(world in worlds()) {
            let mut world = World { cookie: true, ..world };
            prop_assert_eq!(decide(Class::Ack, &mut world).verdict(), Verdict::Pass);
        }

        #[test]
        fn the_kernels_own_cookies_count_only_where_they_are_looked_for(
            world in worlds(),
        ) {
            let mut world = World { accepts_kernel: false, ..world };
            prop_assert!(decide(Class::Ack, &mut world) != Reason::KernelCookie);
        }

        #[test]
        fn only_what_is_answered_or_beyond_limits_is_charged(
            class in classes(), mut world in worlds(),
        ) {
            let reason = decide(class, &mut world);
            let charged = matches!(reason, Reason::SynChallenged | Reason::SynOverLimit);
            prop_assert_eq!(world.charged, charged);
        }

        #[test]
        fn syn_reasons_are_for_syns(class in classes(), mut world in worlds()) {
            let reason = decide(class, &mut world);
            prop_assert!(!reason.is_syn() || class == Class::Syn);
        }
    }

    proptest! {
        #[test]
        fn what_is_challenged_has_a_step(
            mode in 0u32..4, flags in 0u32..16, suspended in 0u32..2,
            level in prop::sample::select(Level::ALL.to_vec()),
        ) {
            let (service, config) = (
                Service { mode, flags, ..Service::default() },
                Config { flags: suspended, ..Config::default() },
            );
            let challenges = Policy::challenges(&service, &stands(level), &config);
            prop_assert_eq!(challenges, Policy::of(&service, level, &config).syn.is_ok());
        }
    }

    fn services() -> impl Strategy<Value = (Service, Load, Config)> {
        let levels = prop::sample::select(Level::ALL.to_vec());
        let until = prop_oneof![Just(0), any::<u32>()];
        (0u32..5, 0u32..64, 0u32..64, levels, until).prop_map(
            |(mode, flags, settings, level, cookie_sent)| {
                (
                    Service { mode, flags, ..Service::default() },
                    Load { cookie_sent, ..stands(level) },
                    Config { flags: settings, ..Config::default() },
                )
            },
        )
    }

    proptest! {
        #[test]
        fn in_calm_what_goes_on_passes_whatever_it_is(
            (service, load, config) in services(), world in worlds(), now: u32, class in classes(),
        ) {
            let accepts = Policy::accepts_cookies(&service, &load, &config, || now);
            let mut world = World {
                off: Policy::is_off(&service, &load),
                policy: Policy::of(&service, load::mitigation(&load).level, &config),
                local: true,
                accepts,
                ..world
            };
            if Policy::is_normal(&service, &load, &config) {
                prop_assert!(!accepts);
                let reason = decide(class, &mut world);
                if class == Class::Syn {
                    // Whom the deny list has is all that is dropped.
                    prop_assert!(reason.verdict() == Verdict::Pass || reason == Reason::SynDenied);
                } else {
                    let expected = match world.policy.lists {
                        _ if class == Class::Ack && world.established => Reason::Established,
                        true => Reason::NotMitigating,
                        false => Reason::MonitorMode,
                    };
                    prop_assert_eq!(reason, expected);
                    prop_assert!(!world.asked_socket && !world.charged);
                }
            }
        }

        #[test]
        fn it_is_calm_unless_something_depends_on_cookies(
            (service, load, config) in services(), now: u32,
        ) {
            let quiet = load.cookie_sent == 0 && !Policy::is_off(&service, &load)
                && !Policy::accepts_cookies(&service, &load, &config, || now);
            prop_assert_eq!(Policy::is_normal(&service, &load, &config), quiet);
        }
    }

    #[test]
    fn modes_steps_and_flags_make_the_policy() {
        let service = |mode, flags| Service { mode, flags, ..Service::default() };
        let config = Config::default();
        let of = |mode, flags, level| Policy::of(&service(mode, flags), level, &config);
        assert_eq!(of(MODE_ALWAYS, 0, Level::Pass).syn, Ok(Level::Challenge));
        assert_eq!(of(MODE_ALWAYS, 0, Level::Limit).syn, Ok(Level::Limit));
        assert_eq!(of(MODE_AUTO, 0, Level::Pass).syn, Err(Reason::SynNotMitigating));
        assert_eq!(of(MODE_AUTO, 0, Level::KnownSources).syn, Ok(Level::KnownSources));
        assert_eq!(of(MODE_MONITOR, 0, Level::Limit).syn, Err(Reason::SynMonitorMode));
        assert!(!of(MODE_MONITOR, 0, Level::Limit).lists && !of(MODE_OFF, 0, Level::Limit).lists);
        let accepts = |mode, flags, level| {
            let load = stands(level);
            let now = || unreachable!("nothing depends on it");
            Policy::accepts_cookies(&service(mode, flags), &load, &config, now)
        };
        assert!(accepts(MODE_ALWAYS, 0, Level::Pass) && accepts(MODE_AUTO, 0, Level::Limit));
        assert!(!accepts(MODE_MONITOR, 0, Level::Pass) && !accepts(MODE_AUTO, 0, Level::Pass));
        assert!(Policy::is_off(&service(MODE_OFF, 0), &Load::EMPTY));
        assert!(!Policy::is_off(&service(MODE_OFF, 0), &Load { cookie_sent: 1, ..Load::EMPTY }));
        let unprotectable = of(MODE_ALWAYS, SERVICE_UNPROTECTABLE, Level::Challenge);
        assert_eq!(unprotectable.syn, Err(Reason::SynUnprotectable));
        let suspended = Config { flags: CONFIG_SUSPENDED, ..config };
        let policy = Policy::of(&service(MODE_ALWAYS, 0), Level::Pass, &suspended);
        assert_eq!(policy.syn, Err(Reason::SynSuspended));
        assert!(!Policy::challenges(&service(MODE_ALWAYS, 0), &stands(Level::Pass), &suspended));
    }

    #[test]
    fn cookies_are_accepted_while_the_last_that_was_sent_may_live_whatever_became_of_its_service() {
        let load = Load { cookie_sent: 1001, ..stands(Level::Pass) };
        let suspended = Config { flags: CONFIG_SUSPENDED, ..Config::default() };
        let unprotectable = SERVICE_UNPROTECTABLE;
        for (mode, flags, config) in [
            (MODE_AUTO, 0, Config::default()),
            (MODE_MONITOR, 0, Config::default()),
            (MODE_OFF, 0, Config::default()),
            (MODE_AUTO, 0, suspended),
            (MODE_ALWAYS, 0, suspended),
            (MODE_ALWAYS, unprotectable, Config::default()),
        ] {
            let service = Service { mode, flags, ..Service::default() };
            let at = |now| Policy::accepts_cookies(&service, &load, &config, || now);
            assert!(at(1001) && at(62_000) && !at(62_001), "{service:?}");
        }
    }

    #[test]
    fn a_dry_run_is_of_monitor_alone() {
        let would = |mode, level| Policy::would_challenge(&Service { mode, ..Service::default() }, level);
        assert!(would(MODE_MONITOR, Level::Challenge));
        assert!(!would(MODE_MONITOR, Level::Pass) && !would(MODE_AUTO, Level::Challenge));
        assert!(!would(MODE_OFF, Level::Challenge));
    }
}
