//! What went wrong with messages and connections: counted, with the first ones described. Pure.

use std::fmt;

use crate::audit::Reached;
use crate::payload::Stamp;
use crate::session::Position;

/// Faults that are described; the others are only counted.
pub const NAMED_MAX: usize = 10;

/// The client that a fault happened to.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// Its number.
    pub client: usize,
    /// Its server, if there are several.
    pub server: Option<&'a str>,
}

impl fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.client)?;
        self.server.map_or(Ok(()), |server| write!(f, " at {server}"))
    }
}

/// Messages that did not arrive once and in order, and connections that ended.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Sent, and never arrived.
    pub lost: u64,
    /// Arrived more than once.
    pub doubled: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Arrived in another order than at other clients.
    pub disordered: u64,
    /// Numbers of the room's log that a client did not get: of lost messages, and of the room's own.
    pub holes: u64,
    /// Times that a client was told that it can't get what it missed.
    pub unrecovered: u64,
    /// Arrived in another room.
    pub astray: u64,
    /// Arrived, but not as sent.
    pub damaged: u64,
    /// Lost, and announced by the server.
    pub announced: u64,
    /// Connections that ended.
    pub closed: u64,
    /// Clients among them that were closed as too slow.
    pub too_slow: u64,
    /// Messages that those lost by being closed.
    pub lost_of_too_slow: u64,
    /// The first ones, in words.
    pub first: Vec<String>,
}

impl Faults {
    fn name(&mut self, sentence: impl FnOnce() -> String) {
        if self.first.len() < NAMED_MAX {
            self.first.push(sentence());
        }
    }

    /// Faults that no load excuses.
    pub fn inexcusable(&self) -> Self {
        let Self { doubled, reordered, disordered, holes, astray, damaged, .. } = *self;
        let any = doubled + reordered + disordered + holes + astray + damaged > 0;
        let first = if any { self.first.clone() } else { Vec::new() };
        Self { doubled, reordered, disordered, holes, astray, damaged, first, ..Self::default() }
    }

    /// Replaces its own counts with those of a whole run.
    pub fn replace_inexcusable(&mut self, of_all: Self) {
        let Self { doubled, reordered, disordered, holes, astray, damaged, first, .. } = of_all;
        (self.doubled, self.reordered, self.astray, self.damaged) = (doubled, reordered, astray, damaged);
        (self.disordered, self.holes) = (disordered, holes);
        if !first.is_empty() {
            self.first = first;
        }
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.disordered += other.disordered;
        self.holes += other.holes;
        self.unrecovered += other.unrecovered;
        self.astray += other.astray;
        self.damaged += other.damaged;
        self.announced += other.announced;
        self.closed += other.closed;
        self.too_slow += other.too_slow;
        self.lost_of_too_slow += other.lost_of_too_slow;
        self.first.extend(other.first);
        self.first.truncate(NAMED_MAX);
    }

    /// Messages were skipped.
    pub fn ahead(&mut self, client: Whose<'_>, stamp: &Stamp, count: u32) {
        self.lost += u64::from(count);
        let Stamp { publisher, sequence, .. } = stamp;
        self.name(|| {
            format!("{client} got message {sequence} of publisher {publisher}, but not the {count} before it")
        });
    }

    /// A message never arrived, and the server had acknowledged it. It is counted already.
    pub fn acknowledged_and_lost(&mut self, client: Whose<'_>, publisher: u16, sequence: u32) {
        self.name(|| format!("{client} never got message {sequence} of publisher {publisher}, which was acknowledged"));
    }

    /// A message arrived after a later one.
    pub fn reordered(&mut self, client: Whose<'_>, stamp: &Stamp) {
        self.lost = self.lost.saturating_sub(1);
        self.reordered += 1;
        let Stamp { publisher, sequence, .. } = stamp;
        self.name(|| format!("{client} got message {sequence} of publisher {publisher} after a later one"));
    }

    /// A message arrived again.
    pub fn doubled(&mut self, client: Whose<'_>, stamp: &Stamp) {
        self.doubled += 1;
        let Stamp { publisher, sequence, .. } = stamp;
        self.name(|| format!("{client} got message {sequence} of publisher {publisher} again"));
    }

    /// A message arrived in another order than at other clients.
    pub fn disordered(&mut self, client: Whose<'_>, stamp: &Stamp) {
        self.disordered += 1;
        let Stamp { publisher, sequence, .. } = stamp;
        self.name(|| {
            format!("{client} got message {sequence} of publisher {publisher} in another order than other clients")
        });
    }

    /// A message that was due has a position that wasn't.
    pub fn misplaced(&mut self, client: Whose<'_>, at: Position, reached: Reached) {
        let seq = at.seq;
        match reached {
            Reached::Next => {}
            Reached::Beyond(count) => {
                self.holes += count;
                // Which messages were lost is known at the end, and says more.
                if self.first.len() < NAMED_MAX / 2 {
                    self.name(|| format!("{client} got Seq {seq}, but not the {count} before it"));
                }
            }
            Reached::Before => {
                self.reordered += 1;
                self.name(|| format!("{client} got Seq {seq} after a later one"));
            }
        }
    }

    /// A client was told that it can't get what it missed.
    pub fn unrecovered(&mut self, client: Whose<'_>, what: &str) {
        self.unrecovered += 1;
        self.name(|| format!("{client} {what}"));
    }

    /// A message arrived from a room that the client is not in.
    pub fn astray(&mut self, client: Whose<'_>, stamp: &Stamp) {
        self.astray += 1;
        let Stamp { room, publisher, sequence, .. } = stamp;
        self.name(|| {
            format!("{client} got message {sequence} of publisher {publisher} of room {room}, which it is not in")
        });
    }

    /// A message arrived shorter than it was sent, or with other bytes.
    pub fn damaged(&mut self, client: Whose<'_>, stamp: &Stamp) {
        self.damaged += 1;
        let Stamp { publisher, sequence, .. } = stamp;
        self.name(|| format!("{client} got message {sequence} of publisher {publisher} cut off or altered"));
    }

    /// At the end, messages had not arrived.
    pub fn missing_at_end(&mut self, client: Whose<'_>, count: u32, end: u32) {
        if count > 0 {
            self.lost += u64::from(count);
            self.name(|| format!("{client} never got the last {count} messages before number {end}"));
        }
    }

    /// A connection ended.
    pub fn closed(&mut self, sentence: String) {
        self.closed += 1;
        self.name(|| sentence);
    }
}
