//! A client: it connects, speaks one of the dialects, reads at its own pace, goes away in every way there is, and comes back
//! with what it remembers. It checks everything that it gets.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hi::protocol::position::Since;

use crate::network::{Found, LinkId, Sizes};
use crate::plan::{COMPRESSION, LATEST, RAW_ROOMS, ROOMS};
use crate::scene::Scene;
use crate::seen::Seen;
use crate::server::{Kind, Request};
use crate::trace::digest;
use crate::wire::{self, Reader};

mod acts;
mod chat;
mod raw;
mod v0;
mod v1;

pub use v1::Asked;

/// Bytes that wait to leave a client before it says nothing more of its own.
const OUT_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a message that the trace shows.
const SHOWN_BYTES: usize = 100;

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// All that is there.
    All,
    /// Some of it.
    Some,
    /// A few bytes, seldom.
    Little,
    /// It reads nothing.
    Nothing,
}

/// What a client has of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The room's epoch.
    pub epoch: u64,
    /// `Seq` of the last message that it has, or was told that it lost.
    pub seq: u64,
}

/// A room that a client is in.
#[derive(Debug, Default)]
pub struct Membership {
    /// The room's epoch, once it is known.
    pub epoch: Option<u64>,
    /// `Seq` that has to come next, once it is known.
    pub next: Option<u64>,
    /// Epoch and `Seq` of the room's last message when the client came in, where it isn't told: it begins with that one (its
    /// own welcome), or with the next.
    pub began: Option<(u64, u64)>,
    /// The largest `Seq` of its own that was acknowledged.
    pub acknowledged: u64,
    /// Raw: what has come and was not compared yet.
    pub unplaced: VecDeque<Bytes>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It does not.
    Open,
    /// The client has sent a Close, or ended its direction, and waits.
    Leaving,
    /// The server has sent a Close with this code.
    Closed(u16),
}

/// The connection of a client.
#[derive(Debug)]
pub struct Connection {
    /// Its link.
    pub link: LinkId,
    reader: Reader,
    deflates: bool,
    /// Whether the head of the answer has come.
    began: bool,
    /// v1: whether `hello` has come. SSE: whether it knows where it stands.
    greeted: bool,
    out: BytesMut,
    /// The rooms that it is in.
    pub rooms: BTreeMap<&'static str, Membership>,
    /// v1: what was asked and not answered.
    pub asked: BTreeMap<u64, Asked>,
    /// v0: the rooms that it wants to join or leave.
    pending: BTreeMap<&'static str, v0::Pending>,
    next_ref: u64,
    /// In front of all that it says.
    tag: String,
    said: u64,
    end: End,
    /// Whether it has broken a rule: then it may be closed for that.
    misbehaves: bool,
    /// SSE: what it asked for.
    since: Option<Since>,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    /// Its user, in chat.
    pub user: String,
    /// How it speaks.
    pub kind: Kind,
    /// How it reads.
    pub pace: Pace,
    answers_pings: bool,
    /// Whether it agrees on compression.
    deflates: bool,
    /// Raw: whether it skips to the newest message, and the interval that it asks for.
    latest: Option<Duration>,
    /// Its connection, if it has one.
    pub connection: Option<Connection>,
    /// What it remembers of rooms.
    left: BTreeMap<&'static str, Position>,
    resume: Option<String>,
    connections: u32,
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(number: usize, scene: &Scene) -> Self {
        let random = &scene.random;
        let raw = || Kind::Raw { echo: random.one_in(2), lossy: random.one_in(3) };
        let kind = match random.below(10) {
            0..2 => Kind::V0,
            2..6 => Kind::V1,
            6..8 => raw(),
            _ => Kind::Sse,
        };
        let slow = random.one_in(scene.plan.slow_one_in);
        let pace = match slow {
            true => random.pick(&[Pace::Some, Pace::Little, Pace::Nothing]),
            false => random.pick(&[Pace::All, Pace::Some]),
        };
        let deflates = scene.plan.config.compression && kind != Kind::Sse && random.aside(COMPRESSION).one_in(2);
        let aside = random.aside(LATEST);
        let is_latest = matches!(kind, Kind::Raw { lossy: true, .. }) && aside.one_in(2);
        let latest = is_latest.then(|| aside.pick(&[Duration::ZERO, Duration::from_secs(1)]));
        Self {
            user: format!("u{number}"),
            kind,
            pace,
            // One that skips would get nothing more.
            answers_pings: !slow || random.one_in(2) || is_latest,
            deflates,
            latest,
            connection: None,
            left: BTreeMap::new(),
            resume: None,
            connections: 0,
        }
    }

