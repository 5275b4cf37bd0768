//! What is stored on NATS is read again.

use std::collections::HashMap;

use async_nats::datetime::from_nanos;
use async_nats::jetstream::stream;
use async_nats::{Message, StatusCode};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Nats, Places, Unreachable, header, record, stored};
use crate::cluster::record::{Record, split};
use crate::limits::cluster::{BATCH_BYTES, BATCH_RECORDS, LAG_PAUSE, LAGS_MAX, REPLY_TIME_MAX, TIPS_MAX};
use crate::protocol::Namespace;

impl Nats {
    /// The records of a room from this position of the stream on, or those since `since_ms`, and the position of the last.
    pub(in crate::cluster) async fn records(
        &self,
        room: &str,
        from: Option<u64>,
        since_ms: u64,
    ) -> Result<(Vec<Record>, u64), Unreachable> {
        let Places { stream: name, stored: subject, .. } = self.places(room);
        let stream = self.stream(name).await?;
        // The leader's: it has seen everything that was acknowledged.
        let last = match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(last) => last,
            Err(error) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => {
                return Ok((Vec::new(), 0));
            }
            Err(_) => return Err(Unreachable),
        };
        let last_at = last.sequence;
        let unix_ms = (last.time.unix_timestamp_nanos() / 1_000_000) as u64;
        let last = stored(&last.headers, last_at, unix_ms, &last.payload);
        if from.is_some_and(|from| from > last_at) {
            return Ok((Vec::new(), last_at));
        }
        let is_all = match from {
            Some(from) => from == last_at,
            // All others are older, too: to find that out, the server would look at many records of other rooms. And those of a raw
            // room nobody wants.
            None => unix_ms < since_ms || split(room).0 == Namespace::Raw,
        };
        if is_all {
            return Ok((last.into_iter().collect(), last_at));
        }
        let since = rfc3339(since_ms).ok_or(Unreachable)?;
        let mut records: Vec<Record> = Vec::new();
        let mut next = from;
        // The room has no more, with that which began its life: for another one, the server would look at many of other rooms.
        let count = last.as_ref().map_or(0, |last| last.value as usize);
        let batch_max = if (1..BATCH_RECORDS).contains(&count) { count + 1 } else { BATCH_RECORDS };
        let mut lags = 0;
        // Other servers than the leader answer this, and may lag.
        while lags < LAGS_MAX {
            let batch = self.batch(name, &subject, next, &since, batch_max).await?;
            let reached = batch.last().map(|(at, _)| *at);
            records.extend(batch.into_iter().filter_map(|(_, record)| record));
            match reached {
                Some(reached) if reached >= last_at => return Ok((records, last_at)),
                Some(reached) => next = Some(reached + 1),
                None => {
                    lags += 1;
                    sleep(LAG_PAUSE).await;
                }
            }
        }
        Err(Unreachable)
    }

    /// The position of a room's last record; 0 if there is none.
    pub(in crate::cluster) async fn last_at(&self, room: &str) -> Result<u64, Unreachable> {
        // There is no record from there on.
        Ok(self.records(room, Some(u64::MAX), 0).await?.1)
    }

    /// Whether a room has users, or has had a message since then.
    pub(in crate::cluster) async fn is_there(&self, room: &str, since_ms: u64) -> Result<bool, Unreachable> {
        let (records, last_at) = self.records(room, None, since_ms).await?;
        let is_fresh = last_at > 0 && records.last().is_some_and(|last| last.unix_ms >= since_ms && last.value > 0);
        Ok(is_fresh || self.has_users(room).await?)
    }

    /// Records of a room, each with its position; those that this version of hi can't read are only that.
    async fn batch(
        &self,
        stream: &str,
        subject: &str,
        from: Option<u64>,
        since: &str,
        batch_max: usize,
    ) -> Result<Vec<(u64, Option<Record>)>, Unreachable> {
        let (from, value) = match from {
            Some(from) => ("seq", json!(from)),
            None => ("start_time", json!(since)),
        };
        let question = json!({from: value, "next_by_subj": subject, "batch": batch_max, "max_bytes": BATCH_BYTES});
        let read = |message: &Message| Some((header(message, "Nats-Sequence")?, record(message)));
        self.ask_batch(stream, &question, read).await
    }

    /// A stream, of which nothing is asked yet.
    pub(super) async fn stream(&self, stream: &str) -> Result<stream::Stream<()>, Unreachable> {
        self.jetstream.get_stream_no_info(format!("{}_{stream}", self.name)).await.map_err(|_| Unreachable)
    }

    /// How far a stream is. Its leader says that, who has seen everything that was acknowledged.
    pub(super) async fn reached(&self, stream: &str) -> Result<stream::State, Unreachable> {
        let stream = self.jetstream.get_stream(format!("{}_{stream}", self.name)).await.map_err(|_| Unreachable)?;
        Ok(stream.cached_info().state.clone())
    }

    /// Reads messages of a stream, from any server that has them.
    pub(super) async fn ask_batch<T>(
        &self,
        stream: &str,
        question: &serde_json::Value,
        read: impl Fn(&Message) -> Option<T>,
    ) -> Result<Vec<T>, Unreachable> {
        self.ask_for_all(stream, question, read).await?.map(|(found, _)| found).ok_or(Unreachable)
    }

    /// The same; `None`: the question has too many answers. If the last messages of subjects are asked for, and there are some, the
    /// second value is how far the server that answers has the stream.
    pub(super) async fn ask_for_all<T>(
        &self,
        stream: &str,
        question: &serde_json::Value,
        read: impl Fn(&Message) -> Option<T>,
    ) -> Result<Option<(Vec<T>, Option<u64>)>, Unreachable> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|_| Unreachable)?;
        let direct = format!("$JS.API.DIRECT.GET.{}_{stream}", self.name);
        let asked = self.client.publish_with_reply(direct, inbox, question.to_string().into()).await;
        asked.map_err(|_| Unreachable)?;
        let (mut found, mut count) = (Vec::new(), 0);
        loop {
            let answer = timeout(REPLY_TIME_MAX, answers.next()).await.ok().flatten().ok_or(Unreachable)?;
            let Some(status) = answer.status.filter(|status| *status != StatusCode::OK) else {
                found.extend(read(&answer));
                count += 1;
                continue;
            };
            let asks_for_last = !question["multi_last"].is_null();
            return match ends(status.as_u16(), answer.description.as_deref(), count, asks_for_last) {
                Some(End::Whole) => Ok(Some((found, header(&answer, "Nats-UpTo-Sequence")))),
                Some(End::TooMany) => Ok(None),
                None => Err(Unreachable),
            };
        }
    }

    /// The positions of the last records of these rooms, all of one kind.
    pub(in crate::cluster) async fn tips(
        &self,
        rooms: impl Iterator<Item = &str>,
    ) -> Result<HashMap<String, u64>, Unreachable> {
        let (mut stream, mut by_subject) = ("", HashMap::new());
        for room in rooms {
            let places = self.places(room);
            stream = places.stream;
            by_subject.insert(places.stored, room.to_owned());
        }
        if by_subject.is_empty() {
            return Ok(HashMap::new());
        }
        let subjects: Vec<&String> = by_subject.keys().collect();
        let question = json!({"multi_last": subjects, "batch": TIPS_MAX});
        let tip = |message: &Message| {
            let room = by_subject.get(message.headers.as_ref()?.get("Nats-Subject")?.as_str())?;
            Some((room.clone(), header(message, "Nats-Sequence")?))
        };
        Ok(self.ask_batch(stream, &question, tip).await?.into_iter().collect())
    }
}

