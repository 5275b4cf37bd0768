//! One order: all clients of a room, on whichever server, must see its messages in the same order.
//!
//! The first client to see a message gives it the room's next place; every client's places have to rise. Only a client
//! that has missed nothing gives places: another one may not have seen the message before it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Memory for places at most, in bytes.
const BYTES_MAX: usize = 64 << 20;
/// Places remembered of each publisher, within that memory; a client further behind than these is not checked.
const PLACES: std::ops::RangeInclusive<usize> = 64..=65_536;

/// The places of recent messages in their rooms.
pub struct Orders {
    publishers: usize,
    /// Places remembered of each publisher.
    remembered: usize,
    /// By room, publisher and number: the number after the message's in the upper half, its place in the lower one.
    places: Box<[AtomicU64]>,
    /// The last place given in each room.
    last: Box<[AtomicU32]>,
}

impl Orders {
    /// For this many rooms, each with `publishers`.
    pub fn new(rooms: usize, publishers: usize) -> Self {
        let streams = rooms * publishers;
        let remembered = (BYTES_MAX / size_of::<AtomicU64>() / streams).clamp(*PLACES.start(), *PLACES.end());
        Self {
            publishers,
            remembered,
            places: std::iter::repeat_with(AtomicU64::default).take(streams * remembered).collect(),
            last: std::iter::repeat_with(AtomicU32::default).take(rooms).collect(),
        }
    }

    /// The place of a message in its room, from 1. If it has none yet, it gets the next one if the client `may_give` it.
    pub fn place(&self, room: usize, publisher: u16, sequence: u32, may_give: bool) -> Option<u32> {
        let stream = room * self.publishers + usize::from(publisher);
        let slot = self.places.get(stream * self.remembered + sequence as usize % self.remembered)?;
        let of_this = |entry: u64| (entry >> 32 == u64::from(sequence) + 1).then_some(entry as u32);
        let before = slot.load(Ordering::Acquire);
        if let Some(place) = of_this(before) {
            return Some(place);
        }
        if !may_give || before >> 32 > u64::from(sequence) {
            return None;
        }
        let place = self.last.get(room)?.fetch_add(1, Ordering::AcqRel) + 1;
        let entry = (u64::from(sequence) + 1) << 32 | u64::from(place);
        match slot.compare_exchange(before, entry, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(place),
            // Another thread was faster.
            Err(entry) => of_this(entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_see_a_message_gives_it_its_place() {
        let orders = Orders::new(2, 2);
        assert_eq!(orders.place(0, 0, 5, false), None);
        assert_eq!(orders.place(0, 0, 5, true), Some(1));
        assert_eq!(orders.place(0, 1, 5, true), Some(2));
        assert_eq!(orders.place(0, 0, 5, false), Some(1));
        assert_eq!(orders.place(1, 0, 5, true), Some(1), "another room");
        let next_round = 5 + orders.remembered as u32;
        assert_eq!(orders.place(0, 0, next_round, true), Some(3));
        assert_eq!(orders.place(0, 0, 5, true), None, "it is forgotten");
    }

    #[test]
    fn clients_on_several_threads_see_rising_places() {
        let orders = Orders::new(1, 2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let places = (0..20_000).map(|index| orders.place(0, index as u16 % 2, index / 2, true).unwrap());
                    assert!(places.is_sorted_by(|before, place| before < place));
                });
            }
        });
    }

    #[test]
    fn memory_is_bounded() {
        assert_eq!(Orders::new(1, 2).remembered, 65_536);
        assert_eq!(Orders::new(1000, 10).remembered, 838);
    }
}
