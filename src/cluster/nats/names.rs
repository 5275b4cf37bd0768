//! The names of users on NATS: one record for each, written only if the one before it is known.

use std::collections::HashMap;
use std::error::Error as _;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode, stream};
use async_nats::{HeaderMap, Message, Request, RequestError, RequestErrorKind, StatusCode, Subscriber};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::sleep;

use super::{Nats, Unreachable, header};
use crate::cluster::names::{Claim, Known};
use crate::limits::cluster::{
    BATCH_RECORDS, FREE_NAME_SECONDS, HOLDER_TIME_MAX, LAG_PAUSE, LAGS_MAX, NAMES_AT_ONCE_MAX,
};
use crate::protocol::MemberId;
use crate::protocol::name::Name;

/// What another server is asked for.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::cluster) enum Asked {
    /// An answer.
    Held(Question),
    /// To close a connection, whose user has reconnected: shard, slot and serial number, and the user.
    TakeOver(u32, u32, u32, String),
}

/// A question to another server: whether this member still has its name in this room.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::cluster) struct Question {
    pub(in crate::cluster) room: String,
    pub(in crate::cluster) user: String,
    pub(in crate::cluster) claim: Claim,
}

impl Nats {
    /// Writes who has a name, if its last record is still at `before` (0: there is none). `None`: it is another one.
    pub(in crate::cluster) async fn write_name(
        &self,
        room: &str,
        user: &str,
        before: u64,
        claim: Option<&Claim>,
    ) -> Result<Option<u64>, Unreachable> {
        let mut headers = HeaderMap::new();
        let payload = claim.map(|claim| serde_json::to_vec(claim).expect("names and numbers are JSON"));
        if payload.is_none() {
            headers.insert("Nats-TTL", format!("{FREE_NAME_SECONDS}s"));
        }
        self.write_behind(before, format!("{}.n.{room}.{user}", self.name), headers, payload.unwrap_or_default()).await
    }

    /// Writes a record, if the last one of its subject is still at `before`; `None`: it is another one.
    async fn write_behind(
        &self,
        before: u64,
        subject: String,
        mut headers: HeaderMap,
        payload: Vec<u8>,
    ) -> Result<Option<u64>, Unreachable> {
        headers.insert("Nats-Expected-Last-Subject-Sequence", before.to_string());
        let payload = Bytes::from(payload);
        for _ in 0..LAGS_MAX {
            let sent = self.jetstream.publish_with_headers(subject.clone(), headers.clone(), payload.clone()).await;
            match sent.map_err(|_| Unreachable)?.await {
                Ok(ack) => return Ok(Some(ack.sequence)),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => return Ok(None),
                Err(error) if is_undecided(&error) => sleep(LAG_PAUSE).await,
                Err(_) => break,
            }
        }
        Err(Unreachable)
    }

    /// What the leader knows about a name.
    pub(in crate::cluster) async fn name(&self, room: &str, user: &str) -> Result<Known, Unreachable> {
        let stream = self.stream("names").await?;
        match stream.get_last_raw_message_by_subject(&format!("{}.n.{room}.{user}", self.name)).await {
            Ok(last) => Ok(known(user, last.sequence, &last.payload)),
            Err(error) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Ok(known(user, 0, b"")),
            Err(_) => Err(Unreachable),
        }
    }

    /// Names of a room from this position of the stream on; if fewer than [`BATCH_RECORDS`], all that the server has which answers.
    pub(in crate::cluster) async fn names(&self, room: &str, from: u64) -> Result<Vec<Known>, Unreachable> {
        let subject = format!("{}.n.{room}.*", self.name);
        let question = json!({"seq": from, "next_by_subj": subject, "batch": BATCH_RECORDS});
        self.ask_batch("names", &question, name_change).await
    }

    /// All names of these rooms, by room, and up to which position of the stream; `None`: they are too many for one answer. With
    /// `has_copies`, several servers have them.
    pub(in crate::cluster) async fn names_of_all(
        &self,
        rooms: &[impl AsRef<str>],
        has_copies: bool,
    ) -> Result<Option<(HashMap<String, Vec<Known>>, u64)>, Unreachable> {
        // Any of them answers, and may lag behind the leader, who tells changes: what it told before this server could hear it must
        // be in the answer. How far that is it says only if there is something, and the key is.
        let leader_at = if has_copies { self.reached("names").await?.last_sequence } else { 0 };
        // The servers find the last record of each subject at once; the next record that fits, only by a look at each.
        let subjects =
            rooms.iter().map(|room| format!("{}.n.{}.*", self.name, room.as_ref())).chain([self.key_subject()]);
        let question = json!({"multi_last": subjects.collect::<Vec<_>>(), "batch": NAMES_AT_ONCE_MAX});
        for _ in 0..LAGS_MAX {
            let Some((found, until)) = self.ask_for_all("names", &question, with_room).await? else { return Ok(None) };
            let until = until.unwrap_or(0);
            if until >= leader_at {
                let mut by_room = HashMap::<_, Vec<_>>::new();
                found.into_iter().for_each(|(room, known)| by_room.entry(room).or_default().push(known));
                return Ok(Some((by_room, until)));
            }
            sleep(LAG_PAUSE).await;
        }
        Err(Unreachable)
    }

