//! What becomes of a TCP segment to a service of this host.
//!
//! The decision is a pure function of the segment's class, the service's policy and what the surroundings answer when
//! asked. They are asked as late as possible, the cheapest question first, and nothing that may belong to a connection
//! is dropped, and no SYN challenged, before the kernel's socket table was asked.

use crate::{
    abi::{
        CONFIG_SUSPENDED, Config, MODE_ALWAYS, MODE_OFF, SERVICE_ACCEPTS_COOKIES, SERVICE_KERNEL_COOKIES,
        SERVICE_UNPROTECTABLE, Service,
    },
    classify::Class,
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
    /// The destination is an address of this host.
    fn is_to_local(&mut self) -> bool;
    /// The source is an address that may be answered: unicast and not this host's.
    fn source_is_answerable(&mut self) -> bool;
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
    /// It acknowledges a valid cookie.
    fn proves_cookie(&mut self) -> bool;
    /// It acknowledges a valid SYN cookie of the kernel's own.
    fn proves_kernel_cookie(&mut self) -> bool;
    /// An earlier segment of the connection proved a cookie a moment ago.
    fn proved_recently(&mut self) -> bool;
}

/// What a service's mode, state and the global settings come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Not even watched.
    pub off: bool,
    /// SYNs: challenged, or passed for this reason.
    pub syn: Result<(), Reason>,
    /// Cookies are looked for.
    pub accepts_cookies: bool,
    /// The kernel may have answered SYNs with cookies of its own a moment ago: those are looked for as well.
    pub kernel_cookies: bool,
}

impl Policy {
    /// The policy of a service.
    #[inline(always)]
    pub fn of(service: &Service, config: &Config) -> Self {
        let syn = if service.flags & SERVICE_UNPROTECTABLE != 0 {
            Err(Reason::SynUnprotectable)
        } else if service.mode != MODE_ALWAYS {
            Err(Reason::SynMonitored)
        } else if config.flags & CONFIG_SUSPENDED != 0 {
            Err(Reason::SynSuspended)
        } else {
            Ok(())
        };
        let accepts_cookies = syn.is_ok() || service.flags & SERVICE_ACCEPTS_COOKIES != 0;
        let kernel_cookies = service.flags & SERVICE_KERNEL_COOKIES != 0;
        Self { off: service.mode == MODE_OFF && !accepts_cookies, syn, accepts_cookies, kernel_cookies }
    }
}

/// Decides about a segment to a known service.
#[inline(always)]
pub fn decide(class: Class, policy: Policy, around: &mut impl Surroundings) -> Reason {
    if policy.off {
        return Reason::ServiceOff;
    }
    if !around.is_to_local() {
        return Reason::NotLocal;
    }
    match class {
        Class::Syn => syn(policy, around),
        _ => other(class, policy, around),
    }
}

