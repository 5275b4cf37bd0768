//! What rooms hand to the log that several servers share, which gives messages their numbers: the rooms' side of the queue.
//!
//! Nothing here is used by a server that has its rooms for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Room;
use super::inbox::{Found, Inbox, Outcome, Unavailable};
use super::sequencer::Unplaced;
use crate::limits::{OUTWARD_BYTES_HELD, OUTWARD_OVERHEAD_BYTES};
use crate::protocol::name::Name;
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
    /// The message as JSON without its end (see [`crate::protocol::broadcast::Unnumbered::into_json`]), and which thread waits.
    pub fn into_parts(self) -> (String, Asker) {
        match self.message {
            Unplaced::Message(message) => (message.into_json(), self.asker),
            Unplaced::Frame(_) => unreachable!("there are no raw rooms in a cluster yet"),
        }
    }
}

/// What looks for a room that has no members here.
#[derive(Debug)]
pub enum Finder {
    /// A connection, whose shard gets [`Order::Found`](super::inbox::Order::Found).
    Member(MemberId),
    /// Whoever holds the other end.
    Outside(oneshot::Sender<Found>),
}

/// A connection that wants to join a room.
#[derive(Clone, Debug)]
pub struct Joiner {
    /// The connection.
    pub member: MemberId,
    /// The name that it needs there; none in raw rooms and for listeners.
    pub user: Option<Name>,
    /// The lost connection whose name it may take over.
    pub predecessor: Option<MemberId>,
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
    inboxes: Arc<[Inbox]>,
}

impl Outward {
    /// A way for the messages of these shards, and its end.
    pub fn new(inboxes: Arc<[Inbox]>) -> (Self, mpsc::UnboundedReceiver<Outbound>) {
        let (queue, end) = mpsc::unbounded_channel();
        (Self { queue, numbers: AtomicU64::new(0), bytes: AtomicUsize::new(0), inboxes }, end)
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

    /// A message of so many bytes of JSON has its number, or never gets one.
    pub fn settled(&self, json_bytes: usize) {
        let bytes = json_bytes + OUTWARD_OVERHEAD_BYTES;
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

    /// A member has left, or doesn't join after all. Called under the room's lock, so that its notices come later.
    pub(crate) fn release(&self, room: &Name, user: &Name, member: MemberId) {
        self.send(Outbound::Release { room: room.clone(), user: user.clone(), member });
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
