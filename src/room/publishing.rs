//! Publishing to a room: messages from members, from visitors and from outside, and the room's own notices.

use std::sync::Arc;

use bytes::Bytes;

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

impl Room {
    /// Publishes the chat message `text`, and returns its `Seq`.
    ///
    /// # Errors
    /// [`JoinError::NameTaken`]: another member of the room has the speaker's name.
    pub fn publish_chat(
        self: &Arc<Self>,
        speaker: &Speaker<'_>,
        text: &str,
        now: Time,
        wakes: &mut Wakes,
    ) -> Result<u64, JoinError> {
        let message = Unnumbered::message(speaker.user().as_str(), self.name(), text);
        let mut state = self.lock();
        if let Speaker::Visitor(visitor) = speaker
            && state.roster.is_taken_from(visitor)
        {
            return Err(JoinError::NameTaken);
        }
        Ok(self.publish(&mut state, Unplaced::Message(message), now, wakes))
    }

    /// Publishes a frame unchanged, and returns its `Seq`. Raw rooms keep nothing for replay: no client could ask for it.
    pub fn publish_raw(self: &Arc<Self>, frame: &Bytes, wakes: &mut Wakes) -> u64 {
        self.publish(&mut self.lock(), Unplaced::Frame(frame.clone()), Time::default(), wakes)
    }

    /// Publishes from outside. Returns the message's `Seq` and the number of members that it goes to.
    pub(crate) fn publish_from_outside(
        self: &Arc<Self>,
        payload: Payload<'_>,
        now: Time,
        wakes: &mut Wakes,
    ) -> (u64, usize) {
        let message = match payload {
            Payload::Chat { from, text } => Unplaced::Message(Unnumbered::message(from, self.name(), text)),
            Payload::Frame(frame) => Unplaced::Frame(frame.clone()),
        };
        let mut state = self.lock();
        (self.publish(&mut state, message, now, wakes), state.roster.members())
    }

    /// Publishes the notice about the joins and leaves folded so far.
    pub(crate) fn announce_folded(self: &Arc<Self>, now: Time, wakes: &mut Wakes) {
        let mut state = self.lock();
        if let Some(notice) = state.roster.flush(self.name(), now.monotonic_ms)
            && state.roster.members() > 0
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

    fn publish(self: &Arc<Self>, state: &mut RoomState, message: Unplaced, now: Time, wakes: &mut Wakes) -> u64 {
        let seq = state.sequencer.place(message, self.is_deflating(), now, wakes);
        self.schedule_expiry(state);
        seq
    }
}
