//! A soak under every attack at once, from one seed: raw flooders, members that never read, half messages, clients that
//! request lists, drip readers, replay churn, and no free descriptor for part of the time. Meanwhile healthy members of
//! every dialect check each message, memory stays below the budget, and the internal port answers.
//!
//! Two minutes if `CI` is set, otherwise half a minute. `HI_TEST_SECONDS=600 HI_TEST_SEED=7 cargo test --test soak`
//! repeats a run, and makes it longer.

mod support;

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};
use support::Server;
use support::healthy::{Raised, Watch, beside_healthy, said, write_some};
use support::internal::Internal;
use support::wire::{BINARY, FIN, Wire, frame, handshake, header};

const BUDGET_BYTES: usize = 48 << 20;
/// Bytes that a server may take beyond it.
const BESIDE_BYTES: usize = 24 << 20;
/// Descriptors of the server. Permanent attackers use about half of them.
const FILES: usize = 700;
/// Connections per kind of permanent attacker.
const EACH: usize = 50;

fn seconds() -> u64 {
    let asked = std::env::var("HI_TEST_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    asked.unwrap_or(if std::env::var_os("CI").is_some() { 120 } else { 30 })
}

fn start() -> (Server, Internal) {
    let hi = env!("CARGO_BIN_EXE_hi");
    let budget = BUDGET_BYTES.to_string();
    let args = ["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--shards", "2", "--rate-limit", "0"];
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {FILES}; exec \"$0\" \"$@\""), hi]);
    command.args(args).args(["--memory-max", &budget, "--handshake-timeout", "2s"]);
    let server = Server::spawn(command);
    let internal = server.internal();
    (server, internal)
}

/// State shared by the attackers.
struct Attack<'a> {
    server: &'a Server,
    /// The attack is over.
    done: &'a AtomicBool,
}

