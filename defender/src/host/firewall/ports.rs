//! Sets of TCP ports.

use std::fmt;
use std::ops::RangeInclusive;

/// A set of ports, as sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    /// All ports.
    pub(super) fn all() -> Self {
        Self(vec![0..=u16::MAX])
    }

    /// Whether `port` is in the set.
    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// All ports outside the set.
    pub(super) fn complement(&self) -> Self {
        let mut rest = Vec::new();
        let mut next = 0_u32;
        for range in &self.0 {
            push(&mut rest, next, u32::from(*range.start()));
            next = u32::from(*range.end()) + 1;
        }
        push(&mut rest, next, u32::from(u16::MAX) + 1);
        Self(rest)
    }
}

/// Adds the ports from `begin` up to, but not including, `end`.
fn push(ranges: &mut Vec<RangeInclusive<u16>>, begin: u32, end: u32) {
    if let (Ok(begin), Ok(last)) = (u16::try_from(begin), u16::try_from(end.wrapping_sub(1)))
        && begin <= last
    {
        ranges.push(begin..=last);
    }
}

impl FromIterator<RangeInclusive<u16>> for PortSet {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        ranges.sort_unstable_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl From<u16> for PortSet {
    fn from(port: u16) -> Self {
        Self(vec![port..=port])
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::all() {
            return f.write_str("all ports");
        }
        f.write_str(if matches!(self.0.as_slice(), [one] if one.start() == one.end()) {
            "port "
        } else {
            "ports "
        })?;
        for (index, range) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let (first, last) = (range.start(), range.end());
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports<const N: usize>(ranges: [RangeInclusive<u16>; N]) -> PortSet {
        ranges.into_iter().collect()
    }

    #[test]
    fn overlapping_and_touching_ranges_become_one() {
        assert_eq!(ports([20..=30, 1..=5, 6..=9, 25..=26]), PortSet(vec![1..=9, 20..=30]));
        assert_eq!(ports([7..=9, u16::MAX..=u16::MAX, 0..=0]).to_string(), "ports 0, 7-9, 65535");
    }

    #[test]
    fn complements_are_those_of_sets() {
        let some = ports([0..=9, 80..=80, 60_000..=u16::MAX]);
        assert_eq!(some.complement(), ports([10..=79, 81..=59_999]));
        assert_eq!(some.complement().complement(), some);
        assert_eq!(PortSet::all().complement(), ports([]));
        assert_eq!(ports([]).complement(), PortSet::all());
        assert!(some.contains(80) && !some.contains(81));
    }

    #[test]
    fn sets_are_named_as_people_write_them() {
        assert_eq!(PortSet::all().to_string(), "all ports");
        assert_eq!(PortSet::from(80).to_string(), "port 80");
        assert_eq!(ports([80..=80, 90..=95]).to_string(), "ports 80, 90-95");
    }
}