    /// Opens a connection, with what it remembers.
    pub fn connect(&mut self, scene: &Scene) {
        let random = &scene.random;
        let size = || random.pick(&[512, 4096, 16 * 1024, 64 * 1024]);
        let sizes = Sizes { up: (size(), size()), down: (size(), size()) };
        let link = scene.shared.network.borrow_mut().connect(sizes, self.kind == Kind::Sse);
        let room = match self.kind {
            Kind::V1 => random.one_in(4).then(|| random.pick(&ROOMS)),
            Kind::V0 | Kind::Sse => Some(random.pick(&ROOMS)),
            Kind::Raw { .. } => Some(random.pick(&RAW_ROOMS)),
        };
        let resume = self.resume.take().filter(|_| random.below(4) > 0);
        let position = room.and_then(|room| self.left.get(room)).filter(|_| self.kind == Kind::Sse);
        let since = position.filter(|_| !random.one_in(4)).map(|at| Since { epoch: Some(at.epoch), seq: at.seq });
        let speaks_frames = self.kind != Kind::Sse;
        let leftover = if speaks_frames && random.one_in(4) {
            wire::frame(random, true, wire::PING, b"first")
        } else {
            Vec::new()
        };
        let shard = random.below(scene.server.shards());
        self.connections += 1;
        scene.saw(Seen::Connection);
        scene.trace.note(format_args!(
            "{} connects to shard {shard} by link {link}: {:?} {room:?} {since:?} {sizes:?}",
            self.user, self.kind
        ));
        let (kind, resume, leftover) = (self.kind, resume.as_ref(), &leftover[..]);
        let request = Request {
            kind,
            latest: self.latest,
            user: &self.user,
            room,
            resume,
            since,
            deflates: self.deflates,
            leftover,
        };
        scene.server.adopt(shard, link, request);
        let mut connection = Connection {
            link,
            reader: Reader::new(self.deflates),
            deflates: self.deflates,
            began: false,
            greeted: false,
            out: BytesMut::new(),
            rooms: BTreeMap::new(),
            asked: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_ref: 0,
            tag: format!("{}.{}", self.user, self.connections),
            said: 0,
            end: End::Open,
            misbehaves: false,
            since,
        };
        if let Some(room) = room {
            let began = scene.server.room(self.kind.namespace(), room).map(|room| (room.epoch(), room.last_seq()));
            let raw = matches!(self.kind, Kind::Raw { .. });
            let next = began.filter(|_| raw).map(|(_, last)| last + 1);
            connection.rooms.insert(room, Membership { began, next, ..Membership::default() });
        }
        self.connection = Some(connection);
    }

    /// The connection is gone, for this client at least. What it has of its rooms it remembers.
    pub fn forget(&mut self, scene: &Scene) {
        let Some(mut connection) = self.connection.take() else { return };
        for (room, membership) in &mut connection.rooms {
            if let (Some(epoch), Some(next)) = (membership.epoch, membership.next) {
                self.left.insert(room, Position { epoch, seq: next - 1 });
            }
            if let Kind::Raw { echo, lossy } = self.kind {
                membership.place(scene, room, &connection.tag, echo, lossy);
            }
        }
    }

    /// Reads as its pace says; true if anything came.
    pub fn read(&mut self, scene: &Scene) -> bool {
        let random = &scene.random;
        let max = match self.pace {
            Pace::All => usize::MAX,
            Pace::Some => random.between(1, 20_000),
            Pace::Little if random.one_in(8) => random.between(1, 100),
            Pace::Little | Pace::Nothing => return false,
        };
        self.read_at_most(scene, max)
    }

    /// Reads everything that is there, whatever its pace; true if anything came.
    pub fn read_all(&mut self, scene: &Scene) -> bool {
        self.read_at_most(scene, usize::MAX)
    }

