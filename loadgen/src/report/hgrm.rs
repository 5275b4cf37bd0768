//! HdrHistogram's percentile format, as its own tools write and plot it.
//!
//! The format is that of `AbstractHistogram.outputPercentileDistribution` in HdrHistogram for Java, with values in
//! milliseconds; <https://hdrhistogram.github.io/HdrHistogram/plotFiles.html> reads it.

use std::io::{self, Write};

use crate::results::Distribution;

/// Sub-buckets per doubling of a histogram's range, as three significant digits require.
const SUB_BUCKETS: u64 = 2048;

/// Writes a distribution.
///
/// # Errors
/// Those of `out`.
pub fn write(distribution: &Distribution, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    for point in &distribution.curve {
        write!(out, "{:12.3} {:.12} {:10}", milliseconds(point.value_us as f64), point.quantile, point.count)?;
        // The last line has no fourth column, which would be infinite; plotters skip lines with three columns.
        if point.quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - point.quantile))?;
        }
        writeln!(out)?;
    }
    let (mean, deviation) = (milliseconds(distribution.mean_us), milliseconds(distribution.deviation_us));
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    let max = milliseconds(distribution.max_us as f64);
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {:12}]", distribution.count)?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {SUB_BUCKETS:12}]", buckets(distribution.max_us))
}

fn milliseconds(microseconds: f64) -> f64 {
    microseconds / 1e3
}

/// Number of buckets a histogram needs for this value; each has twice the range of the one before.
fn buckets(value_max: u64) -> u32 {
    let bits = u64::BITS - (value_max | (SUB_BUCKETS - 1)).leading_zeros();
    bits - SUB_BUCKETS.ilog2() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;
    use hdrhistogram::Histogram;

    fn written(distribution: &Distribution) -> String {
        let mut out = Vec::new();
        write(distribution, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// The output of HdrHistogram's ports for 25, 50 and 75 (here in milliseconds).
    #[test]
    fn three_values_are_written_as_hdrhistogram_writes_them() {
        let mut histogram = Histogram::<u64>::new(5).unwrap();
        [25_000, 50_000, 75_000].into_iter().for_each(|value| histogram.record(value).unwrap());
        let text = written(&Distribution::of(&histogram));
        let expected = "       Value     Percentile TotalCount 1/(1-Percentile)

      25.000 0.000000000000          1           1.00
      25.000 0.100000000000          1           1.11
      25.000 0.200000000000          1           1.25
      25.000 0.300000000000          1           1.43
      50.000 0.400000000000          2           1.67
      50.000 0.500000000000          2           2.00
      50.000 0.550000000000          2           2.22
      50.000 0.600000000000          2           2.50
      50.000 0.650000000000          2           2.86
      75.000 0.700000000000          3           3.33
      75.000 1.000000000000          3
#[Mean    =       50.000, StdDeviation   =       20.412]
#[Max     =       75.000, Total count    =            3]
#[Buckets =            7, SubBuckets     =         2048]
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_plotter_reads_the_curve_back() {
        let distribution = samples::sound().latency;
        let text = written(&distribution);
        // Like plotFiles.html: lines of four numbers that don't begin with #.
        let rows: Vec<Vec<f64>> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map_while(|word| word.parse().ok()).collect())
            .filter(|row: &Vec<f64>| row.len() == 4)
            .collect();
        let finite: Vec<_> = distribution.curve.iter().filter(|point| point.quantile < 1.0).collect();
        assert_eq!(rows.len(), finite.len());
        for (row, point) in rows.iter().zip(finite) {
            assert_eq!(row[0], point.value_us as f64 / 1e3);
            assert!((row[1] - point.quantile).abs() < 1e-12);
            assert_eq!(row[2], point.count as f64);
            assert!((row[3] * (1.0 - point.quantile) - 1.0).abs() < 0.01);
        }
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][3] <= pair[1][3]));
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        assert_eq!(last.split_whitespace().nth(1), Some("1.000000000000"));
        assert_eq!(last.split_whitespace().count(), 3);
    }

    #[test]
    fn nothing_measured_is_a_header_and_a_footer() {
        let text = written(&Distribution::default());
        assert!(text.ends_with("#[Buckets =            1, SubBuckets     =         2048]\n"), "{text}");
        assert_eq!(text.lines().count(), 5);
        assert_eq!(buckets(u64::MAX), 54);
    }
}
