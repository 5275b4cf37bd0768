//! Single cases, and properties checked against a model that remembers every message.

use proptest::prelude::*;

use super::*;

const LIMIT: RateLimit = RateLimit::new(20, 40);

/// `count` messages, one every `every_ms`, starting at `from_ms`.
fn take_all(bucket: &mut Bucket, from_ms: u64, every_ms: u64, count: u64) -> Vec<Admitted> {
    (0..count).map(|index| bucket.take(&LIMIT, from_ms + index * every_ms)).collect()
}

fn passes(verdicts: &[Admitted]) -> usize {
    verdicts.iter().filter(|&&verdict| verdict == Admitted::Pass).count()
}

#[test]
fn a_burst_passes_and_no_more() {
    let mut bucket = Bucket::new(&LIMIT, 5000);
    let verdicts = take_all(&mut bucket, 5000, 0, 41);
    assert_eq!(passes(&verdicts), 40);
    assert_eq!(verdicts[40], Admitted::Refused);
}

#[test]
fn the_rate_itself_passes_forever() {
    let mut bucket = Bucket::new(&LIMIT, 0);
    take_all(&mut bucket, 0, 0, 40);
    assert_eq!(passes(&take_all(&mut bucket, 50, 50, 10_000)), 10_000);
}

#[test]
fn tokens_come_back_one_by_one_up_to_a_full_bucket() {
    let mut bucket = Bucket::new(&LIMIT, 0);
    take_all(&mut bucket, 0, 0, 40);
    assert_eq!(bucket.take(&LIMIT, 49), Admitted::Refused);
    assert_eq!(bucket.take(&LIMIT, 50), Admitted::Pass);
    assert_eq!(bucket.take(&LIMIT, 50), Admitted::Refused);
    assert_eq!(passes(&take_all(&mut bucket, 3_600_000, 0, 100)), 40);
}

#[test]
fn without_a_limit_everything_passes() {
    let limit = RateLimit::new(0, 0);
    let mut bucket = Bucket::new(&limit, 0);
    assert!((0..10_000).all(|_| bucket.take(&limit, 0) == Admitted::Pass));
    assert_eq!(RateLimit::OFF.per_second, 0);
}

#[test]
fn a_burst_of_0_is_a_burst_of_1() {
    let limit = RateLimit::new(1, 0);
    let mut bucket = Bucket::new(&limit, 0);
    assert_eq!(bucket.take(&limit, 0), Admitted::Pass);
    assert_eq!(bucket.take(&limit, 999), Admitted::Refused);
    assert_eq!(bucket.take(&limit, 1000), Admitted::Pass);
}

#[test]
fn an_excess_lasts_too_long_after_ten_seconds() {
    let mut bucket = Bucket::new(&LIMIT, 0);
    assert_eq!(passes(&take_all(&mut bucket, 0, 0, 40)), 40);
    // 100 a second: four of five refused, from 1 ms on.
    for now_ms in (1..10_001).step_by(10) {
        assert_ne!(bucket.take(&LIMIT, now_ms), Admitted::RefusedTooLong, "{now_ms}");
    }
    assert_eq!(
        take_all(&mut bucket, 10_001, 0, 3),
        [Admitted::Pass, Admitted::RefusedTooLong, Admitted::RefusedTooLong,]
    );
}

#[test]
fn a_pause_of_a_second_restarts_the_ten_seconds() {
    let flood = |bucket: &mut Bucket, from_ms| {
        let verdicts = take_all(bucket, from_ms, 1, 9000);
        assert!(!verdicts.contains(&Admitted::RefusedTooLong));
        assert_eq!(verdicts.last(), Some(&Admitted::Refused));
    };
    let mut bucket = Bucket::new(&LIMIT, 0);
    flood(&mut bucket, 0);
    // The last refusal was at 8,999 ms.
    flood(&mut bucket, 9_999);
    let mut without_pause = bucket;
    let verdicts = take_all(&mut without_pause, 19_500, 1, 2000);
    assert!(verdicts.contains(&Admitted::RefusedTooLong));
}

