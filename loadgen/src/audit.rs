//! The audit: every client must see every message of its room once, in each publisher's order. Pure.

/// Out-of-order numbers remembered for one client; what is missing beyond them is counted, not told apart.
const MISSING_MAX: usize = 4096;

/// What a message was to the client that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The next one, or the first at all.
    InOrder,
    /// Later than expected: so many before it are missing so far.
    Ahead(u32),
    /// One that was missing: it comes after a later one.
    Reordered,
    /// It had been there already.
    Doubled,
}

/// What one client has seen of the publishers of its room.
#[derive(Debug, Default)]
pub struct Auditor {
    streams: Box<[Stream]>,
    /// Publisher and number of what was passed over.
    missing: Option<Box<Vec<(u16, u32)>>>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// What comes next; [`NOT_BEGUN`] before the first message.
    next: u32,
}

const NOT_BEGUN: u32 = u32::MAX;

impl Auditor {
    /// Of a client in a room with `publishers`; the first message of each may have any number.
    pub fn new(publishers: usize) -> Self {
        Self { streams: vec![Stream { next: NOT_BEGUN }; publishers].into(), missing: None }
    }

    /// A message has arrived.
    pub fn see(&mut self, publisher: u16, sequence: u32) -> Seen {
        let Some(stream) = self.streams.get_mut(usize::from(publisher)) else { return Seen::InOrder };
        if stream.next == NOT_BEGUN || stream.next == sequence {
            stream.next = sequence + 1;
            return Seen::InOrder;
        }
        if sequence > stream.next {
            let missing = self.missing.get_or_insert_default();
            let room = MISSING_MAX.saturating_sub(missing.len());
            missing.extend((stream.next..sequence).take(room).map(|number| (publisher, number)));
            let count = sequence - stream.next;
            stream.next = sequence + 1;
            return Seen::Ahead(count);
        }
        let missing = self.missing.as_mut().and_then(|missing| {
            missing.iter().position(|entry| *entry == (publisher, sequence)).map(|index| missing.swap_remove(index))
        });
        if missing.is_some() { Seen::Reordered } else { Seen::Doubled }
    }

    /// At the end: how many of the messages `first..end` of this publisher the client never saw after the last that it
    /// did see. A client that was there from the begin (`from_start`) and saw nothing misses them all.
    pub fn missing_at_end(&self, publisher: u16, first: u32, end: u32, from_start: bool) -> u32 {
        match self.streams.get(usize::from(publisher)).map_or(NOT_BEGUN, |stream| stream.next) {
            NOT_BEGUN if from_start => end - first,
            NOT_BEGUN => 0,
            next => end.saturating_sub(next.max(first)),
        }
    }

    /// Forgets what was seen: the client has left, and may miss what comes until it is back.
    pub fn begin_again(&mut self) {
        self.streams.fill(Stream { next: NOT_BEGUN });
        self.missing = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_doubled_and_reordered_are_told_apart() {
        let mut auditor = Auditor::new(2);
        assert_eq!(auditor.see(0, 5), Seen::InOrder, "the first may have any number");
        assert_eq!(auditor.see(1, 0), Seen::InOrder);
        assert_eq!(auditor.see(0, 6), Seen::InOrder);
        assert_eq!(auditor.see(0, 6), Seen::Doubled);
        assert_eq!(auditor.see(0, 9), Seen::Ahead(2));
        assert_eq!(auditor.see(0, 8), Seen::Reordered);
        assert_eq!(auditor.see(0, 8), Seen::Doubled);
        assert_eq!(auditor.see(0, 10), Seen::InOrder);
        assert_eq!(auditor.missing_at_end(0, 5, 11, true), 0, "7 was counted when it was passed over");
        assert_eq!(auditor.missing_at_end(0, 5, 14, true), 3);
        assert_eq!(auditor.missing_at_end(1, 0, 4, true), 3);
    }

    #[test]
    fn who_saw_nothing_missed_all_only_if_it_was_there() {
        let mut auditor = Auditor::new(1);
        assert_eq!(auditor.missing_at_end(0, 10, 20, true), 10);
        assert_eq!(auditor.missing_at_end(0, 10, 20, false), 0);
        auditor.see(0, 12);
        auditor.begin_again();
        assert_eq!(auditor.see(0, 17), Seen::InOrder);
        assert_eq!(auditor.missing_at_end(0, 10, 20, false), 2);
    }
}
