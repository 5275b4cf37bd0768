//! The command line and the environment: every limit with its unit, and its default where the user can see it. Nothing
//! below imports this: each part gets settings of its own, made here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Parser};
use doctor::INTERNAL_ADDRESS_DEFAULT;
#[cfg(feature = "doctor")]
use doctor::examination::{Target, TargetParser};

use crate::address::ListenAddress;
use crate::address::client::{ClientHeader, Trust};
use crate::address::networks::Networks;
use crate::address::table::AddressLimits;
use crate::admission::{Admission, Gate, RawMode};
use crate::api;
use crate::api::key::Keys;
use crate::connection::liveness::Heartbeat;
use crate::control;
use crate::cores::Pin;
use crate::http::origin::Allowed;
use crate::identity::Mode;
use crate::identity::rights::{DEFAULT as RIGHTS_DEFAULT, Rights};
use crate::rate::RateLimit;
use crate::ring::{Backend, probe};
use crate::room::inbox;
use crate::room::pace::Pace;
use crate::room::replay::ReplayBounds;
use crate::shard::settings::{Settings, Slow};

#[cfg(feature = "cluster")]
mod cluster;
pub(crate) mod identity;
pub mod live;
mod rights;
pub mod shown;
mod sizing;
mod values;

#[cfg(feature = "cluster")]
pub use cluster::ClusterOptions;
use values::*;

const CONFIGURATION: &str = "Configuration";
const LISTENING: &str = "Listening";
const ACCESS: &str = "Access";
const IDENTITY: &str = "Identity and rights";
const LIMITS: &str = "Limits";
const MEMORY: &str = "Memory and replay";
const COMPRESSION: &str = "Compression";
const HEARTBEAT: &str = "Heartbeat";
const THREADS: &str = "Threads";
const DIAGNOSIS: &str = "Diagnosis";
const LOGGING: &str = "Logging";
#[cfg(feature = "cluster")]
const CLUSTER: &str = "Several servers";

/// The options of the server: flags, or the environment.
#[derive(Clone, Debug, Parser)]
#[command(name = "hi")]
pub struct Config {
    /// File with options (TOML): their names without dashes, e.g. port = 8080. The command line and the environment win. SIGHUP
    /// reads it again; `hi config default` writes one [default: none]
    #[arg(id = "config", help_heading = CONFIGURATION, long = "config", value_name = "FILE", env = "HI_CONFIG")]
    pub file: Option<PathBuf>,

    /// Port to listen on, on all IPv4 and IPv6 addresses; 0 takes a free one
    #[arg(help_heading = LISTENING, short, long, value_name = "PORT", env = "HI_PORT", default_value_t = 8080)]
    pub port: u16,

