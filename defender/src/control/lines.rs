//! Where the datapath goes up and down: lines, drawn from thresholds and what is known of the host. Pure.

use defender_common::abi;
use serde::{Deserialize, Serialize};

use crate::control::{settings::Settings, thresholds::Threshold};

/// Fewer connections that stay half open are no attack: an acknowledgement was lost, or somebody has looked at the port.
pub const LEAST_UP: u32 = 4;

/// What lines are drawn from besides settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// How many half-open connections the listeners take together; 0 counts as 1.
    pub backlog: u32,
    /// How many listeners share them (`SO_REUSEPORT`).
    #[serde(default)]
    pub listeners: u32,
    /// How many CPUs there may be.
    pub cpus: u32,
    /// The half-open connections that are usual in calm (99th percentile); none: not known yet.
    pub half_open_p99: Option<u32>,
    /// The SYNs a second that are usual in calm (99th percentile); none: not known yet.
    pub syn_rate_p99: Option<u32>,
    /// The SYN-ACKs a second that the slowest defended link carries; none: unknown.
    pub link_replies: Option<u32>,
}

/// What decided a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The threshold's share of the backlog.
    Share(Threshold),
    /// The threshold times what is usual in calm.
    Usual(Threshold),
    /// The threshold itself.
    Value(Threshold),
    /// The backlog less the CPUs: as many SYNs may pass at once, and must not fill the queue.
    Cpus,
    /// As many as fill none of several listeners' queues, between which chance decides.
    Spread,
    /// Half of what the slowest link carries.
    Link,
    /// The link's speed is unknown: no limit.
    NoLink,
    /// The SYNs a second that are usual in calm.
    UsualRate,
    /// What is usual is not known: no such line.
    Unknown,
    /// The line of danger: up is not above.
    Danger,
    /// The line of up: down is below.
    Up,
    /// A line cannot be lower.
    Least,
}

/// A line, and what decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The number that the datapath compares with.
    pub number: u32,
    /// What decided it.
    pub by: By,
}

/// All lines of a service, as [`abi::Lines`] has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawing {
    /// Connections half open for more than a second; in a surge, half open at all.
    pub up: Line,
    /// Connections half open.
    pub danger: Line,
    /// Connections half open at the end of an attack.
    pub down: Line,
    /// SYNs a second.
    pub rate: Line,
    /// Packets of no connection a second.
    pub strays: Line,
    /// SYN-ACKs a second; 0: no limit.
    pub replies: Line,
    /// Milliseconds.
    pub min_active: Line,
    /// SYNs a second, from which on connections need not be old to count for `up`; 0: no such line.
    pub flood: Line,
}

/// The lines of services on `port`.
pub fn lines(settings: &Settings, port: u16, basis: &Basis) -> abi::Lines {
    Drawing::new(settings, port, basis).lines()
}

impl Drawing {
    /// Draws the lines of services on `port`.
    pub fn new(settings: &Settings, port: u16, basis: &Basis) -> Self {
        let value = |threshold| settings.threshold(port, threshold);
        let number = |threshold| value(threshold).unwrap_or(0);
        let backlog = basis.backlog.max(1);
        let danger = danger(number(Threshold::Danger), backlog, basis);
        let usual = basis.half_open_p99.unwrap_or(0).saturating_mul(number(Threshold::HalfOpenFactor));
        let up = up(number(Threshold::Up), backlog, usual, danger.number);
        Self {
            up,
            danger,
            down: down(number(Threshold::Down), backlog, up.number),
            rate: rate(
                number(Threshold::RateFloor),
                basis.syn_rate_p99.unwrap_or(0).saturating_mul(number(Threshold::RateFactor)),
                By::Usual(Threshold::RateFactor),
            ),
            strays: Line { number: number(Threshold::Strays), by: By::Value(Threshold::Strays) },
            replies: replies(value(Threshold::ReplyLimit), basis.link_replies),
            min_active: Line {
                number: number(Threshold::MinActive).saturating_mul(1000),
                by: By::Value(Threshold::MinActive),
            },
            flood: flood(number(Threshold::RateFloor), basis.syn_rate_p99),
        }
    }

    /// As the datapath has them.
    pub fn lines(&self) -> abi::Lines {
        abi::Lines {
            up: self.up.number,
            danger: self.danger.number,
            down: self.down.number,
            rate: self.rate.number,
            strays: self.strays.number,
            replies: self.replies.number,
            min_active: self.min_active.number,
            flood: self.flood.number,
        }
    }

