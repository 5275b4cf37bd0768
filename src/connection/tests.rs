//! What a connection gives to the kernel, reassembled the way the peer receives it, no matter how much the kernel takes of each
//! send: complete frames, each once, in the order of its room, and every loss reported in its place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::clock::Time;
use crate::counters::{Counters, Readings, counters};
use crate::limits::{LEAVE_BYTES_MAX, SETTLE_BYTES_MAX};
use crate::os;
use crate::protocol::MemberId;
use crate::protocol::resume::ResumeKey;
use crate::protocol::{Encoding, Namespace};
use crate::rate::RateLimit;
use crate::room::inbox::{self, Relay};
use crate::room::pace::{Pace, Work};
use crate::room::registry::Registry;
use crate::room::replay::ReplayBounds;
use crate::room::{Joining, Room, Wakes};

const ROOMS: usize = 3;

/// The frames of this test: a kind, two numbers, and filler of the given length. A connection never looks inside.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Frame {
    /// A message: its room, and its `Seq`.
    Room(usize, u64),
    Reply(u64),
    Pong(u64),
    /// A gap in a room, from one `Seq` to before another.
    Gap(usize, u64, u64),
    /// The notice that it has left a room.
    Left(usize),
    Close,
}

fn filler(kind: u8, room: usize, number: u64, len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(move |at| (at as u64 * 31 + number * 7 + room as u64 * 3) as u8 ^ kind)
}

fn encode(frame: &Frame, len: usize) -> Bytes {
    let (kind, room, number, other) = match *frame {
        Frame::Room(room, seq) => (0, room, seq, 0),
        Frame::Reply(number) => (1, 0, number, 0),
        Frame::Pong(number) => (2, 0, number, 0),
        Frame::Gap(room, from, to) => (3, room, from, to),
        Frame::Left(room) => (4, room, 0, 0),
        Frame::Close => (5, 0, 0, 0),
    };
    let mut bytes = vec![kind, room as u8];
    bytes.extend(number.to_be_bytes());
    bytes.extend(other.to_be_bytes());
    bytes.extend((len as u32).to_be_bytes());
    bytes.extend(filler(kind, room, number, len));
    bytes.into()
}

fn decode(bytes: &[u8]) -> Vec<Frame> {
    let (frames, rest) = decode_whole(bytes);
    assert!(rest.is_empty(), "the stream ends in the middle of a frame");
    frames
}

/// The complete frames, and the bytes after them.
fn decode_whole(mut bytes: &[u8]) -> (Vec<Frame>, &[u8]) {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<22>() {
        let (kind, room) = (header[0], usize::from(header[1]));
        let [number, other] = [2, 10].map(|at| u64::from_be_bytes(header[at..at + 8].try_into().unwrap()));
        let len = u32::from_be_bytes(header[18..].try_into().unwrap()) as usize;
        if rest.len() < len {
            break;
        }
        assert!(
            filler(kind, room, number, len).eq(rest[..len].iter().copied()),
            "a frame contains bytes of another one"
        );
        bytes = &rest[len..];
        frames.push(match kind {
            0 => Frame::Room(room, number),
            1 => Frame::Reply(number),
            2 => Frame::Pong(number),
            3 => Frame::Gap(room, number, other),
            4 => Frame::Left(room),
            5 => Frame::Close,
            other => panic!("no frame begins with {other}: {frames:?}"),
        });
    }
    (frames, bytes)
}

#[derive(Clone, Debug)]
enum Step {
    /// Messages in a room: how many, how large, and whether they are the connection's own.
    Publish {
        room: usize,
        count: usize,
        len: usize,
        own: bool,
    },
    Reply {
        len: usize,
    },
    Pong,
    Join(usize),
    Leave(usize),
    /// Cut the room's log back to this many bytes.
    CutBack {
        room: usize,
        bytes_max: usize,
    },
    Send,
    /// The send in flight completes, with this many thousandths taken.
    Sent {
        taken: usize,
    },
    Writable,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let room = 0..ROOMS;
    let len = prop_oneof![6 => 0..300usize, 2 => 300..5000usize, 1 => 16_000..40_000usize];
    prop_oneof![
        50 => (room.clone(), 1..20usize, len.clone(), any::<bool>()).prop_map(|(room, count, len, own)| {
            Step::Publish { room, count: if len > 5000 { 1 } else { count }, len, own }
        }),
        15 => len.prop_map(|len| Step::Reply { len: len / 20 }),
        10 => Just(Step::Pong),
        10 => room.clone().prop_map(Step::Join),
        8 => room.clone().prop_map(Step::Leave),
        5 => (room, prop_oneof![0..3000usize, 3000..100_000usize])
            .prop_map(|(room, bytes_max)| Step::CutBack { room, bytes_max }),
        60 => Just(Step::Send),
        60 => prop_oneof![Just(0usize), Just(1000), 0..1000usize].prop_map(|taken| Step::Sent { taken }),
        30 => Just(Step::Writable),
        1 => Just(Step::Close),
    ]
}

