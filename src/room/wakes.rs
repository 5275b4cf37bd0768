//! The shards that a publisher still has to wake.

use std::time::Instant;

use super::inbox::{Inbox, Pushed};

/// What a publisher has to do after a publish, once its turn's publishes are done: wake these shards.
#[derive(Debug, Default)]
pub struct Wakes {
    shards: Vec<usize>,
    /// When what is published now was received, if its deliveries are to be timed.
    pub received: Option<Instant>,
}

impl Wakes {
    /// Nobody to wake yet; what is published is timed if `received` is given.
    pub fn received(received: Option<Instant>) -> Self {
        Self { shards: Vec::new(), received }
    }

    /// Remembers that a push into this shard's inbox asked for a wake-up.
    pub fn note(&mut self, shard: usize, pushed: Pushed) {
        if pushed == Pushed::Wake {
            self.shards.push(shard);
        }
    }

    /// This shard has drained its inbox: what was pushed into it needs no wake-up any more.
    pub fn drained(&mut self, own: usize) {
        self.shards.retain(|shard| *shard != own);
    }

    /// Wakes every shard that was pushed to and not woken yet, but for `own`, which is awake; true: its inbox has to be
    /// drained again before it sleeps.
    pub fn wake_others(&mut self, inboxes: &[Inbox], own: usize) -> bool {
        let pushed_to_itself = self.shards.contains(&own);
        self.drained(own);
        self.wake_all(inboxes);
        pushed_to_itself
    }

    /// Wakes every shard that was pushed to and not woken yet.
    pub fn wake_all(&mut self, inboxes: &[Inbox]) {
        for shard in self.shards.drain(..) {
            inboxes[shard].wake();
        }
    }
}
