//! What a run means: whether its numbers can be believed, and whose the faults are. Pure.

use crate::faults::Faults;
use crate::results::{Audit, Distribution, Generator, OwnTail, Verdict};
use crate::stats::Collected;

/// A thread busier than this could not have read faster.
const BUSY_SHARE_MAX: f64 = 0.95;
/// Lateness of the load generator below this never invalidates a run, in microseconds.
const LATE_US_MIN: u64 = 2_000;
/// Above that, lateness may be this part of the latency.
const LATE_PART_MAX: f64 = 0.5;

/// Lateness of reading, in microseconds, beyond which a client may be closed as too slow.
const TOO_SLOW_US_MIN: u64 = 100_000;

/// If the load generator was later than this, it caused the latency itself.
fn late_max_us(latency_us: u64) -> u64 {
    LATE_US_MIN.max((latency_us as f64 * LATE_PART_MAX) as u64)
}

/// Reasons why the load generator itself was the limit.
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
    for (what, late) in [("sent", &generator.send_late), ("read", &generator.read_late)] {
        if late.p99_us > late_max_us(latency.p99_us) {
            reasons.push(format!(
                "it {what} messages up to {:.1} ms late (p99), against a p99 latency of {:.1} ms",
                late.p99_us as f64 / 1e3,
                latency.p99_us as f64 / 1e3
            ));
        }
    }
    reasons
}

/// Latencies beyond p99 that the load generator caused, although all those below can be trusted.
pub fn own_tail(send_late: &Distribution, read_late: &Distribution, latency: &Distribution) -> Option<OwnTail> {
    let mut own = OwnTail { quantiles: Vec::new(), sent_late_us: None, read_late_us: None };
    for (name, sent_us, read_us, latency_us) in [
        ("p99.9", send_late.p999_us, read_late.p999_us, latency.p999_us),
        ("max", send_late.max_us, read_late.max_us, latency.max_us),
    ] {
        let own_us = |late_us: u64| Some(late_us).filter(|us| *us > late_max_us(latency_us));
        let (sent, read) = (own_us(sent_us), own_us(read_us));
        if sent.or(read).is_some() {
            own.quantiles.push(name.to_owned());
        }
        own.sent_late_us = own.sent_late_us.max(sent);
        own.read_late_us = own.read_late_us.max(read);
    }
    (!own.quantiles.is_empty()).then_some(own)
}

/// Whether the server did its work, and whether the numbers can be trusted.
pub fn verdict(all: &Collected, audit: &Audit, generator: &Generator, latency: &Distribution) -> Verdict {
    let mut invalid = bound(all, generator, latency);
    let Faults { too_slow, lost_of_too_slow, .. } = all.faults;
    let late_us = generator.send_late.max_us.max(generator.read_late.max_us);
    if too_slow > 0 && (!invalid.is_empty() || late_us >= TOO_SLOW_US_MIN) {
        let only_those = Audit {
            lost: audit.lost - lost_of_too_slow,
            announced: audit.announced.min(audit.lost - lost_of_too_slow),
            closed: audit.closed - too_slow,
            closed_as_too_slow: 0,
            ..audit.clone()
        };
        if faults(all, &only_those, late_us).is_empty() {
            // A client that reads late is too slow, so closing it is no fault of the server.
            invalid.push(format!(
                "{too_slow} clients were closed as too slow (4101), and may have been: it was up to {:.1} ms late",
                late_us as f64 / 1e3
            ));
            return Verdict::Invalid(invalid);
        }
    }
    let mut failed = faults(all, audit, late_us);
    match (failed.is_empty(), invalid.is_empty()) {
        (true, true) => Verdict::Sound,
        (true, false) => Verdict::Invalid(invalid),
        (false, _) => {
            failed.extend(invalid.iter().map(|reason| format!("in addition, the load generator was bound: {reason}")));
            Verdict::Failed(failed)
        }
    }
}