/// A connection, its rooms, and a kernel that takes as much as it likes.
struct Bench {
    connection: Connection,
    rooms: LocalRooms,
    shared: Vec<Arc<Room>>,
    slots: Vec<u32>,
    in_flight: Option<Slices>,
    /// What the peer has received.
    output: Vec<u8>,
    /// What the peer has to receive, by room: messages that are not its own, and leaves.
    owed: Vec<Vec<Owed>>,
    replies: u64,
    pongs: u64,
    lossy: bool,
    too_slow: bool,
    full: bool,
    counters: (Counters, Readings),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    Message(u64),
    Left,
}

impl Bench {
    fn new(role: Role) -> Self {
        Self::at(role, Pace::AtOnce)
    }

    fn at(role: Role, pace: Pace) -> Self {
        let lossy = !matches!(role, Role::Raw { lossy: false, .. });
        let bucket = Bucket::new(&RateLimit::OFF, 0);
        let connection = Connection::new(1, -1, role, None, bucket);
        let inboxes = inbox::inboxes([os::new_eventfd().unwrap()], 1 << 30);
        let registry = Registry::new(inboxes, 1, ResumeKey::new(0, [1, 2]), ReplayBounds::OFF);
        let mut rooms = LocalRooms::default();
        let (mut shared, mut slots) = (Vec::new(), Vec::new());
        for name in 0..ROOMS {
            let member = MemberId { shard: 0, slot: 99, serial: 0 };
            let joined = registry.join(
                Namespace::Raw,
                &Name::room(&name.to_string()).unwrap(),
                &Joining::new(None, member),
                Time::default(),
                &mut Wakes::default(),
            );
            let joined = joined.unwrap();
            slots.push(rooms.join(&joined.room, Encoding::Frames, joined.entered.first_seq, 1 << 20, pace));
            shared.push(joined.room);
        }
        let mut bench = Self {
            connection,
            rooms,
            shared,
            slots,
            in_flight: None,
            output: Vec::new(),
            owed: vec![Vec::new(); ROOMS],
            replies: 0,
            pongs: 0,
            lossy,
            too_slow: false,
            full: false,
            counters: counters(),
        };
        bench.join(0);
        bench
    }

    fn is_member(&self, room: usize) -> bool {
        self.connection.memberships.iter().any(|membership| membership.room == self.slots[room])
    }

    fn is_chat(&self) -> bool {
        matches!(self.connection.role, Role::V0 { .. })
    }

    fn join(&mut self, room: usize) {
        if !self.is_member(room) && self.connection.life.is_open() {
            let cursor = self.rooms.log(self.slots[room]).tip();
            self.connection.memberships.push(Membership {
                room: self.slots[room],
                index: 0,
                cursor,
                joined_seq: cursor,
            });
        }
    }

