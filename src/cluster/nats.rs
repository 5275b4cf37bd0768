//! The log on NATS JetStream: with its parts, the only file that names its client.
//!
//! A stream whose messages are counters (ADR-49): the server adds 1 to the count of the subject when it stores a record, so the
//! count is the room's dense `Seq`. Each stored record is republished, in the order of the stream, to those who follow the room.

use std::collections::HashMap;
use std::time::Duration;

pub(super) use async_nats::Message;
use async_nats::datetime::{from_nanos, parse_rfc3339};
use async_nats::jetstream::{self, Context, stream};
use async_nats::{Client, ConnectOptions, Event, HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

pub(super) mod names;
pub(super) mod nodes;
mod streams;
mod sweep;

pub(super) use streams::{Created, Unfit};

use super::bundles::BundleId;
use super::record::{Content, Heading, Record, join, split};
use super::{Files, Settings};
use crate::frame::encode;
use crate::limits::cluster::{
    BATCH_RECORDS, CONNECT_TIME_MAX, HEADER_BYTES_MAX, LAG_PAUSE, LAGS_MAX, PAYLOAD_BYTES_MIN, PROBE_TIME_MAX,
    REPLY_TIME_MAX, TIPS_MAX,
};
use crate::protocol::Namespace;

/// Headers of ours.
const HEADING: &str = "H";
const BODY: &str = "B";

/// The log can't be reached, or doesn't answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreachable;

/// Whether the log is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// It is, with the key of `Resume` secrets that was written at this time, in nanoseconds since 1970: another time means that
    /// the names were lost since.
    Answered(Option<i128>),
    Silent,
}

/// The answer to a record that was published; if it isn't stored, with what NATS says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    /// It is stored, and may have been before.
    Stored { again: bool },
    /// Not now: it may be stored later, or was not.
    Later(String),
    /// Never: there is something wrong with it.
    Refused(String),
}

/// Where the records of a room are: the stream's name, without that of the cluster, and their subject.
struct Places {
    stream: &'static str,
    stored: String,
}

/// A connection to the log.
#[derive(Clone)]
pub(super) struct Nats {
    client: Client,
    jetstream: Context,
    name: String,
    /// Where answers to records arrive, behind a dot and the record's number.
    answers: String,
}

impl Files {
    async fn options(&self) -> Result<ConnectOptions, String> {
        let mut options = ConnectOptions::new();
        if let Some(creds) = &self.creds {
            options = options.credentials_file(creds).await.map_err(|error| {
                let creds = creds.display();
                format!("can't read the credentials in {creds} (--cluster-creds): {error}")
            })?;
        }
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((certificate, key)) = &self.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options)
    }
}

