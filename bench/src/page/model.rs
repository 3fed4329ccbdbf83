//! The shapes of the JSON that a page is made from. Only what a page cannot do without is required, so that files of older and newer
//! versions still show what they have.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// What one file holds.
#[derive(Debug)]
pub(super) enum Document {
    Run(Run),
    Ramp(Ramp),
    Limits(Limits),
}

impl Document {
    pub(super) fn parse(text: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Header {
            command: String,
        }
        let Header { command } = serde_json::from_slice(text)?;
        Ok(match command.as_str() {
            "ramp" => Self::Ramp(serde_json::from_slice(text)?),
            "limits" => Self::Limits(serde_json::from_slice(text)?),
            _ => Self::Run(serde_json::from_slice(text)?),
        })
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Run {
    pub(super) command: String,
    #[serde(default)]
    pub(super) settings: BTreeMap<String, Value>,
    pub(super) megabytes_per_second: f64,
    pub(super) requests_per_second: f64,
    #[serde(default)]
    pub(super) records_per_second: Option<f64>,
    #[serde(default)]
    pub(super) seconds: Option<f64>,
    /// By name, such as p99.
    #[serde(default)]
    pub(super) latency_ms: BTreeMap<String, Option<f64>>,
    /// Pairs of quantile and milliseconds.
    #[serde(default)]
    pub(super) latency_curve_ms: Vec<(f64, f64)>,
    #[serde(default)]
    pub(super) server_cpu_seconds_per_gigabyte: Option<f64>,
    #[serde(default)]
    pub(super) client_cpu_seconds_per_gigabyte: Option<f64>,
    #[serde(default)]
    pub(super) server_memory_bytes_max: Option<f64>,
    #[serde(default)]
    pub(super) error: Option<String>,
}

impl Run {
    pub(super) fn latency(&self, name: &str) -> Option<f64> {
        self.latency_ms.get(name).copied().flatten()
    }

    /// Quantiles and milliseconds in order, from the curve or, in a file without one, from the named percentiles.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        if !self.latency_curve_ms.is_empty() {
            return self.latency_curve_ms.clone();
        }
        let named = [
            ("p50", 0.5),
            ("p90", 0.9),
            ("p99", 0.99),
            ("p999", 0.999),
            ("p9999", 0.9999),
        ];
        let point = |(name, quantile): &(&str, f64)| Some((*quantile, self.latency(name)?));
        named.iter().filter_map(point).collect()
    }
}

/// Runs of rising rate.
#[derive(Debug, Deserialize)]
pub(super) struct Ramp {
    pub(super) steps: Vec<Run>,
    #[serde(default)]
    pub(super) knee_records_per_second: Option<f64>,
    #[serde(default)]
    pub(super) broken_by: Option<String>,
    #[serde(default)]
    pub(super) error: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Limits {
    #[serde(default)]
    pub(super) host: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) figures: Vec<Limit>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) value: Option<f64>,
    #[serde(default)]
    pub(super) unit: String,
    #[serde(default)]
    pub(super) note: Option<String>,
}

/// A figure that has a target.
#[derive(Debug, Deserialize)]
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) value: Option<f64>,
    #[serde(default)]
    pub(super) unit: Option<String>,
    #[serde(default)]
    pub(super) against: Option<Against>,
    #[serde(default)]
    pub(super) ratio: Option<f64>,
    #[serde(default)]
    pub(super) target: Option<String>,
    #[serde(default)]
    pub(super) met: Option<bool>,
}

/// The ceiling that a figure is held against.
#[derive(Debug, Deserialize)]
pub(super) struct Against {
    pub(super) name: String,
    pub(super) value: Option<f64>,
}

/// A value as a person reads it: text without its quotes.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_what_its_command_says() {
        let run = br#"{"command":"produce","megabytes_per_second":1,"requests_per_second":2}"#;
        assert!(matches!(Document::parse(run), Ok(Document::Run(_))));
        let limits = br#"{"command":"limits","host":{"processors":2},"figures":[]}"#;
        assert!(matches!(Document::parse(limits), Ok(Document::Limits(_))));
        for other in [&b"{}"[..], b"[]", br#"{"command":"produce"}"#, b"\xff", b""] {
            assert!(Document::parse(other).is_err());
        }
    }

    #[test]
    fn without_a_curve_the_named_percentiles_make_one() {
        let text = br#"{"command":"x","megabytes_per_second":1,"requests_per_second":2,
            "latency_ms":{"p99":3.5,"p50":1,"p90":null,"max":9}}"#;
        let run: Run = serde_json::from_slice(text).unwrap();
        assert_eq!(run.curve(), [(0.5, 1.0), (0.99, 3.5)]);
    }
}
