//! What a run means: whether its numbers can be believed, and whose the faults are. Pure.

use crate::results::{Audit, Distribution, Generator, Verdict};
use crate::stats::Collected;

/// A thread that is busier than this could not have read faster.
const BUSY_SHARE_MAX: f64 = 0.95;
/// Lateness of the load generator below this is never held against a run, in microseconds.
const LATE_US_MIN: u64 = 2_000;
/// Above it, it may be such a part of the p99 latency.
const LATE_PART_MAX: f64 = 0.5;

/// Whether the load generator itself was the limit, and why.
pub fn bound(all: &Collected, generator: &Generator, latency: &Distribution) -> Vec<String> {
    let mut reasons = Vec::new();
    if all.never_sent > 0 {
        reasons.push(format!("{} messages were due and had not been sent when the run ended", all.never_sent));
    }
    if generator.busiest_thread_share > BUSY_SHARE_MAX {
        reasons.push(format!(
            "its busiest thread used {:.0} % of a core: give it more --threads or cores, or fewer clients or a lower rate",
            generator.busiest_thread_share * 100.0
        ));
    }
    let late_max_us = LATE_US_MIN.max((latency.p99_us as f64 * LATE_PART_MAX) as u64);
    for (what, late) in [("sent", &generator.send_late), ("read", &generator.read_late)] {
        if late.p99_us > late_max_us {
            reasons.push(format!(
                "it {what} messages up to {:.1} ms late (p99), against a p99 latency of {:.1} ms",
                late.p99_us as f64 / 1e3,
                latency.p99_us as f64 / 1e3
            ));
        }
    }
    reasons
}

/// Whether the server did its work, and whether the numbers can be believed.
pub fn verdict(all: &Collected, audit: &Audit, generator: &Generator, latency: &Distribution) -> Verdict {
    let invalid = bound(all, generator, latency);
    let mut failed = Vec::new();
    let unannounced = audit.lost - audit.announced;
    for (count, what) in [
        (unannounced, "messages were lost, and the server did not say so"),
        (audit.doubled, "messages came twice"),
        (audit.reordered, "messages came out of order"),
        (all.faults.astray, "messages came to clients of another room"),
        (audit.closed, "connections were closed or broke"),
    ] {
        if count > 0 {
            failed.push(format!("{count} {what}"));
        }
    }
    if let (Some(told), false) = (&all.publisher_told, failed.is_empty()) {
        failed.push(format!("the server told a publisher: {told}"));
    }
    match (failed.is_empty(), invalid.is_empty()) {
        (true, true) => Verdict::Sound,
        (true, false) => Verdict::Invalid(invalid),
        // What was never sent can't arrive: that is not the server's loss.
        (false, _) if all.never_sent > 0 => Verdict::Invalid(invalid),
        (false, _) => {
            failed.extend(invalid.iter().map(|reason| format!("beside that, the load generator was bound: {reason}")));
            Verdict::Failed(failed)
        }
    }
}
