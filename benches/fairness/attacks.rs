//! The attacks. Each stays within what hi allows any client by default.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::ValueEnum;

use crate::connect::{open, upgrade};
use crate::crowd;
use crate::frames::{chat, masked};
use crate::gate::Gate;

/// Number of readers of a flooder, of stuck members, and of members that drip-read.
const CROWD: usize = 300;
/// Bytes per write of a flooder.
const WRITE_BYTES: usize = 64 << 10;
/// Publishers of empty frames.
const EMPTY_PUBLISHERS: usize = 3;
/// Connections that keep rooms alive, and rooms per connection: 9,600 rooms.
const HOLDERS: usize = 300;
const ROOMS_EACH: usize = 32;
/// Clients that ask for lists, and the interval of each: hi allows 20 per second.
const ASKERS: usize = 20;
const ASKS_A_SECOND: u32 = 19;
/// Bytes per read of a drip-reading member, and the time between two reads.
const DROP_BYTES: usize = 256;
const DROP_EVERY: Duration = Duration::from_millis(10);
/// Clients that keep reconnecting for a replay.
const RETURNING: usize = 8;
/// Messages that hi keeps for them.
const KEPT: usize = 1_024;
/// Bytes of each: together they nearly fill the replay.
const KEPT_BYTES: usize = 800;
/// How many messages a reconnecting client asks for; some may be gone by then.
const REPLAYED: u64 = KEPT as u64 * 9 / 10;
/// Messages that a connection may send in a burst.
const BURST: usize = 38;
/// A reconnected client leaves when nothing has arrived for this time.
const REPLAY_PAUSE: Duration = Duration::from_millis(100);
/// Time limit for an answer of the server.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
const V1: &str = "Sec-WebSocket-Protocol: hi.v1\r\n";

/// The attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    Flood,
    Empty,
    Lists,
    Drip,
    Replay,
    Stuck,
}

impl Attack {
    /// Its description in tables.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Flood => "a raw flooder with 300 readers",
            Self::Empty => "three publishers of empty frames",
            Self::Lists => "20 clients list 9,600 rooms",
            Self::Drip => "300 members that drip-read",
            Self::Replay => "8 clients reconnect for 1,024 messages",
            Self::Stuck => "300 members that read nothing",
        }
    }

    /// Connects the attackers; they act while the gate is open.
    pub(crate) fn prepare(self, address: SocketAddr, gate: &Gate) {
        match self {
            Self::Flood => flood(address, gate),
            Self::Empty => empty(address, gate),
            Self::Lists => lists(address, gate),
            Self::Drip => drip(address, gate),
            Self::Replay => replay(address, gate),
            Self::Stuck => stuck(address, gate),
        }
    }
}

fn flood(address: SocketAddr, gate: &Gate) {
    crowd::reading(address, "/raw/flood?lossy=1", CROWD);
    publish(address, "/raw/flood?echo=0", gate, &masked(2, &[b'f'; 128]));
}

fn empty(address: SocketAddr, gate: &Gate) {
    crowd::reading(address, "/raw/empty?lossy=1", 1);
    for _ in 0..EMPTY_PUBLISHERS {
        publish(address, "/raw/empty?echo=0&lossy=1", gate, &masked(2, b""));
    }
}

/// Publishes this frame as fast as the server reads it, and reads what the room sends.
fn publish(address: SocketAddr, path: &str, gate: &Gate, frame: &[u8]) {
    let mut publisher = open(address, path);
    let mut reader = publisher.try_clone().expect("a file descriptor is free");
    std::thread::spawn(move || while crowd::goes_on(reader.read(&mut [0; 1 << 14])) {});
    let frames = frame.repeat(WRITE_BYTES / frame.len());
    gate.repeat(None, move || publisher.write_all(&frames).expect("the server reads it"));
}

