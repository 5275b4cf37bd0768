//! hi: a minimal, performant WebSocket chat and broadcast server for Linux on io_uring.
//!
//! A message that enters through one WebSocket leaves through ten thousand others: encoded once, in one order for
//! everyone, with one batched submission a turn on each core. The files, in the order in which a message meets them:
//!
//! | module | what it does |
//! | --- | --- |
//! | [`config`] | the command line: every option, with its unit |
//! | [`server`] | starts the shards, listens to signals, stops |
//! | `control` | from accept to 101, or to a stream: the tasks of the control ring |
//! | [`admission`] | who may connect: origins, names, raw rooms (pure) |
//! | `descriptors` | file descriptors when they run out: some are left to the internal port |
//! | [`http`] | request heads, the upgrade check, the diagnosis of what fails, responses, the page (pure) |
//! | [`shard`] | one pinned thread: its connections, its rooms, its turns |
//! | [`ring`] | the data ring: receives and sends of upgraded connections; the only file that names io-uring |
//! | [`frame`] | RFC 6455 frames, decoded strictly and encoded once (pure) |
//! | [`protocol`] | the dialects: frames to commands and back, names, close codes (pure) |
//! | [`room`] | the order of a room and its members; the log that members read (pure) |
//! | [`connection`] | one connection: its states, its cursors, what leaves next |
//! | [`api`] | the internal HTTP port: publishing, rooms, health; `hi pub` and `hi rooms` |
//! | [`metrics`] | what each shard counts, and all of it added up as text |
//! | [`memory`] | one budget for everything that is kept for others; what is given back when it is used up |
//! | `canary` | the server dials itself through its public address, on a thread of its own (feature `doctor`) |
//! | [`mod@slice`], `wheel`, `rate`, `throttle` | shared bytes, timers, rate limits, the pace of log lines (pure) |
//! | [`clock`] | the two readings of time: one for `Ts`, one for ages and intervals |
//! | [`os`] | limits, affinity, listeners |
//! | `cores` | how many shards there are, and which cores they are pinned to |
//! | [`stop`] | the order to stop, as every thread hears it |
//! | [`mod@environment`] | which variables of the environment count, and errors that name them |
//! | [`limits`] | every fixed bound, with its unit |
//! | [`mod@log`] | lines to stderr that nothing waits for |
//! | [`output`] | what commands print, and how they end where that can't be written |
//!
//! The design and its measurements: `docs/`. To change how a message flows, begin at [`shard::turn`]; to change what a
//! message means, at [`shard::commands`].

pub mod admission;
pub mod api;
#[cfg(feature = "doctor")]
pub mod canary;
pub mod clock;
pub mod config;
pub mod connection;
mod control;
mod cores;
mod descriptors;
pub mod environment;
pub mod frame;
pub mod http;
pub mod limits;
pub mod log;
pub mod memory;
pub mod metrics;
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