    /// Address to listen on instead of --port, e.g. 127.0.0.1:8080, `[::1]:8080`, or unix:/run/hi/hi.sock for a proxy on the same
    /// machine; may be given several times
    #[arg(help_heading = LISTENING, long, value_name = "ADDR:PORT", env = "HI_LISTEN",
          value_delimiter = ',', conflicts_with = "port")]
    pub listen: Vec<ListenAddress>,

    /// Address of the internal port, where your own programs publish over HTTP and read health and metrics; off: no internal
    /// port. Port 0 takes a free one
    #[arg(help_heading = LISTENING, long, value_name = "ADDR:PORT", env = "HI_INTERNAL",
          default_value = INTERNAL_ADDRESS_DEFAULT)]
    pub internal: Internal,

    /// File with the keys that the internal port accepts, one a line; health and metrics need none [default: no key is
    /// needed]
    #[arg(help_heading = ACCESS, long, value_name = "FILE", env = "HI_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Origins whose pages may open WebSockets and streams, separated by commas: same-host (the page and the request name
    /// the same host), any, or e.g. `https://chat.example.com`. Clients that send no Origin header are not browsers and are
    /// always admitted
    #[arg(help_heading = ACCESS, long, value_name = "ORIGIN", env = "HI_ORIGINS", value_delimiter = ',',
          default_value = "same-host")]
    pub origins: Vec<Allowed>,

    /// Whether clients have to say who they are, with a token (JWT): required; optional (without one they are guests, whose names
    /// begin with ~); off
    #[arg(help_heading = IDENTITY, long, value_name = "MODE", env = "HI_AUTH", value_enum, hide_possible_values = true,
          default_value_t = Mode::Off)]
    pub auth: Mode,

    /// File with a key that tokens are checked with: a secret of 32 characters or more (HS256), or a public key in PEM (RS256,
    /// ES256, EdDSA); may be given several times. Make tokens with `hi token` [default: none]
    #[arg(help_heading = IDENTITY, long, value_name = "FILE", env = "HI_JWT_KEY", value_delimiter = ',')]
    pub jwt_key: Vec<PathBuf>,

    /// JWK set with the keys that tokens are checked with: a file, or an https URL, which is asked again every 5 minutes
    /// [default: none]
    #[arg(help_heading = IDENTITY, long, value_name = "FILE|URL", env = "HI_JWKS")]
    pub jwks: Option<String>,

    /// Issuer that tokens have to name (iss); may be given several times [default: any]
    #[arg(help_heading = IDENTITY, long, value_name = "NAME", env = "HI_JWT_ISSUER", value_delimiter = ',')]
    pub jwt_issuer: Vec<String>,

    /// Audience that tokens have to name (aud); may be given several times [default: any]
    #[arg(help_heading = IDENTITY, long, value_name = "NAME", env = "HI_JWT_AUDIENCE", value_delimiter = ',')]
    pub jwt_audience: Vec<String>,

    /// How long before and after its time a token is accepted, as clocks differ
    #[arg(help_heading = IDENTITY, long, value_name = "TIME", env = "HI_JWT_LEEWAY", default_value = "30s",
          value_parser = parse_time_or_0)]
    pub jwt_leeway: Duration,

    /// Header in which a trusted proxy names the user, e.g. X-Forwarded-User of oauth2-proxy: believed from --trusted-proxies only
    /// [default: none]
    #[arg(help_heading = IDENTITY, long, value_name = "NAME", env = "HI_USER_HEADER")]
    pub user_header: Option<String>,

    /// What tokens without rooms of their own allow: rules such as '*=join,pub news=join raw:scores=listen', of which the most
    /// specific decides
    #[arg(help_heading = IDENTITY, long, value_name = "RULES", env = "HI_AUTH_ROOMS", default_value = RIGHTS_DEFAULT,
          value_parser = parse_auth_rooms)]
    pub auth_rooms: Rights,

    /// What guests may do, with --auth optional
    #[arg(help_heading = IDENTITY, long, value_name = "RULES", env = "HI_GUEST_ROOMS", default_value = RIGHTS_DEFAULT,
          value_parser = parse_guest_rooms)]
    pub guest_rooms: Rights,

    /// Cookie in which tokens are looked for as well [default: none]
    #[arg(help_heading = IDENTITY, long, value_name = "NAME", env = "HI_AUTH_COOKIE")]
    pub auth_cookie: Option<String>,

    /// Whether tokens are accepted in the address (?token=), where proxies log them: on or off
    #[arg(help_heading = IDENTITY, long, value_name = "MODE", env = "HI_AUTH_QUERY", default_value = "off",
          action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub auth_query: bool,

    /// Reverse proxies that are believed which address a client has, separated by commas: ranges (10.0.0.0/8), addresses,
    /// loopback, private_ranges, unix (sockets in the file system) or none. Only list proxies that nobody can go around
    #[arg(help_heading = ACCESS, long, value_name = "RANGE", env = "HI_TRUSTED_PROXIES", value_delimiter = ',',
          default_value = "none")]
    pub trusted_proxies: Vec<Networks>,

    /// The header in which they pass it on
    #[arg(help_heading = ACCESS, long, value_name = "NAME", env = "HI_CLIENT_IP_HEADER", value_enum, ignore_case = true,
          default_value_t = ClientHeader::XForwardedFor)]
    pub client_ip_header: ClientHeader,

    /// Proxies that have to send a header of the PROXY protocol (version 1 or 2) in front of each connection's first request:
    /// ranges as above. From all others such a header is refused
    #[arg(help_heading = ACCESS, long, value_name = "RANGE", env = "HI_PROXY_PROTOCOL", value_delimiter = ',',
          default_value = "none")]
    pub proxy_protocol: Vec<Networks>,

    /// What clients may do in raw rooms
    #[arg(help_heading = ACCESS, long, value_name = "MODE", env = "HI_RAW", value_enum,
          default_value_t = RawMode::Open)]
    pub raw: RawMode,

    /// Largest message that a client may send, in bytes of WebSocket payload; a larger one closes the connection (code 1009)
    #[arg(help_heading = LIMITS, long, value_name = "BYTES", env = "HI_MAX_MESSAGE", default_value = "16k",
          value_parser = parse_message_bytes)]
    pub max_message: usize,

    /// Rooms that one connection may be in
    #[arg(help_heading = LIMITS, long, value_name = "COUNT", env = "HI_MAX_ROOMS", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_rooms: u32,

    /// Chat messages that one connection may send a second; 0: no limit
    #[arg(help_heading = LIMITS, long, value_name = "PER_SECOND", env = "HI_RATE_LIMIT", default_value_t = 20)]
    pub rate_limit: u32,

    /// Messages that one connection may send at once after a pause, in the chat and in raw rooms alike
    #[arg(help_heading = LIMITS, long, value_name = "COUNT", env = "HI_RATE_BURST", default_value_t = 40,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub rate_burst: u32,

    /// Raw messages that one connection may send a second; 0: no limit
    #[arg(help_heading = LIMITS, long, value_name = "PER_SECOND", env = "HI_RAW_RATE_LIMIT", default_value_t = 0)]
    pub raw_rate_limit: u32,

    /// WebSockets and streams that one address may have open: an IPv4 address, or the /64 network of an IPv6 address; 0: no
    /// limit
    #[arg(help_heading = LIMITS, long, value_name = "COUNT", env = "HI_MAX_PER_ADDRESS", default_value_t = 512)]
    pub max_per_address: u32,

    /// Handshakes of one address in a minute, those that fail counted twice; 0: no limit
    #[arg(help_heading = LIMITS, long, value_name = "PER_MINUTE", env = "HI_HANDSHAKES_PER_ADDRESS",
          default_value_t = 1200)]
    pub handshakes_per_address: u32,

    /// Chat messages that all connections of one address together may send a second; 0: no limit
    #[arg(help_heading = LIMITS, long, value_name = "PER_SECOND", env = "HI_MESSAGES_PER_ADDRESS", default_value_t = 200)]
    pub messages_per_address: u32,

    /// Addresses to which these three limits don't apply, beside trusted proxies: ranges as for --trusted-proxies. With `none`
    /// they apply to everyone, trusted proxies included
    #[arg(help_heading = LIMITS, long, value_name = "RANGE", env = "HI_UNLIMITED_ADDRESSES", value_delimiter = ',',
          default_value = "loopback")]
    pub unlimited_addresses: Vec<Networks>,

    /// Time for a request head to arrive, counted from accept or from the end of the previous answer
    #[arg(help_heading = LIMITS, long, value_name = "TIME", env = "HI_HANDSHAKE_TIMEOUT", default_value = "10s",
          value_parser = parse_time)]
    pub handshake_timeout: Duration,

    /// How long an idle HTTP connection is kept open, on both ports. Longer than the 60 s of common load balancers, so that
    /// they never send a request into a connection that hi closes
    #[arg(help_heading = LIMITS, long, value_name = "TIME", env = "HI_KEEPALIVE_TIMEOUT", default_value = "75s",
          value_parser = parse_time)]
    pub keepalive_timeout: Duration,

    /// Memory budget for room logs, replay, unread replies and half-read messages, in bytes. When it is used up, the largest
    /// holders give memory back, and clients that lose messages are told [default: half of the memory of the machine or its
    /// control group]
    #[arg(help_heading = MEMORY, long, value_name = "BYTES", env = "HI_MEMORY_MAX", value_parser = parse_memory)]
    pub memory_max: Option<usize>,

    /// How far a slow member may lag behind, in bytes for each room and shard; beyond that it loses the oldest messages and
    /// is told which
    #[arg(help_heading = MEMORY, long, value_name = "BYTES", env = "HI_BACKLOG_BYTES", default_value = "1m",
          value_parser = parse_size)]
    pub backlog_bytes: usize,

    /// What happens to a chat member that lost messages
    #[arg(help_heading = MEMORY, long, value_name = "POLICY", env = "HI_SLOW", value_enum, default_value_t = Slow::Gap)]
    pub slow: Slow,

    /// Messages that each chat room keeps for clients that reconnect; 0: no replay
    #[arg(help_heading = MEMORY, long, value_name = "COUNT", env = "HI_REPLAY_FRAMES", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub replay_frames: u32,

    /// Bytes of messages that each chat room keeps for clients that reconnect; 0: no replay
    #[arg(help_heading = MEMORY, long, value_name = "BYTES", env = "HI_REPLAY_BYTES", default_value = "1m",
          value_parser = parse_size)]
    pub replay_bytes: usize,

    /// How long each chat room keeps messages for clients that reconnect, also after its last member has left; 0: no replay
    #[arg(help_heading = MEMORY, long, value_name = "TIME", env = "HI_REPLAY_AGE", default_value = "60s",
          value_parser = parse_time_or_0)]
    pub replay_age: Duration,

    /// How long messages of a room may wait to be sent together with those that follow, which saves CPU time in large and busy
    /// rooms; in a quiet room none waits. Up to 10s; 0: never; auto: four times as long as it takes to send one, at most 50ms
    /// (auto:20ms: at most 20ms). For each kind of room: chat=20ms,raw=auto
    #[arg(help_heading = LIMITS, long, value_name = "TIME", env = "HI_FLUSH_INTERVAL", default_value = "0ms",
          value_parser = parse_paces)]
    pub flush_interval: Paces,

    /// Receive buffers of each shard, 4 KiB each, shared by its connections; must be a power of two
    #[arg(help_heading = MEMORY, long, value_name = "COUNT", env = "HI_RECEIVE_BUFFERS", default_value_t = 1024,
          value_parser = parse_buffers)]
    pub receive_buffers: u16,

    /// Whether messages are compressed for clients that offer permessage-deflate, as browsers do: on or off. Good for JSON
    /// of half a KiB and more, useless for chat
    #[arg(help_heading = COMPRESSION, long, value_name = "MODE", env = "HI_COMPRESSION", default_value = "off",
          action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub compression: bool,

    /// Shortest message that is compressed, in bytes of WebSocket payload
    #[arg(help_heading = COMPRESSION, long, value_name = "BYTES", env = "HI_COMPRESSION_MIN", default_value = "512",
          value_parser = parse_size)]
    pub compression_min: usize,

    /// Time between two WebSocket pings on a connection
    #[arg(help_heading = HEARTBEAT, long, value_name = "TIME", env = "HI_PING_INTERVAL", default_value = "25s",
          value_parser = parse_seconds)]
    pub ping_interval: Duration,

    /// How long a connection may stay silent after a ping before it is closed
    #[arg(help_heading = HEARTBEAT, long, value_name = "TIME", env = "HI_PING_TIMEOUT", default_value = "10s",
          value_parser = parse_seconds)]
    pub ping_timeout: Duration,

    /// Number of shards: threads, each with its own listener and its own rings [default: the number of cores that the process
    /// may use, or that its CPU quota covers; fewer if their buffers would take half of the memory budget]
    #[arg(help_heading = THREADS, long, value_name = "COUNT", env = "HI_SHARDS",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: Option<u16>,

    /// Whether each shard is pinned to a core of its own
    #[arg(help_heading = THREADS, long, value_name = "MODE", env = "HI_PIN", value_enum, default_value_t = Pin::Auto)]
    pub pin: Pin,

    /// What connections are served with: auto (io_uring, or epoll where the kernel refuses io_uring), io_uring (hi ends where it
    /// is refused) or epoll, which costs more CPU time
    #[arg(help_heading = THREADS, long, value_name = "MODE", env = "HI_BACKEND", value_enum, hide_possible_values = true,
          default_value_t = probe::Choice::Auto)]
    pub backend: probe::Choice,

    /// The address that users connect to, e.g. wss://chat.example.com/ws: hi connects to itself through it, and reports when
    /// that fails or leads to another server [default: no check]
    #[arg(help_heading = DIAGNOSIS, long, value_name = "URL", env = "HI_PUBLIC_URL", value_parser = TargetParser)]
    #[cfg(feature = "doctor")]
    pub public_url: Option<Target>,

    /// Time between two checks of --public-url
    #[arg(help_heading = DIAGNOSIS, long, value_name = "TIME", env = "HI_PUBLIC_INTERVAL", default_value = "60s",
          value_parser = parse_interval)]
    #[cfg(feature = "doctor")]
    pub public_interval: Duration,

    /// A name that all servers behind the same public address share: any of them may answer the check of --public-url
    /// [default: only this server]
    #[arg(help_heading = DIAGNOSIS, long, value_name = "NAME", env = "HI_GROUP")]
    pub group: Option<String>,

    /// Whether /-/doctor/echo shows requests as they arrive here, for `hi doctor`: on or off
    #[arg(help_heading = DIAGNOSIS, long, value_name = "MODE", env = "HI_ECHO", default_value = "on",
          action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub echo: bool,

    /// The options of `--cluster`.
    #[command(flatten)]
    #[cfg(feature = "cluster")]
    pub shared: ClusterOptions,

    /// How much to log to stderr: error, warn, info, debug or trace
    #[arg(help_heading = LOGGING, long, value_name = "LEVEL", env = "HI_LOG", default_value = "info")]
    pub log: tracing::level_filters::LevelFilter,

    /// Time between two log lines about handshakes that fail for the same reason behind the same proxy; those in between are
    /// counted
    #[arg(help_heading = LOGGING, long, value_name = "TIME", env = "HI_FAILURE_LOG_INTERVAL", default_value = "60s",
          value_parser = parse_time)]
    pub failure_log_interval: Duration,
}

