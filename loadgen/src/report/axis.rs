//! The axes of a chart: their range, ticks and labels.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::report::units;

/// Latencies are drawn on a logarithmic axis if the largest is this many times the smallest.
const LOGARITHMIC_FROM: f64 = 30.0;
/// Approximate number of ticks on a linear axis.
const MARKS: f64 = 5.0;

/// An axis.
#[derive(Clone)]
pub(super) struct Axis {
    logarithmic: bool,
    /// The first and the last value.
    ends: (f64, f64),
    /// Values with a tick.
    marks: Vec<f64>,
    /// The label of a tick.
    label: fn(f64) -> String,
}

impl Axis {
    /// Latencies in microseconds.
    pub(super) fn latencies(values: impl Iterator<Item = f64>) -> Self {
        let (smallest, largest) =
            values.fold((f64::INFINITY, 1.0_f64), |(low, high), value| (low.min(value.max(1.0)), high.max(value)));
        if largest < smallest * LOGARITHMIC_FROM {
            return Self::linear(largest, units::time_short);
        }
        let start = 10_f64.powf(smallest.log10().floor());
        let all = [1.0, 2.0, 5.0].map(|digit| (0..14).map(move |power| digit * 10_f64.powi(power) * start));
        let mut marks: Vec<f64> = all.into_iter().flatten().collect();
        marks.sort_by(f64::total_cmp);
        let first = marks.iter().rposition(|mark| *mark <= smallest).unwrap_or(0);
        let last = marks.iter().position(|mark| *mark >= largest).unwrap_or(marks.len() - 1);
        let mut marks = marks[first..=last].to_vec();
        let ends = (marks[0], marks[marks.len() - 1]);
        if marks.len() > 10 {
            // Every third one: the powers of ten.
            marks.retain(|mark| mark.log10().fract().abs() < 1e-6);
        }
        Self { logarithmic: true, ends, marks, label: units::time_short }
    }

    /// Numbers from 0 to this one.
    pub(super) fn numbers(largest: f64) -> Self {
        Self::linear(largest, units::short)
    }

    /// The measured time, in seconds; the axis ends with it, not at a tick.
    pub(super) fn seconds(length: f64) -> Self {
        let mut axis = Self::linear(length, |seconds| format!("{} s", units::short(seconds)));
        axis.ends.1 = length.max(1.0);
        axis.marks.retain(|mark| *mark <= length.max(1.0));
        axis
    }

    /// Percentiles, as `1 / (1 - quantile)`: from 0 % to at least 99 %.
    pub(super) fn percentiles(largest: f64) -> Self {
        let marks = (0..20).map(|power| 10_f64.powi(power)).take_while(|mark| *mark <= largest.max(100.0));
        let label = |inverse: f64| {
            let digits = (inverse.log10().round() as usize).saturating_sub(2);
            format!("{:.digits$} %", 100.0 - 100.0 / inverse)
        };
        Self { logarithmic: true, ends: (1.0, largest.max(100.0)), marks: marks.collect(), label }
    }

    /// From 0 to the first tick at or above the largest value.
    fn linear(largest: f64, label: fn(f64) -> String) -> Self {
        let rough = largest.max(f64::MIN_POSITIVE) / MARKS;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|digit| digit * power);
        let step = step.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(10.0 * power);
        let count = (largest / step * 0.999).ceil().max(1.0) as usize;
        let marks: Vec<f64> = (0..=count).map(|mark| mark as f64 * step).collect();
        Self { logarithmic: false, ends: (0.0, count as f64 * step), marks, label }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let place = |value: f64| if self.logarithmic { value.max(self.ends.0).log10() } else { value };
        let (start, end) = (place(self.ends.0), place(self.ends.1));
        let share = (place(*value) - start) / (end - start);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.ends.0..self.ends.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        if *value == 0.0 && self.ends.0 == 0.0 { "0".to_owned() } else { (self.label)(*value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.marks.iter().map(|mark| axis.format_ext(mark)).collect()
    }

    #[test]
    fn latencies_far_apart_are_drawn_on_a_logarithmic_axis() {
        assert_eq!(labels(&Axis::latencies([300.0, 900.0].into_iter()))[..3], ["0", "200 us", "400 us"]);
        let wide = Axis::latencies([0.0, 400.0, 9.0e6].into_iter());
        assert_eq!(labels(&wide), ["1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]);
        assert_eq!([1.0, 1e3, 1e7].map(|value| wide.map(&value, (700, 0))), [700, 400, 0]);
        assert_eq!(wide.map(&0.0, (700, 0)), 700);
        let narrow = Axis::latencies([410.0, 18_000.0].into_iter());
        assert_eq!(labels(&narrow), ["200 us", "500 us", "1 ms", "2 ms", "5 ms", "10 ms", "20 ms"]);
    }

    #[test]
    fn percentile_ticks_are_nines() {
        assert_eq!(labels(&Axis::percentiles(2e4)), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!(labels(&Axis::percentiles(1.0)), ["0 %", "90 %", "99 %"]);
    }

    #[test]
    fn linear_axes_end_at_a_tick() {
        assert_eq!(labels(&Axis::numbers(940_000.0)).last().unwrap(), "1,000,000");
        assert_eq!(labels(&Axis::numbers(1000.0)).last().unwrap(), "1,000");
        assert_eq!(labels(&Axis::numbers(0.0)).len(), 2);
        assert_eq!(labels(&Axis::seconds(10.0)), ["0", "2 s", "4 s", "6 s", "8 s", "10 s"]);
        assert_eq!(Axis::seconds(11.0).range(), 0.0..11.0);
    }
}
