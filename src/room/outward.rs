//! What rooms hand to the log that several servers share, which gives messages their numbers: the rooms' side of the queue.
//!
//! Nothing here is used by a server that has its rooms for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Room;
use super::inbox::{Found, Inbox, Outcome, Unavailable};
use super::sequencer::Unplaced;
use crate::limits::{OUTWARD_BYTES_HELD, OUTWARD_OVERHEAD_BYTES, SHARED_MESSAGE_BYTES_MAX};
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::protocol::resume::Predecessor;
use crate::protocol::{MemberId, Namespace};

/// Which thread waits for what becomes of a message.
#[derive(Debug)]
pub enum Asker {
    /// This shard.
    Shard(u32),
    /// Whoever holds the other end.
    Outside(oneshot::Sender<Outcome>),
}

/// A message that has to get its number.
#[derive(Debug)]
pub struct Submission {
    /// The room that it is for.
    pub room: Arc<Room>,
    /// The message.
    pub(super) message: Unplaced,
    /// Which thread waits for the answer.
    pub asker: Asker,
}

impl Submission {
    /// The message, and which thread waits.
    pub fn into_parts(self) -> (Content, Asker) {
        match self.message {
            Unplaced::Message(message) => (Content::Json(message.into_json()), self.asker),
            Unplaced::Frame(frame) => (Content::Frame(frame), self.asker),
        }
    }
}

/// What a message is on its way through the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// That of a chat room: JSON without its end (see [`crate::protocol::broadcast::Unnumbered::into_json`]).
    Json(String),
    /// That of a raw room: a whole frame.
    Frame(Bytes),
}

impl Content {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(json) => json.len(),
            Self::Frame(frame) => frame.len(),
        }
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// That of a record which is not shown, and tells how the room's name is written.
    pub fn name_only(room: &Name) -> Self {
        let name = serde_json::to_string(room.as_str()).expect("a name is JSON");
        Self::Json(format!("{{\"Room\":{name}"))
    }

    /// The room's name, as it is written in a message of a chat room.
    pub fn room(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Named {
            room: String,
        }
        let Self::Json(json) = self else { return None };
        serde_json::from_str(&format!("{json}}}")).ok().map(|Named { room }| room)
    }
}

/// What looks for a room that has no members here.
#[derive(Debug)]
pub enum Finder {
    /// A connection, whose shard gets [`Order::Found`](super::inbox::Order::Found).
    Member(Joiner),
    /// Whoever holds the other end.
    Outside(oneshot::Sender<Found>),
}

/// A connection that wants to join a room, or asks for one that it is not in.
#[derive(Clone, Debug)]
pub struct Joiner {
    /// The connection.
    pub member: MemberId,
    /// The name that it needs there; none in raw rooms and for listeners.
    pub user: Option<Name>,
    /// The lost connection whose name it may take over.
    pub predecessor: Option<Predecessor>,
    /// The last message that it has seen, perhaps on another server.
    pub since: Option<Since>,
}

/// Something that the thread of the log is asked for.
#[derive(Debug)]
pub enum Outbound {
    /// Publish a message, under this number.
    Publish(u64, Submission),
    /// Load a room that a connection wants to join.
    Open {
        /// The kind of room.
        namespace: Namespace,
        /// Its name.
        name: Name,
        /// The connection, whose shard gets [`Order::Opened`](super::inbox::Order::Opened).
        joiner: Joiner,
    },
    /// Find a room that may have members on other servers only.
    Find {
        /// The kind of room.
        namespace: Namespace,
        /// Its name.
        name: Name,
        /// Gets the room, loaded, if there is one.
        finder: Finder,
    },
    /// Close the connections of a user on all other servers.
    Disconnect {
        /// The user.
        user: Name,
        /// If given, only connections in this chat room are closed.
        room: Option<Name>,
        /// The reason that the clients are told.
        reason: Arc<str>,
        /// Gets the number of closed connections, or that of the servers that have not answered.
        closed: oneshot::Sender<Result<usize, usize>>,
    },
    /// Close a connection of another server, whose user has reconnected here.
    TakeOver {
        /// The other server.
        node: u64,
        /// The connection there.
        member: MemberId,
        /// The user that it has to belong to.
        user: Name,
    },
    /// Say when everything before this has been told to the other servers.
    Finish(std_mpsc::Sender<()>),
    /// A member has left: its name is free again.
    Release {
        /// The room.
        room: Name,
        /// The name.
        user: Name,
        /// The member.
        member: MemberId,
        /// Whether it was announced that it leaves, if anybody knew that it was there.
        is_told: bool,
    },
}

