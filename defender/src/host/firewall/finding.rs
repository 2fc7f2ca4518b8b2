//! What blocks connections to a service, and what to change.

use super::evaluate::{PathCause, PathEnd, evaluate};
use super::ruleset::Ruleset;
use super::{FirewallTarget, Tracking};
use crate::model::finding::{Effect, Finding};

/// Everything that blocks connections to `target`, most important first.
pub(super) fn findings(ruleset: &Ruleset, target: &FirewallTarget, tracking: Tracking) -> Vec<Finding> {
    let outcome = evaluate(ruleset, target, true);
    let mut findings = Vec::new();
    if let Some((rule, to)) = outcome.redirect {
        findings.push(Finding::new(Effect::Redirected { to: to.to_owned() }, rule));
    }
    findings.extend(ruleset.nat(target).map(|place| Finding::new(Effect::Nat, place)));
    findings.extend(outcome.synproxy.map(|rule| Finding::new(Effect::Synproxy, rule)));
    let syns_dropped: Option<Vec<_>> = outcome.ends.iter().map(|end| end.syn_dropped).collect();
    if let Some([rule, ..]) = syns_dropped.as_deref() {
        findings.push(Finding::new(Effect::Closed, rule));
        return findings;
    }
    let mut judged: Vec<_> = outcome.ends.iter().filter_map(|end| judge(end, tracking)).collect();
    let drops_ack = |end: &PathEnd<'_>| end.syn_dropped.is_none() && end.ack_dropped.is_some();
    if !tracking.loose && !outcome.ends.iter().any(drops_ack) {
        let strict = evaluate(ruleset, target, false).ends;
        let rules = strict.iter().filter(|end| drops_ack(end)).filter_map(|end| end.ack_dropped);
        judged.extend(rules.map(|rule| Finding::new(Effect::InvalidDropped, rule)));
    }
    judged.sort_by_key(|finding| !finding.is_obstacle());
    for finding in judged {
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings
}

/// What one possible end means for a connection.
fn judge(end: &PathEnd<'_>, tracking: Tracking) -> Option<Finding> {
    match (end.syn_dropped, end.ack_dropped, end.cause) {
        (None, Some(dropped_by), _) => Some(match end.parted {
            Some(rule) if rule != dropped_by => {
                Finding::new(Effect::OnlySynsAccepted { dropped_by: dropped_by.to_owned() }, rule)
            }
            _ => Finding::new(Effect::SynRequired, dropped_by),
        }),
        (Some(rule), None, None) => Some(Finding::new(Effect::OnlySynsDropped, rule)),
        (Some(_), None, Some((_, rule))) => Some(Finding::new(Effect::SynsLimited, rule)),
        (Some(_), Some(_), Some((PathCause::NewPackets, rule))) if !tracking.one_new => {
            Some(Finding::new(Effect::NewLimited, rule))
        }
        _ => None,
    }
}
