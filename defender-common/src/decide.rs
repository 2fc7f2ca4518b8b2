//! What becomes of a TCP segment to a service of this host.
//!
//! The decision is a pure function of the segment's class and of what the surroundings answer when asked, the service's
//! policy among it. They are asked as late as possible, the cheapest question first, and nothing that may belong to a connection
//! is dropped, and no SYN challenged, before the kernel's socket table was asked.

use crate::{
    abi::{
        CONFIG_SUSPENDED, Config, Load, MODE_ALWAYS, MODE_AUTO, MODE_MONITOR, MODE_OFF, PREFIX_ALLOW,
        PREFIX_DENY, SERVICE_ACCEPTS_COOKIES, SERVICE_KERNEL_COOKIES, SERVICE_UNPROTECTABLE, Service,
    },
    classify::Class,
    ladder::Step,
    load,
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
pub trait Surroundings {
    /// The service is not even watched, see [`Policy::is_off`].
    fn is_off(&mut self) -> bool;
    /// What becomes of the service's SYNs, see [`Policy::of`].
    fn policy(&mut self) -> Policy;
    /// The destination is an address of this host.
    fn is_to_local(&mut self) -> bool;
    /// The source is an address that may be answered: unicast and not this host's.
    fn source_is_answerable(&mut self) -> bool;
    /// `PREFIX_*` of the source: whether it is on a list.
    fn listed(&mut self) -> u32;
    /// The source has completed a handshake not long ago.
    fn source_is_known(&mut self) -> bool;
    /// One more SYN-ACK is within the reply limit of the service.
    fn is_within_limit(&mut self) -> bool;
    /// The listener's queue has room for what only the kernel can answer.
    fn has_room(&mut self) -> bool;
    /// It is a first fragment.
    fn is_fragment(&mut self) -> bool;
    /// It lies below more VLAN tags than the hand-off can reach.
    fn is_nested(&mut self) -> bool;
    /// What the kernel's socket table says.
    fn socket(&mut self) -> Socket;
    /// It carries a TCP-MD5 or TCP-AO signature.
    fn is_signed(&mut self) -> bool;
    /// Its checksum is acceptable ([`crate::checksum::acceptable`]).
    fn checksum_is_acceptable(&mut self) -> bool;
    /// One more reply to its source prefix is within the budget; it is charged.
    fn charge_budget(&mut self) -> bool;
    /// Cookies are looked for, see [`Policy::accepts_cookies`].
    fn accepts_cookies(&mut self) -> bool;
    /// It acknowledges a valid cookie.
    fn proves_cookie(&mut self) -> bool;
    /// Cookies of the kernel's own are looked for as well, see [`kernel_cookies`].
    fn accepts_kernel_cookies(&mut self) -> bool;
    /// It acknowledges a valid SYN cookie of the kernel's own.
    fn proves_kernel_cookie(&mut self) -> bool;
    /// An earlier segment of the connection proved a cookie a moment ago.
    fn proved_recently(&mut self) -> bool;
}

/// What a service's mode, step and state and the global settings come to for its SYNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The lists of prefixes count.
    pub lists: bool,
    /// On this step, or passed for this reason.
    pub syn: Result<Step, Reason>,
}

impl Policy {
    /// The policy of a service.
    #[inline(always)]
    pub fn of(service: &Service, load: &Load, config: &Config) -> Self {
        let challenges = service.mode == MODE_AUTO || service.mode == MODE_ALWAYS;
        let step = match load::posture(load).step {
            Step::Pass if service.mode == MODE_ALWAYS => Step::Challenge,
            step => step,
        };
        let syn = if service.flags & SERVICE_UNPROTECTABLE != 0 {
            Err(Reason::SynUnprotectable)
        } else if !challenges {
            Err(Reason::SynMonitored)
        } else if matches!(step, Step::Pass) {
            Err(Reason::SynCalm)
        } else if config.flags & CONFIG_SUSPENDED != 0 {
            Err(Reason::SynSuspended)
        } else {
            Ok(step)
        };
        Self { lists: challenges, syn }
    }

    /// Whether SYNs are challenged: [`Self::of`] has a step for them.
    #[inline(always)]
    pub fn challenges(service: &Service, load: &Load, config: &Config) -> bool {
        // What is most often so first: every packet of a connection comes by here.
        let always = service.mode == MODE_ALWAYS;
        let auto = service.mode == MODE_AUTO && !matches!(load::posture(load).step, Step::Pass);
        (always || auto) && service.flags & SERVICE_UNPROTECTABLE == 0 && config.flags & CONFIG_SUSPENDED == 0
    }

