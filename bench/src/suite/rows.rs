//! The lines of the target table: what each is called, what it has to reach, and how it is printed and written.

use std::fmt;

use serde::{Serialize, Serializer};

/// What a ratio has to be. All targets are ratios, so that a line reads the same whatever it is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
    /// To be known, not to be reached.
    Stated,
}

impl Target {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Target::AtLeast(bound) => ratio >= bound,
            Target::AtMost(bound) => ratio <= bound,
            Target::Below(bound) => ratio < bound,
            Target::Stated => true,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::AtLeast(bound) => write!(formatter, ">= {bound:.2}"),
            Target::AtMost(bound) => write!(formatter, "<= {bound:.2}"),
            Target::Below(bound) => write!(formatter, "< {bound:.2}"),
            Target::Stated => formatter.write_str("stated"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A line before it is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) target: Target,
}

const fn spec(name: &'static str, unit: &'static str, target: Target) -> Spec {
    Spec { name, unit, target }
}

pub(super) const PRODUCE_64K: Spec = spec("produce-64k-throughput", "MB/s", Target::AtLeast(0.90));
pub(super) const PRODUCE_64K_CPU: Spec = spec("produce-64k-cpu", "s/GB", Target::AtMost(1.15));
pub(super) const PRODUCE_1M: Spec = spec("produce-1m", "MB/s", Target::AtLeast(0.90));
pub(super) const PRODUCE_200B: Spec = spec("produce-200b", "requests/s", Target::AtLeast(0.60));
pub(super) const DURABLE_8: Spec = spec("durable-64k-8", "MB/s", Target::AtLeast(0.85));
pub(super) const DURABLE_256: Spec = spec("durable-64k-256", "MB/s", Target::AtLeast(0.60));
pub(super) const DURABLE_P99: Spec = spec("durable-p99", "ms", Target::AtMost(2.0));
pub(super) const DURABLE_P99_SINK: Spec = spec("durable-p99-sink", "ms", Target::Stated);
pub(super) const FETCH_TAIL: Spec = spec("fetch-tail", "MB/s", Target::AtLeast(0.90));
pub(super) const FETCH_COLD: Spec = spec("fetch-cold", "MB/s", Target::AtLeast(0.85));
pub(super) const FETCH_STOCK_TAIL: Spec =
    spec("fetch-stock-tail", "MB/CPU s", Target::AtLeast(1.0));
pub(super) const FETCH_STOCK_OLD: Spec = spec("fetch-stock-old", "MB/CPU s", Target::AtLeast(1.0));
pub(super) const UNDER_SCAN: Spec = spec("produce-under-scan", "ms", Target::AtMost(1.5));
pub(super) const SHARDS_NO_HOP: Spec = spec(
    "shards-no-hop",
    "instructions/request",
    Target::AtMost(1.05),
);
pub(super) const SHARDS_HOP: Spec = spec("shards-hop", "instructions/request", Target::Stated);
pub(super) const ALLOCATIONS: Spec = spec("allocations", "allocations", Target::AtMost(0.0));
pub(super) const IDLE_CONNECTION: Spec = spec("idle-connection", "B", Target::AtMost(1.0));
pub(super) const IDLE_PARTITION: Spec = spec("idle-partition", "B", Target::AtMost(1.0));
pub(super) const GENERATOR_64K: Spec = spec("generator-64k", "cores", Target::Below(1.0));
pub(super) const GENERATOR_1M: Spec = spec("generator-1m", "cores", Target::Below(1.0));
pub(super) const GENERATOR_200B: Spec = spec("generator-200b", "cores", Target::Below(1.0));

/// A figure and what it is held against.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) value: f64,
    pub(super) against: f64,
    /// What a reader has to know of it, such as that the generator was the limit.
    pub(super) note: Option<String>,
}

impl Sample {
    pub(super) fn new(value: f64, against: f64) -> Self {
        Self {
            value,
            against,
            note: None,
        }
    }

