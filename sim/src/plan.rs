//! What a seed decides before anything happens: the server's options, and how many clients there are.

use std::time::Duration;

use clap::Parser;
use hi::admission::RawMode;
use hi::config::{Config, Paces};
use hi::ring::Backend;
use hi::room::pace::Pace;
use hi::shard::settings::Slow;

use crate::random::Random;

/// Chat rooms.
pub const ROOMS: [&str; 3] = ["tea", "milk", "honey"];
/// Raw rooms.
pub const RAW_ROOMS: [&str; 2] = ["data", "bulk"];
/// Inboxes that are smaller than they have to be: then messages are dropped on their way, and members told.
const SMALL_INBOX_BYTES: usize = 64 * 1024;

/// Half of the seeds don't wait.
const FLUSH_INTERVALS: [(Pace, Pace); 6] = {
    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
    [
        (Pace::AtOnce, Pace::AtOnce),
        (Pace::AtOnce, Pace::AtOnce),
        (Pace::AtOnce, Pace::AtOnce),
        (Pace::Every(ms(20)), Pace::Every(ms(300))),
        (Pace::Every(ms(1000)), Pace::AtOnce),
        (Pace::Auto(ms(50)), Pace::Auto(ms(5))),
    ]
};

/// What is decided about compression is decided aside.
pub const COMPRESSION: u64 = 0x77_92;

/// What is decided about members that skip to the newest message, too.
pub const LATEST: u64 = 0x1a_7e;

/// What a simulation begins with.
#[derive(Debug)]
pub struct Plan {
    /// The server's options.
    pub config: Config,
    /// What is behind the rings.
    pub backend: Backend,
    /// Shards.
    pub shards: usize,
    /// Bytes that an inbox holds.
    pub inbox_bytes_max: usize,
    /// The memory budget, in bytes; far below what can be set on the command line, so that it is used up.
    pub memory_bytes_max: usize,
    /// Clients.
    pub clients: usize,
    /// Rounds of trouble; after each, everything that is owed has to arrive.
    pub rounds: usize,
    /// Steps in each.
    pub steps: usize,
    /// Largest message that clients send when they send much, in bytes.
    pub large_bytes: usize,
    /// Whether clients, and the internal port, send a lot at once.
    pub floods: bool,
    /// Whether the server is stopped before the clients have left.
    pub stops: bool,
    /// One client in this many reads little, or nothing.
    pub slow_one_in: usize,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(random: &Random, backend: Backend, steps: usize) -> Self {
        let mut config = Config::try_parse_from(["hi"]).expect("the defaults are options");
        config.max_message = random.pick(&[1024, 16 * 1024, 64 * 1024]);
        config.max_rooms = random.pick(&[1, 2, 32]);
        config.rate_limit = random.pick(&[0, 0, 0, 5]);
        config.rate_burst = random.pick(&[1, 40]);
        config.raw_rate_limit = random.pick(&[0, 0, 0, 5]);
        // Whether memory is.
        let is_short = random.one_in(3);
        if is_short {
            config.max_message = random.pick(&[16 * 1024, 64 * 1024]);
        }
        config.backlog_bytes = match is_short {
            true => random.pick(&[64 * 1024, 1024 * 1024]),
            false => random.pick(&[0, 4 * 1024, 64 * 1024, 1024 * 1024]),
        };
        config.slow = random.pick(&[Slow::Gap, Slow::Gap, Slow::Close]);
        config.replay_frames = random.pick(&[0, 8, 100, 1024]) as u32;
        config.replay_bytes = random.pick(&[10_000, 100_000, 1 << 20]);
        config.replay_age = Duration::from_secs(random.pick(&[2, 60]));
        config.receive_buffers = random.pick(&[2, 4, 16, 64, 256]);
        config.ping_interval = Duration::from_secs(random.pick(&[2, 5, 25]));
        config.ping_timeout = Duration::from_secs(random.pick(&[1, 3, 10]));
        config.raw = random.pick(&[RawMode::Open, RawMode::Open, RawMode::Open, RawMode::Listen]);
        config.flush_interval = random.pick(&FLUSH_INTERVALS.map(|(chat, raw)| Paces { chat, raw }));
        let compression = random.aside(COMPRESSION);
        config.compression = compression.one_in(3);
        config.compression_min = compression.pick(&[0, 100, 512]);
        let shards = random.between(1, 4);
        let inbox_bytes_max = if random.one_in(5) { SMALL_INBOX_BYTES } else { config.inbox_bytes_max(shards) };
        let floods = random.one_in(if is_short { 2 } else { 4 });
        let large_bytes = config.max_message.min(if is_short { 30_000 } else { random.pick(&[500, 3000, 60_000]) });
        Self {
            backend,
            shards,
            inbox_bytes_max,
            memory_bytes_max: if is_short { random.pick(&[512 << 10, 1 << 20, 4 << 20]) } else { usize::MAX },
            clients: random.between(2, 24),
            rounds: random.between(1, 4),
            steps,
            large_bytes,
            floods,
            stops: random.one_in(3),
            slow_one_in: if is_short { 2 } else { random.pick(&[2, 4, 1000]) },
            config,
        }
    }
}

impl Plan {
    /// Whether neither a full inbox nor a lack of memory can cost a member a message.
    pub fn drops_nothing(&self) -> bool {
        self.memory_bytes_max == usize::MAX && self.inbox_bytes_max != SMALL_INBOX_BYTES
    }

    /// Messages a second that a connection may send; 0: any number.
    pub fn rate_limit_of(&self, is_raw: bool) -> u32 {
        if is_raw { self.config.raw_rate_limit } else { self.config.rate_limit }
    }
}
