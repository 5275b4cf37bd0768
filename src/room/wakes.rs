//! The shards that a publisher still has to wake.

use std::time::Instant;

use super::inbox::{Inbox, Pushed};

/// The shards to wake once a turn's publishes are done.
#[derive(Debug, Default)]
pub struct Wakes {
    shards: Vec<usize>,
    /// When the message that is being published was received, if its deliveries are timed.
    pub received: Option<Instant>,
    /// The shard that publishes, which wants to be told what becomes of messages that get their numbers elsewhere.
    pub(crate) publisher: Option<u32>,
}

impl Wakes {
    /// No shards yet; messages are timed if `received` is given.
    pub(crate) fn received(received: Option<Instant>) -> Self {
        Self { received, ..Self::default() }
    }

    /// The wakes of this shard.
    pub(crate) fn of_shard(shard: u32) -> Self {
        Self { publisher: Some(shard), ..Self::default() }
    }

    /// Notes the outcome of a push into this shard's inbox.
    pub(crate) fn note(&mut self, shard: usize, pushed: Pushed) {
        if pushed == Pushed::Wake {
            self.shards.push(shard);
        }
    }

    /// Notes that this shard has drained its inbox: it doesn't have to be woken any more.
    pub(crate) fn drained(&mut self, own: usize) {
        self.shards.retain(|shard| *shard != own);
    }

    /// Wakes every noted shard except `own`, which is awake. True: `own` has to drain its inbox again before it sleeps.
    pub(crate) fn wake_others(&mut self, inboxes: &[Inbox], own: usize) -> bool {
        let pushed_to_itself = self.shards.contains(&own);
        self.drained(own);
        self.wake_all(inboxes);
        pushed_to_itself
    }

    /// Wakes every noted shard, and forgets them.
    pub fn wake_all(&mut self, inboxes: &[Inbox]) {
        for shard in self.shards.drain(..) {
            inboxes[shard].wake();
        }
    }
}
