//! Healthy members during an attack: they talk continuously and check every message. Also helpers for attacks.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::listener::Listener;
use super::wire::{FIN, TEXT, Wire, frame, handshake};
use super::{Client, Server};

/// Messages in flight at once: the log of a healthy room always holds some.
const AT_ONCE: usize = 8;

/// One member of each dialect in a chat room and two in a raw room: each gets each message of its room in order,
/// without a gap.
pub struct Healthy {
    ann: Client,
    bob: Client,
    listener: Listener,
    writer: Wire,
    reader: Wire,
    /// `Seq` of the chat room's last message.
    seq: u64,
    said: usize,
}

impl Healthy {
    pub fn join(server: &Server) -> Self {
        let listener = server.listen("healthy", None).opened();
        let ann = server.join("ann", "healthy");
        let (bob, joined) = server.join_v1("bob", "healthy");
        let (writer, reader) = (server.upgraded("/raw/healthy"), server.upgraded("/raw/healthy"));
        let mut healthy = Self { ann, bob, listener, writer, reader, seq: joined["Seq"].as_u64().unwrap(), said: 0 };
        assert_eq!(healthy.listener.message()["Message"], "Welcome to healthy, ann!");
        healthy.seq += 1;
        healthy.read("Welcome to healthy, bob!");
        healthy
    }

    /// Sends some messages to both rooms, and checks that every member gets them.
    #[track_caller]
    pub fn talk(&mut self) {
        let texts: Vec<_> = (self.said..self.said + AT_ONCE).map(|number| format!("message {number}")).collect();
        for (number, text) in texts.iter().enumerate() {
            if number % 2 == 0 {
                self.ann.say("healthy", text);
            } else {
                self.bob.send_text(&json!({"Room": "healthy", "Message": text}).to_string());
            }
            self.writer.send(frame(FIN | TEXT, text.as_bytes()));
            self.seq += 1;
            self.read(text);
        }
        for text in &texts {
            self.writer.expect_frame(TEXT, text);
            self.reader.expect_frame(TEXT, text);
        }
        self.said += texts.len();
    }

    #[track_caller]
    fn read(&mut self, text: &str) {
        for message in [self.ann.json(), self.bob.json(), self.listener.message()] {
            assert_eq!((&message["Seq"], &message["Message"]), (&json!(self.seq), &json!(text)), "{message}");
        }
    }
}

/// Runs an attack while healthy members talk, and checks that they are not affected.
pub fn beside_healthy<T>(server: &Server, attack: impl FnOnce() -> T) -> T {
    let mut healthy = Healthy::join(server);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // At least once, even if the attack is over soon.
            loop {
                healthy.talk();
                if done.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        // A panic of the attack also ends the talk.
        let _stop = Raised(&done);
        attack()
    })
}

/// Raises a flag when it is dropped.
pub struct Raised<'a>(pub &'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Checks that resident memory never grows beyond its limit.
pub struct Watch<'a> {
    server: &'a Server,
    first_bytes: usize,
    growth_bytes_max: usize,
    most_bytes: usize,
}

impl<'a> Watch<'a> {
    pub fn new(server: &'a Server, growth_bytes_max: usize) -> Self {
        let first_bytes = server.resident_bytes();
        Self { server, first_bytes, growth_bytes_max, most_bytes: first_bytes }
    }

    #[track_caller]
    pub fn look(&mut self) {
        let bytes = self.server.resident_bytes();
        self.most_bytes = self.most_bytes.max(bytes);
        let allowed = self.first_bytes + self.growth_bytes_max;
        assert!(bytes < allowed, "{bytes} bytes are resident, {} were at first", self.first_bytes);
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        println!("{} MiB resident at first, {} at most", self.first_bytes >> 20, self.most_bytes >> 20);
    }
}

impl Server {
    /// An upgraded connection on `path` with a minimal receive buffer.
    pub fn narrow_upgraded(&self, path: &str) -> Wire {
        let mut wire = Wire::new(self.connect_narrow());
        wire.send(handshake(path));
        wire.expect_101();
        wire
    }
}

/// Writes as much of `bytes` as a nonblocking socket has room for. Returns how much. A closed socket has room for
/// everything.
pub fn write_some(mut stream: &TcpStream, bytes: &[u8], written: &mut usize) -> usize {
    let before = *written;
    while *written < bytes.len() {
        match stream.write(&bytes[*written..]) {
            Ok(count) => *written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => *written = bytes.len(),
        }
    }
    *written - before
}

/// A chat message as the page of 2017 sends it, as a masked frame.
pub fn said(room: &str, message: &str) -> Vec<u8> {
    let message: Value = json!({"From": "?", "Message": message, "Room": room, "Meta": false});
    frame(FIN | TEXT, message.to_string().as_bytes())
}
