//! Medians and their confidence intervals.

/// Probability that the true median lies below an interval, and likewise above it: at most this each.
const OUTSIDE_MAX: f64 = 0.025;

/// The middle value; with an even number of values, the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let values = sorted(values);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] }
}

/// The value that `percent` % of all values don't exceed.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let values = sorted(values);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// A median and its 95 % confidence interval, which lies between two of the values and assumes nothing about their
/// distribution. Fewer than six values can't give that much confidence: the interval is all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sure {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Sure {
    pub(crate) fn of(values: &[f64]) -> Self {
        let sorted = sorted(values);
        let left_out = left_out(sorted.len());
        Self { median: median(values), low: sorted[left_out], high: sorted[sorted.len() - 1 - left_out] }
    }

    /// The median of the ratios of two series measured in the same rounds.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        Self::of(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    }
}

/// How many of `count` values lie outside the interval, on each side. Each value is below the true median with
/// probability 1/2, independently of the others, so how many are is a binomial distribution.
fn left_out(count: usize) -> usize {
    let (mut probability, mut cumulated) = (0.5_f64.powi(count as i32), 0.0);
    for below in 0..count {
        cumulated += probability;
        if cumulated > OUTSIDE_MAX {
            return below.saturating_sub(1);
        }
        probability *= (count - below) as f64 / (below + 1) as f64;
    }
    0
}

impl std::fmt::Display for Sure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.low, self.high)
    }
}
