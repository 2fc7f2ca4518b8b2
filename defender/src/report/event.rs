//! Past events as text, and their stored form.

use crate::{
    model::{
        event::{Record, Transition},
        paint,
    },
    report::table,
};

/// A stored event: its line, and its content.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// The line of JSON, including fields that a newer version may have added.
    pub line: String,
    /// The fields that this version knows.
    pub record: Record,
}

impl StoredEvent {
    /// Parses a line. `None` if it is damaged, such as one cut short by a full disk.
    pub fn read(line: String) -> Option<Self> {
        let record = serde_json::from_str(&line).ok()?;
        Some(Self { line, record })
    }
}

/// Past events as a table, one per line.
pub fn text<'a>(records: impl Iterator<Item = &'a Record>, width: usize) -> String {
    let rows: Vec<_> = records.map(|record| cells(record).to_vec()).collect();
    if rows.is_empty() {
        return "  no events yet\n".to_owned();
    }
    table::fit(&["time", "event", "what happened"], &rows, width)
}

/// One event as a line of text.
pub fn line(record: &Record) -> String {
    let [time, event, words] = cells(record);
    format!("{time}  {event}  {words}\n")
}

fn cells(record: &Record) -> [String; 3] {
    [record.time.clone(), painted(record.event), record.words.clone()]
}

fn painted(event: Transition) -> String {
    match event {
        Transition::Ended | Transition::ProtectionRegained => paint::good(event.name()),
        Transition::ProtectionLost => paint::bad(event.name()),
        Transition::Began | Transition::Step => paint::busy(event.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{AttackSummary, Totals, tests::example};

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for summary in [None, Some(AttackSummary::new(1500, 7, &Totals::default(), true))] {
            let record = Record { summary, ..example() };
            let line = record.json().expect("JSON");
            assert!(!line.contains('\n'));
            assert_eq!(StoredEvent::read(line.clone()).expect("a record"), StoredEvent { line, record });
        }
        assert_eq!(StoredEvent::read("{\"version\": 1".into()), None);
        let newer = example().json().expect("JSON").replacen('{', "{\"later\": 7, ", 1);
        assert!(StoredEvent::read(newer).is_some());
    }

    #[test]
    fn events_as_a_table() {
        let table = text([example()].iter(), usize::MAX);
        let table = console::strip_ansi_codes(&table);
        assert!(
            table.contains("  2026-01-31T23:59:59.123Z  began  port 443: a SYN flood has begun"),
            "{table}"
        );
        assert_eq!(text([].iter(), 80), "  no events yet\n");
        assert!(
            console::strip_ansi_codes(&line(&example()))
                .starts_with("2026-01-31T23:59:59.123Z  began  port 443:")
        );
    }
}