    /// Every line, with its name.
    pub const fn all(&self) -> [(&'static str, Line); 8] {
        [
            ("up", self.up),
            ("danger", self.danger),
            ("down", self.down),
            ("rate", self.rate),
            ("flood", self.flood),
            ("strays", self.strays),
            ("replies", self.replies),
            ("min_active", self.min_active),
        ]
    }
}

/// Each CPU compares before it counts, so one SYN less than there are CPUs may pass beyond the line.
fn danger(percent: u32, backlog: u32, basis: &Basis) -> Line {
    let share = Line { number: share(backlog, percent), by: By::Share(Threshold::Danger) };
    let room = Line { number: backlog.saturating_sub(basis.cpus.max(1)), by: By::Cpus };
    let line = if room.number != 0 && room.number < share.number { room } else { share };
    let spread = Line { number: spread(backlog, basis.listeners.max(1)), by: By::Spread };
    at_least_one(if spread.number < line.number { spread } else { line })
}

/// How many connections fall to several listeners by chance so that none gets more than its queue takes: four standard
/// deviations (a Poisson's: the root of the mean) below that, m + 4√m = queue.
fn spread(backlog: u32, listeners: u32) -> u32 {
    if listeners == 1 {
        return backlog;
    }
    let queue = f64::from(backlog / listeners);
    let mean = ((queue + 4.0).sqrt() - 2.0).powi(2);
    (mean * f64::from(listeners)) as u32
}

fn up(percent: u32, backlog: u32, usual: u32, danger: u32) -> Line {
    let mut line = Line { number: share(backlog, percent), by: By::Share(Threshold::Up) };
    if usual > line.number {
        line = Line { number: usual, by: By::Usual(Threshold::HalfOpenFactor) };
    }
    if line.number < LEAST_UP {
        line = Line { number: LEAST_UP, by: By::Least };
    }
    if line.number > danger { Line { number: danger, by: By::Danger } } else { line }
}

fn down(percent: u32, backlog: u32, up: u32) -> Line {
    let number = share(backlog, percent);
    if number < up {
        Line { number, by: By::Share(Threshold::Down) }
    } else {
        Line { number: up - 1, by: By::Up }
    }
}

fn rate(floor: u32, usual: u32, by: By) -> Line {
    if usual > floor {
        Line { number: usual, by }
    } else {
        Line { number: floor, by: By::Value(Threshold::RateFloor) }
    }
}

/// No line before what is usual is known: who has just begun to watch a busy service sees none of its handshakes complete for
/// as long as a round trip.
fn flood(floor: u32, usual: Option<u32>) -> Line {
    match usual {
        None => Line { number: 0, by: By::Unknown },
        Some(usual) => rate(floor, usual, By::UsualRate),
    }
}

fn replies(limit: Option<u32>, link: Option<u32>) -> Line {
    match (limit, link) {
        (Some(limit), _) => Line { number: limit, by: By::Value(Threshold::ReplyLimit) },
        (None, Some(link)) => at_least_one(Line { number: link / 2, by: By::Link }),
        (None, None) => Line { number: 0, by: By::NoLink },
    }
}

fn at_least_one(line: Line) -> Line {
    if line.number == 0 { Line { number: 1, by: By::Least } } else { line }
}

fn share(backlog: u32, percent: u32) -> u32 {
    // A percentage is 100 at the most.
    (u64::from(backlog) * u64::from(percent) / 100) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::settings::{Key, Setting};

    const BASIS: Basis = Basis {
        backlog: 4096,
        listeners: 1,
        cpus: 4,
        half_open_p99: None,
        syn_rate_p99: None,
        link_replies: None,
    };

    fn drawing(basis: &Basis) -> Drawing {
        Drawing::new(&Settings::default(), 80, basis)
    }

    fn set(settings: &mut Settings, threshold: Threshold, value: &str) {
        settings.set(Key::of(80, Setting::Threshold(threshold)), value).expect("a value");
    }

    #[test]
    fn the_defaults_are_shares_of_the_backlog() {
        assert_eq!(
            lines(&Settings::default(), 80, &BASIS),
            abi::Lines {
                up: 1024,
                danger: 3072,
                down: 491,
                rate: 1000,
                strays: 10_000,
                replies: 0,
                min_active: 30_000,
                flood: 0
            }
        );
        let drawing = drawing(&BASIS);
        assert_eq!((drawing.up.by, drawing.replies.by), (By::Share(Threshold::Up), By::NoLink));
        assert_eq!(drawing.flood, Line { number: 0, by: By::Unknown });
    }

    #[test]
    fn several_queues_fill_one_before_the_other() {
        let danger = |backlog, listeners| drawing(&Basis { backlog, listeners, ..BASIS }).danger;
        assert_eq!(danger(16 * 16, 16), Line { number: 97, by: By::Spread });
        assert_eq!(danger(4 * 4096, 4).by, By::Share(Threshold::Danger));
        assert_eq!(danger(2, 2), Line { number: 1, by: By::Least });
    }

    #[test]
    fn ports_have_their_own() {
        let mut settings = Settings::default();
        set(&mut settings, Threshold::Up, "50");
        set(&mut settings, Threshold::ReplyLimit, "7");
        let basis = Basis { link_replies: Some(1000), ..BASIS };
        assert_eq!(lines(&settings, 80, &basis).up, 2048);
        assert_eq!((lines(&settings, 80, &basis).replies, lines(&settings, 443, &basis).replies), (7, 500));
        set(&mut settings, Threshold::ReplyLimit, "0");
        assert_eq!(lines(&settings, 80, &basis).replies, 0);
    }

    #[test]
    fn what_is_usual_raises_the_lines_but_not_above_danger() {
        let usual = |half_open, rate| {
            drawing(&Basis { half_open_p99: Some(half_open), syn_rate_p99: Some(rate), ..BASIS })
        };
        let calm = usual(100, 50);
        assert_eq!((calm.up.number, calm.rate.number), (1024, 1000));
        let busy = usual(300, 5000);
        assert_eq!(busy.up, Line { number: 1200, by: By::Usual(Threshold::HalfOpenFactor) });
        assert_eq!(busy.rate, Line { number: 50_000, by: By::Usual(Threshold::RateFactor) });
        assert_eq!(calm.flood, Line { number: 1000, by: By::Value(Threshold::RateFloor) });
        assert_eq!(busy.flood, Line { number: 5000, by: By::UsualRate });
        assert_eq!(usual(u32::MAX, u32::MAX).up, Line { number: 3072, by: By::Danger });
    }

    #[test]
    fn small_backlogs_have_lines_as_well() {
        let of = |backlog, cpus| drawing(&Basis { backlog, cpus, ..BASIS });
        for backlog in [0, 1] {
            let Drawing { up, danger, down, .. } = of(backlog, 64);
            assert_eq!((up.number, danger.number, down.number), (1, 1, 0));
            assert_eq!(danger.by, By::Least);
        }
        assert_eq!(of(70, 64).danger, Line { number: 6, by: By::Cpus });
        assert_eq!(of(70, 64).up, Line { number: 6, by: By::Danger });
        assert_eq!(of(70, 64).down, Line { number: 5, by: By::Up });
        assert_eq!(of(64, 64).danger, Line { number: 48, by: By::Share(Threshold::Danger) });
    }

    proptest! {
        #[test]
        fn lines_are_in_order_and_leave_room(
            backlog: u32, small in 0u32..300, use_small: bool, listeners in 1u32..64, cpus in 0u32..1024,
            half_open_p99: Option<u32>, syn_rate_p99: Option<u32>, link_replies: Option<u32>,
            // Whatever is set: a file and `set` together are checked, but lines hold by themselves.
            [down, up, danger] in prop::array::uniform3(1u32..100),
            factor in 0u32..1000,
        ) {
            let backlog = if use_small { small } else { backlog };
            let mut settings = Settings::default();
            for (threshold, value) in [
                (Threshold::Down, down),
                (Threshold::Up, up),
                (Threshold::Danger, danger),
                (Threshold::HalfOpenFactor, factor),
            ] {
                let setting = Setting::Threshold(threshold);
                let value = setting.parse(&value.to_string()).expect("a value");
                settings.set.insert(Key::all(setting), value);
            }
            let basis = Basis { backlog, listeners, cpus, half_open_p99, syn_rate_p99, link_replies };
            let lines = lines(&settings, 80, &basis);
            prop_assert!(lines.up >= 1 && lines.down < lines.up && lines.up <= lines.danger, "{lines:?}");
            prop_assert!(lines.rate >= 1 && lines.strays >= 1 && lines.min_active >= 1);
            prop_assert_eq!(lines.replies == 0, link_replies.is_none());
            let cpus = cpus.max(1);
            if backlog > cpus {
                prop_assert!(lines.danger + cpus - 1 < backlog, "{lines:?}");
            }
        }
    }
}
