//! Axes with round numbers on them: where a value lies, and which values are named.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::numbers::round_number;

#[derive(Debug)]
pub(super) struct Axis {
    scale: Scale,
    pub(super) low: f64,
    pub(super) high: f64,
    ticks: Vec<Tick>,
}

#[derive(Clone, Copy, Debug)]
enum Scale {
    Linear,
    Logarithmic,
    /// Of quantiles: 0.9 lies one step from the start, 0.99 two, 0.999 three. So 1 would be infinitely far.
    Nines,
}

/// A value with a name.
#[derive(Debug)]
struct Tick {
    value: f64,
    label: String,
}

const TICKS_WANTED: f64 = 5.0;
/// Nothing here is measured more finely than this, in any unit; it keeps zeros off a logarithmic axis.
const SMALLEST: f64 = 1e-3;
/// From this many decades on, only powers of ten are named.
const DECADES_CROWDED: f64 = 2.5;

const PERCENTILES: [(&str, f64); 7] = [
    ("0", 0.0),
    ("50", 0.5),
    ("90", 0.9),
    ("99", 0.99),
    ("99.9", 0.999),
    ("99.99", 0.9999),
    ("99.999", 0.99999),
];
const QUANTILE_MAX: f64 = 0.999_999;
/// A curve that ends before has too little in it to be worth a narrower axis.
const QUANTILE_END_MIN: f64 = 0.99;

impl Axis {
    /// From 0 on.
    pub(super) fn linear(values: impl Iterator<Item = f64>) -> Self {
        let largest = values.fold(0.0, f64::max).max(SMALLEST);
        let step = round_up(largest / TICKS_WANTED);
        let steps = (largest / step).ceil() as u32;
        let ticks = (0..=steps).map(|number| Tick::number(f64::from(number) * step));
        Self {
            scale: Scale::Linear,
            low: 0.0,
            high: f64::from(steps) * step,
            ticks: ticks.collect(),
        }
    }

    /// Between two round numbers.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64> + Clone) -> Self {
        let positive = values.map(|value| value.max(SMALLEST));
        let largest = positive.clone().fold(SMALLEST, f64::max);
        let smallest = positive.fold(largest, f64::min);
        // A little more than the largest, so that a single value has an axis too.
        let (low, high) = (round_down(smallest), round_up(largest * 1.01));
        let crowded = (high / low).log10() > DECADES_CROWDED;
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let steps: &[f64] = if crowded { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let values = decades.flat_map(|decade| steps.iter().map(move |step| step * power(decade)));
        let within = |value: &f64| (low * 0.999..=high * 1.001).contains(value);
        Self {
            scale: Scale::Logarithmic,
            low,
            high,
            ticks: values.filter(within).map(Tick::number).collect(),
        }
    }

    /// For quantiles below 1.
    pub(super) fn nines(quantiles: impl Iterator<Item = f64>) -> Self {
        let high = quantiles.fold(QUANTILE_END_MIN, f64::max).min(QUANTILE_MAX);
        let within = PERCENTILES.iter().filter(|(_, value)| *value <= high);
        let tick = |(label, value): &(&str, f64)| Tick {
            value: *value,
            label: (*label).to_owned(),
        };
        Self {
            scale: Scale::Nines,
            low: 0.0,
            high,
            ticks: within.map(tick).collect(),
        }
    }

    pub(super) fn ticks(&self) -> usize {
        self.ticks.len()
    }

    /// Where a value lies, in steps of the scale.
    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(SMALLEST).log10(),
            Scale::Nines => -(1.0 - value.clamp(0.0, QUANTILE_MAX)).log10(),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let (low, high) = (self.place(self.low), self.place(self.high));
        let part = (self.place(*value) - low) / (high - low);
        first + (part * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|tick| tick.value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|tick| tick.value == *value);
        tick.map_or_else(String::new, |tick| tick.label.clone())
    }
}

impl Tick {
    fn number(value: f64) -> Self {
        Self {
            value,
            label: round_number(value),
        }
    }
}

fn power(decade: i32) -> f64 {
    10_f64.powi(decade)
}

/// The next of 1, 2, 5, 10, 20, ... that is not below.
fn round_up(value: f64) -> f64 {
    let decade = power(value.log10().floor() as i32);
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    let fits = steps.into_iter().find(|step| *step >= value * 0.9999);
    fits.unwrap_or(10.0 * decade)
}

fn round_down(value: f64) -> f64 {
    let decade = power(value.log10().floor() as i32);
    let steps = [5.0, 2.0, 1.0].map(|step| step * decade);
    let fits = steps.into_iter().find(|step| *step <= value * 1.0001);
    fits.unwrap_or(decade)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn a_linear_axis_starts_at_zero_and_covers_its_values() {
        let axis = Axis::linear([3.0, 731.0].into_iter());
        assert_eq!(labels(&axis), ["0", "200", "400", "600", "800"]);
        assert_eq!(axis.map(&200.0, (0, 400)), 100);
        let small = Axis::linear([0.013].into_iter());
        assert_eq!(labels(&small), ["0", "0.005", "0.01", "0.015"]);
    }

    #[test]
    fn a_logarithmic_axis_lies_between_round_numbers() {
        let axis = Axis::logarithmic([0.3, 9.1].into_iter());
        assert_eq!(labels(&axis), ["0.2", "0.5", "1", "2", "5", "10"]);
        let wide = Axis::logarithmic([0.07, 800.0].into_iter());
        assert_eq!(labels(&wide), ["0.1", "1", "10", "100", "1,000"]);
        let decade = Axis::logarithmic([1.0, 100.0 / 1.02].into_iter());
        assert_eq!(decade.map(&10.0, (100, 0)), 50);
    }

    #[test]
    fn a_nine_more_is_a_step_further() {
        let axis = Axis::nines([0.5, 0.9999].into_iter());
        assert_eq!(labels(&axis), ["0", "50", "90", "99", "99.9", "99.99"]);
        assert_eq!(axis.map(&0.99, (0, 400)), 200);
        assert_eq!(axis.map(&0.999, (0, 400)), 300);
    }

    #[test]
    fn what_has_no_logarithm_still_has_a_place() {
        for values in [&[][..], &[0.0], &[0.0, -1.0]] {
            let axis = Axis::logarithmic(values.iter().copied());
            assert!(axis.low < axis.high);
            assert_eq!(axis.map(&0.0, (0, 100)), 0);
        }
        assert!(Axis::linear([].into_iter()).high > 0.0);
        assert!(Axis::nines([1.0].into_iter()).map(&1.0, (0, 100)) == 100);
    }
}
