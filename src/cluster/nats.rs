//! The log on NATS JetStream: with its parts, the only file that names its client.
//!
//! A stream whose messages are counters (ADR-49): the server adds 1 to the count of the subject when it stores a record, so the
//! count is the room's dense `Seq`. Each stored record is republished, in the order of the stream, to those who follow the room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) use async_nats::Message;
use async_nats::datetime::parse_rfc3339;
use async_nats::jetstream::{self, Context, stream};
use async_nats::{Client, ConnectOptions, Event, HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(super) mod names;
pub(super) mod nodes;
mod stored;
mod streams;
mod sweep;

pub(super) use streams::{Created, Unfit};

use super::bundles::BundleId;
use super::record::{Content, Heading, Record, join, split};
use super::{Files, Settings};
use crate::frame::encode;
use crate::limits::cluster::{
    COMMANDS_MAX, CONNECT_TIME_MAX, HEADER_BYTES_MAX, PAYLOAD_BYTES_MIN, PROBE_TIME_MAX, REPLY_TIME_MAX,
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
    /// It is stored at this position of the stream, and may have been before.
    Stored { at: u64, again: bool },
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
    /// Whether a subscription has dropped something.
    has_dropped: Arc<AtomicBool>,
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
        let has_dropped = Arc::new(AtomicBool::default());
        let dropped = Arc::clone(&has_dropped);
        let tell = move |event| {
            let changed = match event {
                Event::Connected => Some(true),
                Event::Disconnected | Event::Closed => Some(false),
                Event::SlowConsumer(_) => {
                    dropped.store(true, Ordering::Relaxed);
                    None
                }
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
            // More than is sent until a connection that nothing goes through any more is taken for lost: whoever sends would wait.
            .client_capacity(COMMANDS_MAX)
            .ping_interval(Duration::from_secs(2))
            .request_timeout(Some(REPLY_TIME_MAX))
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
        // Of what is published; questions have that of the connection.
        jetstream.set_timeout(REPLY_TIME_MAX);
        Ok(Self { client, jetstream, name: settings.name.clone(), answers, has_dropped })
    }

    /// Whether something of what is followed was dropped since this was last asked, because more arrived than was read.
    pub(super) fn has_dropped(&self) -> bool {
        self.has_dropped.swap(false, Ordering::Relaxed)
    }

    /// Bytes of the longest raw message that the server takes.
    pub(super) fn raw_bytes_max(&self) -> usize {
        self.client.server_info().max_payload - HEADER_BYTES_MAX
    }

    /// Whether the leader of a stream answers.
    pub(super) async fn probe(&self) -> Probed {
        let Ok(stream) = self.stream("names").await else { return Probed::Silent };
        match timeout(PROBE_TIME_MAX, stream.get_last_raw_message_by_subject(&self.key_subject())).await {
            Ok(Err(error)) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Probed::Answered(None),
            Ok(Ok(key)) => Probed::Answered(Some(key.time.unix_timestamp_nanos())),
            Ok(Err(_)) | Err(_) => Probed::Silent,
        }
    }

    /// Publishes a record, which the log shall know by this id. The answer arrives with [`Nats::answers`].
    pub(super) async fn publish(
        &self,
        room: &str,
        id: String,
        heading: &Heading,
        content: &Content,
    ) -> Result<(), Unreachable> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
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

/// The record in a message that was republished, which also says what was before it.
pub(super) fn republished(message: &Message) -> Option<Record> {
    Some(Record { before: header(message, "Nats-Last-Sequence"), ..record(message)? })
}

/// The record in a message that was read.
fn record(message: &Message) -> Option<Record> {
    let headers = message.headers.as_ref()?;
    let time = parse_rfc3339(headers.get("Nats-Time-Stamp")?.as_str()).ok()?;
    let unix_ms = (time.unix_timestamp_nanos() / 1_000_000) as u64;
    stored(headers, header(message, "Nats-Sequence")?, unix_ms, &message.payload)
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
        seq: u64,
        #[serde(default)]
        duplicate: bool,
    }
    let number = message.subject.rsplit('.').next()?.parse().ok()?;
    if message.status.is_some_and(|status| status == StatusCode::NO_RESPONDERS) {
        return Some((number, Ack::Later("no server answers for the stream".to_owned())));
    }
    let Answer { error, seq, duplicate } = serde_json::from_slice(&message.payload).ok()?;
    let ack = match error {
        None => Ack::Stored { at: seq, again: duplicate },
        Some(Failed { code: 400, description }) => Ack::Refused(description),
        // A cluster without a leader, one that is overloaded, or one that has not stored yet what is published again.
        Some(Failed { description, .. }) => Ack::Later(description),
    };
    Some((number, ack))
}
