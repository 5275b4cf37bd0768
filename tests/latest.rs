//! Members of raw rooms with `?latest=1`: all messages while they keep up, otherwise the newest of each key, fresh.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::wire::{FIN, Frame, PING, PONG, TEXT, Wire, frame, handshake};
use support::{Client, Server, wait_while};

const KEYS: u64 = 20;
/// Time between two updates: 1,000 a second.
const UPDATE_INTERVAL: Duration = Duration::from_millis(1);
/// What a slow reader takes for a message.
const PAUSE: Duration = Duration::from_millis(100);

/// An update with its number, under one of [`KEYS`] keys, as strings and as numbers.
fn keyed(number: u64) -> Value {
    let key = number % KEYS;
    json!({"n": number, "key": if key.is_multiple_of(2) { json!(format!("k{key}")) } else { json!(key) }, "price": 1.5})
}

fn number_of(update: &Value) -> u64 {
    update["n"].as_u64().expect("a number")
}

/// Publishes `count` updates at their pace, and notes how many it has published.
struct Publisher {
    published: Arc<AtomicU64>,
    thread: JoinHandle<Client>,
}

impl Publisher {
    fn start(mut client: Client, count: u64, update: fn(u64) -> Value) -> Self {
        let published = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&published);
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            for number in 0..count {
                sleep((began + UPDATE_INTERVAL * number as u32).saturating_duration_since(Instant::now()));
                client.send_text(&update(number).to_string());
                counted.store(number + 1, Ordering::SeqCst);
            }
            client
        });
        Self { published, thread }
    }
}

/// What a reader that pauses after each update has read.
#[derive(Default)]
struct Came {
    /// The numbers of the updates, by key.
    numbers: BTreeMap<String, Vec<u64>>,
    /// How many updates had been published since, for each that came while the publisher was still at it.
    ages: Vec<u64>,
}

/// Reads an update, pauses, and so on, until it has the last of the keys that `last` names.
fn read_slowly(mut reader: impl FnMut() -> Value, published: &AtomicU64, count: u64, last: &[Value]) -> Came {
    let mut came = Came::default();
    let mut left: BTreeSet<u64> = last.iter().map(number_of).collect();
    while !left.is_empty() {
        let update = reader();
        let (number, now) = (number_of(&update), published.load(Ordering::SeqCst));
        left.remove(&number);
        came.numbers.entry(update["key"].to_string()).or_default().push(number);
        if now < count {
            came.ages.push(now.saturating_sub(number));
        }
        sleep(PAUSE);
    }
    came
}

impl Came {
    /// In order, fresh, and at the reader's rate, give or take what a busy machine needs.
    #[track_caller]
    fn check(&self, time: Duration) {
        for (key, numbers) in &self.numbers {
            assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
        }
        let fresh = self.ages.iter().filter(|age| **age < 500).count();
        assert!(fresh * 10 >= self.ages.len() * 9, "{:?}", self.ages);
        let usual = (time.as_millis() / PAUSE.as_millis()) as usize;
        assert!((usual / 2..=usual + 1).contains(&self.ages.len()), "{} of {usual}: {:?}", self.ages.len(), self.ages);
    }
}

/// A room with `count` updates, a slow reader and fast ones, one of which publishes; with the last update of each key at its end.
#[track_caller]
fn slow_and_fast(server: &Server, count: u64, update: fn(u64) -> Value) -> Came {
    let mut slow = server.narrow_websocket("/raw/prices?latest=1");
    let fast = [server.websocket("/raw/prices?latest=1"), server.websocket("/raw/prices")];
    let publisher = Publisher::start(server.websocket("/raw/prices?latest=1&echo=0"), count, update);
    let fast = fast.map(|mut client| {
        std::thread::spawn(move || (0..count).for_each(|number| assert_eq!(number_of(&client.json()), number)))
    });
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    last.extend((0..count).map(update).map(|update| (update["key"].to_string(), update)));
    let last: Vec<_> = last.into_values().collect();
    let began = Instant::now();
    let came = read_slowly(|| slow.json(), &publisher.published, count, &last);
    let time = began.elapsed().min(UPDATE_INTERVAL * count as u32);
    fast.into_iter().for_each(|reader| reader.join().expect("a fast reader gets every update, in order"));
    let mut publisher = publisher.thread.join().expect("it has published everything");
    publisher.send_text("done");
    assert_eq!(slow.text(), "done", "nothing else was left");
    came.check(time);
    came
}

#[test]
fn a_slow_reader_gets_the_newest_of_each_key_in_turn_and_fresh() {
    let came = slow_and_fast(&Server::start(&[]), 6000, keyed);
    assert!(came.numbers.len() == KEYS as usize && came.numbers.values().all(|numbers| numbers.len() >= 2));
}

