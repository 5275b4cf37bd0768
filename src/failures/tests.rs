//! Tests of `failures.rs`, beside it.

use std::net::Ipv4Addr;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn failure(reason: Reason, hop: u32) -> (Reason, String) {
    (reason, Ipv4Addr::from_bits(0x0a00_0000 + hop).to_string())
}

fn note(failures: &Failures, (reason, hop): &(Reason, String), now: Instant) -> Option<u64> {
    failures.note(*reason, hop.clone(), now)
}

fn count(failures: &Failures, reason: Reason, hop: &str) -> u64 {
    failures.snapshot().iter().filter(|count| count.reason == reason && count.hop == hop).map(|count| count.count).sum()
}

#[test]
fn each_kind_is_said_once_in_an_interval_with_the_count_of_the_others() {
    let (failures, start) = (Failures::new(MINUTE), Instant::now());
    let (tls, large) = (failure(Reason::TlsOnPlainPort, 1), failure(Reason::HeadTooLarge, 1));
    assert_eq!(note(&failures, &tls, start), Some(0));
    assert_eq!(note(&failures, &large, start), Some(0), "another reason");
    assert_eq!(note(&failures, &failure(Reason::TlsOnPlainPort, 2), start), Some(0), "another hop");
    for _ in 0..5 {
        assert_eq!(note(&failures, &tls, start + Duration::from_secs(59)), None);
    }
    assert_eq!(note(&failures, &tls, start + MINUTE), Some(5));
    assert_eq!(note(&failures, &tls, start + MINUTE), None);
    assert_eq!(count(&failures, Reason::TlsOnPlainPort, "10.0.0.1"), 8);
    assert_eq!(count(&failures, Reason::HeadTooLarge, "10.0.0.1"), 1);
    assert_eq!(count(&failures, Reason::TlsOnPlainPort, "10.0.0.2"), 1);
}

#[test]
fn what_was_left_out_is_said_when_nothing_follows() {
    let (failures, start) = (Failures::new(MINUTE), Instant::now());
    let tls = failure(Reason::TlsOnPlainPort, 1);
    note(&failures, &tls, start);
    assert!(!failures.has_left_out());
    note(&failures, &tls, start);
    note(&failures, &tls, start);
    assert!(failures.has_left_out());
    assert_eq!(failures.overdue(start + Duration::from_secs(119)), [], "the next of them would say so");
    let overdue = FailureCount { reason: Reason::TlsOnPlainPort, hop: "10.0.0.1".to_owned(), count: 2 };
    assert_eq!(failures.overdue(start + 2 * MINUTE), [overdue]);
    assert!(!failures.has_left_out());
    assert_eq!(note(&failures, &tls, start + 2 * MINUTE), Some(0));
}

#[test]
fn hops_beyond_the_bound_share_an_entry() {
    let (failures, start) = (Failures::new(MINUTE), Instant::now());
    for hop in 0..1000 {
        note(&failures, &failure(Reason::TlsOnPlainPort, hop), start);
    }
    let snapshot = failures.snapshot();
    assert_eq!(snapshot.len(), HOPS_MAX + 1);
    assert_eq!(count(&failures, Reason::TlsOnPlainPort, OTHER_HOPS), 1000 - HOPS_MAX as u64);
}

#[test]
fn a_flood_from_everywhere_is_a_few_lines() {
    let (failures, start) = (Failures::new(MINUTE), Instant::now());
    let said = (0..1000).filter(|hop| note(&failures, &failure(Reason::TlsOnPlainPort, *hop), start).is_some()).count();
    assert_eq!(said, FAILURE_LINES_PER_INTERVAL as usize);
    // What was left out is still said, a few lines at a time.
    let mut left_out = 0;
    for interval in 2..=4 {
        let overdue = failures.overdue(start + interval * MINUTE);
        assert!(overdue.len() <= FAILURE_LINES_PER_INTERVAL as usize);
        left_out += overdue.iter().map(|count| count.count).sum::<u64>();
    }
    assert_eq!(said as u64 + left_out, 1000);
    assert!(!failures.has_left_out());
}

#[test]
fn a_hop_without_failures_gives_its_entry_up_and_no_count_is_lost() {
    let (failures, start) = (Failures::new(MINUTE), Instant::now());
    for hop in 0..HOPS_MAX as u32 {
        note(&failures, &failure(Reason::TlsOnPlainPort, hop), start);
    }
    let later = start + HOP_IDLE_MAX;
    note(&failures, &failure(Reason::TlsOnPlainPort, 5), later);
    note(&failures, &failure(Reason::TlsOnPlainPort, 100), later);
    assert_eq!(count(&failures, Reason::TlsOnPlainPort, "10.0.0.100"), 1);
    assert_eq!(count(&failures, Reason::TlsOnPlainPort, "10.0.0.5"), 2);
    assert_eq!(count(&failures, Reason::TlsOnPlainPort, OTHER_HOPS), 1);
    let total: u64 = failures.snapshot().iter().map(|count| count.count).sum();
    assert_eq!((total, failures.snapshot().len()), (HOPS_MAX as u64 + 2, HOPS_MAX + 1));
}
