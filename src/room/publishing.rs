//! Publishing: a frame gets its number and goes to each shard that has members, in one step under the room's lock.

use std::sync::Arc;

use bytes::Bytes;

use super::presence::Announce;
use super::{Announced, JoinError, Room, Speaker, State, Wakes};
use crate::clock::Time;
use crate::protocol::broadcast;
use crate::protocol::notice::Notice;
use crate::relay::Relay;

/// What is published from outside, by no member.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// A chat message.
    Chat {
        /// The name that it is shown under.
        from: &'a str,
        /// What is said.
        text: &'a str,
    },
    /// A frame as it is.
    Frame(&'a Bytes),
}

impl Room {
    /// Publishes the chat message `text` and returns its `Seq`.
    ///
    /// # Errors
    /// [`JoinError::NameTaken`]: somebody else in the room has the speaker's name.
    pub fn publish_chat(
        self: &Arc<Self>,
        speaker: &Speaker<'_>,
        text: &str,
        now: Time,
        wakes: &mut Wakes,
    ) -> Result<u64, JoinError> {
        let message = broadcast::Unnumbered::message(speaker.user().as_str(), self.name(), text);
        let mut state = self.lock();
        if let Speaker::Visitor(visitor) = speaker
            && state.is_taken_from(visitor, self.peer_has_ended)
        {
            return Err(JoinError::NameTaken);
        }
        let frame = message.number(state.next_seq, self.epoch, now.unix_ms);
        Ok(self.publish(&mut state, &frame, now, wakes))
    }

    /// Publishes a frame as it is, and returns its `Seq`. Raw rooms keep nothing: no client could ask for it.
    pub fn publish_raw(self: &Arc<Self>, frame: &Bytes, wakes: &mut Wakes) -> u64 {
        self.publish(&mut self.lock(), frame, Time::default(), wakes)
    }

    /// Publishes from outside, and returns the message's `Seq` and how many members it goes to.
    pub fn publish_from_outside(self: &Arc<Self>, payload: Payload<'_>, now: Time, wakes: &mut Wakes) -> (u64, usize) {
        let message = match payload {
            Payload::Chat { from, text } => Ok(broadcast::Unnumbered::message(from, self.name(), text)),
            Payload::Frame(frame) => Err(frame.clone()),
        };
        let mut state = self.lock();
        let frame =
            message.map_or_else(|frame| frame, |message| message.number(state.next_seq, self.epoch, now.unix_ms));
        (self.publish(&mut state, &frame, now, wakes), state.members)
    }

    /// Publishes the notice about the joins and leaves that were folded until now.
    pub fn announce_folded(self: &Arc<Self>, now: Time, wakes: &mut Wakes) {
        let mut state = self.lock();
        if let Some(notice) = state.presence.flush(self.name(), now.monotonic_ms)
            && state.members > 0
        {
            self.publish_notice(&mut state, &notice, now, wakes);
        }
    }

    pub(super) fn announce(
        self: &Arc<Self>,
        state: &mut State,
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

    fn publish_notice(self: &Arc<Self>, state: &mut State, notice: &Notice, now: Time, wakes: &mut Wakes) {
        let message = broadcast::Unnumbered::notice(self.name(), notice, state.users.len());
        let frame = message.number(state.next_seq, self.epoch, now.unix_ms);
        self.publish(state, &frame, now, wakes);
    }

    /// One push for each shard that has members.
    fn publish(self: &Arc<Self>, state: &mut State, frame: &Bytes, now: Time, wakes: &mut Wakes) -> u64 {
        let seq = state.next_seq;
        state.next_seq += 1;
        state.replay.push(frame, now.monotonic_ms);
        self.schedule_expiry(state);
        for (shard, inbox) in self.inboxes.iter().enumerate() {
            if state.members_by_shard[shard] == 0 {
                continue;
            }
            let relay = Relay { room: Arc::clone(self), seq, frame: frame.clone(), received: wakes.received };
            wakes.note(shard, inbox.push(relay));
        }
        seq
    }
}
