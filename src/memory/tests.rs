//! The budget: what is counted, which holders give memory back, and how much.

use std::cmp::Reverse;

use proptest::prelude::*;

use super::held::count_in;
use super::plan::{divide, excess, level};
use super::*;

/// Holders of one thread, one of each size.
fn sizes(of: &[usize]) -> Sizes {
    let sizes = Sizes::default();
    of.iter().for_each(|bytes| sizes.change(0, *bytes));
    sizes
}

fn above(sizes: &[usize], level: usize) -> usize {
    sizes.iter().map(|size| size.saturating_sub(level)).sum()
}

#[test]
fn memory_taken_on_one_thread_and_given_back_on_another_adds_up_to_nothing() {
    let memory = Memory::new(1 << 30, 1);
    memory.enroll(0);
    let (mut log, mut replay) = (Held::new(What::Logs), Held::new(What::Replay));
    log.set(5000);
    replay.set(70_000);
    replay.set(60_000);
    assert_eq!((memory.bytes(What::Logs), memory.bytes(What::Replay)), (5000, 60_000));
    assert!(held::has_grown_by(64 * 1024) && !held::has_grown_by(1), "75,000 were taken");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            memory.enroll_internal_port();
            drop(replay);
        });
    });
    assert_eq!((memory.bytes(What::Logs), memory.bytes(What::Replay)), (5000, 0));
    drop(log);
    assert_eq!(memory.bytes(What::Logs), 0);
    count_in(Arc::default());
}

#[test]
fn the_largest_holders_are_cut_to_keep_the_budget() {
    // So large that the resident memory of this process makes no difference.
    let memory = Memory::new(16 << 30, 1);
    memory.enroll(0);
    let mut small: Vec<_> = (0..100).map(|_| Held::new(What::Logs)).collect();
    small.iter_mut().for_each(|held| held.set(40_000_000));
    let mut large = Held::new(What::Outboxes);
    large.set(9 << 30);
    assert_eq!(memory.review(0, false), None, "13 of 16 GiB");
    large.set(11 << 30);
    assert_eq!(memory.review(0, true), None, "a busy shard may go to the limit");
    let demand = memory.review(0, false).expect("15 of 16 GiB are more than 14");
    assert!(demand.floor_bytes >= 40_000_000, "{demand:?}: the small ones are left alone");
    assert!(demand.own_bytes >= 2 << 30 && demand.replay_bytes == 0 && !demand.others, "{demand:?}");
    count_in(Arc::default());
}

#[test]
fn the_process_itself_is_in_the_budget_but_leaves_half_of_it() {
    assert_eq!(excess(1000, 870, 870, false), None);
    assert_eq!(excess(1000, 880, 880, false), Some(130), "down to three quarters");
    assert_eq!(excess(1000, 880, 880, true), None);
    // 200 are used otherwise: 800 are left.
    assert_eq!((excess(1000, 690, 890, false), excess(1000, 710, 910, false)), (None, Some(110)));
    assert_eq!((excess(1000, 430, 5000, false), excess(1000, 440, 5000, false)), (None, Some(65)));
}

#[test]
fn a_shard_with_small_holders_gives_nothing_while_another_has_large_ones() {
    let (own, all) = (sizes(&[30_000; 100]), sizes(&[30_000; 100]));
    all.add(&sizes(&[3_000_000; 5]));
    let demand = divide(2_000_000, &all, &Sizes::default(), &own);
    assert!(demand.own_bytes == 0 && demand.replay_bytes == 0 && demand.others, "{demand:?}");
    // Without the larger holders of the others, its own have to give.
    let demand = divide(2_000_000, &own, &Sizes::default(), &own);
    assert!(demand.own_bytes >= 2_000_000 && !demand.others, "{demand:?}");
}

#[test]
fn replays_give_before_logs_and_messages_of_the_same_size() {
    let demand = divide(1_000_000, &sizes(&[2_000_000; 3]), &sizes(&[2_000_000; 1]), &sizes(&[2_000_000; 2]));
    let above_bytes = 2_000_000 - (1 << 20);
    assert_eq!((demand.own_bytes, demand.replay_bytes, demand.others), (32_384, above_bytes, true), "{demand:?}");
}

#[test]
fn request_heads_take_a_quarter_of_the_budget_at_most() {
    let memory = Memory::new(16 << 20, 1);
    memory.enroll(0);
    let mut heads = Held::new(What::Heads);
    heads.set((4 << 20) - 1000);
    assert!(memory.admits_head(1000) && !memory.admits_head(1001));
    drop(heads);
    count_in(Arc::default());
}

proptest! {
    #[test]
    fn the_level_is_the_highest_that_gains_enough(sizes in prop::collection::vec(1..100_000usize, 0..50), give in 1..3_000_000usize) {
        let mut sizes = sizes;
        sizes.sort_unstable_by_key(|size| Reverse(*size));
        let level = level(&sizes, give);
        if sizes.iter().sum::<usize>() < give {
            prop_assert_eq!(level, 0);
        } else {
            prop_assert!(above(&sizes, level) >= give && above(&sizes, level + 1) < give);
        }
    }

    #[test]
    fn all_shards_together_give_the_excess_and_only_from_above_the_floor(
        shards in prop::collection::vec(prop::collection::vec(1..3_000_000usize, 0..30), 1..5),
        replays in prop::collection::vec(1..3_000_000usize, 0..30),
        part in 1..100usize,
    ) {
        let all = Sizes::default();
        shards.iter().for_each(|of| all.add(&sizes(of)));
        let total = shards.iter().flatten().chain(&replays).sum::<usize>();
        let excess = (total * part / 100).max(1);
        let demands: Vec<_> = shards.iter().map(|of| divide(excess, &all, &sizes(&replays), &sizes(of))).collect();
        let floor = demands[0].floor_bytes;
        let given = demands.iter().map(|demand| demand.own_bytes).sum::<usize>() + demands[0].replay_bytes;
        prop_assert!(given >= excess.min(total), "{given} of {excess}");
        for (of, demand) in shards.iter().zip(&demands) {
            prop_assert_eq!(demand.floor_bytes, floor);
            prop_assert!(demand.own_bytes <= above(of, floor));
        }
        // A floor twice as high would not be enough.
        let higher = (floor * 2).max(1024);
        let above_higher = shards.iter().chain([&replays]).map(|of| above(of, higher)).sum::<usize>();
        prop_assert!(total < excess || above_higher < excess, "{floor} is lower than it has to be");
    }

    #[test]
    fn sizes_stay_right_while_they_change(changes in prop::collection::vec((0..8usize, 0..5_000_000usize), 0..100)) {
        let changed = Sizes::default();
        let mut now = [0; 8];
        for (holder, bytes) in changes {
            changed.change(std::mem::replace(&mut now[holder], bytes), bytes);
        }
        let total = now.iter().sum::<usize>().max(1);
        for excess in [1, total / 2, total] {
            prop_assert_eq!(divide(excess, &changed, &Sizes::default(), &changed), divide(excess, &sizes(&now), &Sizes::default(), &sizes(&now)));
        }
    }
}
