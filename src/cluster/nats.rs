//! The log on NATS JetStream: the only file that names its client.
//!
//! A stream whose messages are counters (ADR-49): the server adds 1 to the count of the subject when it stores a record, so the
//! count is the room's dense `Seq`. Each stored record is republished, in the order of the stream, to those who follow the room.

use std::collections::HashMap;
use std::time::{Duration, Instant};

pub(super) use async_nats::Message;
use async_nats::datetime::{from_nanos, parse_rfc3339};
use async_nats::jetstream::{self, Context, ErrorCode, context, stream};
use async_nats::{Client, ConnectOptions, Event, HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

pub(super) mod names;
pub(super) mod nodes;

use super::record::{Content, Heading, Record, split};
use super::{Files, Settings};
use crate::frame::encode;
use crate::limits::cluster::{
    BATCH_RECORDS, CONNECT_TIME_MAX, HEADER_BYTES_MAX, LAG_PAUSE, PAYLOAD_BYTES_MIN, PREPARE_TIME_MAX, PROBE_TIME_MAX,
    RAW_AGE_MS, RAW_BYTES_MAX, RAW_RECORDS_MAX, REPLICAS_AUTO, REPLY_TIME_MAX, TICK, TIPS_MAX,
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
    Answered,
    Silent,
}

/// The answer to a record that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    /// It is stored, and may have been before.
    Stored { again: bool },
    /// Not now: no server answers for the stream.
    Later,
    /// Never.
    Refused,
}

/// When the streams were made: another time means that they have been made again, without what was in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Created {
    pub(super) messages: String,
    pub(super) raw: String,
    pub(super) names: String,
}

/// Where the records of a room are: the stream's name, without that of the cluster, and its subjects.
struct Places {
    stream: &'static str,
    stored: String,
    republished: String,
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

impl Settings {
    fn storage(&self) -> stream::StorageType {
        if self.in_memory { stream::StorageType::Memory } else { stream::StorageType::File }
    }
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
        let (jetstream, answers) = (jetstream::new(client.clone()), client.new_inbox());
        Ok(Self { client, jetstream, name: settings.name.clone(), answers })
    }

    /// Makes the streams, or checks that they are as they should be. Returns when they were made.
    pub(super) async fn prepare(&self, settings: &Settings) -> Result<Created, String> {
        let messages = stream::Config {
            name: format!("{}_chat", self.name),
            subjects: vec![self.subject("c", ">")],
            max_messages_per_subject: settings.records_max,
            max_age: settings.room_memory,
            max_bytes: settings.bytes_max,
            max_messages: -1,
            max_consumers: -1,
            storage: settings.storage(),
            duplicate_window: Duration::from_secs(30),
            allow_direct: true,
            allow_message_counter: true,
            republish: Some(stream::Republish {
                source: self.subject("c", ">"),
                destination: self.subject("d", ">"),
                headers_only: false,
            }),
            ..stream::Config::default()
        };
        let names = stream::Config { storage: settings.storage(), ..self.names_stream() };
        let names = self.prepare_stream(names, settings.replicas).await?;
        let raw = self.prepare_stream(self.raw_stream(), settings.replicas).await?;
        let info = self.prepare_stream(messages, settings.replicas).await?;
        if !info.config.allow_message_counter {
            let name = info.config.name;
            return Err(format!(
                "the stream {name} doesn't count its messages, which --cluster needs: update the server"
            ));
        }
        let [messages, raw, names] = [info, raw, names].map(|info| info.created.to_string());
        Ok(Created { messages, raw, names })
    }

    /// The same at the start, when the servers of the log may be starting, too.
    pub(super) async fn prepare_patiently(&self, settings: &Settings) -> Result<Created, String> {
        let began = Instant::now();
        loop {
            match self.prepare(settings).await {
                Err(_) if began.elapsed() < PREPARE_TIME_MAX => sleep(TICK).await,
                prepared => return prepared,
            }
        }
    }