    fn reply(&mut self, frame: &Frame, len: usize) {
        if self.connection.life.is_open() {
            self.connection.settle(&self.rooms, SETTLE_BYTES_MAX);
            if !self.connection.reply(encode(frame, len)) {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        if self.connection.life.is_open() {
            self.connection.settle(&self.rooms, SETTLE_BYTES_MAX);
            self.connection.queue_close(encode(&Frame::Close, 2));
            self.connection.life.close(false);
            self.slots.iter().for_each(|room| self.connection.left(*room, &self.rooms));
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { room, count, len, own } => {
                for _ in 0..count {
                    let log = self.rooms.log(self.slots[room]);
                    let seq = log.tip();
                    let frame = encode(&Frame::Room(room, seq), len);
                    let member = self.is_member(room) && self.connection.life.is_open();
                    if member && own && matches!(self.connection.role, Role::Raw { echo: false, .. }) {
                        self.connection.skip_own(seq, self.rooms.get(self.slots[room]));
                    } else if member {
                        self.owed[room].push(Owed::Message(seq));
                    }
                    let relay =
                        Relay { room: self.shared[room].id(), epoch: 1, seq, frame, deflated: None, received: None };
                    self.rooms.append(&relay, Instant::now());
                }
            }
            Step::Reply { len } if self.is_chat() && self.connection.life.is_open() => {
                self.replies += 1;
                self.reply(&Frame::Reply(self.replies), len);
            }
            Step::Pong if self.connection.life.is_open() => {
                self.pongs += 1;
                self.connection.pong(encode(&Frame::Pong(self.pongs), 5));
            }
            Step::Join(room) if self.is_chat() => self.join(room),
            Step::Leave(room) if self.is_chat() && self.is_member(room) => {
                let slot = self.slots[room];
                let lost = self.connection.settle_last(slot, &self.rooms, LEAVE_BYTES_MAX);
                self.connection.left(slot, &self.rooms);
                if let Some(Gap { first, last, .. }) = lost {
                    self.reply(&Frame::Gap(room, first, last + 1), 0);
                }
                self.reply(&Frame::Left(room), 0);
                self.owed[room].push(Owed::Left);
            }
            Step::CutBack { room, bytes_max } => {
                self.rooms.get_mut(self.slots[room]).log.cut_back(bytes_max);
            }
            Step::Send => self.send(),
            Step::Sent { taken } => self.sent(taken),
            Step::Writable => self.writable(),
            Step::Close => self.close(),
            _ => {}
        }
    }

    fn writable(&mut self) {
        if std::mem::take(&mut self.full) {
            self.connection.life.writable();
        }
    }

    fn send(&mut self) {
        if !self.connection.life.may_send() {
            return;
        }
        let mut gaps = Vec::new();
        match self.connection.next_send(&self.rooms, &mut gaps, Instant::now()) {
            Next::Send(slices) => {
                assert!(!slices.is_empty());
                self.connection.life.send();
                self.in_flight = Some(slices);
            }
            Next::Nothing => {}
            Next::TooSlow => {
                assert!(!self.lossy && gaps.is_empty());
                self.too_slow = true;
                self.close();
            }
        }
        for gap in gaps {
            let room = self.slots.iter().position(|slot| *slot == gap.room).unwrap();
            if self.is_chat() && !self.connection.reply(encode(&Frame::Gap(room, gap.first, gap.last + 1), 0)) {
                self.close();
            }
        }
    }

    fn sent(&mut self, taken: usize) {
        let Some(slices) = self.in_flight.take() else { return };
        self.connection.life.sent();
        let all = match &slices {
            Slices::One(slice) => slice.clone().detached().to_vec(),
            Slices::Many(slices) => slices.iter().flat_map(|slice| slice.clone().detached().to_vec()).collect(),
        };
        let count = if taken == 1000 { all.len() } else { (all.len() - 1) * taken / 1000 };
        self.output.extend(&all[..count]);
        let sent = self.connection.sent(slices, count, &self.rooms);
        self.rooms.deliveries.report(&self.counters.0);
        assert!(
            self.counters.1.deliveries.get() <= self.whole_room_frames(),
            "frames that have not left are not counted as delivered"
        );
        match sent {
            Sent::Full => {
                assert!(count < all.len());
                self.full = true;
                self.connection.life.await_writable();
            }
            Sent::Whole => assert_eq!(count, all.len()),
            Sent::Closed => self.connection.life.end(),
        }
    }

    /// Room frames that the kernel has taken completely.
    fn whole_room_frames(&self) -> u64 {
        let frames = decode_whole(&self.output).0;
        frames.iter().filter(|frame| matches!(frame, Frame::Room(..))).count() as u64
    }

    /// Sends everything that is left, and compares.
    fn finish(mut self) {
        let mut idle = 0;
        while idle < 3 {
            self.writable();
            self.send();
            let something = self.in_flight.is_some() || self.connection.has_pending(&self.rooms);
            idle = if something && !self.connection.life.is_ended() { 0 } else { idle + 1 };
            self.sent(1000);
        }
        let closed = !self.connection.life.is_open();
        assert!(closed || self.connection.outbox.is_none(), "with nothing to send, there is no outbox");
        let frames = decode(&self.output);
        let close_at = frames.iter().position(|frame| *frame == Frame::Close);
        assert!(close_at.is_none_or(|at| at == frames.len() - 1), "nothing follows a Close");
        assert_eq!(close_at.is_some(), closed);
        let numbers = |number: fn(&Frame) -> Option<u64>| frames.iter().filter_map(number).collect::<Vec<_>>();
        let replies = numbers(|frame| if let Frame::Reply(number) = frame { Some(*number) } else { None });
        let all: Vec<_> = (1..=self.replies).collect();
        assert!(if closed { all.starts_with(&replies) } else { all == replies }, "{replies:?} of {}", self.replies);
        let pongs = numbers(|frame| if let Frame::Pong(number) = frame { Some(*number) } else { None });
        assert!(pongs.is_sorted());
        assert_eq!(pongs.last().copied().unwrap_or(0), self.pongs, "the last ping is answered");
        assert_eq!(self.counters.1.deliveries.get(), self.whole_room_frames());
        for room in 0..ROOMS {
            self.compare_room(room, &frames, closed);
        }
    }

    /// Everything owed arrives, in order, or there is a gap in its place.
    fn compare_room(&self, room: usize, frames: &[Frame], closed: bool) {
        let mut owed: VecDeque<_> = self.owed[room].iter().copied().collect();
        for frame in frames {
            match *frame {
                Frame::Room(of, seq) if of == room => {
                    if self.lossy && !self.is_chat() {
                        // A lossy connection is not told about gaps.
                        while owed.front().is_some_and(|owed| *owed != Owed::Message(seq)) {
                            owed.pop_front();
                        }
                    }
                    assert_eq!(owed.pop_front(), Some(Owed::Message(seq)), "room {room}: {frames:?}");
                }
                Frame::Gap(of, from, to) if of == room => {
                    for seq in from..to {
                        assert_eq!(owed.pop_front(), Some(Owed::Message(seq)), "a gap {from}..{to} in room {room}");
                    }
                }
                Frame::Left(of) if of == room => {
                    assert_eq!(owed.pop_front(), Some(Owed::Left), "room {room}: {frames:?}");
                }
                _ => {}
            }
        }
        if !closed && self.is_chat() {
            assert_eq!(owed, [], "room {room} still owes");
        }
        if !closed && !self.lossy {
            assert_eq!(owed, [], "room {room} still owes");
        }
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![3 => Just(Kind::Chat), 1 => Just(Kind::Raw), 1 => Just(Kind::RawNoEcho), 1 => Just(Kind::RawLossy)]
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Chat,
    Raw,
    RawNoEcho,
    RawLossy,
}

impl From<Kind> for Role {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Chat => Self::V0 { user: Name::user("ann").unwrap() },
            Kind::Raw => Self::Raw { echo: true, lossy: false },
            Kind::RawNoEcho => Self::Raw { echo: false, lossy: false },
            Kind::RawLossy => Self::Raw { echo: false, lossy: true },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_peer_receives_everything_that_it_is_owed(kind in kind(), steps in prop::collection::vec(step(), 1..120)) {
        let mut bench = Bench::new(kind.into());
        steps.iter().for_each(|step| bench.step(step));
        bench.finish();
    }
}

#[test]
fn what_waits_for_the_next_round_of_a_room_is_nothing_to_send_now() {
    let mut bench = Bench::at(Role::Raw { echo: true, lossy: true }, Pace::Every(Duration::from_secs(60)));
    let publish = Step::Publish { room: 0, count: 1, len: 10, own: false };
    bench.step(&publish);
    bench.rooms.begin_visits(true, Instant::now());
    bench.rooms.end_visits(Work::default(), Instant::now());
    assert!(bench.connection.has_pending(&bench.rooms), "a round has begun for it");
    bench.step(&Step::Send);
    bench.step(&publish);
    bench.step(&Step::Sent { taken: 1000 });
    assert!(!bench.connection.has_pending(&bench.rooms));
    bench.step(&Step::Pong);
    bench.step(&Step::Send);
    bench.step(&Step::Sent { taken: 1000 });
    assert_eq!(decode(&bench.output), [Frame::Room(0, 1), Frame::Pong(1), Frame::Room(0, 2)]);
}

#[test]
fn messages_in_two_chunks_of_a_log_leave_in_one_send() {
    let mut bench = Bench::new(Role::Raw { echo: true, lossy: true });
    bench.step(&Step::Publish { room: 0, count: 3, len: 400, own: false });
    bench.step(&Step::Send);
    assert!(matches!(&bench.in_flight, Some(Slices::Many(slices)) if slices.len() == 2), "{:?}", bench.in_flight);
    bench.step(&Step::Sent { taken: 1000 });
    assert_eq!(decode(&bench.output), [1, 2, 3].map(|seq| Frame::Room(0, seq)));
}

#[test]
fn what_is_in_flight_is_needed_until_the_kernel_has_taken_it() {
    let mut bench = Bench::new(Role::Raw { echo: true, lossy: true });
    let room = bench.connection.memberships[0].room;
    bench.step(&Step::Publish { room: 0, count: 3, len: 400, own: false });
    let mut needed = vec![bench.connection.needs_from(room)];
    for step in [Step::Send, Step::Sent { taken: 0 }, Step::Writable, Step::Send, Step::Sent { taken: 1000 }] {
        bench.step(&step);
        needed.push(bench.connection.needs_from(room));
    }
    assert_eq!(needed, [1, 1, 1, 1, 1, 4].map(Some));
}
