//! Publishing to a room: messages from members, from visitors and from outside, and the room's own notices.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::inbox::{Order, Outcome};
use super::outward::{Asker, Outward, Submission};
use super::presence::Announce;
use super::sequencer::Unplaced;
use super::{Announced, JoinError, Room, RoomState, Speaker, Wakes};
use crate::clock::Time;
use crate::protocol::broadcast::Unnumbered;
use crate::protocol::notice::Notice;

/// A message that is published through the internal port, by no connection.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// A chat message.
    Chat {
        /// The sender's name, as it is shown.
        from: &'a str,
        /// The text of the message.
        text: &'a str,
    },
    /// A complete frame for a raw room.
    Frame(&'a Bytes),
}

/// What has become of a message.
#[derive(Debug)]
pub enum Published {
    /// It has this `Seq`.
    Placed(u64),
    /// It gets its `Seq` elsewhere, and has this number until then: see [`Order::Settled`].
    Sent(u64),
    /// The same, and nobody's shard is told.
    Later(oneshot::Receiver<Outcome>),
}

/// The place of a message in its room's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its `Seq`.
    pub seq: u64,
    /// The room's epoch.
    pub epoch: u64,
}

impl Room {
    /// Publishes the chat message `text`.
    ///
    /// # Errors
    /// [`JoinError::NameTaken`]: another member of the room has the speaker's name.
    pub fn publish_chat(
        self: &Arc<Self>,
        speaker: &Speaker<'_>,
        text: &str,
        now: Time,
        wakes: &mut Wakes,
    ) -> Result<Published, JoinError> {
        let message = Unnumbered::message(speaker.user().as_str(), self.name(), text);
        let mut state = self.lock();
        if let Speaker::Visitor(visitor) = speaker
            && state.roster.is_taken_from(visitor)
        {
            return Err(JoinError::NameTaken);
        }
        Ok(self.publish(&mut state, Unplaced::Message(message), now, wakes))
    }

    /// Publishes a frame unchanged. Raw rooms keep nothing for replay: no client could ask for it.
    pub fn publish_raw(self: &Arc<Self>, frame: &Bytes, wakes: &mut Wakes) -> Published {
        self.publish(&mut self.lock(), Unplaced::Frame(frame.clone()), Time::default(), wakes)
    }

    /// Publishes from outside. Returns what became of the message, and the number of members that it goes to.
    pub(crate) fn publish_from_outside(
        self: &Arc<Self>,
        payload: Payload<'_>,
        now: Time,
        wakes: &mut Wakes,
    ) -> (Published, usize) {
        let message = match payload {
            Payload::Chat { from, text } => Unplaced::Message(Unnumbered::message(from, self.name(), text)),
            Payload::Frame(frame) => Unplaced::Frame(frame.clone()),
        };
        let mut state = self.lock();
        // Of other servers' members, only those that have a name are known.
        let members = state.roster.members().max(state.roster.users());
        (self.publish(&mut state, message, now, wakes), members)
    }

    /// Publishes the notice about the joins and leaves folded so far.
    pub fn announce_folded(self: &Arc<Self>, now: Time, wakes: &mut Wakes) {
        let mut state = self.lock();
        if let Some(notice) = state.roster.flush(self.name(), now.monotonic_ms)
            && state.roster.members().max(state.roster.users()) > 0
        {
            self.publish_notice(&mut state, &notice, now, wakes);
        }
    }

    pub(super) fn announce(
        self: &Arc<Self>,
        state: &mut RoomState,
        announce: Announce,
        now: Time,
        wakes: &mut Wakes,
    ) -> Announced {
        match announce {
            Announce::Now(notice) => {
                self.publish_notice(state, &notice, now, wakes);
                Announced::Done
            }
            Announce::At(due_ms) => Announced::At(due_ms),
            Announce::Folded => Announced::Done,
        }
    }

    fn publish_notice(self: &Arc<Self>, state: &mut RoomState, notice: &Notice, now: Time, wakes: &mut Wakes) {
        let message = Unnumbered::notice(self.name(), notice, state.roster.users());
        self.publish(state, Unplaced::Message(message), now, wakes);
    }

    fn publish(self: &Arc<Self>, state: &mut RoomState, message: Unplaced, now: Time, wakes: &mut Wakes) -> Published {
        if let Some(outward) = &self.outward {
            return self.send_outward(outward, message, wakes);
        }
        let seq = state.sequencer.place(message, self.is_deflating(), now, wakes);
        self.schedule_expiry(state);
        Published::Placed(seq)
    }

    #[cold]
    fn send_outward(self: &Arc<Self>, outward: &Outward, message: Unplaced, wakes: &Wakes) -> Published {
        let (asker, later) = match wakes.publisher {
            Some(shard) => (Asker::Shard(shard), None),
            None => {
                let (asker, later) = oneshot::channel();
                (Asker::Outside(asker), Some(later))
            }
        };
        let number = outward.publish(Submission { room: Arc::clone(self), message, asker });
        later.map_or(Published::Sent(number), Published::Later)
    }

    /// A raw message has come back from the shared log: it goes to the members here, and before it the answer for the shard that
    /// has asked, so that the publisher is known when the message comes. Returns its place.
    pub fn place_frame(
        self: &Arc<Self>,
        frame: &Bytes,
        at: Time,
        asked: Option<(u32, u64)>,
        wakes: &mut Wakes,
    ) -> Placed {
        let mut state = self.lock();
        let place = Placed { seq: state.sequencer.last_seq() + 1, epoch: state.sequencer.epoch() };
        self.answer(&state, place, asked, wakes);
        state.sequencer.push(place.seq, frame.clone(), self.is_deflating(), at.monotonic_ms, wakes);
        place
    }

    /// Messages of this raw room are lost: its members are told so, as of any hole.
    pub fn lose(&self, wakes: &mut Wakes) {
        self.lock().sequencer.lose_one(wakes);
    }

    fn answer(&self, state: &RoomState, place: Placed, asked: Option<(u32, u64)>, wakes: &mut Wakes) {
        if let Some((shard, number)) = asked {
            let order = Order::Settled { number, outcome: Ok(place) };
            wakes.note(shard as usize, state.sequencer.inbox(shard).answer(order));
        }
    }

    /// A message has come back from the shared log, with its place: it goes to the members here, and after it the answer for
    /// the shard that has asked.
    pub fn place(self: &Arc<Self>, place: Placed, json: &str, at: Time, asked: Option<(u32, u64)>, wakes: &mut Wakes) {
        let Placed { seq, epoch } = place;
        let frame = Unnumbered::from_json(json).number(seq, epoch, at.unix_ms);
        let mut state = self.lock();
        state.sequencer.push(seq, frame, self.is_deflating(), at.monotonic_ms, wakes);
        self.schedule_expiry(&mut state);
        self.answer(&state, place, asked, wakes);
    }

    /// The room has a new life in the shared log, which goes on after `last_seq`.
    pub fn begin_life(self: &Arc<Self>, epoch: u64, last_seq: u64, wakes: &mut Wakes) {
        let mut state = self.lock();
        if state.sequencer.epoch() == epoch {
            return;
        }
        state.sequencer.begin_life(epoch, last_seq + 1);
        self.epoch.store(epoch, Ordering::Relaxed);
        for (shard, inbox) in state.sequencer.outlets() {
            wakes.note(shard, inbox.answer(Order::Renewed { room: Arc::clone(self), first_seq: last_seq + 1 }));
        }
    }
}
