//! The streams on NATS: made by the first server, checked by all others.

use std::error::Error as _;
use std::time::{Duration, Instant};

use async_nats::jetstream::{ErrorCode, context, stream};
use sha1::{Digest as _, Sha1};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{Nats, Unreachable};
use crate::cluster::Settings;
use crate::limits::cluster::{
    BUNDLES, DUPLICATES_TIME, PAUSE, PREPARE_TIME_MAX, RAW_AGE_MS, RAW_BYTES_MAX, RAW_RECORDS_MAX, REPLICAS_AUTO, TICK,
};
use crate::protocol::Namespace;

/// When the streams were made, in nanoseconds since 1970: another time means that they have been made again, without what was in
/// them.
#[derive(Clone, Debug)]
pub(in crate::cluster) struct Created {
    pub(in crate::cluster) messages: i128,
    pub(in crate::cluster) raw: i128,
    pub(in crate::cluster) names: i128,
    /// Servers of the log that keep a copy of each record.
    pub(in crate::cluster) replicas: usize,
    /// Whether several servers have the names, and which one leads them since when: what that one has not told when it ends, nobody tells.
    pub(in crate::cluster) leader: Option<String>,
}

impl Created {
    /// Whether all streams are the same ones.
    pub(in crate::cluster) fn is_same_as(&self, other: &Self) -> bool {
        (self.messages, self.raw, self.names) == (other.messages, other.raw, other.names)
    }

    /// Which log it is, in a number that tells nothing of it.
    pub(in crate::cluster) fn fingerprint(&self) -> u64 {
        let digest = Sha1::digest(self.messages.to_be_bytes());
        u64::from_be_bytes(std::array::from_fn(|index| digest[index]))
    }
}

/// Why the log can't be used.
pub(in crate::cluster) enum Unfit {
    /// Somebody has to do something.
    Lasting(String),
    /// Its servers may just have been started, or elect a leader.
    Passing(String),
}

impl Unfit {
    /// What is the matter.
    pub(in crate::cluster) fn sentence(self) -> String {
        match self {
            Self::Lasting(sentence) | Self::Passing(sentence) => sentence,
        }
    }
}

impl Settings {
    fn storage(&self) -> stream::StorageType {
        if self.in_memory { stream::StorageType::Memory } else { stream::StorageType::File }
    }
}

impl Nats {
    /// Makes the streams, or checks that they are as they should be. Returns when they were made.
    pub(in crate::cluster) async fn prepare(&self, settings: &Settings) -> Result<Created, Unfit> {
        let messages = stream::Config {
            name: format!("{}_chat", self.name),
            subjects: vec![self.subject("c", ">")],
            max_messages_per_subject: settings.records_max,
            max_age: settings.room_memory,
            max_bytes: settings.bytes_max,
            max_messages: -1,
            max_consumers: -1,
            storage: settings.storage(),
            duplicate_window: DUPLICATES_TIME.min(settings.room_memory),
            allow_direct: true,
            allow_message_counter: true,
            republish: Some(republish(
                self.subject("c", "*"),
                self.republished_as(Namespace::Chat, "{{wildcard(1)}}.c"),
            )),
            ..stream::Config::default()
        };
        let names = stream::Config { storage: settings.storage(), ..self.names_stream() };
        let names = self.prepare_stream(names, settings).await?;
        let raw = self.prepare_stream(self.raw_stream(), settings).await?;
        let info = self.prepare_stream(messages, settings).await?;
        if !info.config.allow_message_counter {
            let name = info.config.name;
            return Err(Unfit::Lasting(format!(
                "the stream {name} doesn't count its messages, which --cluster needs: update the server"
            )));
        }
        let replicas = info.config.num_replicas.min(raw.config.num_replicas).min(names.config.num_replicas);
        let since = |cluster: &stream::ClusterInfo| format!("{:?} since {:?}", cluster.leader, cluster.leader_since);
        let leader = || names.cluster.as_ref().map(since).unwrap_or_default();
        let leader = (names.config.num_replicas > 1).then(leader);
        let [messages, raw, names] = [info, raw, names].map(|info| info.created.unix_timestamp_nanos());
        Ok(Created { messages, raw, names, replicas, leader })
    }

    /// Copies that the log should keep of each record, if it has the servers.
    pub(in crate::cluster) fn replicas(&self, settings: &Settings) -> usize {
        let is_alone = self.client.server_info().cluster.is_none();
        settings.replicas.unwrap_or(if is_alone { 1 } else { REPLICAS_AUTO })
    }

    /// The same, with the random numbers that all servers make their secrets with: these, unless there are some already. So the log
    /// has a leader: that the streams are there is known also without one.
    pub(in crate::cluster) async fn prepare_with_key(
        &self,
        settings: &Settings,
        own: [u64; 2],
    ) -> Result<(Created, [u64; 2]), Unfit> {
        let created = self.prepare(settings).await?;
        let key = self.resume_key(own).await;
        let key = key.map_err(|Unreachable| Unfit::Passing("nobody leads the log of --cluster".to_owned()))?;
        Ok((created, key))
    }