#[test]
fn messages_without_keys_are_one_key_also_where_rooms_wait_for_their_fan_out() {
    let server = Server::start(&["--flush-interval", "30ms"]);
    let numbered: fn(u64) -> Value = |number| json!({ "n": number });
    let came = slow_and_fast(&server, 3000, numbered);
    assert_eq!(came.numbers.len(), 1);
}

#[test]
fn rare_messages_with_keys_are_not_lost_among_many_without() {
    let server = Server::start(&[]);
    let mut stuck = server.upgraded("/raw/mixed?latest=1");
    let mut publisher = server.websocket("/raw/mixed");
    let update = |number: u64| {
        if number.is_multiple_of(50) { json!({"n": number, "key": number}) } else { json!({"n": number}) }
    };
    say(&mut publisher, (0..=500).map(update));
    sleep(PAUSE);
    let (mut left, mut without_key) = (BTreeSet::from_iter((0..=500).step_by(50).chain([499])), 0);
    while !left.is_empty() {
        let number = number_of(&json_of(&stuck.frame()));
        left.remove(&number);
        without_key += u64::from(!number.is_multiple_of(50));
    }
    assert!(without_key < 100, "{without_key}");
}

fn json_of(frame: &Frame) -> Value {
    assert_eq!(frame.first, FIN | TEXT, "{frame:?}");
    serde_json::from_slice(&frame.payload).expect("JSON")
}

fn say(publisher: &mut Client, updates: impl IntoIterator<Item = Value>) {
    for update in updates {
        publisher.send_text(&update.to_string());
        assert_eq!(publisher.json(), update);
    }
}

#[track_caller]
fn ping(wire: &mut Wire) -> Vec<u8> {
    let ping = wire.frame_or_ping();
    assert_eq!(ping.first, FIN | PING, "{ping:?}");
    ping.payload
}

#[test]
fn nothing_newer_leaves_before_a_pong_and_then_the_newest_does() {
    let server = Server::start(&[]);
    let mut late = server.upgraded("/raw/prices?latest=1");
    let mut publisher = server.websocket("/raw/prices");
    say(&mut publisher, [json!({"n": 0})]);
    assert_eq!(json_of(&late.frame_or_ping())["n"], 0);
    let first = ping(&mut late);
    say(&mut publisher, (1..50).map(|n| json!({"n": n, "key": n % 3})));
    // A pong that answers nothing changes nothing.
    late.send(frame(FIN | PONG, b""));
    late.send(frame(FIN | PONG, b"what"));
    assert!(late.is_silent_for(Duration::from_millis(300)));
    late.send(frame(FIN | PONG, &first));
    let mut came = Vec::new();
    while came.len() < 3 {
        match late.frame_or_ping() {
            ping if ping.first == FIN | PING => late.send(frame(FIN | PONG, &ping.payload)),
            update => came.push(json_of(&update)["n"].as_u64().unwrap()),
        }
    }
    came.sort_unstable();
    assert_eq!(came, [47, 48, 49], "nothing older of any key");
}

#[test]
fn a_ping_of_the_server_repeats_the_one_that_is_not_answered() {
    let server = Server::start(&["--ping-interval", "1s", "--ping-timeout", "60s"]);
    let mut late = server.upgraded("/raw/prices?latest=1");
    let mut publisher = server.websocket("/raw/prices");
    say(&mut publisher, [json!({"n": 0})]);
    loop {
        let frame = late.frame_or_ping();
        if frame.first == FIN | TEXT {
            break;
        }
        assert_eq!((frame.first, frame.payload.len()), (FIN | PING, 0));
    }
    let first = ping(&mut late);
    say(&mut publisher, [json!({"n": 1})]);
    // A client may answer only the last of several pings.
    assert_eq!(ping(&mut late), first);
    late.send(frame(FIN | PONG, &first));
    assert_eq!(json_of(&late.frame())["n"], 1);
}

#[test]
fn a_silent_reader_is_closed_like_any_other() {
    let (server, internal) = Server::start_with_internal(&["--ping-interval", "1s", "--ping-timeout", "1s"]);
    let mut silent = server.upgraded("/raw/prices?latest=1");
    let mut publisher = server.websocket("/raw/prices?echo=0");
    publisher.send_text("1");
    // Neither the ping behind the message nor that of the server is answered.
    while silent.frame_or_ping().first != FIN | TEXT {}
    let _publisher = std::thread::spawn(move || while publisher.socket.read().is_ok() {});
    internal.wait_for_metric("hi_ping_timeouts_total", 1.0);
}

