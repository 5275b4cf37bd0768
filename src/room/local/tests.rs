use std::cell::RefCell;

use super::*;
use crate::clock::Time;
use crate::os;
use crate::protocol::name::Name;
use crate::protocol::resume::ResumeKey;
use crate::protocol::{MemberId, Namespace};
use crate::room::inbox;
use crate::room::registry::Registry;
use crate::room::replay::ReplayBounds;
use crate::room::{Joining, Wakes};

/// The rooms in which one shard has members.
struct Shard {
    registry: Registry,
    rooms: LocalRooms,
}

impl Shard {
    fn new() -> Self {
        let inboxes = inbox::inboxes([os::new_eventfd().unwrap()], 1 << 30);
        let registry = Registry::new(inboxes, 1, ResumeKey::new([1, 2]), ReplayBounds::OFF);
        Self { registry, rooms: LocalRooms::new(1 << 20, 0) }
    }

    /// A raw room with `members` members, and its slot.
    fn room(&mut self, name: &str, members: u32) -> (Arc<Room>, u32) {
        let name = Name::room(name).unwrap();
        let joining = Joining::new(None, MemberId { shard: 0, slot: 0, serial: 1 });
        let wakes = &mut Wakes::default();
        let room = self.registry.join(Namespace::Raw, &name, &joining, Time::default(), wakes).unwrap().room;
        let slot = self.rooms.join(&room, Encoding::Frames, room.last_seq() + 1, 1 << 20);
        for member in 0..members {
            self.rooms.get_mut(slot).add_member(member);
        }
        (room, slot)
    }

    /// Publishes a message in a room.
    fn publish(&mut self, room: &Arc<Room>) {
        room.publish_raw(&Bytes::from_static(b"\x82\x01x"), &mut Wakes::default());
        let mut relays = Vec::new();
        self.registry.inboxes()[0].drain(&mut relays, &mut Vec::new());
        relays.iter().for_each(|relay| self.rooms.append(relay));
    }

    /// Trims the logs; the members of rooms in `behind` have received nothing yet, and all others everything. Returns the slots
    /// that the tick looked at.
    fn trim(&mut self, behind: &[u32]) -> Vec<u32> {
        let seen = RefCell::new(Vec::new());
        self.rooms.trim(|slot, _| {
            seen.borrow_mut().push(slot);
            if behind.contains(&slot) { 1 } else { u64::MAX }
        });
        seen.into_inner()
    }

    fn forget(&mut self, slot: u32, members: u32) {
        (0..members).for_each(|_| self.rooms.get_mut(slot).remove_member(0, |_, _| {}));
        self.rooms.remove(slot);
    }
}

#[test]
fn a_tick_looks_only_at_logs_that_hold_something() {
    let mut shard = Shard::new();
    let [(tea, tea_slot), (milk, milk_slot), (_, quiet)] = ["tea", "milk", "quiet"].map(|name| shard.room(name, 2));
    assert!(shard.trim(&[]).is_empty());
    shard.publish(&tea);
    shard.publish(&milk);
    shard.publish(&tea);
    assert_eq!(shard.trim(&[milk_slot]), [tea_slot, milk_slot]);
    let held = [tea_slot, milk_slot, quiet].map(|slot| shard.rooms.log(slot).bytes() > 0);
    assert_eq!(held, [false, true, false]);
    assert_eq!(shard.trim(&[milk_slot]), [milk_slot], "a member there has not received everything");
    shard.publish(&tea);
    assert_eq!(shard.trim(&[]), [milk_slot, tea_slot]);
    assert!(shard.trim(&[]).is_empty());
}

#[test]
fn a_room_in_a_reused_slot_is_looked_at_only_if_its_own_log_holds_something() {
    let mut shard = Shard::new();
    let (tea, slot) = shard.room("tea", 1);
    shard.publish(&tea);
    shard.forget(slot, 1);
    let (milk, milk_slot) = shard.room("milk", 1);
    assert_eq!(slot, milk_slot);
    assert!(shard.trim(&[]).is_empty());
    for _ in 0..3 {
        shard.publish(&milk);
        shard.forget(slot, 1);
        shard.room("milk", 1);
    }
    shard.publish(&milk);
    assert_eq!(shard.trim(&[]), [slot], "once, no matter how often it has come and gone");
}

#[test]
fn a_tick_looks_at_a_bounded_number_of_members_and_the_next_ones_continue() {
    let mut shard = Shard::new();
    let members = MEMBERS_PER_TRIM as u32 / 2;
    let rooms: Vec<_> = (0..5).map(|number| shard.room(&number.to_string(), members)).collect();
    rooms.iter().for_each(|(room, _)| shard.publish(room));
    let slots: Vec<_> = rooms.iter().map(|(_, slot)| *slot).collect();
    let looked_at: Vec<_> = (0..3).map(|_| shard.trim(&slots)).collect();
    assert_eq!(looked_at, [&slots[..2], &slots[2..4], &[slots[4], slots[0]]]);
    assert_eq!([(); 3].map(|()| shard.trim(&[]).len()), [2, 2, 1]);
}

#[test]
fn a_quiet_room_does_not_wait_for_hundreds_of_busy_ones() {
    const BUSY: usize = 300;
    let mut shard = Shard::new();
    let busy: Vec<_> = (0..BUSY).map(|number| shard.room(&number.to_string(), 1)).collect();
    let (quiet, quiet_slot) = shard.room("quiet", 1);
    // Each turn visits some rooms; by the next turn, all of them have published again.
    let turn = |shard: &mut Shard, visits: usize| {
        busy.iter().for_each(|(room, _)| shard.publish(room));
        let visited = (0..visits).map(|visit| {
            shard.rooms.begin_visits(visit < visits / 2);
            let slot = shard.rooms.current;
            while shard.rooms.visit().is_some() {}
            shard.rooms.end_visits();
            slot
        });
        visited.collect::<Vec<_>>()
    };
    (0..50).for_each(|_| drop(turn(&mut shard, 20)));
    shard.publish(&quiet);
    let visited = turn(&mut shard, 20);
    assert!(visited[..3].contains(&Some(quiet_slot)), "{visited:?} before {quiet_slot}");
    // The busy ones don't wait forever either.
    let mut seen: Vec<_> = (0..2 * BUSY / 20).flat_map(|_| turn(&mut shard, 20)).flatten().collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), BUSY);
}