/// The way to the thread of the log; shared by all rooms.
#[derive(Debug)]
pub struct Outward {
    queue: mpsc::UnboundedSender<Outbound>,
    /// The last number given to a message.
    numbers: AtomicU64,
    /// Bytes of messages that have no number yet.
    bytes: AtomicUsize,
    /// Bytes of the longest raw message that the log takes.
    raw_bytes_max: AtomicUsize,
    inboxes: Arc<[Inbox]>,
}

impl Outward {
    /// A way for the messages of these shards, and its end.
    pub fn new(inboxes: Arc<[Inbox]>) -> (Self, mpsc::UnboundedReceiver<Outbound>) {
        let (queue, end) = mpsc::unbounded_channel();
        let (numbers, bytes, raw_bytes_max) = Default::default();
        (Self { queue, numbers, bytes, raw_bytes_max, inboxes }, end)
    }

    /// The log takes raw messages of up to so many bytes.
    pub fn set_raw_bytes_max(&self, bytes: usize) {
        self.raw_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of the longest message that the log takes; of a chat message as JSON.
    pub(crate) fn message_bytes_max(&self, namespace: Namespace) -> usize {
        match namespace {
            Namespace::Chat => SHARED_MESSAGE_BYTES_MAX,
            Namespace::Raw => self.raw_bytes_max.load(Ordering::Relaxed),
        }
    }

    /// Bytes of messages that have no number yet.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A number that no other message of this process has.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Hands a message over, and returns its number. Called under the room's lock, so that messages keep their order.
    pub(super) fn publish(&self, submission: Submission) -> u64 {
        let number = self.next_number();
        let bytes = submission.message.len() + OUTWARD_OVERHEAD_BYTES;
        let before = self.bytes.fetch_add(bytes, Ordering::SeqCst);
        if before < OUTWARD_BYTES_HELD && before + bytes >= OUTWARD_BYTES_HELD {
            self.congest(true);
        }
        self.send(Outbound::Publish(number, submission));
        number
    }

    /// A message of so many bytes has its number, or never gets one.
    pub fn settled(&self, content_bytes: usize) {
        let bytes = content_bytes + OUTWARD_OVERHEAD_BYTES;
        let before = self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        if before >= OUTWARD_BYTES_HELD && before - bytes < OUTWARD_BYTES_HELD {
            self.congest(false);
        }
    }

    /// Asks for a room.
    pub(crate) fn open(&self, namespace: Namespace, name: Name, joiner: Joiner) {
        self.send(Outbound::Open { namespace, name, joiner });
    }

    /// Looks for a room that has no members here.
    pub(crate) async fn find(&self, namespace: Namespace, name: Name) -> Found {
        let (found, answer) = oneshot::channel();
        self.look_for(namespace, name, Finder::Outside(found));
        answer.await.unwrap_or(Err(Unavailable))
    }

    /// Starts to look for a room that has no members here.
    pub(crate) fn look_for(&self, namespace: Namespace, name: Name, finder: Finder) {
        self.send(Outbound::Find { namespace, name, finder });
    }

    /// Closes the connections of a user on all other servers, and returns how many there were.
    ///
    /// # Errors
    /// The number of servers that have not answered.
    pub(crate) async fn disconnect(&self, user: Name, room: Option<Name>, reason: Arc<str>) -> Result<usize, usize> {
        let (closed, answer) = oneshot::channel();
        self.send(Outbound::Disconnect { user, room, reason, closed });
        // It always answers, unless the process ends.
        answer.await.unwrap_or(Err(0))
    }

    /// The user of a connection of another server has reconnected here: it is closed.
    pub(crate) fn take_over(&self, node: u64, member: MemberId, user: Name) {
        self.send(Outbound::TakeOver { node, member, user });
    }

    /// A member has left, or doesn't join after all. Called under the room's lock, so that its notices come later.
    pub(crate) fn release(&self, room: &Name, user: &Name, member: MemberId, is_told: bool) {
        self.send(Outbound::Release { room: room.clone(), user: user.clone(), member, is_told });
    }

    /// The server stops: waits until the other servers know that its members have left, but not for longer than this.
    pub fn finish(&self, time_max: Duration) {
        let (done, told) = std_mpsc::channel();
        self.send(Outbound::Finish(done));
        let _ = told.recv_timeout(time_max);
    }

    fn congest(&self, is_congested: bool) {
        if let Some(inbox) = self.inboxes.first() {
            inbox.pressure().congest(is_congested);
            if !is_congested {
                inbox.pressure().released(&self.inboxes);
            }
        }
    }

    fn send(&self, outbound: Outbound) {
        // The thread ends with the process.
        let _ = self.queue.send(outbound);
    }
}