impl Nats {
    /// Connects. Every later change of the connection is told through `changes`: whether it is there.
    pub(super) async fn connect(settings: &Settings, changes: mpsc::UnboundedSender<bool>) -> Result<Self, String> {
        let tell = move |event| {
            let changed = match event {
                Event::Connected => Some(true),
                Event::Disconnected | Event::Closed => Some(false),
                _ => None,
            };
            if let Some(is_connected) = changed {
                // Nobody listens at the end of the process.
                let _ = changes.send(is_connected);
            }
            std::future::ready(())
        };
        let options = settings
            .files
            .options()
            .await?
            .name("hi")
            .event_callback(tell)
            .ping_interval(Duration::from_secs(2))
            .reconnect_delay_callback(|attempt| Duration::from_millis(if attempt <= 1 { 10 } else { 100 }));
        let connecting = timeout(CONNECT_TIME_MAX, options.connect(settings.servers.clone()));
        let servers = settings.servers.join(",");
        let client = match connecting.await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(format!("can't connect to {servers} (--cluster): {error}")),
            Err(_) => return Err(format!("can't connect to {servers} (--cluster): no answer")),
        };
        let info = client.server_info();
        if !client.is_server_compatible(2, 12, 0) {
            let version = info.version;
            return Err(format!("{servers} is nats-server {version}, and --cluster needs 2.12 or newer: update it"));
        }
        if info.max_payload < PAYLOAD_BYTES_MIN {
            let max = info.max_payload;
            return Err(format!(
                "{servers} takes messages of up to {max} bytes, and --cluster needs {PAYLOAD_BYTES_MIN}: raise its max_payload"
            ));
        }
        let (mut jetstream, answers) = (jetstream::new(client.clone()), client.new_inbox());
        jetstream.set_timeout(REPLY_TIME_MAX);
        Ok(Self { client, jetstream, name: settings.name.clone(), answers })
    }

    /// Bytes of the longest raw message that the server takes.
    pub(super) fn raw_bytes_max(&self) -> usize {
        self.client.server_info().max_payload - HEADER_BYTES_MAX
    }

    /// Whether the leader of a stream answers.
    pub(super) async fn probe(&self) -> Probed {
        let stream = match self.jetstream.get_stream_no_info(format!("{}_names", self.name)).await {
            Ok(stream) => stream,
            Err(_) => return Probed::Silent,
        };
        match timeout(PROBE_TIME_MAX, stream.get_last_raw_message_by_subject(&self.key_subject())).await {
            Ok(Err(error)) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Probed::Answered(None),
            Ok(Ok(key)) => Probed::Answered(Some(key.time.unix_timestamp_nanos())),
            Ok(Err(_)) | Err(_) => Probed::Silent,
        }
    }

    /// The positions of the last records of these rooms, all of one kind.
    pub(super) async fn tips(&self, rooms: impl Iterator<Item = &str>) -> Result<HashMap<String, u64>, Unreachable> {
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
            let headers = message.headers.as_ref()?;
            let at = headers.get("Nats-Sequence")?.as_str().parse().ok()?;
            Some((by_subject.get(headers.get("Nats-Subject")?.as_str())?.clone(), at))
        };
        Ok(self.ask_batch(stream, &question, tip).await?.into_iter().collect())
    }

    /// Publishes a record. The answer arrives with [`Nats::answers`].
    pub(super) async fn publish(&self, room: &str, heading: &Heading, content: &Content) -> Result<(), Unreachable> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{:x}-{}", heading.node, heading.number));
        headers.insert(HEADING, heading.write());
        let body = match content {
            Content::Json(json) => {
                headers.insert("Nats-Incr", if heading.kind.counts() { "+1" } else { "+0" });
                if !json.is_empty() {
                    headers.insert(BODY, json.as_str());
                }
                Bytes::new()
            }
            Content::Frame(frame) => frame.slice_ref(encode::split(frame).0),
        };
        let (subject, answer) = (self.places(room).stored, format!("{}.{}", self.answers, heading.number));
        let sent = self.client.publish_with_reply_and_headers(subject, answer, headers, body).await;
        sent.map_err(|_| Unreachable)
    }

    /// The answers to all records.
    pub(super) async fn answers(&self) -> Result<Subscriber, Unreachable> {
        self.client.subscribe(format!("{}.*", self.answers)).await.map_err(|_| Unreachable)
    }

    /// The records of a room from now on, and the changes of its names. What is asked later is answered later, so that nothing is
    /// missed between that and this.
    pub(super) async fn follow(&self, room: &str) -> Result<Subscriber, Unreachable> {
        let BundleId { namespace, number } = BundleId::of(room);
        let (_, token) = split(room);
        let rest = if namespace == Namespace::Chat { ".>" } else { "" };
        let subject = format!("{}.{number}.{token}{rest}", self.republished(namespace));
        self.client.subscribe(subject).await.map_err(|_| Unreachable)
    }

    /// The same of all rooms of a bundle.
    pub(super) async fn follow_bundle(&self, bundle: BundleId) -> Result<Subscriber, Unreachable> {
        let subject = format!("{}.{}.>", self.republished(bundle.namespace), bundle.number);
        self.client.subscribe(subject).await.map_err(|_| Unreachable)
    }

    /// The room to which a message belongs that was republished, as it is called here.
    pub(super) fn room_of(&self, message: &Message) -> Option<String> {
        let (kind, rest) = message.subject.strip_prefix(&self.name)?.strip_prefix('.')?.split_once('.')?;
        let token = rest.split('.').nth(1)?;
        let namespace = Namespace::ALL.into_iter().find(|namespace| republished_kind(*namespace) == kind)?;
        Some(join(namespace, token))
    }

    /// What the subjects begin with to which records of rooms are republished.
    fn republished(&self, namespace: Namespace) -> String {
        format!("{}.{}", self.name, republished_kind(namespace))
    }

    /// The records of a room from this position of the stream on, or those since `since_ms`, and the position of the last.
    pub(super) async fn records(
        &self,
        room: &str,
        from: Option<u64>,
        since_ms: u64,
    ) -> Result<(Vec<Record>, u64), Unreachable> {
        let Places { stream: name, stored: subject, .. } = self.places(room);
        let stream =
            self.jetstream.get_stream_no_info(format!("{}_{name}", self.name)).await.map_err(|_| Unreachable)?;
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
        if from.is_none() && (unix_ms < since_ms || split(room).0 == Namespace::Raw) {
            // All others are older, too: to find that out, the server would look at many records of other rooms. And those of a raw
            // room nobody wants.
            return Ok((last.into_iter().collect(), last_at));
        }
        let since = rfc3339(since_ms).ok_or(Unreachable)?;
        let mut records: Vec<Record> = Vec::new();
        let mut next = from;
        // The room has no more, with that which began its life: for another one, the server would look at many of other rooms.
        let count = last.as_ref().map_or(0, |last| last.value as usize);
        let batch_max = if (1..BATCH_RECORDS).contains(&count) { count + 1 } else { BATCH_RECORDS };
        // Other servers than the leader answer this, and may lag.
        for _ in 0..LAGS_MAX {
            let batch = self.batch(name, &subject, next, &since, batch_max).await?;
            let is_empty = batch.is_empty();
            records.extend(batch);
            let reached = records.last().map_or(0, |record| record.at);
            if reached >= last_at {
                return Ok((records, last_at));
            }
            if is_empty && next.is_none() {
                // All of it is older.
                return Ok((last.into_iter().collect(), last_at));
            }
            next = Some(reached.max(next.unwrap_or(0).saturating_sub(1)) + 1);
            if is_empty {
                sleep(LAG_PAUSE).await;
            }
        }
        Err(Unreachable)
    }

    /// The position of a room's last record; 0 if there is none.
    pub(super) async fn last_at(&self, room: &str) -> Result<u64, Unreachable> {
        // There is no record from there on.
        Ok(self.records(room, Some(u64::MAX), 0).await?.1)
    }

    /// Whether a room has users, or has had a message since then.
    pub(super) async fn is_there(&self, room: &str, since_ms: u64) -> Result<bool, Unreachable> {
        let (records, last_at) = self.records(room, None, since_ms).await?;
        let is_fresh = last_at > 0 && records.last().is_some_and(|last| last.unix_ms >= since_ms && last.value > 0);
        Ok(is_fresh || self.has_users(room).await?)
    }

    async fn batch(
        &self,
        stream: &str,
        subject: &str,
        from: Option<u64>,
        since: &str,
        batch_max: usize,
    ) -> Result<Vec<Record>, Unreachable> {
        let question = match from {
            Some(from) => json!({"seq": from, "next_by_subj": subject, "batch": batch_max}),
            None => json!({"start_time": since, "next_by_subj": subject, "batch": batch_max}),
        };
        let without_link = |message: &Message| record(message).map(|record| Record { before: None, ..record });
        self.ask_batch(stream, &question, without_link).await
    }

    /// Reads messages of a stream, from any server that has them.
    async fn ask_batch<T>(
        &self,
        stream: &str,
        question: &serde_json::Value,
        read: impl Fn(&Message) -> Option<T>,
    ) -> Result<Vec<T>, Unreachable> {
        self.ask_for_all(stream, question, read).await?.ok_or(Unreachable)
    }

    /// The same; `None`: the question has too many answers.
    async fn ask_for_all<T>(
        &self,
        stream: &str,
        question: &serde_json::Value,
        read: impl Fn(&Message) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Unreachable> {
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
                Some(End::Whole) => Ok(Some(found)),
                Some(End::TooMany) => Ok(None),
                None => Err(Unreachable),
            };
        }
    }

    /// Where the records of a room are.
    fn places(&self, room: &str) -> Places {
        let (namespace, token) = split(room);
        match namespace {
            Namespace::Chat => Places { stream: "chat", stored: self.subject("c", token) },
            Namespace::Raw => Places { stream: "raw", stored: self.subject("r", token) },
        }
    }

    /// Where the key of `Resume` secrets is.
    fn key_subject(&self) -> String {
        format!("{}.k", self.name)
    }

    fn subject(&self, kind: &str, room: &str) -> String {
        format!("{}.{kind}.{room}", self.name)
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

/// A header with a number.
fn header(message: &Message, name: &str) -> Option<u64> {
    message.headers.as_ref()?.get(name)?.as_str().parse().ok()
}

fn republished_kind(namespace: Namespace) -> &'static str {
    match namespace {
        Namespace::Chat => "d",
        Namespace::Raw => "s",
    }
}

