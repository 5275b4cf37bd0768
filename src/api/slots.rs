//! Slots for connections to the internal port: what each connection does, and which one makes room for another.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits::{API_ANSWER_TIME_MAX, API_HEAD_TIME_MAX, API_READ_BYTES, HEAD_BYTES_MAX};

/// Practically forever: handlers have time limits of their own.
const NEVER: Duration = Duration::from_secs(3600);

/// What a connection is doing, in the order in which connections have to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It has not sent anything yet.
    New,
    /// It has sent part of a request head.
    Head,
    /// It has had an answer and is idle. A request that is on its way would be lost without an answer.
    Waiting,
    /// Its request is being handled, possibly before the whole body has arrived.
    Asking,
    /// The answer is being sent.
    Answering,
}

impl Phase {
    /// How long a connection keeps its slot while others need it. A head arrives in one piece unless it is held back on purpose;
    /// the other phases get time for what is on its way. Connections that never sent a request go before those that did.
    fn grace(self) -> Duration {
        match self {
            Self::Head => Duration::from_millis(250),
            Self::New | Self::Asking | Self::Answering => Duration::from_secs(1),
            Self::Waiting => Duration::from_secs(2),
        }
    }
}

/// One connection's slot.
#[derive(Debug)]
pub(crate) struct Slot {
    /// What the connection is doing, and since when; with [`Phase::Answering`], since the peer last read some of it.
    state: Cell<(Phase, Instant)>,
    /// Bytes of a head that is still incomplete.
    head_bytes: Cell<usize>,
    /// Whether the head has no end within [`HEAD_BYTES_MAX`].
    pub(super) head_is_too_large: Cell<bool>,
    /// Whether the connection has to make room.
    pub(super) is_told_to_go: Cell<bool>,
    /// Notified when the phase changes, and with it the deadline, and when the connection is told to go.
    pub(super) news: Notify,
    /// Notified when the body of the request is no longer waited for.
    pub(super) hurry: Notify,
}

impl Slot {
    fn new() -> Self {
        Self {
            state: Cell::new((Phase::New, Instant::now())),
            head_bytes: Cell::new(0),
            head_is_too_large: Cell::new(false),
            is_told_to_go: Cell::new(false),
            news: Notify::new(),
            hurry: Notify::new(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.get().0
    }

    /// Changes the phase.
    pub(crate) fn enter(&self, phase: Phase) {
        self.head_bytes.set(0);
        self.state.set((phase, Instant::now()));
        self.news.notify_one();
    }

    /// When the time for the current phase is up; `keepalive` is the time for an idle connection.
    pub(crate) fn due(&self, keepalive: Duration) -> Instant {
        let (phase, since) = self.state.get();
        since
            + match phase {
                Phase::New | Phase::Waiting => keepalive,
                Phase::Head => API_HEAD_TIME_MAX,
                Phase::Asking => NEVER,
                Phase::Answering => API_ANSWER_TIME_MAX,
            }
    }

    fn head_arrived(&self, bytes: usize) {
        if matches!(self.phase(), Phase::New | Phase::Waiting) && bytes > 0 {
            self.state.set((Phase::Head, Instant::now()));
            self.news.notify_one();
        }
        self.head_bytes.update(|before| before + bytes);
    }
}

/// The slots of the port.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: RefCell<Slab<Rc<Slot>>>,
    max: usize,
    crowded_from: usize,
    /// Whether the last accept failed for lack of file descriptors or memory.
    pub(super) is_short: Cell<bool>,
    /// Notified when a slot is free again.
    pub(super) freed: Notify,
}

impl Slots {
    /// `max` slots; while `crowded_from` or more are taken, connections end with their answers.
    pub(crate) fn new(max: usize, crowded_from: usize) -> Self {
        let slots = RefCell::default();
        Self { slots, max, crowded_from, is_short: Cell::new(false), freed: Notify::new() }
    }

    /// A slot, if one is free.
    pub(crate) fn take(slots: &Rc<Self>) -> Option<Held> {
        let mut taken = slots.slots.borrow_mut();
        if taken.len() >= slots.max {
            return None;
        }
        let slot = Rc::new(Slot::new());
        let key = taken.insert(Rc::clone(&slot));
        Some(Held { slots: Rc::clone(slots), key, slot })
    }

