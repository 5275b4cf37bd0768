//! The wheel compared with a sorted map, which is correct by construction.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn advanced(wheel: &mut Wheel<char>, now_tick: u32) -> Vec<(u32, char)> {
    let mut due = Vec::new();
    wheel.advance(now_tick, &mut due);
    due
}

#[test]
fn a_deadline_expires_at_its_tick_and_once() {
    let mut wheel = Wheel::new(100);
    wheel.schedule(103, 'a');
    assert_eq!(advanced(&mut wheel, 102), []);
    assert_eq!(wheel.len(), 1);
    assert_eq!(advanced(&mut wheel, 103), [(103, 'a')]);
    assert_eq!(advanced(&mut wheel, 103), []);
    assert_eq!(advanced(&mut wheel, 1000), []);
    assert_eq!(wheel.len(), 0);
}

#[test]
fn a_deadline_in_the_past_expires_with_the_next_tick() {
    let mut wheel = Wheel::new(100);
    wheel.schedule(100, 'a');
    wheel.schedule(7, 'b');
    assert_eq!(advanced(&mut wheel, 100), []);
    assert_eq!(advanced(&mut wheel, 101), [(7, 'b'), (100, 'a')]);
}

#[test]
fn deadlines_beyond_the_wheel_wait_for_their_round() {
    let mut wheel = Wheel::new(0);
    let slots = SLOTS as u32;
    for (rounds, key) in [(3, 'd'), (1, 'b'), (0, 'a'), (2, 'c')] {
        wheel.schedule(5 + rounds * slots, key);
    }
    for (rounds, key) in [(0, 'a'), (1, 'b'), (2, 'c'), (3, 'd')] {
        let due_tick = 5 + rounds * slots;
        assert_eq!(advanced(&mut wheel, due_tick - 1), []);
        assert_eq!(advanced(&mut wheel, due_tick), [(due_tick, key)]);
    }
}

#[test]
fn after_a_long_pause_everything_expires_in_order() {
    let mut wheel = Wheel::new(0);
    for (due_tick, key) in [(900, 'c'), (64, 'b'), (1, 'a'), (1001, 'e'), (1000, 'd'), (64, 'B')] {
        wheel.schedule(due_tick, key);
    }
    assert_eq!(advanced(&mut wheel, 1000), [(1, 'a'), (64, 'b'), (64, 'B'), (900, 'c'), (1000, 'd')]);
    assert_eq!(wheel.len(), 1);
}

#[test]
fn expired_deadlines_are_appended() {
    let mut wheel = Wheel::new(0);
    wheel.schedule(1, 'b');
    let mut due = vec![(9, 'a')];
    wheel.advance(1, &mut due);
    assert_eq!(due, [(9, 'a'), (1, 'b')]);
}

#[test]
fn the_last_tick_can_be_used() {
    let mut wheel = Wheel::new(u32::MAX - 1);
    wheel.schedule(u32::MAX, 'a');
    wheel.schedule(0, 'b');
    assert_eq!(advanced(&mut wheel, u32::MAX), [(0, 'b'), (u32::MAX, 'a')]);
}

#[test]
fn a_slot_that_was_crowded_frees_its_memory() {
    let mut wheel = Wheel::new(0);
    for _ in 0..10_000 {
        wheel.schedule(10, 'a');
    }
    wheel.schedule(10 + SLOTS as u32, 'b');
    assert_eq!(advanced(&mut wheel, 10).len(), 10_000);
    let capacity: usize = wheel.slots.iter().map(Vec::capacity).sum();
    assert!(capacity <= 2 * SLOT_ENTRIES_KEPT, "{capacity}");
    assert_eq!(advanced(&mut wheel, 1000), [(10 + SLOTS as u32, 'b')]);
}

#[derive(Clone, Debug)]
enum Step {
    /// Schedule this many ticks from now; negative: in the past.
    Schedule(i32),
    Advance(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (-5..200_i32).prop_map(Step::Schedule),
        1 => (-5..100_000_i32).prop_map(Step::Schedule),
        4 => (0..4_u32).prop_map(Step::Advance),
        1 => (0..300_u32).prop_map(Step::Advance),
        1 => Just(Step::Advance(50_000)),
    ]
}

proptest! {
    #[test]
    fn the_wheel_behaves_like_a_sorted_map(
        start_tick in 0..1_000_000_u32,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut wheel = Wheel::new(start_tick);
        let mut model = BTreeMap::new();
        let mut now_tick = start_tick;
        for (key, step) in steps.into_iter().enumerate() {
            match step {
                Step::Schedule(from_now) => {
                    let due_tick = now_tick.saturating_add_signed(from_now);
                    wheel.schedule(due_tick, key);
                    model.insert((due_tick, key), ());
                }
                Step::Advance(ticks) => {
                    now_tick += ticks;
                    let mut due = Vec::new();
                    wheel.advance(now_tick, &mut due);
                    // A deadline that is due now waits for the next tick.
                    let later = if ticks == 0 { model.clone() } else { model.split_off(&(now_tick + 1, 0)) };
                    let expected: Vec<_> = if ticks == 0 { Vec::new() } else { model.into_keys().collect() };
                    model = later;
                    prop_assert_eq!(due, expected);
                }
            }
            prop_assert_eq!(wheel.len(), model.len());
        }
    }
}
