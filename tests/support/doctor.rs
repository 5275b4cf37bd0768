//! Runs the real `hi doctor`, and odd servers for it.

#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(unreachable_pub, reason = "a test has no outside")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::WebSocket;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;

use crate::support::PATIENCE;

/// The result of a run of the doctor.
pub struct Run {
    pub code: i32,
    pub json: Value,
    pub took: Duration,
}

/// Runs `hi doctor --json` with these arguments.
pub fn doctor(args: &[&str]) -> Run {
    let began = Instant::now();
    let output = command(args).arg("--json").output().expect("hi starts");
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    Run { code: output.status.code().expect("an exit code"), json, took: began.elapsed() }
}

/// The same as text, with its exit code.
pub fn doctor_text(args: &[&str]) -> (i32, String) {
    let output = command(args).output().expect("hi starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8") + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("an exit code"), text)
}

pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hi"));
    command.arg("doctor").args(args).stdin(Stdio::null());
    command
}

impl Run {
    /// Asserts the verdict; returns its whole text, with the fix.
    #[track_caller]
    pub fn expect(&self, kind: &str, code: i32) -> String {
        let verdict = &self.json["diagnosis"]["verdict"];
        assert_eq!((verdict["kind"].as_str(), self.code), (Some(kind), code), "{:#}", self.json);
        format!("{} {}", verdict["text"].as_str().unwrap(), verdict["mend"]["text"].as_str().unwrap_or_default())
    }

    /// The kinds of the other findings.
    pub fn others(&self) -> Vec<&str> {
        let others = self.json["diagnosis"]["others"].as_array().unwrap();
        others.iter().map(|other| other["kind"].as_str().unwrap()).collect()
    }

    /// What was found at an address.
    #[track_caller]
    pub fn address(&self, ip: &str) -> &Value {
        let addresses = self.json["facts"]["addresses"].as_array().unwrap();
        let of = |address: &&Value| address["address"].as_str().unwrap().starts_with(ip);
        addresses.iter().find(of).unwrap_or_else(|| panic!("{ip} in {:#}", self.json))
    }
}

/// What an odd server does with a request.
pub enum Reply {
    /// Answers and closes.
    Answer(String),
    /// Answers, and sends nothing more.
    AnswerAndFallSilent(String),
    /// Answers, then repeats these bytes until the connection ends.
    AnswerAndFlood(String, Vec<u8>),
    /// Answers, then sends this byte a few times a second until the connection ends.
    AnswerAndDrip(String, u8),
    /// Sends nothing at all.
    Silence,
    /// Passes the connection on to this port of 127.0.0.1.
    Pass(u16),
    /// Answers, and then answers pings as a WebSocket server.
    WebSocket(String),
}

/// A server that answers each request head with `reply`, until the test ends. Returns its port.
pub fn odd_server(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    serve(listener, move |mut stream| {
        let Some(head) = read_head(&mut stream) else { return };
        match reply(&String::from_utf8_lossy(&head)) {
            Reply::Answer(answer) => drop(stream.write_all(answer.as_bytes())),
            Reply::AnswerAndFallSilent(answer) => {
                let _ = stream.write_all(answer.as_bytes());
                read_to_the_end(&mut stream);
            }
            Reply::AnswerAndFlood(answer, flood) => {
                let _ = stream.write_all(answer.as_bytes());
                while stream.write_all(&flood).is_ok() {}
            }
            Reply::AnswerAndDrip(answer, byte) => {
                let _ = stream.write_all(answer.as_bytes());
                drip(&mut stream, byte);
            }
            Reply::Silence => read_to_the_end(&mut stream),
            Reply::Pass(port) => pass(stream, &head, ([127, 0, 0, 1], port).into()),
            Reply::WebSocket(answer) => {
                let _ = stream.write_all(answer.as_bytes());
                let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
                while socket.read().is_ok() {}
            }
        }
    });
    port
}

/// A server that sends these bytes to each client and then drips zeros, until the test ends. Returns its port.
pub fn dripping_server(first: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    serve(listener, move |mut stream| {
        let _ = stream.write_all(first);
        drip(&mut stream, 0);
    });
    port
}

/// Sends bytes at a pace far below the time limit of any single read.
fn drip(stream: &mut TcpStream, byte: u8) {
    while stream.write_all(&[byte]).is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A response with a body.
pub fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// The 101 to a request head.
pub fn switching(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// Whether a request head asks for a WebSocket.
pub fn is_handshake(head: &str) -> bool {
    head.contains("Sec-WebSocket-Key")
}

/// What the test's proxy does to a request head and to an idle connection.
pub struct Proxy {
    pub rewrite: fn(&str) -> String,
    /// A connection that is idle for this time is cut.
    pub idle: Duration,
}

impl Default for Proxy {
    fn default() -> Self {
        Self { rewrite: str::to_owned, idle: PATIENCE }
    }
}

impl Proxy {
    /// Listens on `address` and passes every request on to `upstream`, until the test ends. Returns the port.
    pub fn start(self, address: SocketAddr, upstream: SocketAddr) -> u16 {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        serve(listener, move |mut client| {
            let Some(head) = read_head(&mut client) else { return };
            client.set_read_timeout(Some(self.idle)).unwrap();
            pass(client, (self.rewrite)(&String::from_utf8_lossy(&head)).as_bytes(), upstream);
        });
        port
    }
}

/// Connects to `upstream`, sends the head, and copies both ways.
fn pass(client: TcpStream, head: &[u8], upstream: SocketAddr) {
    let Ok(mut server) = TcpStream::connect(upstream) else { return };
    server.set_read_timeout(client.read_timeout().unwrap()).unwrap();
    let _ = server.write_all(head);
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let up = std::thread::spawn(move || copy(from, to));
    copy(server, client);
    let _ = up.join();
}

/// Copies until either end is gone or idle, then ends both.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn serve(listener: TcpListener, each: impl Fn(TcpStream) + Send + Sync + 'static) {
    let each = Arc::new(each);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let each = Arc::clone(&each);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            std::thread::spawn(move || each(stream));
        }
    });
}

fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(head)
}

fn read_to_the_end(stream: &mut TcpStream) {
    let _ = std::io::copy(stream, &mut std::io::sink());
}
