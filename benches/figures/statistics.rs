//! Medians and their confidence intervals.

use fastrand::Rng;

/// Bootstrap samples.
const RESAMPLES: usize = 2_000;
/// Fixed, so that the same rounds give the same interval.
const SEED: u64 = 0x6869;

/// The middle value; with an even number of values, the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] }
}

/// The value that `percent` % of all values don't exceed.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

/// A median and its 95 % confidence interval (bootstrap).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sure {
    pub(crate) median: f64,
    low: f64,
    high: f64,
}

impl Sure {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut rng = Rng::with_seed(SEED);
        let mut draw = || median(&values.iter().map(|_| values[rng.usize(..values.len())]).collect::<Vec<_>>());
        let medians: Vec<f64> = (0..RESAMPLES).map(|_| draw()).collect();
        let (low, high) = (percentile(&medians, 2), percentile(&medians, 97));
        Self { median: median(values), low, high }
    }

    /// The median of the ratios of two series measured in the same rounds.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        Self::of(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    }
}

impl std::fmt::Display for Sure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.low, self.high)
    }
}
