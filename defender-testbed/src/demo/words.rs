//! The table's meaning, in words.

use super::DemoPlan;
use crate::{
    format::{duration, percent, thousands},
    rounds::{Defence, DefenceRow, FloodLevel},
};

/// The table's meaning as one paragraph.
pub(super) fn paragraph(plan: &DemoPlan, rows: &[DefenceRow]) -> String {
    let table = Table { plan, rows };
    let mut sentences = table.clients();
    sentences.extend(table.options());
    sentences.extend(table.slowest());
    sentences.extend(table.speed());
    if plan.defender.is_none() {
        sentences.push("The defender's rows are missing: --defender PATH names the controller.".to_owned());
    }
    sentences.join(" ")
}

struct Table<'a> {
    plan: &'a DemoPlan,
    rows: &'a [DefenceRow],
}

impl Table<'_> {
    fn paced(&self) -> FloodLevel {
        FloodLevel::Paced(self.plan.rate)
    }

    fn find(&self, defence: Defence, level: FloodLevel) -> Option<&DefenceRow> {
        self.rows.iter().find(|row| row.cell.defence == defence && row.cell.level == level)
    }

    fn clients(&self) -> Vec<String> {
        let starts = [
            (Defence::Undefended, "without a defence"),
            (Defence::Cookies, "with the kernel's SYN cookies"),
            (Defence::Defender, "with the defender"),
            (Defence::Drop, "if the attacker's addresses were known beforehand"),
        ];
        let shares = starts.into_iter().filter_map(|(defence, start)| {
            let row = self.find(defence, self.paced())?;
            Some(format!("{start} {}", percent(row.pooled_success())))
        });
        let shares: Vec<_> = shares.collect();
        if shares.is_empty() {
            return Vec::new();
        }
        let rate = thousands(self.plan.rate as f64);
        vec![format!(
            "While {rate} spoofed SYNs arrive per second, clients get through within a second: {}.",
            shares.join(", ")
        )]
    }

    fn options(&self) -> Vec<String> {
        let subjects =
            [(Defence::Cookies, "The kernel's cookies keep"), (Defence::Defender, "The defender keeps")];
        let sentence = |(defence, subject)| {
            let kept = self.find(defence, self.paced())?.kept_windows?;
            Some(format!("{subject} the options of {} of the clients without timestamps.", percent(kept.all)))
        };
        subjects.into_iter().filter_map(sentence).collect()
    }

    fn slowest(&self) -> Option<String> {
        let without = self.find(Defence::Defender, FloodLevel::NoFlood)?.p99?;
        let paced = self.find(Defence::Defender, self.paced())?.p99?;
        Some(format!(
            "With the defender, the slowest hundredth of handshakes takes {} and more, {} without a flood.",
            duration(paced.median),
            duration(without.median),
        ))
    }

    fn speed(&self) -> Option<String> {
        let defender = self.find(Defence::Defender, FloodLevel::Full)?.answered.median;
        let swap = self.find(Defence::Swap, FloodLevel::Full)?.answered.median;
        Some(format!(
            "At full speed it answers {} SYNs per second, {} of what a program answers that only swaps addresses.",
            thousands(defender),
            percent(defender / swap),
        ))
    }
}