    /// Raw messages are kept only until all servers have read them.
    fn raw_stream(&self) -> stream::Config {
        stream::Config {
            name: format!("{}_raw", self.name),
            subjects: vec![self.subject("r", ">")],
            storage: stream::StorageType::Memory,
            max_messages_per_subject: RAW_RECORDS_MAX as i64,
            max_age: Duration::from_millis(RAW_AGE_MS),
            max_bytes: RAW_BYTES_MAX,
            max_messages: -1,
            max_consumers: -1,
            duplicate_window: Duration::from_millis(RAW_AGE_MS),
            allow_direct: true,
            republish: Some(stream::Republish {
                source: self.subject("r", ">"),
                destination: self.subject("s", ">"),
                headers_only: false,
            }),
            ..stream::Config::default()
        }
    }

    /// Bytes of the longest raw message that the server takes.
    pub(super) fn raw_bytes_max(&self) -> usize {
        self.client.server_info().max_payload - HEADER_BYTES_MAX
    }

    async fn prepare_stream(&self, wanted: stream::Config, replicas: Option<usize>) -> Result<stream::Info, String> {
        let name = wanted.name.clone();
        let differs =
            || format!("the stream {name} (--cluster) has other settings: remove it, or take another --cluster-name");
        // Made again, it would have to fit beside itself.
        if let Ok(made) = self.jetstream.get_stream(&name).await {
            let info = made.cached_info().clone();
            // What the first server has found holds for all.
            let wanted = stream::Config { num_replicas: replicas.unwrap_or(info.config.num_replicas), ..wanted };
            return if is_alike(&info.config, &wanted) { Ok(info) } else { Err(differs()) };
        }
        let servers = self.client.server_info().connect_urls.len();
        let auto = if servers >= REPLICAS_AUTO { REPLICAS_AUTO } else { 1 };
        let wanted = stream::Config { num_replicas: replicas.unwrap_or(auto), ..wanted };
        let made = self.jetstream.create_stream(wanted).await.map_err(|error| match error.kind() {
            context::CreateStreamErrorKind::JetStreamUnavailable => {
                "the server of --cluster has no JetStream: start it with -js".to_owned()
            }
            context::CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                differs()
            }
            _ => format!("can't make the stream {name} (--cluster): {error}"),
        })?;
        Ok(made.cached_info().clone())
    }

    /// Whether the leader of a stream answers.
    pub(super) async fn probe(&self) -> Probed {
        let stream = match self.jetstream.get_stream_no_info(format!("{}_names", self.name)).await {
            Ok(stream) => stream,
            Err(_) => return Probed::Silent,
        };
        let subject = self.subject("n", "probe");
        match timeout(PROBE_TIME_MAX, stream.get_last_raw_message_by_subject(&subject)).await {
            Ok(Err(error)) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Probed::Answered,
            Ok(Ok(_)) => Probed::Answered,
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

    /// The records of a room from now on.
    pub(super) async fn follow(&self, room: &str) -> Result<Subscriber, Unreachable> {
        let subscriber = self.client.subscribe(self.places(room).republished).await.map_err(|_| Unreachable)?;
        timeout(REPLY_TIME_MAX, self.client.flush()).await.ok().and_then(Result::ok).ok_or(Unreachable)?;
        Ok(subscriber)
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
        let since = rfc3339(since_ms).ok_or(Unreachable)?;
        let mut records: Vec<Record> = Vec::new();
        let mut next = from;
        // Other servers than the leader answer this, and may lag.
        for _ in 0..100 {
            let batch = self.batch(name, &subject, next, &since).await?;
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

    /// Whether a room has users, or has had a message since then.
    pub(super) async fn is_there(&self, room: &str, since_ms: u64) -> Result<bool, Unreachable> {
        let (records, last_at) = self.records(room, None, since_ms).await?;
        let is_fresh = last_at > 0 && records.last().is_some_and(|last| last.unix_ms >= since_ms && last.value > 0);
        Ok(is_fresh || self.names(room).await?.iter().any(|known| known.claim.is_some()))
    }

    async fn batch(
        &self,
        stream: &str,
        subject: &str,
        from: Option<u64>,
        since: &str,
    ) -> Result<Vec<Record>, Unreachable> {
        let question = match from {
            Some(from) => json!({"seq": from, "next_by_subj": subject, "batch": BATCH_RECORDS}),
            None => json!({"start_time": since, "next_by_subj": subject, "batch": BATCH_RECORDS}),
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
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|_| Unreachable)?;
        let direct = format!("$JS.API.DIRECT.GET.{}_{stream}", self.name);
        let asked = self.client.publish_with_reply(direct, inbox, question.to_string().into()).await;
        asked.map_err(|_| Unreachable)?;
        let mut found = Vec::new();
        loop {
            let answer = timeout(REPLY_TIME_MAX, answers.next()).await.ok().flatten().ok_or(Unreachable)?;
            match answer.status {
                None | Some(StatusCode::OK) => found.extend(read(&answer)),
                Some(status) if [204, 404].contains(&status.as_u16()) => return Ok(found),
                Some(_) => return Err(Unreachable),
            }
        }
    }

    /// Where the records of a room are.
    fn places(&self, room: &str) -> Places {
        let (namespace, token) = split(room);
        let (stream, stored, republished) = match namespace {
            Namespace::Chat => ("chat", "c", "d"),
            Namespace::Raw => ("raw", "r", "s"),
        };
        Places { stream, stored: self.subject(stored, token), republished: self.subject(republished, token) }
    }

    fn subject(&self, kind: &str, room: &str) -> String {
        format!("{}.{kind}.{room}", self.name)
    }
}

/// Whether a stream is as it should be, in all that matters here.
fn is_alike(made: &stream::Config, wanted: &stream::Config) -> bool {
    let numbers = |config: &stream::Config| {
        (
            config.max_messages_per_subject,
            config.max_bytes,
            config.max_age,
            config.duplicate_window,
            config.num_replicas,
        )
    };
    let switches = |config: &stream::Config| {
        (config.storage, config.allow_direct, config.allow_message_counter, config.allow_message_ttl)
    };
    // The server decides on a window if none is wanted.
    let window = if wanted.duplicate_window.is_zero() { made.duplicate_window } else { wanted.duplicate_window };
    let wanted = &stream::Config { duplicate_window: window, ..wanted.clone() };
    made.subjects == wanted.subjects
        && made.republish == wanted.republish
        && numbers(made) == numbers(wanted)
        && switches(made) == switches(wanted)
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
    let number = |name: &str| headers.get(name)?.as_str().parse::<u64>().ok();
    let time = parse_rfc3339(headers.get("Nats-Time-Stamp")?.as_str()).ok()?;
    let unix_ms = (time.unix_timestamp_nanos() / 1_000_000) as u64;
    let record = stored(headers, number("Nats-Sequence")?, unix_ms, &message.payload)?;
    Some(Record { before: number("Nats-Last-Sequence"), ..record })
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
    }
    #[derive(Deserialize)]
    struct Answer {
        error: Option<Failed>,
        #[serde(default)]
        duplicate: bool,
    }
    let number = message.subject.rsplit('.').next()?.parse().ok()?;
    if message.status.is_some_and(|status| status == StatusCode::NO_RESPONDERS) {
        return Some((number, Ack::Later));
    }
    let Answer { error, duplicate } = serde_json::from_slice(&message.payload).ok()?;
    let ack = match error {
        None => Ack::Stored { again: duplicate },
        // A cluster without a leader, or one that is overloaded.
        Some(Failed { code: 503 }) => Ack::Later,
        Some(_) => Ack::Refused,
    };
    Some((number, ack))
}