#[test]
fn a_connection_slightly_over_its_rate_is_never_over_it_for_too_long() {
    let mut bucket = Bucket::new(&LIMIT, 0);
    // 21 a second: one in 21 is refused, about one a second.
    let verdicts: Vec<_> = (0..2100).map(|index| bucket.take(&LIMIT, index * 1000 / 21)).collect();
    assert!(verdicts.contains(&Admitted::Refused));
    assert!(!verdicts.contains(&Admitted::RefusedTooLong));
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let limit = RateLimit::new(u32::MAX, u32::MAX);
    let mut bucket = Bucket::new(&limit, 0);
    for now_ms in [0, 1, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX - 1, u64::MAX] {
        assert_eq!(bucket.take(&limit, now_ms), Admitted::Pass);
    }
    let slow = RateLimit::new(1, 1);
    let mut bucket = Bucket::new(&slow, u64::MAX - 500);
    assert_eq!(bucket.take(&slow, u64::MAX - 500), Admitted::Pass);
    assert_eq!(bucket.take(&slow, u64::MAX), Admitted::Refused);
}

/// Tokens in exact arithmetic, and every refusal so far.
struct Model {
    limit: RateLimit,
    now_ms: u64,
    tokens: u128,
    refusals: Vec<u64>,
}

impl Model {
    fn take(&mut self, now_ms: u64) -> Admitted {
        let full = u128::from(self.limit.burst) * 1000;
        let won = u128::from(now_ms - self.now_ms) * u128::from(self.limit.per_second);
        self.tokens = (self.tokens + won).min(full);
        self.now_ms = now_ms;
        if self.tokens >= 1000 {
            self.tokens -= 1000;
            return Admitted::Pass;
        }
        self.refusals.push(now_ms);
        let excess = self.refusals.chunk_by(|earlier, later| later - earlier < 1000);
        match excess.last() {
            Some([first, .., last]) if last - first >= 10_000 => Admitted::RefusedTooLong,
            _ => Admitted::Refused,
        }
    }
}

fn limit() -> impl Strategy<Value = RateLimit> {
    let per_second = prop_oneof![4 => 1..50_u32, 1 => any::<u32>().prop_map(|rate| rate.max(1))];
    let burst = prop_oneof![4 => 0..50_u32, 1 => any::<u32>()];
    (per_second, burst).prop_map(|(per_second, burst)| RateLimit::new(per_second, burst))
}

/// Times between messages in ms: mostly a flood, sometimes a pause, rarely weeks.
fn gaps() -> impl Strategy<Value = Vec<u64>> {
    let gap = prop_oneof![
        600 => 0..40_u64,
        60 => 0..400_u64,
        1 => 900..1100_u64,
        1 => 0..4_000_000_000_u64,
    ];
    proptest::collection::vec(gap, 1..800)
}

proptest! {
    #[test]
    fn the_bucket_behaves_like_the_model(limit in limit(), start_ms in 0..(u64::MAX >> 1), gaps in gaps()) {
        let mut bucket = Bucket::new(&limit, start_ms);
        let tokens = u128::from(limit.burst) * 1000;
        let mut model = Model { limit, now_ms: start_ms, tokens, refusals: Vec::new() };
        let mut now_ms = start_ms;
        for gap in gaps {
            now_ms += gap;
            prop_assert_eq!(bucket.take(&limit, now_ms), model.take(now_ms), "at {} ms", now_ms - start_ms);
        }
    }

    #[test]
    fn in_any_period_no_more_passes_than_the_limit_allows(limit in limit(), start_ms in any::<u32>(), gaps in gaps()) {
        let mut now_ms = u64::from(start_ms);
        let mut bucket = Bucket::new(&limit, now_ms);
        let mut passed = Vec::new();
        for gap in gaps {
            now_ms += gap;
            if bucket.take(&limit, now_ms) == Admitted::Pass {
                passed.push(now_ms);
            }
        }
        for (index, first_ms) in passed.iter().enumerate() {
            for (count, last_ms) in (1_u128..).zip(&passed[index..]) {
                let won = u128::from(limit.per_second) * u128::from(last_ms - first_ms);
                prop_assert!(count * 1000 <= u128::from(limit.burst) * 1000 + won);
            }
        }
    }
}