/// More than the kernel buffers for one connection.
const FLOOD: u64 = 600;
const FLOOD_MESSAGE_BYTES: usize = 15_000;

#[test]
fn a_reader_that_has_not_read_at_all_is_neither_closed_nor_sent_what_is_old() {
    let (server, internal) = Server::start_with_internal(&["--backlog-bytes", "64k", "--ping-interval", "1h"]);
    let mut stuck = server.narrow_websocket("/raw/prices?latest=1");
    let mut publisher = server.websocket("/raw/prices");
    let pad = "x".repeat(FLOOD_MESSAGE_BYTES);
    say(&mut publisher, (0..FLOOD).map(|n| json!({"n": n, "key": n % 4, "pad": pad})));
    let mut numbers = vec![number_of(&stuck.json())];
    while numbers.iter().filter(|number| **number >= FLOOD - 4).count() < 4 {
        numbers.push(number_of(&stuck.json()));
    }
    assert!(numbers.len() <= 20, "{numbers:?}");
    internal.wait_for_metric("hi_conflated_messages_total", (FLOOD - numbers.len() as u64) as f64);
    internal.wait_for_metric("hi_deliveries_total", (FLOOD + numbers.len() as u64) as f64);
    for lapped in ["gap", "close", "skip"] {
        assert_eq!(internal.metric(&format!("hi_lapped_total{{policy=\"{lapped}\"}}")), 0.0, "{lapped}");
    }
    assert_eq!(internal.metric("hi_lost_messages_total"), 0.0);
    say(&mut publisher, [json!({"n": FLOOD})]);
    assert_eq!(number_of(&stuck.json()), FLOOD);
}

#[test]
fn beyond_the_bound_on_keys_the_oldest_are_dropped_and_that_is_counted() {
    let (server, internal) = Server::start_with_internal(&["--ping-interval", "1h"]);
    let mut stuck = server.upgraded("/raw/prices?latest=1");
    let mut publisher = server.websocket("/raw/prices");
    say(&mut publisher, (0..2000).map(|n| json!({"n": n, "key": n})));
    sleep(PAUSE);
    let mut numbers = BTreeSet::new();
    while !(2000 - 1024..2000).all(|n| numbers.contains(&n)) {
        assert!(numbers.insert(number_of(&json_of(&stuck.frame()))), "once");
    }
    // Those of before it got stuck, and the newest 1,024.
    assert!(numbers.len() < 1400, "{}", numbers.len());
    internal.wait_for_metric("hi_lapped_total{policy=\"skip\"}", 1.0);
}

#[test]
fn with_echo_0_only_the_messages_of_others_come() {
    let server = Server::start(&[]);
    let mut both = server.upgraded("/raw/prices?latest=1&echo=0");
    let mut publisher = server.websocket("/raw/prices");
    for n in 0..300 {
        both.send(frame(FIN | TEXT, json!({"n": n, "key": "own"}).to_string().as_bytes()));
        assert_eq!(publisher.json()["n"], n);
        if n % 100 == 0 {
            say(&mut publisher, [json!({"n": n, "key": "theirs"})]);
        }
    }
    say(&mut publisher, [json!({"n": "last"})]);
    loop {
        let update = json_of(&both.frame());
        if update["n"] == "last" {
            break;
        }
        assert_eq!(update["key"], "theirs");
    }
}

#[test]
fn what_is_newest_comes_before_a_close() {
    let server = Server::start(&[]);
    let mut stuck = server.upgraded("/raw/prices?latest=1");
    let mut publisher = server.websocket("/raw/prices");
    say(&mut publisher, [json!({"n": 0})]);
    assert_eq!(json_of(&stuck.frame_or_ping())["n"], 0);
    let _unanswered = ping(&mut stuck);
    say(&mut publisher, (1..100).map(|n| json!({"n": n, "key": n % 2})));
    stuck.send(support::wire::close_frame(1000, b""));
    assert_eq!([json_of(&stuck.frame())["n"].clone(), json_of(&stuck.frame())["n"].clone()], [json!(98), json!(99)]);
    stuck.expect_close(1000);
}

