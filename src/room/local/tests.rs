use std::cell::RefCell;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Time;
use crate::limits::{FLUSH_BYTES_WAITING, FLUSH_BYTES_WAITING_OF_SHARD};
use crate::os;
use crate::protocol::name::Name;
use crate::protocol::resume::ResumeKey;
use crate::protocol::{MemberId, Namespace};
use crate::room::inbox;
use crate::room::pace::Work;
use crate::room::registry::Registry;
use crate::room::replay::ReplayBounds;
use crate::room::{Joining, Wakes};

/// The rooms in which one shard has members.
struct Shard {
    registry: Registry,
    rooms: LocalRooms,
    /// The pace of its rooms, and what time it is.
    pace: Pace,
    now: Instant,
}

impl Shard {
    fn new() -> Self {
        Self::at(Pace::AtOnce)
    }

    fn at(pace: Pace) -> Self {
        let inboxes = inbox::inboxes([os::new_eventfd().unwrap()], 1 << 30);
        let registry = Registry::new(inboxes, 1, ResumeKey::new(0, [1, 2]), ReplayBounds::OFF);
        Self { registry, rooms: LocalRooms::new(1 << 20, 0), pace, now: Instant::now() }
    }

    /// A raw room with `members` members, and its slot.
    fn room(&mut self, name: &str, members: u32) -> (Arc<Room>, u32) {
        let name = Name::room(name).unwrap();
        let joining = Joining::new(None, MemberId { shard: 0, slot: 0, serial: 1 });
        let wakes = &mut Wakes::default();
        let room = self.registry.join(Namespace::Raw, &name, &joining, Time::default(), wakes).unwrap().room;
        let slot = self.rooms.join(&room, Encoding::Frames, room.last_seq() + 1, 1 << 20, self.pace);
        for member in 0..members {
            self.rooms.get_mut(slot).add_member(member);
        }
        (room, slot)
    }

    /// Publishes a message in a room.
    fn publish(&mut self, room: &Arc<Room>) {
        self.publish_frame(room, &Bytes::from_static(b"\x82\x01x"));
    }