    /// Whether cookies are looked for. The time, in milliseconds, is only asked for where something depends on it.
    #[inline(always)]
    pub fn accepts_cookies(
        service: &Service,
        load: &Load,
        config: &Config,
        now: impl FnOnce() -> u32,
    ) -> bool {
        Self::challenges(service, load, config)
            || service.flags & SERVICE_ACCEPTS_COOKIES != 0
            || service.mode == MODE_AUTO && load.accepts_until != 0 && load::accepts_cookies(load, now())
    }

    /// Whether nobody is challenged and no cookie may be on its way: what goes on with a connection passes whatever it is.
    #[inline(always)]
    pub fn is_calm(service: &Service, load: &Load, config: &Config) -> bool {
        !Self::is_off(service)
            && !Self::challenges(service, load, config)
            && service.flags & SERVICE_ACCEPTS_COOKIES == 0
            && load.accepts_until == 0
    }

    /// Whether the SYN at hand may be the one at which challenges begin, or would in a dry run.
    #[inline(always)]
    pub fn may_begin(service: &Service, load: &Load) -> bool {
        service.mode != MODE_ALWAYS && matches!(load::posture(load).step, Step::Pass)
    }

    /// Whether a service is not even watched.
    #[inline(always)]
    pub fn is_off(service: &Service) -> bool {
        service.mode == MODE_OFF && service.flags & SERVICE_ACCEPTS_COOKIES == 0
    }

    /// Whether mode `auto` would have challenged a SYN that mode `monitor` lets pass.
    #[inline(always)]
    pub fn would_challenge(service: &Service, load: &Load) -> bool {
        let watched = service.mode == MODE_MONITOR && service.flags & SERVICE_UNPROTECTABLE == 0;
        watched && !matches!(load::posture(load).step, Step::Pass)
    }
}

/// Whether the kernel may have answered SYNs to a service with cookies of its own a moment ago: those are looked for as
/// well. `now` is in milliseconds.
#[inline(always)]
pub fn kernel_cookies(service: &Service, load: &Load, now: u32) -> bool {
    service.flags & SERVICE_KERNEL_COOKIES != 0
        || service.mode == MODE_AUTO && load::kernel_cookies(load, now)
}

/// Decides about a segment to a known service.
#[inline(always)]
pub fn decide(class: Class, around: &mut impl Surroundings) -> Reason {
    if around.is_off() {
        return Reason::ServiceOff;
    }
    if !around.is_to_local() {
        return Reason::NotLocal;
    }
    match class {
        Class::Syn => syn(around),
        _ => other(class, around),
    }
}

#[inline(always)]
fn syn(around: &mut impl Surroundings) -> Reason {
    let policy = around.policy();
    let listed = if policy.lists { around.listed() } else { 0 };
    if listed & PREFIX_ALLOW != 0 {
        return Reason::SynAllowed;
    }
    let denied = listed & PREFIX_DENY != 0;
    if let Err(reason) = policy.syn
        && !denied
    {
        return reason;
    }
    match around.socket() {
        Socket::Nothing => return Reason::SynNoListener,
        Socket::Connection => return Reason::SynKnown,
        Socket::Listener => {}
    }
    if denied {
        return Reason::SynDenied;
    }
    if around.is_nested() {
        return Reason::SynNestedVlan;
    }
    if !around.source_is_answerable() {
        return Reason::SynOddSource;
    }
    if let Some(reason) = beyond_limit(policy, around) {
        return reason;
    }
    if around.is_signed() {
        return if around.has_room() { Reason::SynSigned } else { Reason::SynNoRoom };
    }
    if around.is_fragment() {
        return Reason::SynFragment;
    }
    if !around.checksum_is_acceptable() {
        return Reason::SynBadChecksum;
    }
    if !around.charge_budget() {
        return Reason::SynOverBudget;
    }
    Reason::SynChallenged
}

/// Why a SYN gets no answer on a step where not everybody does.
#[inline(always)]
fn beyond_limit(policy: Policy, around: &mut impl Surroundings) -> Option<Reason> {
    let reason = match policy.syn {
        Ok(Step::Limit) if !around.is_within_limit() => Reason::SynOverLimit,
        Ok(Step::KnownSources) => Reason::SynUnknownSource,
        _ => return None,
    };
    if around.source_is_known() { None } else { Some(reason) }
}