    /// Whether a room has users.
    pub(super) async fn has_users(&self, room: &str) -> Result<bool, Unreachable> {
        if let Some((all, _)) = self.names_of_all(&[room], false).await? {
            return Ok(all.values().flatten().any(|known| known.claim.is_some()));
        }
        let mut next = 1;
        loop {
            let page = self.names(room, next).await?;
            if page.iter().any(|known| known.claim.is_some()) {
                return Ok(true);
            }
            match page.last() {
                Some(last) if page.len() == BATCH_RECORDS => next = last.at + 1,
                _ => return Ok(false),
            }
        }
    }

    /// Names of all rooms from this position of the stream on, each with its room; some of them.
    pub(in crate::cluster) async fn all_names(&self, from: u64) -> Result<Vec<(String, Known)>, Unreachable> {
        let question = json!({"seq": from, "next_by_subj": format!("{}.n.>", self.name), "batch": BATCH_RECORDS});
        self.ask_batch("names", &question, with_room).await
    }

    /// What other servers ask of this one.
    pub(in crate::cluster) async fn questions(&self, node: u64) -> Result<Subscriber, Unreachable> {
        self.client.subscribe(self.subject("o", &format!("{node:016x}"))).await.map_err(|_| Unreachable)
    }

    /// Answers a question.
    pub(in crate::cluster) async fn answer(&self, message: &Message, answer: String) {
        if let Some(reply) = message.reply.clone() {
            // If the connection is lost, the other side doesn't wait for long.
            let _ = self.client.publish(reply, answer.into()).await;
        }
    }

    /// Has a connection of another server closed, whose user has reconnected here. If that server is gone, so is the connection.
    pub(in crate::cluster) async fn take_over(&self, node: u64, member: MemberId, user: &Name) {
        let order = Asked::TakeOver(member.shard, member.slot, member.serial, user.to_string());
        let payload = serde_json::to_vec(&order).expect("names and numbers are JSON");
        // If it doesn't arrive, the connection is closed when the other server reads who has its name, or when it has ended.
        let _ = self.client.publish(self.subject("o", &format!("{node:016x}")), payload.into()).await;
    }

    /// The random numbers that all servers make their secrets with: these, unless there are some already.
    pub(super) async fn resume_key(&self, own: [u64; 2]) -> Result<[u64; 2], Unreachable> {
        let subject = self.key_subject();
        let payload = serde_json::to_vec(&own).expect("numbers are JSON");
        if self.write_behind(0, subject.clone(), HeaderMap::new(), payload).await?.is_some() {
            return Ok(own);
        }
        let stream = self.stream("names").await?;
        let first = stream.get_last_raw_message_by_subject(&subject).await.map_err(|_| Unreachable)?;
        serde_json::from_slice(&first.payload).map_err(|_| Unreachable)
    }

    /// Asks the server of a claim whether the name is still held. What it doesn't answer in time, is; but not by a server that
    /// is gone.
    pub(in crate::cluster) async fn is_held(&self, question: Question) -> bool {
        let subject = self.subject("o", &format!("{:016x}", question.claim.node));
        let payload = Bytes::from(serde_json::to_vec(&Asked::Held(question)).expect("names and numbers are JSON"));
        let ask = || async {
            let request = Request::new().payload(payload.clone()).timeout(Some(HOLDER_TIME_MAX));
            self.client.send_request(subject.clone(), request).await
        };
        let mut answer = ask().await;
        if is_nobody_there(&answer) {
            // It may have lost its connection for a moment, as when its server of the log has ended.
            sleep(HOLDER_TIME_MAX).await;
            answer = ask().await;
        }
        !is_nobody_there(&answer) && !answer.is_ok_and(|answer| answer.payload.as_ref() == b"0")
    }
}

fn is_nobody_there(answer: &Result<Message, RequestError>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == RequestErrorKind::NoResponders)
}

/// Whether a record was refused because another one of its subject is on its way to the other servers of the log.
fn is_undecided(error: &PublishError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    source.is_some_and(|source| source.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

/// What a message asks for.
pub(in crate::cluster) fn asked(message: &Message) -> Option<Asked> {
    serde_json::from_slice(&message.payload).ok()
}

/// Whether a message that was republished is the change of a name.
pub(in crate::cluster) fn is_name_change(message: &Message) -> bool {
    message.subject.rsplit('.').nth(1) == Some("n")
}

/// The change of a name in a message that was republished, or read.
pub(in crate::cluster) fn name_change(message: &Message) -> Option<Known> {
    if message.status.is_some_and(|status| status != StatusCode::OK) {
        return None;
    }
    let subject = message.headers.as_ref()?.get("Nats-Subject")?.as_str();
    Some(known(subject.rsplit('.').next()?, header(message, "Nats-Sequence")?, &message.payload))
}

/// The same, with its room.
fn with_room(message: &Message) -> Option<(String, Known)> {
    let mut words = message.headers.as_ref()?.get("Nats-Subject")?.as_str().rsplit('.').skip(1);
    let (room, kind) = (words.next()?, words.next()?);
    if kind == "n" { Some((room.to_owned(), name_change(message)?)) } else { None }
}

fn known(user: &str, at: u64, payload: &[u8]) -> Known {
    Known { user: user.to_owned(), at, claim: serde_json::from_slice(payload).ok() }
}