    fn ratio(&self) -> f64 {
        self.value / self.against
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Row {
    name: &'static str,
    value: Option<f64>,
    unit: &'static str,
    against: Option<Against>,
    ratio: Option<f64>,
    target: Target,
    met: bool,
    ratio_min: Option<f64>,
    ratio_max: Option<f64>,
    note: Option<String>,
}

#[derive(Debug, Serialize)]
struct Against {
    name: String,
    value: f64,
}

impl Row {
    /// One sample a round. The one with the median ratio is shown and judged, so that value, ceiling and ratio belong together.
    pub(super) fn of_rounds(spec: Spec, against: impl Into<String>, samples: &[Sample]) -> Self {
        let mut sorted: Vec<&Sample> = samples
            .iter()
            .filter(|sample| sample.ratio().is_finite())
            .collect();
        sorted.sort_by(|left, right| left.ratio().total_cmp(&right.ratio()));
        let [first, .., last] = &sorted[..] else {
            return match sorted.first() {
                Some(only) => Self::of(spec, against.into(), only, only.ratio(), only.ratio()),
                None => Self::not_measured(spec, "no round gave a figure"),
            };
        };
        let median = sorted[(sorted.len() - 1) / 2];
        Self::of(spec, against.into(), median, first.ratio(), last.ratio())
    }

    pub(super) fn of_one(spec: Spec, against: impl Into<String>, sample: Sample) -> Self {
        Self::of_rounds(spec, against, &[sample])
    }

    fn of(spec: Spec, against: String, sample: &Sample, min: f64, max: f64) -> Self {
        Self {
            name: spec.name,
            value: Some(sample.value),
            unit: spec.unit,
            against: Some(Against {
                name: against,
                value: sample.against,
            }),
            ratio: Some(sample.ratio()),
            target: spec.target,
            met: spec.target.is_met(sample.ratio()),
            ratio_min: Some(min),
            ratio_max: Some(max),
            note: sample.note.clone(),
        }
    }

    pub(super) fn not_measured(spec: Spec, why: &str) -> Self {
        Self {
            name: spec.name,
            value: None,
            unit: spec.unit,
            against: None,
            ratio: None,
            target: spec.target,
            met: false,
            ratio_min: None,
            ratio_max: None,
            note: Some(format!("not measured: {why}")),
        }
    }

    /// Adds what a reader has to know of it to what it says already.
    pub(super) fn with_note(mut self, more: &str) -> Self {
        self.note = Some(match self.note {
            Some(note) => format!("{note}; {more}"),
            None => more.to_owned(),
        });
        self
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn is_measured(&self) -> bool {
        self.value.is_some()
    }
}

/// What stands above the rows when they are printed.
pub(super) fn heading() -> String {
    format!(
        "{:<24}{:>10} {:<20} {:>5} {:<13}  {:<8} {:<7} against",
        "line", "value", "", "ratio", "(of rounds)", "target", ""
    )
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = self.note.as_deref().unwrap_or_default();
        write!(formatter, "{:<24}", self.name)?;
        if let (Some(value), Some(against), Some(ratio)) = (self.value, &self.against, self.ratio) {
            write!(
                formatter,
                "{:>10} {:<20} {ratio:>5.2} ({:.2} - {:.2})  {:<8} {:<7} {} {}",
                figure(value),
                self.unit,
                self.ratio_min.unwrap_or(ratio),
                self.ratio_max.unwrap_or(ratio),
                self.target.to_string(),
                if self.met { "met" } else { "missed" },
                against.name,
                figure(against.value),
            )?;
            if !note.is_empty() {
                write!(formatter, "; {note}")?;
            }
            return Ok(());
        }
        formatter.write_str(note)
    }
}

/// Three digits at least, and no more behind the point than one can believe.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(pairs: &[(f64, f64)]) -> Vec<Sample> {
        pairs
            .iter()
            .map(|(value, against)| Sample::new(*value, *against))
            .collect()
    }

    #[test]
    fn the_median_round_is_judged_and_the_spread_is_kept() {
        let rounds = samples(&[(95.0, 100.0), (40.0, 100.0), (186.0, 200.0)]);
        let row = Row::of_rounds(PRODUCE_64K, "sink", &rounds);
        assert_eq!((row.ratio, row.met), (Some(0.93), true));
        assert_eq!(row.value, Some(186.0), "value and ratio are of one round");
        assert_eq!((row.ratio_min, row.ratio_max), (Some(0.40), Some(0.95)));
    }

    #[test]
    fn of_an_even_number_of_rounds_a_real_one_is_shown() {
        let row = Row::of_rounds(PRODUCE_64K, "sink", &samples(&[(1.0, 2.0), (3.0, 4.0)]));
        assert_eq!(row.ratio, Some(0.5));
    }

    #[test]
    fn a_round_without_a_ceiling_does_not_count() {
        let row = Row::of_rounds(PRODUCE_64K, "sink", &samples(&[(1.0, 0.0), (3.0, 4.0)]));
        assert_eq!(row.ratio, Some(0.75));
        let row = Row::of_rounds(PRODUCE_64K, "sink", &samples(&[(1.0, 0.0)]));
        assert!(!row.met);
    }

    #[test]
    fn a_target_is_judged_in_its_own_direction() {
        assert!(Target::AtLeast(0.9).is_met(0.9));
        assert!(!Target::AtLeast(0.9).is_met(0.89));
        assert!(Target::AtMost(0.0).is_met(0.0));
        assert!(!Target::AtMost(1.15).is_met(1.16));
        assert!(!Target::Below(1.0).is_met(1.0));
    }

    #[test]
    fn a_row_is_written_in_the_form_that_others_read() {
        let row = Row::of_one(PRODUCE_64K_CPU, "sink", Sample::new(0.5, 0.5));
        let written = serde_json::to_value(&row).unwrap();
        let expected = serde_json::json!({
            "name": "produce-64k-cpu", "value": 0.5, "unit": "s/GB",
            "against": { "name": "sink", "value": 0.5 },
            "ratio": 1.0, "target": "<= 1.15", "met": true,
            "ratio_min": 1.0, "ratio_max": 1.0, "note": null,
        });
        assert_eq!(written, expected);
    }

    #[test]
    fn what_was_not_measured_is_missed_and_says_why() {
        let row = Row::not_measured(FETCH_TAIL, "the sink has no such mode");
        let written = serde_json::to_value(&row).unwrap();
        assert_eq!(written["met"], false);
        assert_eq!(written["value"], serde_json::Value::Null);
        assert!(
            row.to_string()
                .ends_with("not measured: the sink has no such mode")
        );
    }
}