impl Attack<'_> {
    fn goes_on(&self) -> bool {
        !self.done.load(Ordering::SeqCst)
    }

    /// A connection, unless the server has none free or the attack is over.
    fn connect(&self) -> Option<TcpStream> {
        while self.goes_on() {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
            socket.set_recv_buffer_size(4096).unwrap();
            if socket.connect(&self.server.address().into()).is_ok() {
                let stream = TcpStream::from(socket);
                stream.set_nodelay(true).unwrap();
                return Some(stream);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Keeps [`EACH`] connections to `path` of their number, writes to each what `load` returns, and reads up to `drip`
    /// bytes at a time. A closed one is replaced.
    fn keep(
        &self,
        rng: &mut Rng,
        drip: usize,
        path: impl Fn(usize) -> String,
        mut load: impl FnMut(&mut Rng, usize) -> Vec<u8>,
    ) {
        let mut all: Vec<Option<(TcpStream, Vec<u8>, usize)>> = (0..EACH).map(|_| None).collect();
        let mut bytes = vec![0; drip.max(1)];
        while self.goes_on() {
            let number = rng.usize(..EACH);
            let Some((stream, left, written)) = &mut all[number] else {
                let Some(stream) = self.connect() else { return };
                stream.set_nonblocking(true).unwrap();
                all[number] = Some((stream, handshake(&path(number)).into_bytes(), 0));
                continue;
            };
            write_some(stream, left, written);
            if *written == left.len() {
                (*left, *written) = (load(rng, number), 0);
            }
            let mut reading = &*stream;
            let gone = match reading.read(&mut bytes[..drip]) {
                Ok(0) => drip > 0,
                Ok(_) => false,
                Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            };
            if gone || rng.usize(..2000) == 0 {
                all[number] = None;
            }
            if number == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn flooders(&self, mut rng: Rng) {
        let sizes = [0, 100, 4000, 16_000];
        let load = |rng: &mut Rng, _| frame(FIN | BINARY, &vec![b'x'; sizes[rng.usize(..sizes.len())]]).repeat(4);
        self.keep(&mut rng, 0, |number| format!("/raw/flood{number}"), load);
    }

    /// Members of flooded chat and raw rooms that send nothing and read nothing.
    fn never_readers(&self, mut rng: Rng) {
        let path = |number| match number % 2 {
            0 => format!("/raw/flood{}?lossy={}", number % 8, number / 2 % 2),
            _ => format!("/ws?username=never{number}&room=churn{}", number % 5),
        };
        self.keep(&mut rng, 0, path, |_, _| Vec::new());
    }

    fn drip_readers(&self, mut rng: Rng) {
        let path = |number: usize| match number % 2 {
            0 => format!("/raw/flood{}", number % 8),
            _ => format!("/ws?username=drip{number}&room=churn{}", number % 5),
        };
        self.keep(&mut rng, 7, path, |_, _| Vec::new());
    }

    fn half_messages(&self, mut rng: Rng) {
        let load = |rng: &mut Rng, _| [header(BINARY, 8000), vec![b'x'; rng.usize(..8000)]].concat();
        // The next one completes the one before; what follows is usually no valid frame.
        self.keep(&mut rng, 0, |number| format!("/raw/half{number}"), load);
    }

    fn askers(&self, mut rng: Rng) {
        let load = |rng: &mut Rng, number: usize| {
            let room = format!("ask{}", number % 4);
            let asks = ["/list", "/channels", "/join elsewhere", "/leave elsewhere", "/join"];
            (0..20).flat_map(|_| said(&room, asks[rng.usize(..asks.len())])).collect()
        };
        self.keep(&mut rng, 0, |number| format!("/ws?username=asker{number}&room=ask{}", number % 4), load);
    }

    /// Fills the replay of rooms, leaves them, and rejoins for the missed messages.
    fn replay_churn(&self, mut rng: Rng, internal: Internal) {
        let text = "x".repeat(15_000);
        let mut number = 0;
        while self.goes_on() {
            number += 1;
            let room = format!("churn{}", rng.usize(..40));
            for _ in 0..rng.usize(..20) {
                let body = json!({"room": room, "message": text});
                let (status, answer) = internal.post("/api/publish", &body);
                assert!(matches!(status, 200 | 202 | 503), "{status}: {answer}");
            }
            let Some(stream) = self.connect() else { return };
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let mut wire = Wire::new(stream);
            wire.send_what_is_taken(handshake(&format!("/ws?username=churn{number}&room={room}")).as_bytes());
            let _ = wire.stream.read(&mut [0; 4096]);
        }
    }

    /// Takes all free descriptors in the middle third of the time, half of them with an incomplete head.
    fn exhaust(&self, mut rng: Rng, time: Duration) {
        let began = Instant::now();
        let mut open = Vec::new();
        while self.goes_on() {
            let in_middle = (time / 3..time / 3 * 2).contains(&began.elapsed());
            if in_middle && let Some(mut wire) = self.connect().map(Wire::new) {
                if rng.bool() {
                    wire.send_what_is_taken(b"GET / HTTP/1.1\r\nHost: hi\r\nX: ");
                }
                open.push(wire);
                open.truncate(FILES);
                if open.len() == FILES {
                    open.swap_remove(rng.usize(..FILES));
                }
            } else {
                open.clear();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn healthy_members_are_not_affected_by_any_attack() {
    hi::os::raise_file_limit().unwrap();
    let mut rng = support::seeded();
    let time = Duration::from_secs(seconds());
    let (server, internal) = start();
    let done = AtomicBool::new(false);
    let attack = &Attack { server: &server, done: &done };
    beside_healthy(&server, || {
        std::thread::scope(|scope| {
            let _stop = Raised(&done);
            let [a, b, c, d, e, f, g]: [Rng; 7] = std::array::from_fn(|_| rng.fork());
            scope.spawn(move || attack.flooders(a));
            scope.spawn(move || attack.never_readers(b));
            scope.spawn(move || attack.drip_readers(c));
            scope.spawn(move || attack.half_messages(d));
            scope.spawn(move || attack.askers(e));
            scope.spawn(move || attack.replay_churn(f, internal));
            scope.spawn(move || attack.exhaust(g, time));
            let mut watch = Watch::new(&server, BUDGET_BYTES + BESIDE_BYTES);
            let began = Instant::now();
            let mut most_files = 0.0f64;
            while began.elapsed() < time {
                watch.look();
                // It answers, even while no descriptor is free.
                assert_eq!(internal.ask("GET", "/healthz", &[], b"").body, "ok");
                most_files = most_files.max(internal.metric("hi_open_files"));
            }
            println!("{most_files} of {FILES} files were open at most");
        });
    });
    let laps: Vec<Value> =
        internal.metrics().lines().filter(|line| line.starts_with("hi_memory_")).map(Value::from).collect();
    println!("{laps:#?}");
    assert_eq!(server.log().matches("a bug in hi").count(), 0);
}