fn lists(address: SocketAddr, gate: &Gate) {
    let holders = (0..HOLDERS).map(|holder| hold_rooms(address, holder)).collect();
    crowd::reading_these(holders);
    let mut askers: Vec<_> = (0..ASKERS).map(|number| Asker { address, number, times: 0, stream: None }).collect();
    askers.iter_mut().for_each(Asker::ask);
    // Staggered, so that requests are spread evenly.
    let mut next = 0;
    gate.repeat(Some(Duration::from_secs(1) / ASKS_A_SECOND / ASKERS as u32), move || {
        askers[next].ask();
        next = (next + 1) % ASKERS;
    });
}

/// Asks for the list of rooms in either dialect, and reads the answers in a thread. It reconnects if the server closes
/// it.
struct Asker {
    address: SocketAddr,
    number: usize,
    /// How often it has connected.
    times: usize,
    stream: Option<TcpStream>,
}

impl Asker {
    fn ask(&mut self) {
        let in_v1 = self.number.is_multiple_of(2);
        let question = if in_v1 { masked(1, b"{\"Op\":\"rooms\"}") } else { chat("asking", "/channels") };
        let name = format!("asks-{}-{}", self.number, self.times);
        let stream = self.stream.get_or_insert_with(|| {
            self.times += 1;
            let path = format!("/ws?username={name}&room=asking");
            let stream = if in_v1 { open_v1(self.address, &name) } else { open(self.address, &path) };
            let mut answers = stream.try_clone().expect("a file descriptor is free");
            std::thread::spawn(move || while crowd::goes_on(answers.read(&mut [0; 1 << 14])) {});
            stream
        });
        if stream.write_all(&question).is_err() {
            self.stream = None;
        }
    }
}

/// A chat client in its own rooms.
fn hold_rooms(address: SocketAddr, holder: usize) -> TcpStream {
    let room = |index: usize| format!("room-{:04}", holder * ROOMS_EACH + index);
    let mut stream = open(address, &format!("/ws?username=holds-{holder}&room={}", room(0)));
    let joins: Vec<u8> = (1..ROOMS_EACH).flat_map(|index| chat(&room(0), &format!("/join {}", room(index)))).collect();
    stream.write_all(&joins).expect("the server reads it");
    await_text(&mut stream, b"Welcome to ", ROOMS_EACH);
    stream
}

fn drip(address: SocketAddr, gate: &Gate) {
    let mut members = crowd::small(address, "/raw/drip?lossy=1", CROWD);
    gate.repeat(Some(DROP_EVERY), move || {
        for member in &mut members {
            member.set_nonblocking(true).unwrap();
            assert!(crowd::goes_on(member.read(&mut [0; DROP_BYTES])), "a lossy member is not closed");
        }
    });
    publish_to_a_crowd(address, "/raw/drip?echo=0", gate);
}

fn stuck(address: SocketAddr, gate: &Gate) {
    // Never read, and kept until this process ends.
    std::mem::forget(crowd::small(address, "/raw/stuck?lossy=1", CROWD));
    publish_to_a_crowd(address, "/raw/stuck?echo=0", gate);
}

/// Publishes 400 KiB per second to a crowd whose members each read less.
fn publish_to_a_crowd(address: SocketAddr, path: &str, gate: &Gate) {
    let mut publisher = open(address, path);
    let frame = masked(2, &[b's'; 4096]);
    gate.repeat(Some(Duration::from_millis(10)), move || publisher.write_all(&frame).expect("the server reads it"));
}