/// What ends an answer in several messages.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Whole,
    TooMany,
}

/// How an answer of this many messages has ended. `None`: what is missing is not known.
fn ends(status: u16, description: Option<&str>, count: usize, asks_for_last: bool) -> Option<End> {
    match status {
        204 => Some(End::Whole),
        // It has none. It says nearly the same of one that was replaced before it was read, and leaves out all that follow.
        404 if count == 0 && (!asks_for_last || description == Some("No Results")) => Some(End::Whole),
        413 => Some(End::TooMany),
        _ => None,
    }
}

/// A time in milliseconds since 1970, as the log is asked for it.
pub(super) fn rfc3339(unix_ms: u64) -> Option<String> {
    let time = from_nanos(i128::from(unix_ms) * 1_000_000).ok()?;
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    Some(format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_cut_off_is_not_taken_for_all() {
        for asks_for_last in [false, true] {
            assert_eq!(ends(204, Some("EOB"), 3, asks_for_last), Some(End::Whole));
            assert_eq!(ends(413, Some("Too Many Results"), 0, asks_for_last), Some(End::TooMany));
            assert_eq!(ends(404, Some("Message Not Found"), 3, asks_for_last), None);
            assert_eq!(ends(500, None, 0, asks_for_last), None);
        }
        assert_eq!(ends(404, Some("Message Not Found"), 0, false), Some(End::Whole), "of those that follow each other");
        assert_eq!(ends(404, Some("No Results"), 0, true), Some(End::Whole), "of the last ones");
        assert_eq!(ends(404, Some("Message Not Found"), 0, true), None);
    }
}