/// How soon rooms are fanned out again, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paces {
    /// Chat rooms.
    pub chat: Pace,
    /// Raw rooms.
    pub raw: Pace,
}

/// Where the internal port listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Internal {
    /// There is none.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl FromStr for Internal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| {
                format!(
                    "{text} is not an address with a port: give e.g. {INTERNAL_ADDRESS_DEFAULT} or [::1]:8081, or off"
                )
            }),
        }
    }
}

impl Config {
    /// What chat rooms keep for clients that reconnect.
    pub fn replay_bounds(&self) -> ReplayBounds {
        ReplayBounds {
            frames_max: self.replay_frames as usize,
            bytes_max: self.replay_bytes,
            age_max_ms: self.replay_age.as_millis() as u64,
        }
    }

    /// Bytes of relays that the inbox of one shard can hold, if there are `shards` of them.
    pub fn inbox_bytes_max(&self, shards: usize) -> usize {
        let message_bytes_max = self.max_message.max(api::call::BODY_BYTES_MAX);
        inbox::inbox_bytes_max(shards, message_bytes_max, self.compression)
    }

    /// Who may connect; `gate` is there with `--auth`.
    pub(crate) fn admission(&self, gate: Option<Arc<Gate>>) -> Arc<Admission> {
        let admission = Admission::new(self.origins.clone(), self.raw, self.max_rooms as usize);
        Arc::new(admission.compressing(self.compression).asking(gate))
    }

