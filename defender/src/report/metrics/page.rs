//! A reading as text, in OpenMetrics or in Prometheus' older format, which some tools read only. Pure.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::{self, Registry},
};

use super::{
    families::{FAMILIES, Family, Kind, Number, Unit},
    reading::Reading,
};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Format {
    /// The best that is accepted, by the value of `Accept`. Who says nothing gets what everybody reads.
    pub(super) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// What HTTP calls it.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// All metrics.
pub(super) fn page(reading: &Arc<Reading>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Read(Arc::clone(reading))));
    let mut page = String::new();
    match format {
        Format::OpenMetrics => text::encode(&mut page, &registry)?,
        Format::Prometheus => prometheus_text::encode(&mut page, &registry)?,
    }
    Ok(page)
}

#[derive(Debug)]
struct Read(Arc<Reading>);

impl Collector for Read {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        FAMILIES.iter().try_for_each(|family| family_of(family, &self.0, &mut encoder))
    }
}

/// No metric has more labels.
const MOST_LABELS: usize = 2;

/// A metric without series is left out.
fn family_of(family: &Family, reading: &Reading, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let unit = match family.unit {
        Unit::None => None,
        Unit::Seconds => Some(registry::Unit::Seconds),
    };
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Info => MetricType::Info,
    };
    let mut unused = Some(encoder);
    let mut metric = None;
    let mut result = Ok(());
    family.emit(reading, &mut |values, number| {
        if let Some(encoder) = unused.take() {
            match encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind) {
                Ok(begun) => metric = Some(begun),
                Err(error) => result = Err(error),
            }
        }
        if let (Some(metric), Ok(())) = (&mut metric, result) {
            let mut labels = [("", ""); MOST_LABELS];
            let named = family.labels.iter().zip(values);
            labels.iter_mut().zip(named).for_each(|(label, (name, value))| *label = (name, value));
            result = series(family.kind, &labels[..values.len().min(MOST_LABELS)], number, metric);
        }
    });
    result
}

fn series(
    kind: Kind,
    labels: &[(&str, &str)],
    number: Number,
    metric: &mut MetricEncoder<'_>,
) -> fmt::Result {
    if kind == Kind::Info {
        return metric.encode_info(&labels);
    }
    if labels.is_empty() {
        return value(kind, number, metric);
    }
    value(kind, number, &mut metric.encode_family(&labels)?)
}

fn value(kind: Kind, number: Number, metric: &mut MetricEncoder<'_>) -> fmt::Result {
    match (kind, number) {
        (Kind::Counter, Number::Count(count)) => metric.encode_counter::<NoLabelSet, _, u64>(&count, None),
        (Kind::Counter, Number::Measure(measure)) => {
            metric.encode_counter::<NoLabelSet, _, u64>(&measure, None)
        }
        (_, Number::Count(count)) => metric.encode_gauge(&count),
        (_, Number::Measure(measure)) => metric.encode_gauge(&measure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::metrics::reading::tests::example;

    #[test]
    fn what_is_accepted_is_sent() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Format::Prometheus),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75",
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn both_formats_say_the_same() {
        let reading = Arc::new(example());
        let open = page(&reading, Format::OpenMetrics).expect("text");
        let old = page(&reading, Format::Prometheus).expect("text");
        assert!(open.ends_with("# EOF\n") && !old.contains("# EOF"), "{open}");
        for line in [
            "# TYPE defender_packets counter",
            "defender_packets_total{verdict=\"tx\",reason=\"syn_challenged\"} 200",
            "defender_half_open{service=\"[::]:80\"} 3",
            "defender_connections{service=\"[::]:80\",state=\"SYN_RECV\"} 3",
            "defender_nic_drops_total{interface=\"eth0\",counter=\"rx_missed_errors\"} 7",
            "# UNIT defender_key_age_seconds seconds",
            "defender_ready 1",
        ] {
            assert!(open.lines().any(|found| found == line), "{line}\n{open}");
        }
        assert!(old.contains("# TYPE defender_packets_total counter\n"), "{old}");
        let samples = |page: &str| {
            let lines = page.lines().filter(|line| !line.starts_with(['#']) && !line.contains("key_age"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(samples(&open), samples(&old));
    }

    #[test]
    fn without_a_datapath_the_rest_is_there() {
        let reading = Arc::new(Reading { datapath: Err("nothing is attached".into()), ..example() });
        let page = page(&reading, Format::OpenMetrics).expect("text");
        assert!(
            page.contains("defender_ready 0") && page.contains("defender_controller_lag_seconds 0"),
            "{page}"
        );
        assert!(!page.contains("defender_packets"), "{page}");
    }
}
