//! Faults of the test server.

use std::time::Duration;

/// How long the server pauses for a [`Fault`] with a pause.
pub const PAUSE: Duration = Duration::from_secs(1);

/// What the server does wrong. Messages are counted per room from 0, including the warm-up; members are numbered like
/// loadgen's clients.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing: every member gets everything once, in order.
    None,
    /// A member does not get every n-th message.
    Drops { member: usize, every: u64 },
    /// A member does not get its first messages.
    DropsFirst { member: usize, count: u64 },
    /// A member gets every n-th message twice.
    Doubles { member: usize, every: u64 },
    /// A member gets every n-th message after the one that follows it.
    Swaps { member: usize, every: u64 },
    /// Members don't get these messages; the `told` ones get a `gap` notice instead.
    Loses { members: Vec<usize>, told: Vec<String>, from: u64, to: u64 },
    /// At one message, the server pauses for [`PAUSE`].
    Stalls { at: u64 },
    /// A member gets one message without its last bytes, and one with another last byte.
    Damages { member: usize, cut_off: u64, altered: u64 },
    /// Every message comes in fragments, with a ping between them.
    Fragments,
    /// At one message, a member gets the first 4,000 bytes of it, and the rest after [`PAUSE`].
    HoldsBack { member: usize, at: u64 },
    /// At one message, a member gets these bytes instead, and the connection ends if `end`.
    Sends { member: usize, at: u64, bytes: Vec<u8>, end: bool },
    /// At one message, a member gets it and the end of the connection in one segment.
    EndsWith { member: usize, at: u64 },
    /// At message 20 every member is pinged; a client that hasn't answered by message 110 is closed.
    Pings,
    /// A client that reconnects under a name that was there before gets no messages.
    ForgetsReturned,
    /// At one message, every publisher's connection ends, including its sender's.
    CutsPublishers { at: u64 },
    /// After one message, publishers get these bytes, and the end of their connection.
    ToldPublishers { at: u64, bytes: Vec<u8> },
    /// Every message goes to the members of all rooms.
    ForgetsRooms,
    /// Everything after the handshake is read and discarded.
    Sinks,
    /// Every handshake gets this answer, with its body in a separate segment.
    Answers(&'static str),
    /// This many handshakes are answered normally, and later ones with 503.
    Full { after: usize },
    /// Every handshake gets the answer for a different key.
    WrongAccept,
    /// Every handshake is read, and never answered.
    NeverAnswers,
    /// After this many good handshakes: a good answer with a Close in the same segment.
    ClosesAtOnce { after: usize },
    /// Every handshake gets an endless head, byte by byte.
    Drips,
    /// After this many good connections: endless pings after the 101, and nothing is read.
    FloodsPings { after: usize },
    /// Every client gets a message each millisecond, and its Close is not answered.
    Floods,
}

/// The protocol that the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// The path decides: `/room/NAME?client=NAME` joins a room, `/publish/NAME` publishes to it.
    Paths,
    /// Members send `sub NAME`, publishers `{"room":"NAME","data":"..."}`; messages come wrapped in JSON.
    Subscribe,
}
