//! What servers tell each other on NATS, past the log: nothing of it is stored.

use async_nats::{Message, Subscriber};

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{Nats, Unreachable};
use crate::cluster::nodes::Beat;
use crate::limits::cluster::DISCONNECT_TIME_MAX;

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

impl Nats {
    /// Has the connections of a user closed by this number of other servers, and returns the answers that come in time.
    pub(in crate::cluster) async fn disconnect(
        &self,
        order: &Disconnect,
        others: usize,
    ) -> Result<Vec<usize>, Unreachable> {
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await.map_err(|_| Unreachable)?;
        let payload = serde_json::to_vec(order).expect("names are JSON");
        let sent = self.client.publish_with_reply(self.subject("x", "all"), inbox, payload.into()).await;
        sent.map_err(|_| Unreachable)?;
        let mut closed = Vec::new();
        let mut answers = answers.take(others).take_until(Box::pin(sleep(DISCONNECT_TIME_MAX)));
        while let Some(answer) = answers.next().await {
            closed.extend(std::str::from_utf8(&answer.payload).ok().and_then(|count| count.parse::<usize>().ok()));
        }
        Ok(closed)
    }

    /// The orders to close connections.
    pub(in crate::cluster) async fn disconnects(&self) -> Result<Subscriber, Unreachable> {
        self.client.subscribe(self.subject("x", "all")).await.map_err(|_| Unreachable)
    }
}

/// An order to close the connections of a user.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::cluster) struct Disconnect {
    /// The server that gives it.
    pub(in crate::cluster) node: u64,
    pub(in crate::cluster) user: String,
    pub(in crate::cluster) room: Option<String>,
    pub(in crate::cluster) reason: String,
}

/// The order in a message.
pub(in crate::cluster) fn disconnect(message: &Message) -> Option<Disconnect> {
    serde_json::from_slice(&message.payload).ok()
}

/// What a message tells.
pub(in crate::cluster) fn beat(message: &Message) -> Option<Beat> {
    serde_json::from_slice(&message.payload).ok()
}