    /// Tells one connection to go, if any has used up its grace: the first in the order of [`Phase`], and within a phase the one
    /// that has been in it for longest.
    pub(crate) fn make_room(&self) {
        let now = Instant::now();
        let slots = self.slots.borrow();
        let stays = slots.iter().map(|(_, slot)| slot).filter(|slot| !slot.is_told_to_go.get());
        let may_go = stays.filter_map(|slot| {
            let (phase, since) = slot.state.get();
            (now.duration_since(since) >= phase.grace()).then_some((phase, since, slot))
        });
        if let Some((.., slot)) = may_go.min_by_key(|(phase, since, _)| (*phase, *since)) {
            slot.is_told_to_go.set(true);
            slot.news.notify_one();
        }
    }
}

/// A taken slot; dropping this frees it.
#[derive(Debug)]
pub(crate) struct Held {
    slots: Rc<Slots>,
    key: usize,
    pub(super) slot: Rc<Slot>,
}

impl Held {
    /// Whether the connection should end with its next answer.
    pub(crate) fn is_crowded(&self) -> bool {
        self.slot.is_told_to_go.get()
            || self.slots.is_short.get()
            || self.slots.slots.borrow().len() >= self.slots.crowded_from
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.slots.slots.borrow_mut().remove(self.key));
        self.slots.freed.notify_one();
    }
}

/// The socket of a connection, which keeps its slot's phase up to date.
#[derive(Debug)]
pub(crate) struct Slotted {
    pub(super) stream: TcpStream,
    pub(super) slot: Rc<Slot>,
}

impl Read for Slotted {
    /// Reads at most [`HEAD_BYTES_MAX`] bytes of a head; a longer one is too large.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let of_head = !matches!(self.slot.phase(), Phase::Asking | Phase::Answering);
        let mut bytes = [0; API_READ_BYTES];
        let mut room = API_READ_BYTES.min(buffer.remaining());
        if of_head {
            room = room.min(HEAD_BYTES_MAX.saturating_sub(self.slot.head_bytes.get()));
        }
        if room == 0 {
            self.slot.head_is_too_large.set(true);
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let mut read = ReadBuf::new(&mut bytes[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
        buffer.put_slice(read.filled());
        if of_head {
            self.slot.head_arrived(read.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Slotted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        if self.slot.phase() == Phase::Answering {
            self.slot.state.set((Phase::Answering, Instant::now()));
        }
        Poll::Ready(Ok(written))
    }

    /// hyper flushes once the whole answer has been written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if self.slot.phase() == Phase::Answering {
            self.slot.enter(Phase::Waiting);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(count: usize, slots: &Rc<Slots>) -> Vec<Held> {
        (0..count).map(|_| Slots::take(slots).expect("a free slot")).collect()
    }

    fn since(slot: &Slot, phase: Phase, age: Duration) {
        slot.state.set((phase, Instant::now().checked_sub(age).expect("the machine runs for longer")));
    }

    #[test]
    fn whatever_asks_nothing_goes_first_then_whatever_is_slow() {
        let slots = Rc::new(Slots::new(5, 4));
        let mut held = taken(5, &slots);
        assert!(Slots::take(&slots).is_none());
        let gone = |held: &[Held]| held.iter().map(|held| held.slot.is_told_to_go.get()).collect::<Vec<_>>();
        let phases = [Phase::Asking, Phase::Head, Phase::Waiting, Phase::New, Phase::Answering];
        held.iter().zip(phases).for_each(|(held, phase)| held.slot.enter(phase));
        slots.make_room();
        assert_eq!(gone(&held), [false; 5], "all of them have only just begun");
        since(&held[1].slot, Phase::Head, Duration::from_millis(300));
        slots.make_room();
        assert_eq!(gone(&held), [false, true, false, false, false], "a head comes at once");
        held.iter().zip(phases).for_each(|(held, phase)| since(&held.slot, phase, Duration::from_secs(2)));
        let mut order = Vec::new();
        for _ in 0..5 {
            let before = gone(&held);
            slots.make_room();
            order.extend(gone(&held).iter().zip(before).position(|(now, before)| *now != before));
        }
        assert_eq!(order, [3, 2, 0, 4], "each is told once");
        assert!(held.iter().all(Held::is_crowded));
        held.clear();
        assert!(!taken(3, &slots)[0].is_crowded(), "all slots are free again");
    }

    #[test]
    fn of_those_that_ask_nothing_the_oldest_goes() {
        let slots = Rc::new(Slots::new(3, 3));
        let held = taken(3, &slots);
        for (held, seconds) in held.iter().zip([2, 4, 3]) {
            since(&held.slot, Phase::Waiting, Duration::from_secs(seconds));
        }
        slots.make_room();
        assert_eq!(held.iter().position(|held| held.slot.is_told_to_go.get()), Some(1));
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte() {
        let (slot, keepalive) = (Slot::new(), Duration::from_secs(75));
        since(&slot, Phase::Waiting, Duration::from_secs(2));
        let waiting_since = slot.state.get().1;
        assert_eq!(slot.due(keepalive), waiting_since + keepalive);
        slot.head_arrived(10);
        let first = slot.state.get().1;
        slot.head_arrived(10);
        assert_eq!((slot.phase(), slot.due(keepalive)), (Phase::Head, first + API_HEAD_TIME_MAX));
        assert!(first >= waiting_since + Duration::from_secs(2));
        slot.enter(Phase::Asking);
        assert!(slot.due(keepalive) > first + Duration::from_secs(1000), "answers have a limit of their own");
    }
}