#[inline(always)]
fn other(class: Class, around: &mut impl Surroundings) -> Reason {
    if !around.accepts_cookies() {
        return Reason::Monitored;
    }
    match around.socket() {
        Socket::Nothing => return Reason::NoListener,
        Socket::Connection => return Reason::Known,
        Socket::Listener => {}
    }
    if class == Class::Ack && around.proves_cookie() {
        return Reason::Cookie;
    }
    if around.proved_recently() {
        return Reason::CookieRecent;
    }
    if class == Class::Ack && around.accepts_kernel_cookies() && around.proves_kernel_cookie() {
        return Reason::KernelCookie;
    }
    // Without challenges nothing is dropped: what is unknown here, the kernel answers as it always does.
    if around.policy().syn.is_err() {
        return Reason::Monitored;
    }
    match class {
        Class::Syn | Class::Ack => Reason::AckBadCookie,
        Class::Rst => Reason::RstUnknown,
        Class::SynAck => Reason::SynAckUnknown,
        Class::Odd => Reason::BadFlags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ladder::Because, load::Posture, verdict::Verdict};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct World {
        off: bool,
        policy: Policy,
        local: bool,
        listed: u32,
        known: bool,
        within: bool,
        answerable: bool,
        fragment: bool,
        nested: bool,
        socket: Socket,
        signed: bool,
        checksum: bool,
        budget: bool,
        cookie: bool,
        accepts: bool,
        accepts_kernel: bool,
        recent: bool,
        kernel_cookie: bool,
        asked_socket: bool,
        asked_checksum: bool,
        charged: bool,
    }

    impl Surroundings for World {
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
        fn source_is_known(&mut self) -> bool {
            self.known
        }
        fn has_room(&mut self) -> bool {
            self.within
        }
        fn is_within_limit(&mut self) -> bool {
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
        fn charge_budget(&mut self) -> bool {
            self.charged = true;
            self.budget
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
        (any::<[bool; 15]>(), 0u32..4, sockets, policies()).prop_map(|(bits, listed, socket, policy)| {
            let [
                off,
                local,
                answerable,
                fragment,
                nested,
                signed,
                checksum,
                budget,
                cookie,
                accepts,
                accepts_kernel,
                recent,
                kernel_cookie,
                known,
                within,
            ] = bits;
            World {
                off,
                policy,
                local,
                listed,
                known,
                within,
                answerable,
                fragment,
                nested,
                socket,
                signed,
                checksum,
                budget,
                cookie,
                accepts,
                accepts_kernel,
                recent,
                kernel_cookie,
                asked_socket: false,
                asked_checksum: false,
                charged: false,
            }
        })
    }

    fn stands(step: Step) -> Load {
        let posture = Posture { step, because: Because::Queue, since: 1 };
        Load { posture: posture.to_abi(), ..Load::default() }
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let steps = prop::sample::select(Step::ALL.to_vec());
        (0u32..4, 0u32..16, 0u32..2, steps).prop_map(|(mode, service_flags, config_flags, step)| {
            let service = Service { mode, flags: service_flags, ..Service::default() };
            Policy::of(&service, &stands(step), &Config { flags: config_flags, ..Config::default() })
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
        fn known_sources_are_answered_on_every_step(world in worlds()) {
            let mut world = World { known: true, ..world };
            let reason = decide(Class::Syn, &mut world);
            prop_assert!(!matches!(reason, Reason::SynOverLimit | Reason::SynUnknownSource));
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
        fn only_what_is_answered_or_over_budget_is_charged(
            class in classes(), mut world in worlds(),
        ) {
            let reason = decide(class, &mut world);
            let charged = matches!(reason, Reason::SynChallenged | Reason::SynOverBudget);
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
            step in prop::sample::select(Step::ALL.to_vec()),
        ) {
            let (service, config) = (
                Service { mode, flags, ..Service::default() },
                Config { flags: suspended, ..Config::default() },
            );
            let challenges = Policy::challenges(&service, &stands(step), &config);
            prop_assert_eq!(challenges, Policy::of(&service, &stands(step), &config).syn.is_ok());
        }
    }

    fn services() -> impl Strategy<Value = (Service, Load, Config)> {
        let steps = prop::sample::select(Step::ALL.to_vec());
        let until = prop_oneof![Just(0), any::<u32>()];
        (0u32..5, 0u32..64, 0u32..64, steps, until).prop_map(
            |(mode, flags, settings, step, accepts_until)| {
                (
                    Service { mode, flags, ..Service::default() },
                    Load { accepts_until, ..stands(step) },
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
                off: Policy::is_off(&service),
                policy: Policy::of(&service, &load, &config),
                local: true,
                accepts,
                ..world
            };
            if Policy::is_calm(&service, &load, &config) {
                prop_assert!(!accepts);
                let reason = decide(class, &mut world);
                if class == Class::Syn {
                    // Whom the deny list has is all that is dropped.
                    prop_assert!(reason.verdict() == Verdict::Pass || reason == Reason::SynDenied);
                } else {
                    prop_assert_eq!(reason, Reason::Monitored);
                    prop_assert!(!world.asked_socket && !world.charged);
                }
            }
        }

        #[test]
        fn it_is_calm_unless_something_depends_on_cookies(
            (service, load, config) in services(), now: u32,
        ) {
            let quiet = load.accepts_until == 0 && !Policy::is_off(&service)
                && !Policy::accepts_cookies(&service, &load, &config, || now);
            prop_assert_eq!(Policy::is_calm(&service, &load, &config), quiet);
        }
    }

    #[test]
    fn modes_steps_and_flags_make_the_policy() {
        let service = |mode, flags| Service { mode, flags, ..Service::default() };
        let config = Config::default();
        let of = |mode, flags, step| Policy::of(&service(mode, flags), &stands(step), &config);
        assert_eq!(of(MODE_ALWAYS, 0, Step::Pass).syn, Ok(Step::Challenge));
        assert_eq!(of(MODE_ALWAYS, 0, Step::Limit).syn, Ok(Step::Limit));
        assert_eq!(of(MODE_AUTO, 0, Step::Pass).syn, Err(Reason::SynCalm));
        assert_eq!(of(MODE_AUTO, 0, Step::KnownSources).syn, Ok(Step::KnownSources));
        assert_eq!(of(MODE_MONITOR, 0, Step::Limit).syn, Err(Reason::SynMonitored));
        assert!(!of(MODE_MONITOR, 0, Step::Limit).lists && !of(MODE_OFF, 0, Step::Limit).lists);
        let accepts = |mode, flags, step| {
            let load = stands(step);
            let now = || unreachable!("nothing depends on it");
            Policy::accepts_cookies(&service(mode, flags), &load, &config, now)
        };
        assert!(accepts(MODE_ALWAYS, 0, Step::Pass) && accepts(MODE_AUTO, 0, Step::Limit));
        assert!(!accepts(MODE_MONITOR, 0, Step::Pass) && !accepts(MODE_AUTO, 0, Step::Pass));
        assert!(accepts(MODE_MONITOR, SERVICE_ACCEPTS_COOKIES, Step::Pass));
        assert!(Policy::is_off(&service(MODE_OFF, 0)));
        assert!(!Policy::is_off(&service(MODE_OFF, SERVICE_ACCEPTS_COOKIES)));
        let unprotectable = of(MODE_ALWAYS, SERVICE_UNPROTECTABLE, Step::Challenge);
        assert_eq!(unprotectable.syn, Err(Reason::SynUnprotectable));
        let suspended = Config { flags: CONFIG_SUSPENDED, ..config };
        let policy = Policy::of(&service(MODE_ALWAYS, 0), &stands(Step::Pass), &suspended);
        assert_eq!(policy.syn, Err(Reason::SynSuspended));
        assert!(!Policy::challenges(&service(MODE_ALWAYS, 0), &stands(Step::Pass), &suspended));
    }

    #[test]
    fn cookies_are_accepted_for_a_while_after_the_last_was_sent() {
        let service = Service { mode: MODE_AUTO, ..Service::default() };
        let load = Load { accepts_until: 1000, ..stands(Step::Pass) };
        let at = |now| Policy::accepts_cookies(&service, &load, &Config::default(), || now);
        assert!(at(999) && !at(1000));
    }

    #[test]
    fn the_kernels_own_cookies_are_accepted_for_a_while_after_challenges_began() {
        let service = Service { mode: MODE_AUTO, ..Service::default() };
        let load = Load { began: 1000, ..stands(Step::Challenge) };
        let at = |now| kernel_cookies(&service, &load, now);
        assert!(at(1001) && at(120_999) && !at(121_001));
        let told = Service { mode: MODE_ALWAYS, flags: SERVICE_KERNEL_COOKIES, ..service };
        assert!(kernel_cookies(&told, &load, 121_001));
        assert!(!kernel_cookies(&Service { flags: 0, ..told }, &load, 1001));
    }

    #[test]
    fn a_dry_run_is_of_monitor_alone() {
        let would =
            |mode, step| Policy::would_challenge(&Service { mode, ..Service::default() }, &stands(step));
        assert!(would(MODE_MONITOR, Step::Challenge));
        assert!(!would(MODE_MONITOR, Step::Pass) && !would(MODE_AUTO, Step::Challenge));
        assert!(!would(MODE_OFF, Step::Challenge));
    }
}