    fn read_at_most(&mut self, scene: &Scene, max: usize) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let found = scene.shared.network.borrow_mut().client_reads(connection.link, max);
        match found {
            Found::Nothing => false,
            Found::Bytes(bytes) => {
                scene.trace.note(format_args!("{} reads {} bytes, {:x}", self.user, bytes.len(), digest(&bytes)));
                connection.reader.push(&bytes);
                self.understand(scene);
                true
            }
            end => {
                scene.trace.note(format_args!("{} finds {end:?}", self.user));
                self.close(scene, end == Found::Reset);
                true
            }
        }
    }

    /// Closes its socket and forgets the connection.
    pub fn close(&mut self, scene: &Scene, with_reset: bool) {
        if let Some(connection) = &self.connection {
            scene.shared.network.borrow_mut().client_closes(connection.link, with_reset);
        }
        self.forget(scene);
    }

    fn understand(&mut self, scene: &Scene) {
        while let Some(connection) = &mut self.connection {
            if !connection.began {
                if connection.reader.head().is_none() {
                    return;
                }
                connection.began = true;
            }
            if self.kind == Kind::Sse {
                let Some(event) = connection.reader.event() else { return };
                self.hear_event(scene, &event);
                continue;
            }
            let Some(frame) = connection.reader.frame() else { return };
            if frame.was_deflated {
                scene.saw(Seen::Deflated);
            }
            self.hear_frame(scene, frame.opcode, &frame.payload);
        }
    }

    fn hear_frame(&mut self, scene: &Scene, opcode: u8, payload: &Bytes) {
        let Some(connection) = &mut self.connection else { return };
        let shown = payload[..payload.len().min(SHOWN_BYTES)].escape_ascii();
        scene.trace.note(format_args!("{} hears {opcode}: {} bytes, {shown}", self.user, payload.len()));
        assert!(!matches!(connection.end, End::Closed(_)), "{}: nothing follows a Close", self.user);
        match opcode {
            wire::PING if self.answers_pings => {
                let pong = wire::frame(&scene.random, true, wire::PONG, payload);
                connection.out.extend_from_slice(&pong);
            }
            wire::PING | wire::PONG => {}
            wire::CLOSE => self.closed(scene, payload),
            wire::TEXT | wire::BINARY => match self.kind {
                Kind::Raw { .. } => self.hear_raw(scene, payload),
                Kind::V0 => self.hear_v0(scene, payload),
                Kind::V1 => self.hear_v1(scene, payload),
                Kind::Sse => unreachable!("it gets events"),
            },
            other => panic!("{}: opcode {other}", self.user),
        }
    }

    /// The server closes: for a reason that there is.
    fn closed(&mut self, scene: &Scene, payload: &[u8]) {
        let Some(connection) = &mut self.connection else { return };
        let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
        let plan = &scene.plan;
        let is_raw = matches!(self.kind, Kind::Raw { .. });
        let is_expected = match code {
            1000 | 1005 => connection.end == End::Leaving,
            1001 | 1012 => scene.stopping.get() > 0,
            1008 => is_raw || scene.disconnected.borrow().contains(&self.user),
            1013 => plan.memory_bytes_max != usize::MAX,
            4002 => !is_raw,
            4003 => self.kind == Kind::V1,
            4101 => true,
            4102 => plan.rate_limit_of(is_raw) > 0,
            _ => false,
        };
        assert!(
            is_expected || connection.misbehaves,
            "{} is closed with {code} {:?}",
            self.user,
            &payload[2.min(payload.len())..]
        );
        scene.saw(Seen::Closed);
        if code == 4101 {
            scene.saw(Seen::TooSlow);
        }
        scene.trace.note(format_args!("{} is closed with {code}", self.user));
        if connection.end == End::Open {
            let answer = wire::frame(&scene.random, true, wire::CLOSE, &payload[..payload.len().min(2)]);
            connection.out.extend_from_slice(&answer);
        }
        connection.end = End::Closed(code);
    }

    /// Gives the network what waits to leave; true if it took anything.
    pub fn write(&mut self, scene: &Scene) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        if connection.out.is_empty() {
            return false;
        }
        let count = scene.shared.network.borrow_mut().client_sends(connection.link, &connection.out);
        connection.out.advance(count);
        count > 0
    }
}