    /// What the shards of a process have to know, if there are `shards` of them, and nobody is asked who it is. `instance` is the
    /// process, as clients see it.
    pub fn shard_settings(&self, shards: usize, instance: Arc<str>) -> Settings {
        Settings {
            instance,
            chat_rate: RateLimit::new(self.rate_limit, self.rate_burst),
            chat_messages_per_second: self.rate_limit,
            raw_rate: RateLimit::new(self.raw_rate_limit, self.rate_burst),
            address_rate: RateLimit::new(self.messages_per_address, self.messages_per_address.saturating_mul(2)),
            chat_pace: self.flush_interval.chat,
            raw_pace: self.flush_interval.raw,
            heartbeat: Heartbeat {
                interval: self.ping_interval.as_secs() as u32,
                timeout: self.ping_timeout.as_secs() as u32,
            },
            identification_seconds: self.handshake_timeout.as_secs().max(1) as u32,
            message_bytes_max: self.max_message,
            deflated_bytes_min: self.compression_min,
            admission: self.admission(None),
            backlog_bytes: self.backlog_bytes,
            inbox_bytes_max: self.inbox_bytes_max(shards),
            slow: self.slow,
        }
    }

    /// Whether the files that the options name can be used.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), String> {
        self.api_key_file.as_deref().map_or(Ok(()), |path| Keys::load(path).map(drop))?;
        self.gate().map(drop)
    }

    fn trust(&self) -> Trust {
        Trust { proxies: Networks::all(&self.trusted_proxies), header: self.client_ip_header }
    }

    fn address_limits(&self) -> AddressLimits {
        AddressLimits {
            connections_max: self.max_per_address,
            handshakes: RateLimit::new(self.handshakes_per_address, self.handshakes_per_address),
            messages: self.messages_per_address > 0,
            unlimited: match Networks::all(&self.unlimited_addresses) {
                none if none.is_empty() => none,
                some => Networks::all(&[&[some], &self.trusted_proxies[..]].concat()),
            },
        }
    }

    /// What the control side has to know, of the process `instance`.
    pub(crate) fn control(&self, instance: Arc<str>, backend: Backend) -> control::Settings {
        control::Settings {
            handshake_timeout: self.handshake_timeout,
            keepalive_timeout: self.keepalive_timeout,
            unacknowledged_max: self.ping_interval + self.ping_timeout,
            admission: self.admission(None),
            trust: self.trust(),
            proxy_protocol: Networks::all(&self.proxy_protocol),
            address_limits: self.address_limits(),
            echo: self.echo,
            instance,
            group: self.group.clone(),
            backend,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_protocol() {
        let config = Config::try_parse_from(["hi"]).unwrap();
        assert_eq!((config.port, config.max_message, config.max_rooms), (8080, 16 * 1024, 32));
        assert_eq!((config.rate_limit, config.rate_burst, config.raw_rate_limit), (20, 40, 0));
        assert_eq!((config.ping_interval.as_secs(), config.ping_timeout.as_secs()), (25, 10));
        assert_eq!((config.handshake_timeout.as_secs(), config.keepalive_timeout.as_secs()), (10, 75));
        assert_eq!((&config.origins[..], config.echo), (&[Allowed::SameHost][..], true));
        assert_eq!(config.flush_interval, Paces { chat: Pace::AtOnce, raw: Pace::AtOnce });
        assert_eq!(config.internal, Internal::At(([127, 0, 0, 1], 8081).into()));
        let replay = ReplayBounds { frames_max: 1024, bytes_max: 1 << 20, age_max_ms: 60_000 };
        assert_eq!(config.replay_bounds(), replay);
    }

    #[test]
    fn each_bound_of_replay_switches_it_off() {
        for off in ["--replay-frames=0", "--replay-bytes=0", "--replay-age=0"] {
            assert!(Config::try_parse_from(["hi", off]).unwrap().replay_bounds().is_off(), "{off}");
        }
    }

    #[test]
    fn the_internal_port_is_an_address_or_off() {
        assert_eq!("off".parse(), Ok(Internal::Off));
        assert!("8081".parse::<Internal>().unwrap_err().contains("or off"));
    }

    #[test]
    fn origins_are_a_list() {
        let config = Config::try_parse_from(["hi", "--origins", "https://a.example,HTTP://b.example:80"]).unwrap();
        assert_eq!(
            config.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["https://a.example", "http://b.example"]
        );
        let config = Config::try_parse_from(["hi", "--origins", "same-host", "--origins", "null,any"]).unwrap();
        assert_eq!(config.origins.iter().map(ToString::to_string).collect::<Vec<_>>(), ["same-host", "null", "any"]);
        let refused = Config::try_parse_from(["hi", "--origins", "a.example"]).unwrap_err().to_string();
        assert!(refused.contains("e.g. https://chat.example.com"), "{refused}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Config::command().debug_assert();
    }
}
