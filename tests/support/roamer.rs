//! Clients that take part in a soak of several servers: they move from one to another, publish, and check what they get.

#![allow(unreachable_pub, reason = "a test has no outside")]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::ledger::{self, Ledger};
use crate::roaming::{Begun, Dialect, Incoming, Link, Position, position, post};

/// The last message in each room.
pub const THE_END: &str = "the end 1";
/// Messages of a publisher that have no answer yet.
const WINDOW: usize = 8;
/// Time between two messages of a publisher.
const PACE: Duration = Duration::from_millis(40);

/// What all clients share.
#[derive(Default)]
pub struct World {
    /// Where each server listens, and its internal port; none while it is down.
    pub servers: Mutex<Vec<Option<(SocketAddr, SocketAddr)>>>,
    pub ledger: Ledger,
    /// Nothing fails any more, and nobody moves without need.
    pub is_calm: AtomicBool,
    /// Nobody publishes any more.
    pub is_quiet: AtomicBool,
    /// Members that have seen the last message.
    pub ended: AtomicUsize,
    /// Everybody has seen it, and may leave.
    pub is_over: AtomicBool,
    /// Something has panicked.
    pub has_failed: AtomicBool,
    /// Members that are in their rooms.
    pub connected: AtomicUsize,
    /// Programs and members that may still publish.
    pub publishing: AtomicUsize,
    pub counts: Counts,
}

/// What has happened to the clients.
#[derive(Debug, Default)]
pub struct Counts {
    pub joins: AtomicUsize,
    pub refused: AtomicUsize,
    pub recovered: AtomicUsize,
    pub not_recovered: AtomicUsize,
    pub gaps: AtomicUsize,
    /// Connections that the server closed, by code.
    pub closed: Mutex<BTreeMap<u16, usize>>,
    pub unavailable: AtomicUsize,
    pub away: AtomicUsize,
}

fn add(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::SeqCst);
}

/// Notes that something has panicked, so that everything else ends.
pub struct Alarm<'a>(pub &'a World);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.has_failed.store(true, Ordering::SeqCst);
        }
    }
}

impl World {
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst)
    }

    pub fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::SeqCst)
    }

    fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::SeqCst)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst) || self.has_failed()
    }

    /// Any server that is up.
    fn server(&self, rng: &mut Rng) -> Option<(SocketAddr, SocketAddr)> {
        let servers = self.servers.lock().unwrap();
        servers[rng.usize(..servers.len())]
    }
}

/// A member that moves from server to server.
pub struct Member<'a> {
    world: &'a World,
    rng: Rng,
    dialect: Dialect,
    name: String,
    room: &'static str,
    /// The last message of the room that it has got, or a later one that it knows it won't get.
    last: Option<Position>,
    /// Its messages without an answer.
    unanswered: HashMap<String, Instant>,
    connection: usize,
    said: usize,
    run: Vec<String>,
    has_ended: bool,
}

impl<'a> Member<'a> {
    pub fn new(world: &'a World, rng: Rng, dialect: Dialect, name: String) -> Self {
        let room = if dialect == Dialect::Raw { "scores" } else { "tea" };
        let (last, unanswered, connection, said, run, has_ended) = Default::default();
        Self { world, rng, dialect, name, room, last, unanswered, connection, said, run, has_ended }
    }

    /// Takes part until it has seen the end.
    pub fn take_part(mut self) {
        let _alarm = Alarm(self.world);
        while !self.world.is_over() {
            let Some((address, _)) = self.world.server(&mut self.rng) else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let since = self.last.clone().filter(|_| matches!(self.dialect, Dialect::V1 | Dialect::Sse));
            let Some(begun) = Link::open(address, self.dialect, &self.name, self.room, since.as_ref()) else {
                add(&self.world.counts.refused);
                std::thread::sleep(Duration::from_millis(self.rng.u64(50..300)));
                continue;
            };
            add(&self.world.counts.joins);
            self.connection += 1;
            self.said = 0;
            let link = self.begin(begun, since);
            self.world.connected.fetch_add(1, Ordering::SeqCst);
            self.stay(link);
            self.world.connected.fetch_sub(1, Ordering::SeqCst);
            self.unanswered.clear();
        }
    }