    /// The same at the start, when the servers of the log may be starting, too, or elect a leader.
    pub(in crate::cluster) async fn prepare_patiently(
        &self,
        settings: &Settings,
    ) -> Result<(Created, [u64; 2]), String> {
        let (began, mut is_told) = (Instant::now(), false);
        loop {
            match self.prepare_with_key(settings, settings.resume_key).await {
                Ok(prepared) => return Ok(prepared),
                Err(Unfit::Passing(sentence)) if began.elapsed() < PREPARE_TIME_MAX => {
                    if began.elapsed() >= PAUSE && !std::mem::replace(&mut is_told, true) {
                        warn!("{sentence}; trying again for {} s", PREPARE_TIME_MAX.as_secs());
                    }
                    sleep(TICK).await;
                }
                Err(unfit) => return Err(unfit.sentence()),
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
            republish: Some(republish(self.subject("r", "*"), self.republished_as(Namespace::Raw, "{{wildcard(1)}}"))),
            ..stream::Config::default()
        }
    }

    /// One record for each name, and one for the key of `Resume` secrets.
    fn names_stream(&self) -> stream::Config {
        stream::Config {
            name: format!("{}_names", self.name),
            subjects: vec![format!("{}.n.>", self.name), self.key_subject()],
            max_messages_per_subject: 1,
            max_bytes: -1,
            max_messages: -1,
            max_consumers: -1,
            allow_direct: true,
            allow_message_ttl: true,
            // Beside the messages of the room: a server that follows it needs one subscription.
            republish: Some(republish(
                self.subject("n", "*.*"),
                self.republished_as(Namespace::Chat, "{{wildcard(1)}}.n.{{wildcard(2)}}"),
            )),
            ..stream::Config::default()
        }
    }

    /// Where records are republished whose subject has the room's token in the place of its first wildcard: behind the number of the
    /// room's bundle ([`BundleId`](crate::cluster::bundles::BundleId)).
    fn republished_as(&self, namespace: Namespace, rest: &str) -> String {
        format!("{}.{{{{partition({BUNDLES},1)}}}}.{rest}", self.republished(namespace))
    }

    async fn prepare_stream(&self, wanted: stream::Config, settings: &Settings) -> Result<stream::Info, Unfit> {
        let name = wanted.name.clone();
        let differs =
            || format!("the stream {name} (--cluster) has other settings: remove it, or take another --cluster-name");
        let replicas = self.replicas(settings);
        // Made again, it would have to fit beside itself.
        match self.jetstream.get_stream(&name).await {
            Ok(made) => {
                let info = made.cached_info().clone();
                let has_more = info.config.num_replicas > replicas && settings.replicas.is_some();
                if has_more || !is_alike(&info.config, &wanted) {
                    return Err(Unfit::Lasting(differs()));
                }
                return Ok(self.copy_more(info, replicas).await);
            }
            Err(error) => match error.kind() {
                context::GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                // One that has no leader doesn't answer, and must not be made again.
                _ => return Err(unseen(&name, &error)),
            },
        }
        let create = |num_replicas| self.jetstream.create_stream(stream::Config { num_replicas, ..wanted.clone() });
        let mut made = create(replicas).await;
        if settings.replicas.is_none() && made.as_ref().is_err_and(has_too_few_servers) {
            made = create(1).await;
        }
        let made = made.map_err(|error| match error.kind() {
            // Another hi was faster.
            context::CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                Unfit::Passing(differs())
            }
            _ => Unfit::Passing(format!("can't make the stream {name} (--cluster): {error}")),
        })?;
        Ok(made.cached_info().clone())
    }

    /// Has more servers keep a stream: not all of them may have been there when it was made.
    async fn copy_more(&self, made: stream::Info, replicas: usize) -> stream::Info {
        if made.config.num_replicas >= replicas {
            return made;
        }
        let name = &made.config.name;
        let wanted = stream::Config { num_replicas: replicas, ..made.config.clone() };
        match self.jetstream.update_stream(wanted).await {
            Ok(info) => {
                info!("{replicas} servers keep the stream {name} from now on (--cluster-replicas)");
                info
            }
            // They may never be there.
            Err(error) => {
                debug!("the stream {name} stays on {} servers: {error}", made.config.num_replicas);
                made
            }
        }
    }
}

/// Whether a stream wasn't made because the cluster has fewer servers than copies are wanted.
fn has_too_few_servers(error: &context::CreateStreamError) -> bool {
    let too_few = [ErrorCode::CLUSTER_NO_PEERS, ErrorCode::INSUFFICIENT_RESOURCES];
    matches!(error.kind(), context::CreateStreamErrorKind::JetStream(error) if too_few.contains(&error.error_code()))
}

/// Each stored record goes to those who follow its room, whole.
fn republish(source: String, destination: String) -> stream::Republish {
    stream::Republish { source, destination, headers_only: false }
}

/// Why it is not known whether a stream is there.
fn unseen(name: &str, error: &context::GetStreamError) -> Unfit {
    let cause = error.source().and_then(|source| source.downcast_ref::<context::RequestError>());
    match cause.map(context::RequestError::kind) {
        Some(context::RequestErrorKind::NoResponders) => {
            Unfit::Lasting("the server of --cluster has no JetStream: start it with -js".to_owned())
        }
        _ => Unfit::Passing(format!("can't look at the stream {name} (--cluster): {error}")),
    }
}

/// Whether a stream is as it should be, in all that matters here and can't be changed.
fn is_alike(made: &stream::Config, wanted: &stream::Config) -> bool {
    let numbers = |config: &stream::Config| {
        (config.max_messages_per_subject, config.max_bytes, config.max_age, config.duplicate_window)
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