#[test]
fn with_an_interval_a_fast_reader_gets_the_newest_of_each_key_once_in_it() {
    let server = Server::start(&[]);
    let mut paced = server.websocket("/raw/prices?latest=1&interval=500ms");
    let mut fast = server.websocket("/raw/prices?latest=1");
    let (count, keys) = (2000, KEYS as usize);
    let began = Instant::now();
    let publisher = Publisher::start(server.websocket("/raw/prices?echo=0"), count, keyed);
    let fast = std::thread::spawn(move || (0..count).all(|number| number_of(&fast.json()) == number));
    let mut numbers = Vec::new();
    let mut last: BTreeSet<u64> = (count - KEYS..count).collect();
    while !last.is_empty() {
        numbers.push(number_of(&paced.json()));
        last.remove(numbers.last().unwrap());
    }
    assert!(fast.join().unwrap());
    publisher.thread.join().unwrap();
    let rounds = began.elapsed().as_millis() as usize / 500 + 2;
    assert!((2 * keys..=rounds * keys).contains(&numbers.len()), "{} in {rounds} rounds", numbers.len());
}

#[test]
fn what_waits_for_the_interval_comes_at_its_end_though_nothing_else_happens() {
    let server = Server::start(&[]);
    let mut paced = server.websocket("/raw/prices?latest=1&interval=200ms");
    let mut publisher = server.websocket("/raw/prices?echo=0");
    let began = Instant::now();
    let rounds = 5;
    for number in 0..rounds {
        publisher.send_text(&json!({"n": 2 * number}).to_string());
        assert_eq!(number_of(&paced.json()), 2 * number);
        publisher.send_text(&json!({"n": 2 * number + 1}).to_string());
        assert_eq!(number_of(&paced.json()), 2 * number + 1);
    }
    // Without a wake-up of its own, the second one would never come.
    assert!(began.elapsed() >= Duration::from_millis(200) * (2 * rounds as u32 - 2));
}

#[test]
fn members_that_agreed_on_compression_get_the_newest_compressed() {
    let (server, internal) = Server::start_with_internal(&["--compression", "on"]);
    let mut plain = server.websocket("/raw/prices?latest=1");
    let mut deflating = server.deflating("/raw/prices?latest=1");
    internal.wait_for_metric("hi_connections{dialect=\"raw\"}", 2.0);
    let pad = "same ".repeat(1000);
    for n in 0..100 {
        plain.send_text(&json!({"n": n, "key": n % 2, "pad": pad}).to_string());
        assert_eq!(plain.json()["n"], n);
    }
    let mut came = Vec::new();
    while came.last() != Some(&99) {
        let update = deflating.next();
        assert!(update.was_deflated);
        came.push(number_of(&update.json()));
    }
    assert!(came.is_sorted_by(|a, b| a < b) && (came.contains(&98) || came.len() == 1), "{came:?}");
}

#[test]
fn where_it_has_no_meaning_it_is_refused_in_a_sentence() {
    let server = Server::start(&[]);
    for (path, part) in [
        ("/raw/r?latest=2", "latest=1 lets it skip"),
        ("/raw/r?latest", "latest=1 lets it skip"),
        ("/raw/r?latest=1&latest=1", "once"),
        ("/raw/r?interval=1s", "goes with latest=1"),
        ("/raw/r?latest=0&interval=1s", "goes with latest=1"),
        ("/raw/r?latest=1&interval=1", "from 1ms to 60s"),
        ("/raw/r?latest=1&interval=0ms", "from 1ms to 60s"),
        ("/raw/r?latest=1&interval=61s", "from 1ms to 60s"),
        ("/raw/r?latest=1&interval=1s&interval=1s", "from 1ms to 60s"),
        ("/ws?username=ann&latest=1", "raw rooms only"),
    ] {
        let answer = server.ask(handshake(path));
        assert!(answer.status == 400 && answer.body.contains(part), "{path}: {answer:?}");
    }
    let answer = server.ask("GET /stream/tea?latest=1 HTTP/1.1\r\nHost: hi\r\n\r\n");
    assert!(answer.status == 400 && answer.body.contains("raw rooms only"), "{answer:?}");
    for path in ["/raw/r?latest=0", "/raw/r?latest=1&interval=60000ms&lossy=0", "/ws?username=ann&latest=0"] {
        server.upgraded(path);
    }
}

#[test]
fn no_member_that_skips_holds_up_a_publisher_or_the_others() {
    let (server, internal) = Server::start_with_internal(&["--ping-interval", "1h"]);
    let _stuck: Vec<_> = (0..20).map(|_| server.narrow_websocket("/raw/prices?latest=1")).collect();
    let mut publisher = server.websocket("/raw/prices");
    let pad = "x".repeat(FLOOD_MESSAGE_BYTES);
    say(&mut publisher, (0..FLOOD).map(|n| json!({"n": n, "key": n % 4, "pad": pad})));
    // What is kept is that of four keys and a short log on each of two shards.
    let held = || internal.metric("hi_memory_bytes{what=\"logs\"}");
    wait_while(|| held() > 600_000.0, || format!("{} bytes are held", held()));
}
