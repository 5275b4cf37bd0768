//! What the server of the tests can do wrong.

use std::time::Duration;

/// How long the server pauses where a [`Fault`] says that it pauses.
pub const PAUSE: Duration = Duration::from_secs(1);

/// What the server does wrong. Messages are counted in each room, from 0, the warm-up's too; members are named as loadgen
/// names its clients, by number.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing: everyone gets everything once, in order.
    None,
    /// A member does not get every n-th message.
    Drops { member: usize, every: u64 },
    /// A member does not get its first messages.
    DropsFirst { member: usize, count: u64 },
    /// A member gets every n-th message twice.
    Doubles { member: usize, every: u64 },
    /// A member gets every n-th message after the one that follows it.
    Swaps { member: usize, every: u64 },
    /// Members do not get these messages; the `told` ones get a `gap` notice instead.
    Loses { members: Vec<usize>, told: Vec<String>, from: u64, to: u64 },
    /// At one message, nothing moves for [`PAUSE`].
    Stalls { at: u64 },
    /// A member gets one message without its last bytes, and one with another last byte.
    Damages { member: usize, cut_off: u64, altered: u64 },
    /// Every message comes in parts, with a ping between them.
    Fragments,
    /// At one message, a member gets the first 4,000 bytes of it, and the rest after [`PAUSE`].
    HoldsBack { member: usize, at: u64 },
    /// At one message, a member gets these bytes instead, and the connection ends if `end`.
    Sends { member: usize, at: u64, bytes: Vec<u8>, end: bool },
    /// At one message, a member gets it and the end of the connection in one segment.
    EndsWith { member: usize, at: u64 },
    /// At message 20 everyone is pinged; a client that has not answered by message 110 is closed.
    Pings,
    /// A client that reconnects under a name that was there already gets no message.
    ForgetsReturned,
    /// At one message, every publisher's connection ends, that of its sender too.
    CutsPublishers { at: u64 },
    /// Behind one message, publishers get these bytes, and the end of their connection.
    ToldPublishers { at: u64, bytes: Vec<u8> },
    /// Every message goes to the members of all rooms.
    ForgetsRooms,
    /// Whatever comes after the handshake is read and thrown away.
    Sinks,
    /// Every handshake gets this answer, its body in a segment of its own.
    Answers(&'static str),
    /// The first handshakes are answered well, as many as given, and the later ones with 503.
    Full { after: usize },
    /// Every handshake gets the answer to another key.
    WrongAccept,
    /// Every handshake is read, and never answered.
    NeverAnswers,
    /// A good answer to the handshake, with a Close behind it in one segment, once the given number were good.
    ClosesAtOnce { after: usize },
    /// A head that never ends is the answer to every handshake, a byte at a time.
    Drips,
    /// Whoever has been told 101 gets pings without end, and nothing is read, once the given number were served well.
    FloodsPings { after: usize },
    /// Whoever connects gets a message each millisecond, and its Close is not answered.
    Floods,
}

/// How the server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// The path decides: `/room/NAME?client=NAME` is in a room, `/publish/NAME` publishes to it.
    Paths,
    /// Members send `sub NAME`, publishers `{"room":"NAME","data":"..."}`; messages come wrapped in JSON.
    Subscribe,
}