    fn publish_frame(&mut self, room: &Arc<Room>, frame: &Bytes) {
        room.publish_raw(frame, &mut Wakes::default());
        let mut relays = Vec::new();
        self.registry.inboxes()[0].drain(&mut relays, &mut Vec::new());
        relays.iter().for_each(|relay| self.rooms.append(relay, self.now));
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

    /// Visits up to `visits_max` members of the queued room. Returns how many messages the round is for that begins with it.
    fn visit(&mut self, visits_max: usize) -> Option<u64> {
        let messages = self.rooms.begin_visits(true, self.now);
        for _ in 0..visits_max {
            self.rooms.visit();
        }
        self.rooms.end_visits(Work::default(), self.now);
        messages
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
            shard.rooms.begin_visits(visit < visits / 2, shard.now);
            let slot = shard.rooms.current;
            while shard.rooms.visit().is_some() {}
            shard.rooms.end_visits(Work::default(), shard.now);
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

const MS: Duration = Duration::from_millis(1);

#[test]
fn what_is_published_while_members_are_visited_waits_for_the_next_round() {
    let mut shard = Shard::at(Pace::Every(20 * MS));
    let (tea, slot) = shard.room("tea", 4);
    shard.publish(&tea);
    assert_eq!(shard.visit(2), Some(1));
    shard.publish(&tea);
    assert_eq!(shard.rooms.get(slot).due_seq(), 2, "no one is sent the second message for its own sake");
    shard.now += MS;
    assert_eq!((shard.visit(2), shard.rooms.queued_rooms()), (None, 0));
    assert_eq!(shard.rooms.next_due(), Some(shard.now + 19 * MS));
    shard.now += 19 * MS;
    shard.rooms.queue_due(shard.now);
    assert_eq!((shard.visit(4), shard.rooms.next_due()), (Some(1), None));
    assert_eq!(shard.rooms.get(slot).due_seq(), 3);
}

#[test]
fn a_room_that_is_published_to_much_does_not_wait_and_one_that_waits_is_not_cut_back() {
    let mut shard = Shard::at(Pace::Every(20 * MS));
    let (tea, slot) = shard.room("tea", 1);
    shard.rooms.get_mut(slot).backlog_bytes_max = 0;
    let frame = Bytes::from(vec![0; FLUSH_BYTES_WAITING / 4]);
    shard.publish_frame(&tea, &frame);
    assert_eq!(shard.visit(1), Some(1));
    for _ in 0..3 {
        shard.publish_frame(&tea, &frame);
        shard.rooms.cut_back();
    }
    assert_eq!((shard.rooms.queued_rooms(), shard.rooms.log(slot).first_seq() <= 2), (0, true));
    shard.publish_frame(&tea, &frame);
    assert_eq!((shard.rooms.queued_rooms(), shard.rooms.next_due()), (1, None));
    assert_eq!(shard.visit(1), Some(4));
    shard.rooms.cut_back();
    assert_eq!(shard.rooms.log(slot).first_seq(), 5, "its members have been visited: only the newest one stays");
    assert!(!tea.is_behind());
}

#[test]
fn a_room_that_is_told_of_a_loss_and_one_that_is_gone_wait_no_longer() {
    let mut shard = Shard::at(Pace::Every(20 * MS));
    let rooms = ["tea", "milk"].map(|name| shard.room(name, 1));
    for (room, _) in &rooms {
        shard.publish(room);
        shard.visit(1);
        shard.publish(room);
    }
    assert_eq!(shard.rooms.queued_rooms(), 0);
    shard.rooms.lose(&Lost { room: rooms[0].0.id(), last_seq: 9 });
    assert_eq!(shard.rooms.queued_rooms(), 1);
    assert_eq!(shard.visit(1), Some(8));
    shard.forget(rooms[1].1, 1);
    assert_eq!(shard.rooms.next_due(), None);
}

#[test]
fn in_a_hurry_no_room_waits() {
    let mut shard = Shard::at(Pace::Every(20 * MS));
    let (tea, _) = shard.room("tea", 1);
    shard.publish(&tea);
    shard.visit(1);
    shard.publish(&tea);
    assert_eq!((shard.rooms.hurry(true), shard.rooms.queued_rooms(), shard.rooms.next_due()), (true, 1, None));
    shard.visit(1);
    shard.publish(&tea);
    assert_eq!((shard.rooms.hurry(true), shard.rooms.queued_rooms()), (false, 1));
    shard.visit(1);
    assert!(!shard.rooms.hurry(false));
    shard.publish(&tea);
    assert_eq!((shard.rooms.queued_rooms(), shard.rooms.next_due()), (0, Some(shard.now + 20 * MS)));
}

#[test]
fn all_rooms_together_let_a_bounded_number_of_bytes_wait() {
    let mut shard = Shard::at(Pace::Every(20 * MS));
    let frame = Bytes::from(vec![0; FLUSH_BYTES_WAITING / 2]);
    let rooms = FLUSH_BYTES_WAITING_OF_SHARD as usize / frame.len();
    let rooms: Vec<_> = (0..rooms).map(|number| shard.room(&number.to_string(), 1)).collect();
    for (room, _) in &rooms {
        shard.publish(room);
        shard.visit(1);
    }
    rooms.iter().for_each(|(room, _)| shard.publish_frame(room, &frame));
    // With their overhead they are a little too much.
    assert_eq!(shard.rooms.queued_rooms(), 1);
    shard.visit(1);
    shard.forget(rooms[0].1, 1);
    shard.publish_frame(&rooms.last().unwrap().0, &frame);
    assert_eq!(shard.rooms.queued_rooms(), 0, "there is room for it again");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the times between messages are: the first one leaves at once if the room was quiet, none waits for longer than
    /// the interval, and no two fan-outs are closer than that.
    #[test]
    fn messages_leave_at_the_pace_of_their_room(
        interval in 1..50u32,
        pauses in proptest::collection::vec(prop_oneof![0..5u32, 0..100u32], 1..60),
        members in 1..5u32,
    ) {
        let interval = MS * interval;
        let mut shard = Shard::at(Pace::Every(interval));
        let (tea, _) = shard.room("tea", members);
        let (mut waiting, mut last_began, mut arrived) = (Vec::<Instant>::new(), None::<Instant>, 0);
        let mut times: VecDeque<_> = pauses.iter().scan(shard.now, |at, pause| {
            *at += MS * *pause;
            Some(*at)
        }).collect();
        while !times.is_empty() || !waiting.is_empty() {
            let due = shard.rooms.next_due();
            prop_assert_eq!(due.is_some(), !waiting.is_empty(), "exactly a room with messages waits");
            if let Some(at) = times.front().copied().filter(|at| due.is_none_or(|due| *at < due)) {
                times.pop_front();
                shard.now = at;
                shard.publish(&tea);
                waiting.push(at);
                arrived += 1;
            } else {
                shard.now = due.unwrap();
                shard.rooms.queue_due(shard.now);
            }
            let was_quiet = last_began.is_none_or(|began| shard.now >= began + interval);
            prop_assert_eq!(shard.rooms.queued_rooms(), usize::from(was_quiet));
            if was_quiet {
                let messages = waiting.len() as u64;
                prop_assert!(waiting.drain(..).all(|since| shard.now - since <= interval));
                prop_assert_eq!(shard.visit(members as usize), Some(messages));
                last_began = Some(shard.now);
            }
        }
        prop_assert_eq!(arrived, pauses.len());
    }
}
