//! Which rooms share a subscription: a server that follows many rooms would spend most of its memory on their queues. Pure.
//!
//! Rooms whose names have the same hash are a bundle. Whoever subscribes to the whole bundle also gets the records of rooms in it
//! that this server doesn't follow, so it does that only while it follows several of them, and those of the others are few.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::record::split;
use crate::limits::cluster::{
    BUNDLE_APART_MS, BUNDLE_ROOMS_MIN, BUNDLES, RECORD_COST, UNWANTED_COST_MAX, UNWANTED_WINDOW_MS,
};
use crate::protocol::Namespace;

/// A bundle: the kind of its rooms, and its number among those of that kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BundleId {
    pub(super) namespace: Namespace,
    pub(super) number: u32,
}

impl BundleId {
    /// That of a room: its token's FNV-1a hash, as NATS computes it for `{{partition()}}`.
    pub(super) fn of(room: &str) -> Self {
        let (namespace, token) = split(room);
        let hash = token.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self { namespace, number: hash % BUNDLES }
    }
}

/// How a room that is about to be followed is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// By a subscription of its own.
    Alone,
    /// The same; and there are enough of them now to subscribe to the bundle, which the caller does.
    AloneUntilFormed,
    /// By the bundle's.
    Together,
}

#[derive(Debug)]
enum State {
    /// It isn't formed before this time: if it was, it brought too much of other rooms.
    ApartUntil(u64),
    Forming,
    Together,
}

impl Default for State {
    fn default() -> Self {
        Self::ApartUntil(0)
    }
}

#[derive(Debug, Default)]
struct Bundle {
    /// Those that are followed.
    rooms: HashSet<Rc<str>>,
    state: State,
    /// What records of these rooms have cost since the window began, and what those of others have.
    wanted: u64,
    unwanted: u64,
    window_ends_ms: u64,
}

/// All bundles of which rooms are followed.
#[derive(Debug, Default)]
pub(super) struct Bundles {
    by_id: HashMap<BundleId, Bundle>,
}

impl Bundles {
    /// A room is about to be followed.
    pub(super) fn add(&mut self, room: &Rc<str>, now_ms: u64) -> Reading {
        let bundle = self.by_id.entry(BundleId::of(room)).or_default();
        bundle.rooms.insert(Rc::clone(room));
        match bundle.state {
            State::Together => Reading::Together,
            State::Forming => Reading::Alone,
            State::ApartUntil(until_ms) if now_ms < until_ms || bundle.rooms.len() < BUNDLE_ROOMS_MIN => Reading::Alone,
            State::ApartUntil(_) => {
                bundle.state = State::Forming;
                Reading::AloneUntilFormed
            }
        }
    }

    /// A room is not followed any more. True: nobody needs its bundle's subscription.
    pub(super) fn remove(&mut self, room: &str) -> bool {
        let id = BundleId::of(room);
        let Some(bundle) = self.by_id.get_mut(&id) else { return false };
        bundle.rooms.remove(room);
        let is_empty = bundle.rooms.is_empty();
        if is_empty {
            self.by_id.remove(&id);
        }
        is_empty
    }

    /// A bundle has its subscription: returns the rooms that are read by it from now on.
    pub(super) fn formed(&mut self, id: BundleId) -> Vec<Rc<str>> {
        let Some(bundle) = self.by_id.get_mut(&id) else { return Vec::new() };
        bundle.state = State::Together;
        bundle.rooms.iter().cloned().collect()
    }

    /// A bundle has brought a record of this many bytes. If those of other rooms are too many, it is given up: returns its rooms,
    /// which need subscriptions of their own.
    pub(super) fn heard(&mut self, id: BundleId, bytes: usize, is_wanted: bool, now_ms: u64) -> Option<Vec<Rc<str>>> {
        let bundle = self.by_id.get_mut(&id)?;
        if bundle.window_ends_ms <= now_ms {
            (bundle.wanted, bundle.unwanted, bundle.window_ends_ms) = (0, 0, now_ms + UNWANTED_WINDOW_MS);
        }
        let sum = if is_wanted { &mut bundle.wanted } else { &mut bundle.unwanted };
        *sum += RECORD_COST + bytes as u64;
        if bundle.unwanted <= bundle.wanted + UNWANTED_COST_MAX {
            return None;
        }
        bundle.state = State::ApartUntil(now_ms + BUNDLE_APART_MS);
        Some(bundle.rooms.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms_of_one_bundle(count: usize) -> Vec<Rc<str>> {
        let names = (0..).map(|number| Rc::<str>::from(format!("room{number}")));
        names.filter(|room| BundleId::of(room) == BundleId::of("room0")).take(count).collect()
    }

    /// As many of them as a bundle needs.
    fn formed() -> (Bundles, Vec<Rc<str>>) {
        let (mut bundles, rooms) = (Bundles::default(), rooms_of_one_bundle(BUNDLE_ROOMS_MIN));
        let (last, others) = rooms.split_last().unwrap();
        assert!(others.iter().all(|room| bundles.add(room, 0) == Reading::Alone));
        assert_eq!(bundles.add(last, 0), Reading::AloneUntilFormed);
        assert_eq!(bundles.add(last, 0), Reading::Alone, "it has no subscription yet");
        assert_eq!(bundles.formed(BundleId::of(last)).len(), rooms.len());
        (bundles, rooms)
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Of the published test vectors: "" and "foobar".
        for (token, hash) in [("", 0x811c_9dc5_u32), ("foobar", 0xbf9c_f968)] {
            assert_eq!(BundleId::of(token), BundleId { namespace: Namespace::Chat, number: hash % BUNDLES });
        }
        assert_eq!(BundleId::of("=foobar").number, BundleId::of("foobar").number);
        assert_eq!(BundleId::of("=foobar").namespace, Namespace::Raw);
    }

    #[test]
    fn several_rooms_are_read_together_until_none_is_left() {
        let (mut bundles, rooms) = formed();
        assert_eq!(bundles.add(&rooms[0], 0), Reading::Together);
        let (last, others) = rooms.split_last().unwrap();
        assert!(!others.iter().any(|room| bundles.remove(room)));
        assert!(bundles.remove(last));
        assert!(!bundles.remove(last), "it is gone");
        assert_eq!(bundles.add(last, 0), Reading::Alone);
    }

    #[test]
    fn a_bundle_that_brings_mostly_records_of_other_rooms_is_given_up_for_a_while() {
        let (mut bundles, rooms) = formed();
        let id = BundleId::of(&rooms[0]);
        // Many of both are what a subscription of each room would bring, and as many more.
        for number in 0..10_000 {
            assert_eq!(bundles.heard(id, 100, number % 2 == 0, number), None);
        }
        // A few a second cost less than the subscriptions.
        for second in 0..100 {
            assert_eq!(bundles.heard(id, 100, false, 1_000_000 + second * 1000), None);
        }
        let mut records = 0;
        let given_up = loop {
            records += 1;
            if let Some(given_up) = bundles.heard(id, 100, false, 2_000_000) {
                break given_up;
            }
        };
        assert_eq!(given_up.len(), rooms.len());
        assert!(records < 200, "{records}");
        assert_eq!(bundles.add(&rooms[0], 2_000_000 + BUNDLE_APART_MS - 1), Reading::Alone);
        assert_eq!(bundles.add(&rooms[0], 2_000_000 + BUNDLE_APART_MS), Reading::AloneUntilFormed);
    }
}