#[inline(always)]
fn syn(policy: Policy, around: &mut impl Surroundings) -> Reason {
    if let Err(reason) = policy.syn {
        return reason;
    }
    match around.socket() {
        Socket::Nothing => return Reason::SynNoListener,
        Socket::Connection => return Reason::SynKnown,
        Socket::Listener => {}
    }
    if around.is_nested() {
        return Reason::SynNestedVlan;
    }
    if !around.source_is_answerable() {
        return Reason::SynOddSource;
    }
    if around.is_signed() {
        return Reason::SynSigned;
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

#[inline(always)]
fn other(class: Class, policy: Policy, around: &mut impl Surroundings) -> Reason {
    if !policy.accepts_cookies {
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
    if class == Class::Ack && policy.kernel_cookies && around.proves_kernel_cookie() {
        return Reason::KernelCookie;
    }
    // Without challenges nothing is dropped: what is unknown here, the kernel answers as it always does.
    if policy.syn.is_err() {
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
    use crate::{abi::MODE_MONITOR, verdict::Verdict};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct World {
        local: bool,
        answerable: bool,
        fragment: bool,
        nested: bool,
        socket: Socket,
        signed: bool,
        checksum: bool,
        budget: bool,
        cookie: bool,
        recent: bool,
        kernel_cookie: bool,
        asked_socket: bool,
        charged: bool,
    }

    impl Surroundings for World {
        fn is_to_local(&mut self) -> bool {
            self.local
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
            self.checksum
        }
        fn charge_budget(&mut self) -> bool {
            self.charged = true;
            self.budget
        }
        fn proves_cookie(&mut self) -> bool {
            self.cookie
        }
        fn proved_recently(&mut self) -> bool {
            self.recent
        }
        fn proves_kernel_cookie(&mut self) -> bool {
            self.kernel_cookie
        }
    }

    fn worlds() -> impl Strategy<Value = World> {
        let sockets = prop_oneof![Just(Socket::Nothing), Just(Socket::Listener), Just(Socket::Connection)];
        (any::<[bool; 10]>(), sockets).prop_map(|(bits, socket)| {
            let [
                local,
                answerable,
                fragment,
                nested,
                signed,
                checksum,
                budget,
                cookie,
                recent,
                kernel_cookie,
            ] = bits;
            World {
                local,
                answerable,
                fragment,
                nested,
                socket,
                signed,
                checksum,
                budget,
                cookie,
                recent,
                kernel_cookie,
                asked_socket: false,
                charged: false,
            }
        })
    }

    fn policies() -> impl Strategy<Value = Policy> {
        (0u32..4, 0u32..16, 0u32..2).prop_map(|(mode, service_flags, config_flags)| {
            let service = Service { mode, flags: service_flags, ..Service::default() };
            Policy::of(&service, &Config { flags: config_flags, ..Config::default() })
        })
    }

    fn classes() -> impl Strategy<Value = Class> {
        prop::sample::select(vec![Class::Syn, Class::SynAck, Class::Ack, Class::Rst, Class::Odd])
    }

    proptest! {
        #[test]
        fn what_the_kernel_holds_is_never_touched(class in classes(), policy in policies(), world in worlds()) {
            let mut world = World { socket: Socket::Connection, ..world };
            prop_assert_eq!(decide(class, policy, &mut world).verdict(), Verdict::Pass);
        }

        #[test]
        fn the_socket_table_is_asked_before_anything_is_dropped_or_sent(
            class in classes(), policy in policies(), mut world in worlds(),
        ) {
            if decide(class, policy, &mut world).verdict() != Verdict::Pass {
                prop_assert!(world.asked_socket && world.socket == Socket::Listener && world.local);
            }
        }

        #[test]
        fn without_a_challenge_nothing_is_dropped(class in classes(), policy in policies(), mut world in worlds()) {
            if policy.syn.is_err() {
                prop_assert_eq!(decide(class, policy, &mut world).verdict(), Verdict::Pass);
            }
        }

        #[test]
        fn proven_connections_pass(policy in policies(), world in worlds()) {
            let mut world = World { cookie: true, ..world };
            prop_assert_eq!(decide(Class::Ack, policy, &mut world).verdict(), Verdict::Pass);
        }

        #[test]
        fn only_what_is_answered_or_over_budget_is_charged(
            class in classes(), policy in policies(), mut world in worlds(),
        ) {
            let reason = decide(class, policy, &mut world);
            let charged = matches!(reason, Reason::SynChallenged | Reason::SynOverBudget);
            prop_assert_eq!(world.charged, charged);
        }

        #[test]
        fn syn_reasons_are_for_syns(class in classes(), policy in policies(), mut world in worlds()) {
            let reason = decide(class, policy, &mut world);
            prop_assert!(!reason.is_syn() || class == Class::Syn);
        }
    }

    #[test]
    fn modes_and_flags_make_the_policy() {
        let service = |mode, flags| Service { mode, flags, ..Service::default() };
        let config = Config::default();
        assert_eq!(Policy::of(&service(MODE_ALWAYS, 0), &config).syn, Ok(()));
        assert_eq!(Policy::of(&service(MODE_MONITOR, 0), &config).syn, Err(Reason::SynMonitored));
        assert!(!Policy::of(&service(MODE_MONITOR, 0), &config).accepts_cookies);
        assert!(Policy::of(&service(MODE_MONITOR, SERVICE_ACCEPTS_COOKIES), &config).accepts_cookies);
        assert!(Policy::of(&service(MODE_OFF, 0), &config).off);
        assert!(!Policy::of(&service(MODE_OFF, SERVICE_ACCEPTS_COOKIES), &config).off);
        let unprotectable = service(MODE_ALWAYS, SERVICE_UNPROTECTABLE);
        assert_eq!(Policy::of(&unprotectable, &config).syn, Err(Reason::SynUnprotectable));
        let suspended = Config { flags: CONFIG_SUSPENDED, ..config };
        assert_eq!(Policy::of(&service(MODE_ALWAYS, 0), &suspended).syn, Err(Reason::SynSuspended));
    }
}