    fn begin(&mut self, begun: Begun, since: Option<Position>) -> Link {
        let Begun { link, position, recovered } = begun;
        match recovered {
            Some(true) => {
                assert_eq!(position, since, "{}: it goes on where it stopped", self.name);
                add(&self.world.counts.recovered);
            }
            Some(false) => {
                println!("{} has not recovered: {since:?}, {position:?}", self.name);
                add(&self.world.counts.not_recovered);
                let is_back =
                    position.iter().zip(&since).any(|(now, before)| now.epoch == before.epoch && now.seq < before.seq);
                assert!(!is_back, "{}: it is at {position:?}, and was at {since:?}", self.name);
            }
            None => {}
        }
        if self.dialect != Dialect::Sse {
            self.last = position;
        }
        link
    }

    /// Reads and publishes until the connection ends.
    fn stay(&mut self, mut link: Link) {
        let joined = Instant::now();
        let stays = Duration::from_millis(self.rng.u64(2000..15_000));
        let patience = Duration::from_millis(self.rng.u64(3000..20_000));
        let (mut heard, mut next) = (Instant::now(), Instant::now());
        while !self.world.is_over() {
            if !self.world.is_calm() && (joined.elapsed() > stays || heard.elapsed() > patience) {
                break;
            }
            match link.next() {
                Incoming::Nothing => {}
                Incoming::Ended(code) => {
                    if let Some(code) = code {
                        *self.world.counts.closed.lock().unwrap().entry(code).or_default() += 1;
                        std::thread::sleep(Duration::from_millis(self.rng.u64(50..300)));
                    }
                    break;
                }
                incoming => {
                    heard = Instant::now();
                    self.got(incoming);
                }
            }
            if matches!(self.dialect, Dialect::V0 | Dialect::V1) && next <= Instant::now() {
                self.publish(&mut link);
                next += PACE;
            }
        }
        if self.dialect == Dialect::Raw {
            self.world.ledger.ran(joined, std::mem::take(&mut self.run));
        }
    }

    fn publish(&mut self, link: &mut Link) {
        if self.world.is_quiet() || self.unanswered.len() >= WINDOW {
            return;
        }
        self.said += 1;
        let text = ledger::text(&self.name, self.connection, self.said);
        if self.dialect == Dialect::V1 {
            self.unanswered.insert(text.clone(), Instant::now());
            link.say(&json!({"Op": "pub", "Ref": text, "Room": self.room, "Message": text}));
        } else {
            link.say(&json!({"Room": self.room, "Message": text}));
        }
    }

    fn got(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Json(answer) if !answer["Op"].is_null() => self.answered(&answer),
            Incoming::Json(json) if json["Event"] == "gap" => self.missed(&json, None),
            Incoming::Json(json) if json["Event"] == "away" => add(&self.world.counts.away),
            Incoming::Json(json) => {
                // What is for this client alone has no place in the order.
                let Some(at) = Position::of(&json) else { return };
                let text = json["Message"].as_str().unwrap_or_default();
                self.follow(&at);
                self.world.ledger.saw(&at, json["From"].as_str().unwrap_or_default(), text);
                self.look_for_the_end(text);
            }
            Incoming::Raw(text) => {
                self.look_for_the_end(&text);
                self.run.push(text);
            }
            Incoming::Event(name, id, json) if name == "gap" => self.missed(&json, position(&id)),
            Incoming::Event(name, id, _) if name == "position" => {
                let at = position(&id);
                assert!(self.last.is_none() || self.last == at, "{}: {:?}, {at:?}", self.name, self.last);
                self.last = at;
            }
            _ => {}
        }
    }

    fn look_for_the_end(&mut self, text: &str) {
        if text == THE_END && !std::mem::replace(&mut self.has_ended, true) {
            add(&self.world.ended);
        }
    }

    fn answered(&mut self, answer: &Value) {
        let Some(text) = answer["Ref"].as_str().filter(|text| self.unanswered.remove(*text).is_some()) else { return };
        match Position::of(answer) {
            Some(at) if answer["Op"] == "ok" => self.world.ledger.acknowledged(at, text.to_owned()),
            _ => {
                assert_eq!(answer["Code"], "unavailable", "{answer}");
                add(&self.world.counts.unavailable);
            }
        }
    }

    /// The next message follows the last one.
    fn follow(&mut self, at: &Position) {
        let is_next = |last: &Position| last.epoch == at.epoch && last.seq + 1 == at.seq;
        assert!(self.last.as_ref().is_none_or(is_next), "{}: behind {:?} comes {at:?}", self.name, self.last);
        self.last = Some(at.clone());
    }

    /// It was told that it misses something.
    fn missed(&mut self, gap: &Value, moved_to: Option<Position>) {
        println!("{} at {:?}: {gap}", self.name, self.last);
        add(&self.world.counts.gaps);
        let (from, to) = (gap["FromSeq"].as_u64(), gap["ToSeq"].as_u64());
        if let (Some(from), Some(to), Some(last)) = (from, to, &mut self.last) {
            assert_eq!((Some(&*last.epoch), last.seq + 1), (gap["Epoch"].as_str(), from), "exactly what is missing");
            last.seq = to;
            assert!(moved_to.is_none_or(|moved_to| moved_to == *last), "{gap}");
        } else {
            self.last = moved_to;
        }
    }
}

