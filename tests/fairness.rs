//! No client's load costs others a message: floods from other connections, in other rooms, on other shards.

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use support::wire::{BINARY, FIN, frame};
use support::{Client, Server};

/// The sum of all samples of a metric.
fn sum(metrics: &str, name: &str) -> f64 {
    let samples = metrics.lines().filter(|line| line.starts_with(name));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn a_broadcast_of_large_messages_reaches_a_member_of_every_room() {
    const ROOMS: usize = 120;
    let server = Server::start_on_one_shard(&["--internal", "127.0.0.1:0"]);
    let internal = server.internal();
    let mut members: Vec<_> = (0..ROOMS).map(|room| server.join("ann", &format!("room{room}"))).collect();
    let rooms: Vec<_> = (0..ROOMS).map(|room| format!("room{room}")).collect();
    let text = "x".repeat(600_000);
    let (status, answer) = internal.post("/api/broadcast", &json!({"rooms": rooms, "message": text}));
    assert_eq!((status, &answer["members"]), (200, &json!(ROOMS)), "{answer}");
    for (member, published) in members.iter_mut().zip(answer["rooms"].as_array().unwrap()) {
        let message = member.json();
        assert_eq!(message["Seq"], published["seq"]);
        assert!(message["Message"] == text, "another message than was sent");
    }
    let metrics = internal.metrics();
    let lost = ["hi_gaps_total", "hi_lost_messages_total", "hi_relay_dropped_total"].map(|name| sum(&metrics, name));
    assert_eq!(lost, [0.0; 3]);
}

/// Connections that publish empty frames to one raw room for as long as they live, and read nothing.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn new(server: &Server, publishers: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let block = frame(FIN | BINARY, b"").repeat(10_000);
        let threads = (0..publishers).map(|_| {
            let mut wire = server.upgraded("/raw/flood?echo=0&lossy=1");
            let (stop, block) = (Arc::clone(&stop), block.clone());
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) && wire.stream.write_all(&block).is_ok() {})
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Two members of a chat room alternate; both get every message in order, and the sender its acknowledgement.
fn converse(clients: &mut [Client; 2], messages: usize) {
    let mut next_seq = [None::<u64>; 2];
    for number in 0..messages {
        let speaker = number % 2;
        let text = format!("message {number}");
        clients[speaker].send_text(&json!({"Room": "tea", "Message": text, "Ref": number}).to_string());
        for (index, (client, next_seq)) in clients.iter_mut().zip(&mut next_seq).enumerate() {
            let (mut heard, mut acknowledged) = (false, index != speaker);
            while !heard || !acknowledged {
                let message: Value = client.json();
                if message["Op"] == "ok" {
                    assert_eq!(message["Ref"], number);
                    acknowledged = true;
                    continue;
                }
                let seq = message["Seq"].as_u64().unwrap_or_else(|| panic!("not a message of the room: {message}"));
                assert!(
                    message["Event"] != "gap" && next_seq.is_none_or(|next| next == seq),
                    "{next_seq:?}: {message}"
                );
                *next_seq = Some(seq + 1);
                heard |= message["Message"] == text;
            }
        }
    }
}

#[test]
fn a_flood_in_one_room_costs_no_other_room_a_message() {
    const BUDGET_BYTES: usize = 192 << 20;
    for shards in ["1", "2", "4", "8"] {
        let args = ["--internal", "127.0.0.1:0", "--shards", shards, "--rate-limit", "0"];
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hi"));
        command.args(["--listen", "127.0.0.1:0"]).args(args);
        let server = Server::spawn(command);
        let internal = server.internal();
        let mut clients = [server.join_v1("ann", "tea").0, server.join_v1("bob", "tea").0];
        let flood = Flood::new(&server, 24);
        converse(&mut clients, 100);
        let resident = server.resident_bytes();
        flood.stop();
        let metrics = internal.metrics();
        let lost = ["hi_relay_dropped_total", "hi_gaps_total"].map(|name| sum(&metrics, name));
        assert_eq!(lost, [0.0; 2], "{shards} shards");
        assert!(resident < BUDGET_BYTES, "{resident} bytes with {shards} shards");
    }
}
