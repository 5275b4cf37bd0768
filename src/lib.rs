//! hi: a minimal, performant WebSocket chat and broadcast server for Linux on io_uring.
//!
//! A message that enters through one WebSocket leaves through ten thousand others: encoded once, in one order for
//! everyone, with one batched submission per turn on each core. The modules, in the order in which a message meets them:
//!
//! | module | purpose |
//! | --- | --- |
//! | [`config`] | the command line: every option, with its unit |
//! | [`server`] | starts the shards, listens to signals, stops |
//! | `control` | from accept to the 101, or to a stream: the tasks of the control ring |
//! | [`admission`] | who may connect, and who may join what (pure) |
//! | [`identity`] | who somebody is, and what they may do: tokens, keys, rights in rooms (pure) |
//! | [`http`] | request heads, the upgrade check, the diagnosis of what fails, responses, the page (pure) |
//! | [`shard`] | one thread: its turns, and its hub, which is the connections and what they make happen |
//! | [`connection`] | one connection: its life, its cursors, what leaves next (pure) |
//! | [`ring`] | the two rings of a shard and their sockets: the only module that names io_uring |
//! | [`frame`] | RFC 6455 frames: decoded strictly, encoded once (pure) |
//! | [`protocol`] | the dialects: frames to commands and back, names, close codes (pure) |
//! | [`room`] | rooms: the order of messages, members, replay; inboxes between shards; logs (pure) |
//!
//! Beside the way of a message:
//!
//! | module | purpose |
//! | --- | --- |
//! | [`api`] | the internal HTTP port: publishing, rooms, health |
//! | `failures` | what was refused, for the log and for metrics |
//! | [`counters`], [`metrics`] | what each thread counts; all of it added up, as text for Prometheus |
//! | `cluster` | rooms that several servers share, through a log that numbers their messages (feature `cluster`; not offered yet) |
//! | [`memory`] | one budget for everything that is kept for others, and who gives when it is used up |
//! | `keys` | the keys for tokens that come from the network (feature `doctor`) |
//! | `canary` | the server dials itself through its public address (feature `doctor`) |
//! | [`limits`] | every fixed bound, with its unit |
//! | [`stop`] | the order to stop, as every thread hears it |
//! | [`os`], `cores`, `descriptors` | system calls; shards and their cores; file descriptors when they run out |
//! | [`address`] | where connections come in, and where they come from (pure) |
//! | [`clock`] | the two readings of time: one for `Ts`, one for ages and intervals |
//! | [`mod@slice`], `wheel`, `rate`, `throttle`, `number`, `words` | shared bytes, timers, rate limits, the pace of log lines, counted numbers, enums with words (pure) |
//! | [`mod@log`], [`output`], [`mod@environment`] | lines to stderr that nothing waits for; what commands print; variables that count |
//!
//! `hi doctor` and `hi checklist` are a package of their own, `doctor/`. Modules import only from those further down, which
//! `tests/house.rs` checks. To change how a message flows, begin at [`shard::turn`]; to change what a message does, at
//! `shard/hub/session.rs`. Why things are as they are: `docs/decisions.md`.

pub mod address;
pub mod admission;
pub mod api;
#[cfg(feature = "doctor")]
pub mod canary;
pub mod clock;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod config;
pub mod connection;
mod control;
mod cores;
pub mod counters;
mod descriptors;
pub mod environment;
mod failures;
pub mod frame;
pub mod http;
pub mod identity;
#[cfg(feature = "doctor")]
pub mod keys;
pub mod limits;
pub mod log;
pub mod memory;
pub mod metrics;
mod number;
pub mod os;
pub mod output;
pub mod protocol;
mod rate;
pub mod ring;
pub mod room;
pub mod server;
pub mod shard;
pub mod slice;
pub mod stop;
mod throttle;
mod wheel;
mod words;
