//! The names of users on NATS: one record for each, written only if the one before it is known.

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream;
use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use super::{Nats, Unreachable};
use crate::limits::cluster::{BATCH_RECORDS, FREE_NAME_SECONDS, HOLDER_TIME_MAX, REPLY_TIME_MAX};
use crate::protocol::MemberId;

/// The member that has claimed a name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(in crate::cluster) struct Claim {
    /// Its server.
    pub(in crate::cluster) node: u64,
    /// The connection there: shard, slot and serial number.
    member: (u32, u32, u32),
    /// The name as the user writes it.
    pub(in crate::cluster) user: String,
}

impl Claim {
    pub(in crate::cluster) fn new(node: u64, member: MemberId, user: &str) -> Self {
        Self { node, member: (member.shard, member.slot, member.serial), user: user.to_owned() }
    }

    pub(in crate::cluster) fn member(&self) -> MemberId {
        let (shard, slot, serial) = self.member;
        MemberId { shard, slot, serial }
    }
}

/// What is known about a name: where that stands in the stream, and which member has it, if any.
#[derive(Clone, Debug)]
pub(in crate::cluster) struct Known {
    pub(in crate::cluster) user: String,
    pub(in crate::cluster) at: u64,
    pub(in crate::cluster) claim: Option<Claim>,
}

/// A question to another server: whether this member still has its name in this room.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::cluster) struct Question {
    pub(in crate::cluster) room: String,
    pub(in crate::cluster) user: String,
    pub(in crate::cluster) claim: Claim,
}

impl Nats {
    pub(super) fn names_stream(&self) -> stream::Config {
        stream::Config {
            name: format!("{}_names", self.name),
            subjects: vec![format!("{}.n.>", self.name)],
            max_messages_per_subject: 1,
            max_bytes: -1,
            max_messages: -1,
            max_consumers: -1,
            allow_direct: true,
            allow_message_ttl: true,
            republish: Some(stream::Republish {
                source: format!("{}.n.>", self.name),
                destination: format!("{}.m.>", self.name),
                headers_only: false,
            }),
            ..stream::Config::default()
        }
    }

    /// Writes who has a name, if its last record is still at `before` (0: there is none). `None`: it is another one.
    pub(in crate::cluster) async fn write_name(
        &self,
        room: &str,
        user: &str,
        before: u64,
        claim: Option<&Claim>,
    ) -> Result<Option<u64>, Unreachable> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", before.to_string());
        let payload = claim.map(|claim| serde_json::to_vec(claim).expect("names and numbers are JSON"));
        if payload.is_none() {
            headers.insert("Nats-TTL", format!("{FREE_NAME_SECONDS}s"));
        }
        let subject = format!("{}.n.{room}.{user}", self.name);
        let sent = self.jetstream.publish_with_headers(subject, headers, payload.unwrap_or_default().into()).await;
        match sent.map_err(|_| Unreachable)?.await {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(_) => Err(Unreachable),
        }
    }

    /// What the leader knows about a name.
    pub(in crate::cluster) async fn name(&self, room: &str, user: &str) -> Result<Known, Unreachable> {
        let stream =
            self.jetstream.get_stream_no_info(format!("{}_names", self.name)).await.map_err(|_| Unreachable)?;
        match stream.get_last_raw_message_by_subject(&format!("{}.n.{room}.{user}", self.name)).await {
            Ok(last) => Ok(known(user, last.sequence, &last.payload)),
            Err(error) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Ok(known(user, 0, b"")),
            Err(_) => Err(Unreachable),
        }
    }

    /// The changes of a room's names from now on.
    pub(in crate::cluster) async fn follow_names(&self, room: &str) -> Result<Subscriber, Unreachable> {
        let subject = format!("{}.m.{room}.*", self.name);
        let subscriber = self.client.subscribe(subject).await.map_err(|_| Unreachable)?;
        timeout(REPLY_TIME_MAX, self.client.flush()).await.ok().and_then(Result::ok).ok_or(Unreachable)?;
        Ok(subscriber)
    }

    /// All names of a room.
    pub(in crate::cluster) async fn names(&self, room: &str) -> Result<Vec<Known>, Unreachable> {
        let subject = format!("{}.n.{room}.*", self.name);
        let (mut names, mut next) = (Vec::new(), 1);
        loop {
            let question = json!({"seq": next, "next_by_subj": subject, "batch": BATCH_RECORDS});
            let batch = self.ask_batch("names", &question, name_change).await?;
            let Some(last) = batch.last() else { return Ok(names) };
            next = last.at + 1;
            names.extend(batch);
        }
    }

    /// Names of all rooms from this position of the stream on, each with its room; some of them.
    pub(in crate::cluster) async fn all_names(&self, from: u64) -> Result<Vec<(String, Known)>, Unreachable> {
        let question = json!({"seq": from, "next_by_subj": format!("{}.n.>", self.name), "batch": BATCH_RECORDS});
        let with_room = |message: &Message| {
            let subject = message.headers.as_ref()?.get("Nats-Subject")?.as_str();
            Some((subject.rsplit('.').nth(1)?.to_owned(), name_change(message)?))
        };
        self.ask_batch("names", &question, with_room).await
    }

    /// The questions to this server.
    pub(in crate::cluster) async fn questions(&self, node: u64) -> Result<Subscriber, Unreachable> {
        self.client.subscribe(format!("{}.o.{node:016x}", self.name)).await.map_err(|_| Unreachable)
    }

    /// Answers a question.
    pub(in crate::cluster) async fn answer(&self, message: &Message, answer: String) {
        if let Some(reply) = message.reply.clone() {
            // If the connection is lost, the other side doesn't wait for long.
            let _ = self.client.publish(reply, answer.into()).await;
        }
    }

    /// Asks the server of a claim whether the name is still held. What it doesn't answer in time, is; but not by a server that
    /// is gone.
    pub(in crate::cluster) async fn is_held(&self, question: &Question) -> bool {
        let subject = format!("{}.o.{:016x}", self.name, question.claim.node);
        let payload = serde_json::to_vec(question).expect("names and numbers are JSON");
        let request = async_nats::Request::new().payload(payload.into()).timeout(Some(HOLDER_TIME_MAX));
        match self.client.send_request(subject, request).await {
            Ok(answer) => answer.payload.as_ref() != b"0",
            Err(error) => error.kind() != async_nats::RequestErrorKind::NoResponders,
        }
    }
}

/// The question in a message.
pub(in crate::cluster) fn question(message: &Message) -> Option<Question> {
    serde_json::from_slice(&message.payload).ok()
}

/// The change of a name in a message that was republished, or read.
pub(in crate::cluster) fn name_change(message: &Message) -> Option<Known> {
    if message.status.is_some_and(|status| status != StatusCode::OK) {
        return None;
    }
    let headers = message.headers.as_ref()?;
    let at = headers.get("Nats-Sequence")?.as_str().parse().ok()?;
    let subject = headers.get("Nats-Subject")?.as_str();
    Some(known(subject.rsplit('.').next()?, at, &message.payload))
}

fn known(user: &str, at: u64, payload: &[u8]) -> Known {
    Known { user: user.to_owned(), at, claim: serde_json::from_slice(payload).ok() }
}
