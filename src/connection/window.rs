//! How much a member with `?latest=1` may have that it has not read yet.
//!
//! What the kernel has taken can't be replaced by something newer, and socket buffers hold seconds of it. So pings follow the
//! messages: a pong says that the client has read everything before its ping. How many messages may be on their way follows
//! from how long pongs take: more as long as they come without delay, however far away the client is, and fewer as soon as
//! messages wait for a client that doesn't read.
//!
//! Pure: times come in as arguments.

use std::time::{Duration, Instant};

use crate::limits::{
    UNREAD_MESSAGES_MAX, UNREAD_PING_INTERVAL_MIN, UNREAD_ROUND_MAX, UNREAD_WAIT_MAX, UNREAD_WAIT_USUAL,
};

/// A ping whose pong has not come.
#[derive(Clone, Copy, Debug)]
struct Ping {
    at: Instant,
    /// Messages that its pong confirms.
    messages: u32,
}

/// The messages that a client has not confirmed.
#[derive(Debug)]
pub(crate) struct Window {
    /// How many there may be.
    messages_max: u32,
    messages: u32,
    ping: Option<Ping>,
    /// Number of the last ping.
    number: u32,
    last_pong: Option<Instant>,
    /// How long a pong takes if nothing waits for the client: the way there and back, or the time that a slow client takes for one
    /// message.
    round: Option<Duration>,
}

impl Window {
    /// The window of a client that nothing is known about: one message.
    pub(crate) fn new() -> Self {
        Self { messages_max: 1, messages: 0, ping: None, number: 0, last_pong: None, round: None }
    }

    /// How many messages may leave now.
    pub(crate) fn open(&self, now: Instant) -> usize {
        let is_late = self.ping.is_some_and(|ping| {
            now.saturating_duration_since(ping.at) > self.round.unwrap_or_default() + UNREAD_WAIT_MAX
        });
        if is_late { 0 } else { (self.messages_max - self.messages) as usize }
    }

    /// Whether no message may leave before a pong has come.
    pub(crate) fn is_full(&self) -> bool {
        self.messages >= self.messages_max
    }

    /// Whether a ping has to leave even if no message does.
    pub(crate) fn owes_ping(&self) -> bool {
        self.ping.is_none() && self.is_half_full()
    }

    /// Whether a ping now says something about the whole window.
    fn is_half_full(&self) -> bool {
        self.is_most(self.messages)
    }

    fn is_most(&self, messages: u32) -> bool {
        messages * 2 > self.messages_max
    }

    /// Notes that messages leave, at most as many as [`Window::open`] has said.
    pub(crate) fn leave(&mut self, messages: usize) {
        self.messages += messages as u32;
        debug_assert!(self.messages <= self.messages_max);
    }

