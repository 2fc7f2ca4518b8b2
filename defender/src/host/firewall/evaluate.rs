//! How the firewall's rules may treat a connection's first packets.
//!
//! The firewall sees the ACK of a challenged connection, but never its SYN. So the evaluation follows a SYN
//! and an ACK of one client side by side, together with a later packet. Where a rule tests something
//! unknown here (who the client is, whether a limit is exceeded), both outcomes are followed.

use std::collections::BTreeMap;

use super::FirewallTarget;
use super::ruleset::{
    CONNTRACK_PRIORITY, Chain, ChainId, ClientPacket, Condition, CtState, Fit, NetfilterHook, Rule,
    RuleAction, Ruleset,
};

/// Maximum depth of nested chain calls (`NFT_JUMP_STACK_SIZE`).
const MAX_DEPTH: u8 = 16;

const PACKETS: [ClientPacket; 3] = [ClientPacket::Syn, ClientPacket::Ack, ClientPacket::Later];
const SYN: usize = 0;
const ACK: usize = 1;
const LATER: usize = 2;

/// The possible outcomes.
#[derive(Clone, Debug, Default)]
pub(super) struct Evaluated<'r> {
    /// The first rule that may redirect a SYN, and its target.
    pub redirect: Option<(&'r str, &'r str)>,
    /// The first rule that may answer with SYN cookies.
    pub synproxy: Option<&'r str>,
    /// Every possible end.
    pub ends: Vec<PathEnd<'r>>,
}

/// One possible end.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathEnd<'r> {
    /// The rule that dropped the SYN, if any.
    pub syn_dropped: Option<&'r str>,
    /// The rule that dropped the ACK, if any.
    pub ack_dropped: Option<&'r str>,
    /// The rule where the packets' paths diverged.
    pub parted: Option<&'r str>,
    /// The cause it depends on.
    pub cause: Option<(PathCause, &'r str)>,
}

/// A condition outside the rules that an outcome depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathCause {
    /// Too many packets that begin connections. The ACK of a challenged connection counts as one.
    NewPackets,
    /// Too many SYNs or connections, or a property of the SYN that is not examined here, such as an option.
    Other,
}

/// Follows packets to `target` through all chains.
pub(super) fn evaluate<'r>(ruleset: &'r Ruleset, target: &FirewallTarget, loose: bool) -> Evaluated<'r> {
    let mut bases: Vec<_> = ruleset
        .chains
        .iter()
        .filter_map(|(id, chain)| chain.base.as_ref().map(|base| (id, chain, base)))
        .collect();
    bases.sort_by_key(|(_, _, base)| (base.hook, base.priority));
    let mut evaluation = Evaluation { ruleset, target, outcome: Evaluated::default() };
    let mut ways = Ways::from([Way::begin()]);
    let mut tracked = false;
    for (id, chain, base) in bases {
        if !tracked && (base.hook, base.priority) >= (NetfilterHook::Prerouting, CONNTRACK_PRIORITY) {
            ways = ways.map(|way| way.track(loose));
            tracked = true;
        }
        let enters = |packet: usize, state: CtState| {
            let fits = |it: &Condition| it.fits(PACKETS[packet], state, target) != Fit::No;
            (!base.nat || state == CtState::New) && base.conditions.iter().all(fits)
        };
        let entered = ways.map(|way| way.enter(enters));
        let left = evaluation.run(id, chain, entered, 0);
        let policy = base.drops.then_some(base.place.as_str());
        ways = left.map(|way| way.end_base(policy));
    }
    let Evaluation { mut outcome, .. } = evaluation;
    outcome.ends = ways.0.into_iter().map(|(key, note)| note.end(key.cause)).collect();
    outcome
}

/// A packet's position relative to the current chain. Numbers are call depths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Position {
    Here,
    /// In a calling chain, waiting for the other packets.
    Away(u8),
    /// At the end of a chain.
    Returned(u8),
    Accepted,
    Dropped,
}

/// What distinguishes paths. Paths with equal keys have the same future.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PathKey {
    places: [Position; 3],
    states: [CtState; 3],
    cause: Option<PathCause>,
}

/// How a path got here. One note is enough for paths with equal keys.
#[derive(Clone, Copy, Debug, Default)]
struct PathNote<'r> {
    dropped: [Option<&'r str>; 3],
    parted: Option<&'r str>,
    cause: &'r str,
}

