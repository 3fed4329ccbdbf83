//! Rounds of the same workload, put together: files whose names differ only in a final number, with the same settings.

use std::collections::BTreeMap;

use serde_json::Value;

use super::input::Input;
use super::model::Run;
use super::spread::Spread;

/// A setting that says where, not what.
const TOPIC: &str = "topic";

#[derive(Debug)]
pub(super) struct Series<'a> {
    pub(super) name: String,
    pub(super) runs: Vec<&'a Run>,
}

/// All series of an input.
pub(super) fn all(input: &Input) -> Vec<Series<'_>> {
    let mut series: Vec<Series<'_>> = Vec::new();
    for (name, run) in &input.runs {
        add(&mut series, without_number(name), run);
    }
    series
}

fn add<'a>(series: &mut Vec<Series<'a>>, name: &str, run: &'a Run) {
    let same = |other: &&mut Series<'_>| other.name == name && is_same_workload(other.runs[0], run);
    match series.iter_mut().find(same) {
        Some(found) => found.runs.push(run),
        None => series.push(Series {
            name: name.to_owned(),
            runs: vec![run],
        }),
    }
}

fn without_number(name: &str) -> &str {
    let stem = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    // A name that only ends in a number, such as one of a size, is no name of a round.
    match stem.strip_suffix(['-', '_', '.']) {
        Some(stem) if !stem.is_empty() => stem,
        _ => name,
    }
}

fn is_same_workload(one: &Run, other: &Run) -> bool {
    let settings = |run: &Run| -> BTreeMap<String, Value> {
        let mut settings = run.settings.clone();
        settings.remove(TOPIC);
        settings
    };
    one.command == other.command && settings(one) == settings(other)
}

impl<'a> Series<'a> {
    /// Runs that ended well; only these have figures worth a plot.
    pub(super) fn whole(&self) -> impl Iterator<Item = &'a Run> + '_ {
        self.runs.iter().copied().filter(|run| run.error.is_none())
    }

    pub(super) fn values(&self, figure: impl Fn(&Run) -> Option<f64>) -> Vec<f64> {
        let values = self.whole().filter_map(figure);
        values.filter(|value| value.is_finite()).collect()
    }

    pub(super) fn spread(&self, figure: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.values(figure))
    }

    /// The run in the middle by its 99th percentile. A curve made of several runs would be the curve of none.
    pub(super) fn typical(&self) -> Option<&'a Run> {
        let mut runs: Vec<_> = self.whole().collect();
        let key = |run: &Run| run.latency("p99").unwrap_or(f64::MAX);
        runs.sort_by(|one, other| key(one).total_cmp(&key(other)));
        runs.get(runs.len().saturating_sub(1) / 2).copied()
    }

    pub(super) fn command(&self) -> &'a str {
        &self.runs[0].command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(settings: &str, rate: f64, p99: f64) -> Run {
        let text = format!(
            r#"{{"command":"produce","megabytes_per_second":{rate},"requests_per_second":1,
                "settings":{settings},"latency_ms":{{"p99":{p99}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn rounds_are_put_together_and_other_settings_kept_apart() {
        let mut input = Input::default();
        for (name, settings, rate) in [
            ("produce-64k-1", r#"{"topic":"a","acks":"All"}"#, 5.0),
            ("produce-64k-2", r#"{"topic":"b","acks":"All"}"#, 9.0),
            ("produce-64k-3", r#"{"topic":"b","acks":"None"}"#, 1.0),
            ("produce-64k-3", r#"{"topic":"c","acks":"All"}"#, 7.0),
        ] {
            input
                .runs
                .push((name.to_owned(), run(settings, rate, rate)));
        }
        let series = all(&input);
        assert_eq!(series.len(), 2);
        let spread = series[0].spread(|run| Some(run.megabytes_per_second));
        let spread = spread.unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (5.0, 7.0, 9.0));
        assert_eq!(series[0].typical().unwrap().megabytes_per_second, 7.0);
    }

    #[test]
    fn only_a_separate_number_is_a_round() {
        assert_eq!(without_number("produce-64k-12"), "produce-64k");
        assert_eq!(without_number("produce-acks1"), "produce-acks1");
        assert_eq!(without_number("7"), "7");
        assert_eq!(without_number("-7"), "-7");
    }

    #[test]
    fn a_broken_run_is_in_no_figure() {
        let mut broken = run("{}", 3.0, 1.0);
        broken.error = Some("the broker died".to_owned());
        let series = Series {
            name: String::new(),
            runs: vec![&broken],
        };
        assert!(
            series
                .spread(|run| Some(run.megabytes_per_second))
                .is_none()
        );
        assert!(series.typical().is_none());
    }
}