/// What the server did wrong while the load generator was at most this late.
fn faults(all: &Collected, audit: &Audit, late_us: u64) -> Vec<String> {
    let mut failed = Vec::new();
    let too_slow =
        format!("of them as too slow (4101): the load generator was up to {:.1} ms late", late_us as f64 / 1e3);
    let unannounced = audit.lost - audit.announced;
    for (count, what) in [
        (unannounced, "messages were lost, and the server didn't announce it"),
        (audit.doubled, "messages arrived twice"),
        (audit.reordered, "messages arrived out of order"),
        (audit.disordered, "messages arrived in another order than at other clients"),
        (audit.holes, "numbers of rooms were left out"),
        (audit.unrecovered, "times, a client that could have missed something was told that it can't get it"),
        (audit.astray, "messages arrived at clients in another room"),
        (audit.damaged, "messages arrived cut off or altered"),
        (audit.closed, "connections were closed or broke"),
        (audit.closed_as_too_slow, &too_slow),
        (audit.refused, "messages were refused, or the server didn't know what became of them"),
        (audit.unanswered, "messages were neither acknowledged nor refused"),
        (audit.unsendable, "messages could not be sent because their publishers' connections had ended"),
    ] {
        if count > 0 {
            failed.push(format!("{count} {what}"));
        }
    }
    if let (Some(told), false) = (&all.publisher_told, failed.is_empty()) {
        failed.push(format!("the server's notice to a publisher: {told}"));
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Stats;

    fn times(p99_us: u64, p999_us: u64, max_us: u64) -> Distribution {
        Distribution { count: 1, p99_us, p999_us, max_us, ..Distribution::default() }
    }

    #[test]
    fn a_stall_that_p99_does_not_show_is_named() {
        let in_time = times(100, 300, 900);
        let frozen = times(100, 500_000, 512_000);
        assert_eq!(own_tail(&in_time, &in_time, &frozen), None, "the server's own");
        let both = own_tail(&in_time, &frozen, &frozen).unwrap();
        assert_eq!(both.quantiles, ["p99.9", "max"]);
        assert_eq!((both.sent_late_us, both.read_late_us), (None, Some(512_000)));
        let of_sending = |max_us, of_max_us| own_tail(&times(1, 3, max_us), &in_time, &times(5, 9, of_max_us));
        let max = of_sending(2_001, 4_001).unwrap();
        assert_eq!((max.quantiles, max.sent_late_us, max.read_late_us), (vec!["max".to_owned()], Some(2_001), None));
        assert_eq!(of_sending(2_000, 2_001), None, "2 ms are nothing");
        assert_eq!(of_sending(9_000, 18_000), None, "half of it is the server's");
    }

    /// Two clients closed as too slow, which lost five messages that way; other clients lost `others` more.
    fn closed_as_too_slow(late_us: u64, others: u64, closed: u64) -> Verdict {
        let mut all = Stats::new(1).collected();
        all.faults = Faults { lost: 5 + others, closed, too_slow: 2, lost_of_too_slow: 5, ..Faults::default() };
        let late = times(100, 200, late_us);
        let latency = times(1_000, 1_500, 600_000);
        let own_tail = own_tail(&Distribution::default(), &late, &latency);
        let generator = Generator { read_late: late, own_tail, ..Generator::default() };
        let audit = Audit { lost: 5 + others, closed, closed_as_too_slow: 2, ..Audit::default() };
        verdict(&all, &audit, &generator, &latency)
    }

    #[test]
    fn a_client_that_reads_late_and_is_closed_for_it_is_not_the_servers_fault() {
        assert!(matches!(closed_as_too_slow(600_000, 0, 2), Verdict::Invalid(reasons) if reasons[0].contains("4101")));
        let in_time = closed_as_too_slow(900, 0, 2);
        assert!(matches!(&in_time, Verdict::Failed(reasons) if reasons[2].starts_with("2 of them as too slow")));
        assert!(matches!(closed_as_too_slow(9_000, 0, 2), Verdict::Failed(_)), "9 ms make no client too slow");
        assert!(matches!(closed_as_too_slow(600_000, 1, 2), Verdict::Failed(_)), "others lost messages too");
        assert!(matches!(closed_as_too_slow(600_000, 0, 3), Verdict::Failed(_)), "one was closed for something else");
    }
}