impl<'r> PathNote<'r> {
    fn end(&self, cause: Option<PathCause>) -> PathEnd<'r> {
        PathEnd {
            syn_dropped: self.dropped[SYN],
            ack_dropped: self.dropped[ACK],
            parted: self.parted,
            cause: cause.map(|cause| (cause, self.cause)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Way<'r> {
    key: PathKey,
    note: PathNote<'r>,
}

impl<'r> Way<'r> {
    fn begin() -> Self {
        // Until conntrack has seen a packet, rules see it as invalid.
        let key = PathKey { places: [Position::Here; 3], states: [CtState::Invalid; 3], cause: None };
        Self { key, note: PathNote::default() }
    }

    /// Conntrack examines the packets.
    fn track(mut self, loose: bool) -> Self {
        let seen = [CtState::New, if loose { CtState::New } else { CtState::Invalid }, CtState::Established];
        for (state, seen) in self.key.states.iter_mut().zip(seen) {
            *state = if *state == CtState::Untracked { *state } else { seen };
        }
        self
    }

    fn enter(mut self, enters: impl Fn(usize, CtState) -> bool) -> Self {
        for packet in 0..PACKETS.len() {
            if self.key.places[packet] == Position::Here && !enters(packet, self.key.states[packet]) {
                self.key.places[packet] = Position::Away(0);
            }
        }
        self
    }

    /// End of a base chain: its policy applies to packets without a verdict, and the rest continue with the
    /// next chain.
    fn end_base(mut self, policy: Option<&'r str>) -> Self {
        for packet in 0..PACKETS.len() {
            match (self.key.places[packet], policy) {
                (Position::Here | Position::Returned(_), Some(policy)) => self.drop(packet, policy),
                (Position::Dropped, _) => {}
                _ => self.key.places[packet] = Position::Here,
            }
        }
        self.rejoin()
    }

    fn drop(&mut self, packet: usize, by: &'r str) {
        self.key.places[packet] = Position::Dropped;
        self.note.dropped[packet] = Some(by);
    }

    fn with_cause(mut self, cause: Option<PathCause>, rule: &'r str) -> Self {
        if self.key.cause.is_none() && cause.is_some() {
            self.key.cause = cause;
            self.note.cause = rule;
        }
        self
    }

    /// Matching packets enter a chain at this depth. The others wait.
    fn call(mut self, matched: [bool; 3], depth: u8) -> Self {
        for (place, matched) in self.key.places.iter_mut().zip(matched) {
            if *place == Position::Here && !matched {
                *place = Position::Away(depth);
            }
        }
        self
    }

    /// Returns from a chain at this depth. After a `goto`, returns from its caller as well.
    fn come_back(mut self, depth: u8, goto: bool) -> Self {
        let back = if goto { Position::Returned(depth - 1) } else { Position::Here };
        for place in &mut self.key.places {
            *place = match *place {
                Position::Away(from) if from == depth => Position::Here,
                Position::Here => back,
                Position::Returned(from) if from == depth => back,
                other => other,
            };
        }
        self.rejoin()
    }

    /// Once both packets are in the same place again, no rule separates them.
    fn rejoin(mut self) -> Self {
        if self.key.places[SYN] == self.key.places[ACK] {
            self.note.parted = None;
        }
        self
    }
}

/// Possible paths, without those that another path covers.
#[derive(Clone, Debug, Default)]
struct Ways<'r>(BTreeMap<PathKey, PathNote<'r>>);

impl<'r, const N: usize> From<[Way<'r>; N]> for Ways<'r> {
    fn from(ways: [Way<'r>; N]) -> Self {
        Self(ways.into_iter().map(|way| (way.key, way.note)).collect())
    }
}

impl<'r> Ways<'r> {
    fn add(&mut self, way: Way<'r>) {
        self.0.entry(way.key).or_insert(way.note);
    }

    fn each(self) -> impl Iterator<Item = Way<'r>> {
        self.0.into_iter().map(|(key, note)| Way { key, note })
    }

    fn map(self, step: impl Fn(Way<'r>) -> Way<'r>) -> Self {
        let mut mapped = Self::default();
        self.each().for_each(|way| mapped.add(step(way)));
        mapped.prune()
    }

    /// Removes a path with a cause if its packets reach the same place without one. Dropped packets have no
    /// place, so their paths stay.
    fn prune(mut self) -> Self {
        let plain: Vec<_> = self.0.keys().filter(|key| key.cause.is_none()).copied().collect();
        let needs = |key: &PathKey| {
            key.places[..LATER] == [Position::Dropped; 2] || !plain.contains(&PathKey { cause: None, ..*key })
        };
        self.0.retain(|key, _| key.cause.is_none() || needs(key));
        self
    }
}

struct Evaluation<'r, 't> {
    ruleset: &'r Ruleset,
    target: &'t FirewallTarget,
    outcome: Evaluated<'r>,
}