    /// The payload of a ping that has to follow what has left, if one has to.
    pub(crate) fn ping(&mut self, now: Instant) -> Option<[u8; 4]> {
        let is_due = self.is_half_full()
            || self.last_pong.is_none_or(|last| now.saturating_duration_since(last) >= UNREAD_PING_INTERVAL_MIN);
        if self.messages == 0 || self.ping.is_some() || !is_due {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        self.ping = Some(Ping { at: now, messages: self.messages });
        self.unanswered()
    }

    /// The payload of the ping that has not been answered. Others that are sent meanwhile repeat it: a client may answer only the
    /// last ping that has come (RFC 6455 section 5.5.3).
    pub(crate) fn unanswered(&self) -> Option<[u8; 4]> {
        self.ping.map(|_| self.number.to_be_bytes())
    }

    /// A pong has come. True: it answers the ping, so there may be something to send again.
    pub(crate) fn pong(&mut self, payload: &[u8], now: Instant) -> bool {
        let Some(ping) = self.ping.filter(|_| payload == self.number.to_be_bytes()) else { return false };
        self.ping = None;
        self.last_pong = Some(now);
        self.messages -= ping.messages;
        self.adapt(ping.messages, now.saturating_duration_since(ping.at));
        true
    }

    /// A pong that confirms `messages` has taken `time`.
    fn adapt(&mut self, messages: u32, time: Duration) {
        let round = match self.round {
            // A single message doesn't wait for others: if it takes longer, so does the way.
            Some(round) if time > round && messages == 1 => round + (time - round) / 4,
            Some(round) if time > round => round,
            _ => time,
        };
        self.round = Some(round);
        let wait = time - round.min(time);
        if wait > UNREAD_WAIT_MAX {
            let in_time = f64::from(messages) * UNREAD_WAIT_USUAL.as_secs_f64() / wait.as_secs_f64();
            self.messages_max = (in_time as u32).clamp(1, (self.messages_max / 2).max(1));
        } else if self.is_most(messages) && wait <= UNREAD_WAIT_USUAL && time <= UNREAD_ROUND_MAX {
            self.messages_max = (self.messages_max * 2).min(UNREAD_MESSAGES_MAX);
        }
        // What is on its way already counts as in time.
        self.messages_max = self.messages_max.max(self.messages);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A message that a client has read: when it was sent, in ms, and when it was read.
    type Read = (u32, u32);

    /// What has arrived first.
    fn next<T>(queue: &mut VecDeque<(u32, T)>, ms: u32) -> Option<T> {
        let has_arrived = queue.front().is_some_and(|(at, _)| *at <= ms);
        if has_arrived { queue.pop_front().map(|(_, what)| what) } else { None }
    }

    /// A client that is `way` ms away and pauses after each message, and a room with a message each ms. Only the newest is
    /// needed, or with `all` each of them. Returns what the client read, and when pings were sent.
    fn run(way: u32, pause: impl Fn(u32) -> u32, all: bool, time: u32) -> (Vec<Read>, Vec<u32>) {
        let (start, mut window) = (Instant::now(), Window::new());
        let (mut read, mut pings, mut waiting, mut reads_at) = (Vec::new(), Vec::new(), 0, 0);
        // What is on its way: when it arrives; when a message was sent, or a ping's payload.
        let mut down: VecDeque<(u32, Result<u32, [u8; 4]>)> = VecDeque::new();
        let mut up: VecDeque<(u32, [u8; 4])> = VecDeque::new();
        for ms in 0..time {
            let now = start + ms * MS;
            waiting += 1;
            while let Some(payload) = next(&mut up, ms) {
                window.pong(&payload, now);
            }
            let leave = window.open(now).min(if all { waiting } else { 1 });
            window.leave(leave);
            down.extend((0..leave).map(|_| (ms + way, Ok(ms))));
            waiting = if all { waiting - leave } else { 0 };
            if let Some(ping) = window.ping(now) {
                pings.push(ms);
                down.push_back((ms + way, Err(ping)));
            }
            while reads_at <= ms
                && let Some(what) = next(&mut down, ms)
            {
                match what {
                    Ok(sent) => {
                        read.push((sent, ms));
                        reads_at = ms + pause(ms);
                    }
                    Err(payload) => up.push_back((ms + way, payload)),
                }
            }
        }
        (read, pings)
    }

    fn oldest(read: &[Read]) -> u32 {
        read.iter().map(|(sent, at)| at - sent).max().expect("it has read something")
    }

    #[test]
    fn a_slow_client_gets_messages_at_its_own_rate_and_all_are_fresh() {
        for all in [false, true] {
            for (pause, at_least) in [(5, 900), (20, 240), (100, 48), (300, 15), (1000, 4), (3000, 1)] {
                let (read, _) = run(1, |_| pause, all, 5000);
                let oldest = oldest(&read);
                assert!(read.len() >= at_least && oldest <= 310, "{pause} ms: {} {oldest:?}", read.len());
            }
        }
    }

    #[test]
    fn a_client_that_reads_gets_everything_and_few_pings_however_far_away_it_is() {
        for way in [0, 1, 20, 100, 190] {
            let (mut read, pings) = run(way, |_| 0, true, 8000);
            read.retain(|(sent, _)| *sent >= 6000);
            assert!(read.len() >= 1999 - way as usize, "{way} ms: {}", read.len());
            assert!(oldest(&read) <= way + 1, "{way} ms: {}", oldest(&read));
            let pings = pings.iter().filter(|ms| **ms >= 6000).count();
            assert!(pings <= 101, "{way} ms: {pings} pings");
        }
    }

    #[test]
    fn a_client_that_becomes_slow_gets_fresh_messages_soon_and_one_that_reads_again_gets_everything_soon() {
        let (read, _) = run(1, |ms| if (2000..62_000).contains(&ms) { 100 } else { 0 }, true, 64_000);
        let slow: Vec<_> = read.iter().filter(|(_, at)| (2000..62_000).contains(at)).copied().collect();
        let late = slow.iter().rposition(|(sent, at)| at - sent > 400).expect("some were on their way");
        assert!(late < 200 && slow.len() > 500, "the {late}th of {}", slow.len());
        assert!(read.iter().filter(|(sent, _)| *sent >= 63_000).count() >= 998);
    }

    #[test]
    fn only_the_pong_to_its_last_ping_counts() {
        let (mut window, now) = (Window::new(), Instant::now());
        assert!(!window.pong(b"", now) && window.ping(now).is_none());
        let open = window.open(now);
        window.leave(open);
        let ping = window.ping(now).unwrap();
        assert!(window.is_full() && window.open(now) == 0 && window.ping(now).is_none());
        assert_eq!(window.unanswered(), Some(ping));
        assert!(!window.pong(b"", now) && !window.pong(&[0; 4], now));
        assert!(window.pong(&ping, now) && !window.pong(&ping, now) && !window.is_full());
        assert_eq!(window.unanswered(), None);
    }

    #[test]
    fn nothing_leaves_while_a_pong_is_late() {
        let (mut window, start) = (Window::new(), Instant::now());
        for round in 0..8 {
            let open = window.open(start + round * 10 * MS);
            window.leave(open);
            let ping = window.ping(start + round * 10 * MS).unwrap();
            assert!(window.pong(&ping, start + (round * 10 + 5) * MS));
        }
        let now = start + 100 * MS;
        assert!(window.open(now) > 100);
        window.leave(1);
        assert!(window.ping(now).is_some());
        assert!(window.open(now + 100 * MS) > 100);
        assert_eq!(window.open(now + 200 * MS), 0);
    }
}
