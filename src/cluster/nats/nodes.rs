//! What servers tell each other on NATS, past the log: nothing of it is stored.

use async_nats::{Message, Subscriber};

use super::{Nats, Unreachable};
use crate::cluster::nodes::Beat;

impl Nats {
    /// Tells all other servers.
    pub(in crate::cluster) async fn tell(&self, beat: &Beat) -> Result<(), Unreachable> {
        let payload = serde_json::to_vec(beat).expect("names and numbers are JSON");
        self.client.publish(self.subject("g", "all"), payload.into()).await.map_err(|_| Unreachable)
    }

    /// What servers tell; also this one.
    pub(in crate::cluster) async fn beats(&self) -> Result<Subscriber, Unreachable> {
        self.client.subscribe(self.subject("g", "all")).await.map_err(|_| Unreachable)
    }

    /// Asks a server to tell everything.
    pub(in crate::cluster) async fn ask_all(&self, node: u64) -> Result<(), Unreachable> {
        let subject = self.subject("a", &format!("{node:016x}"));
        self.client.publish(subject, bytes::Bytes::new()).await.map_err(|_| Unreachable)
    }

    /// The requests to tell everything.
    pub(in crate::cluster) async fn asked_all(&self, node: u64) -> Result<Subscriber, Unreachable> {
        self.client.subscribe(self.subject("a", &format!("{node:016x}"))).await.map_err(|_| Unreachable)
    }
}

/// What a message tells.
pub(in crate::cluster) fn beat(message: &Message) -> Option<Beat> {
    serde_json::from_slice(&message.payload).ok()
}
