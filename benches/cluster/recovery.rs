//! How long a client waits for what it missed, if its server never had the room.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::connect::upgrade;
use crate::frames::{Arriving, masked};
use crate::nodes::node;
use crate::statistics::{Sure, percentile};

/// Rooms, one after the other.
const ROOMS: usize = 30;
const MISSED: usize = 1_000;
/// An answer that takes longer never comes.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

pub(crate) fn run() {
    let broker = Broker::start();
    let (first, second) = (node(&broker), node(&broker));
    let times: Vec<f64> =
        (0..ROOMS).map(|room| recover(first.address, second.address, &format!("room{room}"))).collect();
    println!("\nrecovery of {MISSED} messages of 128 bytes on a server that never had the room, {ROOMS} rooms");
    println!("ms until the last one: {:.1}, at most {:.1}", Sure::of(&times), percentile(&times, 100));
}

/// How long it takes until a client has everything, in milliseconds.
fn recover(first: SocketAddr, second: SocketAddr, room: &str) -> f64 {
    let mut publisher = Client::connect(first, "publisher");
    publisher.send(&json!({"Op": "join", "Ref": 0, "Room": room}));
    let joined = publisher.read_until(|frame| frame["Ref"] == 0);
    for number in 1..=MISSED {
        publisher.send(&json!({"Op": "pub", "Ref": number, "Room": room, "Message": "x".repeat(128)}));
    }
    let last = publisher.read_until(|frame| frame["Ref"] == MISSED);
    let mut member = Client::connect(second, "member");
    let began = Instant::now();
    let since = json!({"Epoch": joined["Epoch"], "Seq": joined["Seq"]});
    member.send(&json!({"Op": "join", "Ref": 0, "Room": room, "Since": since}));
    let answer = member.read_until(|frame| frame["Ref"] == 0);
    assert_eq!(answer["Recovered"], true, "{answer}");
    member.read_until(|frame| frame["Seq"] == last["Seq"]);
    began.elapsed().as_secs_f64() * 1e3
}

/// A client of hi.v1.
struct Client {
    stream: std::net::TcpStream,
    arriving: Arriving,
    frames: std::collections::VecDeque<Value>,
}

impl Client {
    fn connect(address: SocketAddr, user: &str) -> Self {
        let stream = std::net::TcpStream::connect(address).expect("the server accepts");
        let stream = upgrade(stream, &format!("/ws?username={user}"), "Sec-WebSocket-Protocol: hi.v1\r\n");
        stream.set_read_timeout(Some(ANSWERS_WITHIN)).unwrap();
        Self { stream, arriving: Arriving::default(), frames: std::collections::VecDeque::new() }
    }

    fn send(&mut self, request: &Value) {
        self.stream.write_all(&masked(1, request.to_string().as_bytes())).expect("the server reads");
    }

    fn read_until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut buffer = vec![0; 1 << 16];
        loop {
            while let Some(frame) = self.frames.pop_front() {
                if wanted(&frame) {
                    return frame;
                }
            }
            let count = self.stream.read(&mut buffer).expect("the server answers");
            assert!(count > 0, "the server ended the connection");
            self.arriving.take(&buffer[..count], |opcode, payload| {
                if opcode == 1 {
                    self.frames.push_back(serde_json::from_slice(payload).expect("JSON"));
                }
            });
        }
    }
}