fn replay(address: SocketAddr, gate: &Gate) {
    let mut holder = open_v1(address, "keeps-the-room");
    holder.write_all(&masked(1, b"{\"Op\":\"join\",\"Room\":\"churn\",\"Ref\":1}")).expect("the server reads it");
    let joined = await_text(&mut holder, b"\"Ref\":1", 1);
    let epoch = text_behind(&joined, "\"Epoch\":\"").to_owned();
    let seq = Arc::new(AtomicU64::new(0));
    for filler in 0..KEPT.div_ceil(BURST) {
        fill(address, filler);
    }
    // Keeps the replay full: each message expires after a minute.
    let mut fillers: Vec<_> = (0..3).map(|filler| open_v1(address, &format!("refills-{filler}"))).collect();
    crowd::reading_these(fillers.iter().map(|stream| stream.try_clone().expect("a file descriptor is free")).collect());
    gate.repeat(Some(Duration::from_secs(1) / ASKS_A_SECOND), move || {
        for filler in &mut fillers {
            filler.write_all(&kept_message("")).expect("the server reads it");
        }
    });
    crowd::reading_these(vec![holder]);
    come_back(&mut open_v1(address, "looks-around"), &epoch, &seq);
    let names = Arc::new(Mutex::new(0));
    for _ in 0..RETURNING {
        let (names, seq, epoch) = (Arc::clone(&names), Arc::clone(&seq), epoch.clone());
        gate.repeat(None, move || {
            let name = {
                let mut names = names.lock().unwrap();
                *names += 1;
                format!("returns-{names}")
            };
            come_back(&mut open_v1(address, &name), &epoch, &seq);
        });
    }
}

fn kept_message(more: &str) -> Vec<u8> {
    let text = "k".repeat(KEPT_BYTES);
    masked(1, format!("{{\"Op\":\"pub\",\"Room\":\"churn\",\"Message\":\"{text}\"{more}}}").as_bytes())
}

/// Publishes the burst that a connection may publish.
fn fill(address: SocketAddr, number: usize) {
    let mut stream = open_v1(address, &format!("fills-{number}"));
    let mut frames = kept_message("").repeat(BURST - 1);
    frames.extend(kept_message(",\"Ref\":2"));
    stream.write_all(&frames).expect("the server reads it");
    await_text(&mut stream, b"\"Ref\":2", 1);
}

/// Joins with a `Since` for the whole replay, reads it, and leaves.
fn come_back(stream: &mut TcpStream, epoch: &str, seq: &AtomicU64) {
    let since = seq.load(Ordering::Relaxed).saturating_sub(REPLAYED);
    let join =
        format!("{{\"Op\":\"join\",\"Room\":\"churn\",\"Ref\":3,\"Since\":{{\"Epoch\":\"{epoch}\",\"Seq\":{since}}}}}");
    stream.write_all(&masked(1, join.as_bytes())).expect("the server reads it");
    let answer = await_text(stream, b"\"Ref\":3", 1);
    let latest = text_behind(&answer, "\"Ref\":3").split("\"Seq\":").nth(1).unwrap_or_default();
    let digits: String = latest.chars().take_while(char::is_ascii_digit).collect();
    seq.fetch_max(digits.parse().unwrap_or(0), Ordering::Relaxed);
    if !answer.contains("\"Recovered\":true") {
        return;
    }
    stream.set_read_timeout(Some(REPLAY_PAUSE)).unwrap();
    let mut left = REPLAYED as usize * KEPT_BYTES;
    while left > 0 {
        match stream.read(&mut [0; 1 << 16]) {
            Ok(count @ 1..) => left = left.saturating_sub(count),
            _ => return,
        }
    }
}

fn open_v1(address: SocketAddr, name: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    upgrade(stream, &format!("/ws?username={name}"), V1)
}

/// Reads until this text has arrived `times` times. Returns everything read.
fn await_text(stream: &mut TcpStream, text: &[u8], times: usize) -> String {
    stream.set_read_timeout(Some(ANSWER_TIME_MAX)).unwrap();
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while all.windows(text.len()).filter(|window| *window == text).count() < times {
        let count = stream.read(&mut buffer).expect("the server answers");
        assert!(count > 0, "the server closed: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// The JSON value after this key; a string without its quotation marks.
fn text_behind<'a>(text: &'a str, begin: &str) -> &'a str {
    let rest = text.split_once(begin).map_or("", |(_, rest)| rest);
    if begin.ends_with('"') { rest.split('"').next().unwrap_or_default() } else { rest }
}