/// A program that publishes through the internal ports.
pub fn publish_from_outside(world: &World, mut rng: Rng, name: &str, dialect: Dialect) {
    let _alarm = Alarm(world);
    let (mut connection, mut number) = (1, 0);
    while !world.is_quiet() && !world.has_failed() {
        std::thread::sleep(PACE);
        let Some((_, internal)) = world.server(&mut rng) else { continue };
        number += 1;
        let text = ledger::text(name, connection, number);
        if publish_once(world, internal, dialect, &text).is_none() {
            // It may come later, or never.
            (connection, number) = (connection + 1, 0);
            add(&world.counts.unavailable);
        }
    }
    world.publishing.fetch_sub(1, Ordering::SeqCst);
}

/// Publishes a message; `None` if nobody knows what has become of it.
pub fn publish_once(world: &World, internal: SocketAddr, dialect: Dialect, text: &str) -> Option<()> {
    if dialect == Dialect::Raw {
        world.ledger.raw_sent(text);
        let (status, body) = post(internal, "/pub/scores", "text/plain", text)?;
        assert!([200, 202, 503].contains(&status), "{status}: {body}");
        (status != 503).then_some(())?;
        world.ledger.raw_acknowledged(text.to_owned());
    } else {
        let body = json!({"room": "tea", "message": text}).to_string();
        let (status, body) = post(internal, "/api/publish", "application/json", &body)?;
        (status != 503).then_some(())?;
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        let at = body["epoch"].as_str().zip(body["seq"].as_u64());
        let (epoch, seq) = at.unwrap_or_else(|| panic!("the room has members: {status}, {body}"));
        world.ledger.acknowledged(Position { epoch: epoch.to_owned(), seq }, text.to_owned());
    }
    Some(())
}

/// When a client had a name: from the answer to its join on, until it left or was closed.
pub type Reign = (Instant, Instant);

/// One of several clients that all want the same name.
pub fn fight(world: &World, mut rng: Rng, name: &str) -> Vec<Reign> {
    let _alarm = Alarm(world);
    let mut reigns = Vec::new();
    while !world.is_calm() && !world.has_failed() {
        std::thread::sleep(Duration::from_millis(rng.u64(1..100)));
        let Some((address, _)) = world.server(&mut rng) else { continue };
        let Some(Begun { mut link, .. }) = Link::open(address, Dialect::V1, name, "duel", None) else { continue };
        let (joined, stays) = (Instant::now(), Duration::from_millis(rng.u64(1..1500)));
        let mut code = None;
        while joined.elapsed() < stays {
            if let Incoming::Ended(ended) = link.next() {
                code = ended;
                break;
            }
        }
        // A server that was stopped for long is given up, and finds that out later.
        if code != Some(4002) {
            reigns.push((joined, Instant::now()));
        }
    }
    reigns
}
