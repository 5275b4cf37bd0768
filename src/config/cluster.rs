//! The options of `--cluster`: several servers that share their rooms.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::Config;
use super::values::{parse_memory, parse_time};
use crate::cluster;
use crate::limits::SHARED_MESSAGE_BYTES_MAX;
use crate::limits::cluster::ROOM_MEMORY_MIN;

const CLUSTER: &str = super::CLUSTER;

/// How this server shares its rooms with others, if it does.
#[derive(Clone, Debug, clap::Args)]
pub struct ClusterOptions {
    /// Servers of NATS (2.12 or newer, with JetStream) through which several hi share their rooms, e.g. nats://10.0.0.5:4222
    /// [default: none, the rooms are this server's]
    #[arg(help_heading = CLUSTER, long, value_name = "URL", env = "HI_CLUSTER", value_delimiter = ',')]
    pub cluster: Vec<String>,

    /// What all names in the log of --cluster begin with: servers with the same name share their rooms
    #[arg(help_heading = CLUSTER, long, value_name = "NAME", env = "HI_CLUSTER_NAME", default_value = "hi")]
    pub cluster_name: String,

    /// How long a message may wait while the servers of --cluster can't be reached; a server that is away half as long again loses
    /// the names of its users
    #[arg(help_heading = CLUSTER, long, value_name = "TIME", env = "HI_CLUSTER_TIMEOUT", default_value = "10s",
          value_parser = parse_time)]
    pub cluster_timeout: Duration,

    /// File with the credentials for --cluster (.creds of NATS) [default: none]
    #[arg(help_heading = CLUSTER, long, value_name = "FILE", env = "HI_CLUSTER_CREDS")]
    pub cluster_creds: Option<PathBuf>,

    /// File with the certificates (PEM) of the authorities that the servers of --cluster are trusted by
    /// [default: those of the system]
    #[arg(help_heading = CLUSTER, long, value_name = "FILE", env = "HI_CLUSTER_CA")]
    pub cluster_ca: Option<PathBuf>,

    /// File with the certificate (PEM) that this server shows those of --cluster [default: none]
    #[arg(help_heading = CLUSTER, long, value_name = "FILE", env = "HI_CLUSTER_CERT", requires = "cluster_key")]
    pub cluster_cert: Option<PathBuf>,

    /// File with the key (PEM) of --cluster-cert [default: none]
    #[arg(help_heading = CLUSTER, long, value_name = "FILE", env = "HI_CLUSTER_KEY", requires = "cluster_cert")]
    pub cluster_key: Option<PathBuf>,

    /// Servers of --cluster that keep a copy of each message, 1 to 5; auto: 3 as soon as the cluster has three servers, else 1
    #[arg(help_heading = CLUSTER, long, value_name = "COUNT", env = "HI_CLUSTER_REPLICAS", default_value = "auto")]
    pub cluster_replicas: Replicas,

    /// Where the servers of --cluster keep messages and names: file, or memory, which a restart of all of them empties
    #[arg(help_heading = CLUSTER, long, value_name = "MODE", env = "HI_CLUSTER_STORAGE", value_enum,
          default_value_t = Storage::File)]
    pub cluster_storage: Storage,

    /// How long --cluster keeps the messages of a room, at least 4s, and of one that nobody is in its numbers
    #[arg(help_heading = CLUSTER, long, value_name = "TIME", env = "HI_CLUSTER_ROOM_MEMORY", default_value = "60m",
          value_parser = parse_time)]
    pub cluster_room_memory: Duration,

    /// Bytes of messages that --cluster keeps of all rooms together; its servers reserve them
    #[arg(help_heading = CLUSTER, long, value_name = "BYTES", env = "HI_CLUSTER_BYTES", default_value = "1g",
          value_parser = parse_memory)]
    pub cluster_bytes: usize,

    /// Users of a room on all servers of --cluster whose names each of them keeps; in a room with more, lists show those of the
    /// server that is asked, and the number of all
    #[arg(help_heading = CLUSTER, long, value_name = "COUNT", env = "HI_ROSTER_MAX", default_value_t = 10_000)]
    pub roster_max: usize,
}

/// How many servers keep a copy of each message of `--cluster`; `None`: as many as is usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas(Option<usize>);

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Self(None)),
            Ok(replicas @ 1..=5) => Ok(Self(Some(replicas))),
            _ => Err("give auto, or 1 to 5".to_owned()),
        }
    }
}

/// Where `--cluster` keeps what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Storage {
    /// On disk.
    File,
    /// In memory.
    Memory,
}

impl Config {
    /// What the log that several servers share has to know, if there is one, of the process `node`, and for secrets
    /// these random numbers.
    ///
    /// # Errors
    /// Another option doesn't go with it.
    pub fn cluster(&self, node: u64, resume_key: [u64; 2]) -> Result<Option<cluster::Settings>, String> {
        let options = &self.shared;
        if options.cluster.is_empty() {
            return Ok(None);
        }
        if self.max_message > SHARED_MESSAGE_BYTES_MAX {
            let max = SHARED_MESSAGE_BYTES_MAX;
            return Err(format!("--cluster takes messages of up to {max} bytes: lower --max-message"));
        }
        Ok(Some(cluster::Settings {
            servers: options.cluster.clone(),
            name: options.cluster_name.clone(),
            node,
            resume_key,
            timeout_ms: options.cluster_timeout.as_millis() as u64,
            replay_age_ms: self.replay_age.as_millis() as u64,
            records_max: i64::from(self.replay_frames.max(64)),
            room_memory: options.cluster_room_memory.max(self.replay_age).max(ROOM_MEMORY_MIN),
            bytes_max: options.cluster_bytes as i64,
            replicas: options.cluster_replicas.0,
            roster_max: options.roster_max,
            in_memory: options.cluster_storage == Storage::Memory,
            files: cluster::Files {
                creds: options.cluster_creds.clone(),
                ca: options.cluster_ca.clone(),
                certificate: options.cluster_cert.clone().zip(options.cluster_key.clone()),
            },
        }))
    }
}