impl<'r> Evaluation<'r, '_> {
    fn run(&mut self, id: &ChainId, chain: &'r Chain, mut ways: Ways<'r>, depth: u8) -> Ways<'r> {
        for rule in &chain.rules {
            if ways.0.is_empty() {
                break;
            }
            ways = self.apply(id, rule, ways, depth);
        }
        ways
    }

    fn apply(&mut self, id: &ChainId, rule: &'r Rule, ways: Ways<'r>, depth: u8) -> Ways<'r> {
        let called = match &rule.action {
            RuleAction::None => return ways,
            RuleAction::Call { chain, .. } if depth < MAX_DEPTH => {
                let id = ChainId { table: id.table.clone(), name: chain.clone() };
                // A target that is not a chain is an extension that lets packets continue.
                let Some(chain) = self.ruleset.chains.get(&id) else { return ways };
                Some((id, chain))
            }
            RuleAction::Call { .. } => return ways,
            _ => None,
        };
        let (mut next, mut inside) = (Ways::default(), Ways::default());
        for way in ways.each() {
            for (matched, cause) in self.possibilities(rule, &way) {
                let way = way.with_cause(cause, &rule.place);
                if matched == [false; 3] {
                    next.add(way);
                } else if called.is_some() {
                    inside.add(way.call(matched, depth + 1));
                } else {
                    next.add(self.act(rule, way, matched, depth));
                }
            }
        }
        if let (Some((id, chain)), RuleAction::Call { goto, .. }) = (called, &rule.action) {
            let left = self.run(&id, chain, inside, depth + 1);
            left.each().for_each(|way| next.add(way.come_back(depth + 1, *goto)));
        }
        next.prune()
    }

    /// Which packets a rule may match, and what that depends on.
    fn possibilities(&self, rule: &Rule, way: &Way<'r>) -> Vec<([bool; 3], Option<PathCause>)> {
        let fits: [Fit; 3] = std::array::from_fn(|packet| self.fit(rule, way, packet));
        if fits == [Fit::No; 3] {
            return vec![([false; 3], None)];
        }
        let odd = (fits[SYN] == Fit::Perhaps).then_some(PathCause::Other);
        // A limit that applies to all packets does not single out challenged connections.
        let limit = rule.limit.filter(|_| fits[LATER] == Fit::No);
        let exceeded = odd.or(limit.map(|limit| {
            let counts_ack = !limit.connections && fits[ACK] != Fit::No;
            if counts_ack { PathCause::NewPackets } else { PathCause::Other }
        }));
        let mut possible = Vec::new();
        let choices = if fits.contains(&Fit::Perhaps) { 1 << PACKETS.len() } else { 1 };
        let alike: &[bool] = if fits.contains(&Fit::Together) { &[true, false] } else { &[true] };
        for choice in 0..choices {
            for all in alike {
                let matched = std::array::from_fn(|packet| match fits[packet] {
                    Fit::No => false,
                    Fit::Perhaps => choice & 1 << packet != 0,
                    Fit::Together => *all,
                    Fit::Yes => true,
                });
                let cause = if rule.limit.is_some_and(|limit| limit.beyond) { exceeded } else { odd };
                if !possible.contains(&(matched, cause)) {
                    possible.push((matched, cause));
                }
            }
        }
        if let Some(limit) = rule.limit {
            possible.push(([false; 3], if limit.beyond { odd } else { exceeded }));
        }
        possible
    }

    fn fit(&self, rule: &Rule, way: &Way<'r>, packet: usize) -> Fit {
        if way.key.places[packet] != Position::Here {
            return Fit::No;
        }
        let state = way.key.states[packet];
        let conditions = rule.conditions.iter().filter(|condition| {
            // Which states synproxy sees depends on what keeps its packets from conntrack. It applies to
            // this target in any case.
            rule.action != RuleAction::Synproxy || !matches!(condition, Condition::States(_))
        });
        conditions.map(|it| it.fits(PACKETS[packet], state, self.target)).min().unwrap_or(Fit::Yes)
    }

    fn act(&mut self, rule: &'r Rule, mut way: Way<'r>, matched: [bool; 3], depth: u8) -> Way<'r> {
        let place = rule.place.as_str();
        match &rule.action {
            RuleAction::Redirect { to } if matched[SYN] => {
                self.outcome.redirect.get_or_insert((place, to));
            }
            RuleAction::Synproxy => {
                self.outcome.synproxy.get_or_insert(place);
            }
            _ => {}
        }
        for packet in (0..PACKETS.len()).filter(|packet| matched[*packet]) {
            match &rule.action {
                RuleAction::Drop => way.drop(packet, place),
                RuleAction::Return => way.key.places[packet] = Position::Returned(depth),
                RuleAction::Notrack => way.key.states[packet] = CtState::Untracked,
                _ => way.key.places[packet] = Position::Accepted,
            }
        }
        if matched[SYN] != matched[ACK] && rule.action != RuleAction::Notrack {
            way.note.parted.get_or_insert(place);
        }
        way
    }
}