/// A time in milliseconds since 1970, as the log is asked for it.
fn rfc3339(unix_ms: u64) -> Option<String> {
    let time = from_nanos(i128::from(unix_ms) * 1_000_000).ok()?;
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    Some(format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second()))
}

/// The record in a message that was republished, or read.
pub(super) fn record(message: &Message) -> Option<Record> {
    let headers = message.headers.as_ref()?;
    let time = parse_rfc3339(headers.get("Nats-Time-Stamp")?.as_str()).ok()?;
    let unix_ms = (time.unix_timestamp_nanos() / 1_000_000) as u64;
    let record = stored(headers, header(message, "Nats-Sequence")?, unix_ms, &message.payload)?;
    Some(Record { before: header(message, "Nats-Last-Sequence"), ..record })
}

/// The record with these headers; `None` if it isn't one of ours.
fn stored(headers: &HeaderMap, at: u64, unix_ms: u64, payload: &[u8]) -> Option<Record> {
    #[derive(Deserialize)]
    struct Count<'a> {
        val: &'a str,
    }
    let heading = Heading::read(headers.get(HEADING)?.as_str())?;
    let (value, content) = match heading.kind.opcode() {
        Some(opcode) => (0, Content::Frame(encode::frame(opcode, payload))),
        None => {
            let value = serde_json::from_slice::<Count<'_>>(payload).ok()?.val.parse().ok()?;
            let json = headers.get(BODY).map(|json| json.as_str().to_owned()).unwrap_or_default();
            (value, Content::Json(json))
        }
    };
    Some(Record { at, before: None, value, unix_ms, heading, content })
}

/// The number of a record, and the log's answer to it.
pub(super) fn answer(message: &Message) -> Option<(u64, Ack)> {
    #[derive(Deserialize)]
    struct Failed {
        code: u16,
        #[serde(default)]
        description: String,
    }
    #[derive(Deserialize)]
    struct Answer {
        error: Option<Failed>,
        #[serde(default)]
        duplicate: bool,
    }
    let number = message.subject.rsplit('.').next()?.parse().ok()?;
    if message.status.is_some_and(|status| status == StatusCode::NO_RESPONDERS) {
        return Some((number, Ack::Later("no server answers for the stream".to_owned())));
    }
    let Answer { error, duplicate } = serde_json::from_slice(&message.payload).ok()?;
    let ack = match error {
        None => Ack::Stored { again: duplicate },
        Some(Failed { code: 400, description }) => Ack::Refused(description),
        // A cluster without a leader, one that is overloaded, or one that has not stored yet what is published again.
        Some(Failed { description, .. }) => Ack::Later(description),
    };
    Some((number, ack))
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
