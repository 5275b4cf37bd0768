//! What simulations are there to see, and how often they saw it.

use std::fmt;

/// How often something was seen that a simulation is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A connection was opened.
    Connection,
    /// A shard took a turn.
    Turn,
    /// A client heard a message.
    Heard,
    /// A publish was answered.
    Acknowledged,
    /// A client was told of a gap.
    Gap,
    /// A client got everything that it had missed.
    Recovered,
    /// A client was told that it can't.
    Refused,
    /// A connection took a name over.
    TakenOver,
    /// The server closed a connection.
    Closed,
    /// A client was closed for being slow.
    TooSlow,
    /// A send was cut short.
    Short,
    /// A send found no room.
    Full,
    /// A receive found no buffer.
    NoBuffer,
    /// A receive was cancelled.
    Cancelled,
    /// A link was broken.
    Reset,
    /// A room was behind, so that its publishers had to wait.
    Behind,
    /// A room waited until it was fanned out again.
    Waiting,
    /// An inbox was congested, so that all publishers had to wait.
    Congested,
    /// An inbox dropped a message.
    Dropped,
    /// A holder gave memory back.
    GaveMemory,
    /// A client got a compressed message.
    Deflated,
}

impl Seen {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 21] = [
        Self::Connection,
        Self::Turn,
        Self::Heard,
        Self::Acknowledged,
        Self::Gap,
        Self::Recovered,
        Self::Refused,
        Self::TakenOver,
        Self::Closed,
        Self::TooSlow,
        Self::Short,
        Self::Full,
        Self::NoBuffer,
        Self::Cancelled,
        Self::Reset,
        Self::Behind,
        Self::Waiting,
        Self::Congested,
        Self::Dropped,
        Self::GaveMemory,
        Self::Deflated,
    ];

    /// In a list of counts.
    fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connections",
            Self::Turn => "turns",
            Self::Heard => "messages heard",
            Self::Acknowledged => "acknowledged",
            Self::Gap => "gaps",
            Self::Recovered => "recoveries",
            Self::Refused => "recoveries refused",
            Self::TakenOver => "taken over",
            Self::Closed => "closed",
            Self::TooSlow => "too slow",
            Self::Short => "short sends",
            Self::Full => "full sockets",
            Self::NoBuffer => "receives without a buffer",
            Self::Cancelled => "receives cancelled",
            Self::Reset => "resets",
            Self::Behind => "turns with a room behind",
            Self::Waiting => "turns after which a room waits",
            Self::Congested => "turns with an inbox congested",
            Self::Dropped => "messages dropped by an inbox",
            Self::GaveMemory => "holders that gave memory back",
            Self::Deflated => "compressed messages",
        }
    }
}

/// How often each was seen.
#[derive(Clone, Debug, Default)]
pub struct Totals([u64; Seen::ALL.len()]);

impl Totals {
    /// Counts `count` more.
    pub fn count(&mut self, seen: Seen, count: u64) {
        self.0[seen as usize] += count;
    }

    /// How often it was seen.
    pub fn of(&self, seen: Seen) -> u64 {
        self.0[seen as usize]
    }

    /// Adds the counts of another simulation.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own += other);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = Seen::ALL.iter().map(|seen| format!("{} {}", self.of(*seen), seen.as_str())).collect();
        f.write_str(&parts.join(", "))
    }
}
