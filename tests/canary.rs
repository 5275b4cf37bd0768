//! The canary: what the server reports about its public address while that works, fails and leads elsewhere.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use support::{Server, wait_while};

/// What lies between the public address and a server.
const FORWARD: u16 = 0;
/// As the proxy of the story: HTTP/1.0, and no `Upgrade`.
const STRIP: u16 = 1;
/// Everything but hi's own paths, which name the server.
const HIDE: u16 = 3;
/// Nothing behind it.
const HANG_UP: u16 = 2;

/// A public address: a small relay whose behaviour and target change while it runs.
struct PublicAddress {
    address: SocketAddr,
    behaviour: Arc<AtomicU16>,
    target: Arc<AtomicU16>,
}

impl PublicAddress {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (behaviour, target) = (Arc::new(AtomicU16::new(FORWARD)), Arc::new(AtomicU16::new(0)));
        let shared = (Arc::clone(&behaviour), Arc::clone(&target));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (behaviour, target) = (shared.0.load(Ordering::SeqCst), shared.1.load(Ordering::SeqCst));
                if behaviour != HANG_UP {
                    std::thread::spawn(move || relay(stream, target, behaviour));
                }
            }
        });
        Self { address, behaviour, target }
    }

    fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    fn lead_to(&self, server: &Server) {
        self.target.store(server.port(), Ordering::SeqCst);
    }

    fn behave(&self, behaviour: u16) {
        self.behaviour.store(behaviour, Ordering::SeqCst);
    }
}

fn relay(mut client: TcpStream, target: u16, behaviour: u16) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)) else { return };
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if client.read_exact(&mut byte).is_err() {
            return;
        }
        head.push(byte[0]);
    }
    let mut head = String::from_utf8(head).unwrap();
    if behaviour == HIDE && head.starts_with("GET /-/") {
        let _ = client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    }
    if behaviour == STRIP {
        let kept = head.lines().filter(|line| {
            let line = line.to_ascii_lowercase();
            !line.starts_with("upgrade:") && !line.starts_with("connection:")
        });
        let lines: Vec<_> = kept.collect();
        head = lines.join("\r\n").replace(" HTTP/1.1", " HTTP/1.0").trim_end().to_owned();
        head.push_str("\r\nVia: 1.0 old-host\r\n\r\n");
    }
    server.write_all(head.as_bytes()).unwrap();
    let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut client, &mut server);
    let _ = server.shutdown(Shutdown::Both);
}

/// Lines about the public path, so far.
fn lines(server: &Server) -> Vec<String> {
    server.log().lines().filter(|line| line.contains("public path")).map(str::to_owned).collect()
}

fn wait_for_lines(server: &Server, count: usize) -> Vec<String> {
    wait_while(
        || lines(server).len() < count,
        || format!("not {count} lines about the public path:\n{}", server.log()),
    );
    lines(server)
}

/// A server that looks at its public address ten times a second.
fn watching(url: &str, more: &[&str]) -> Server {
    Server::start(&[&["--public-url", url, "--public-interval", "100ms"], more].concat())
}

#[test]
fn each_change_of_the_public_path_is_one_line_with_the_verdict() {
    let public = PublicAddress::new();
    let server = watching(&public.url(), &[]);
    public.lead_to(&server);
    server.wait_for_log("works, and leads here");
    let known = lines(&server).len();

    public.behave(STRIP);
    let line = wait_for_lines(&server, known + 1).remove(known);
    assert!(line.contains("WARN") && line.contains("old-host") && line.contains("Upgrade"), "{line}");

    public.behave(FORWARD);
    let line = wait_for_lines(&server, known + 2).remove(known + 1);
    assert!(line.contains("INFO") && line.contains("works, and leads here"), "{line}");

    public.behave(HANG_UP);
    let line = wait_for_lines(&server, known + 3).remove(known + 2);
    assert!(line.contains("WARN"), "{line}");
}

#[test]
fn another_server_at_the_public_address_is_named_and_one_of_the_group_is_right() {
    let public = PublicAddress::new();
    let other = Server::start(&["--group", "blue"]);
    public.lead_to(&other);
    let lonely = watching(&public.url(), &[]);
    assert!(lonely.wait_for_log("public path").contains("leads to another server"), "{}", lonely.log());
    let of_group = watching(&public.url(), &["--group", "blue"]);
    assert!(of_group.wait_for_log("public path").contains("works, and leads here"), "{}", of_group.log());
    let of_other = watching(&public.url(), &["--group", "green"]);
    assert!(of_other.wait_for_log("public path").contains("leads to another server"), "{}", of_other.log());
}

#[test]
fn a_proxy_that_hides_the_server_is_told_from_another_server() {
    let public = PublicAddress::new();
    let server = watching(&public.url(), &[]);
    public.behave(HIDE);
    public.lead_to(&server);
    let line = server.wait_for_log("which server answers can't be seen");
    assert!(line.contains("pass /-/doctor/echo on"), "{line}");
}

#[test]
fn the_canary_is_not_visible_in_rooms() {
    let public = PublicAddress::new();
    let server = watching(&public.url(), &[]);
    let mut user = server.join("ada", "general");
    public.lead_to(&server);
    server.wait_for_log("works, and leads here");
    user.say("general", "hello");
    user.expect_message("ada", "hello");
}

#[test]
fn an_invalid_address_is_refused_at_the_start() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_hi"))
        .args(["--listen", "127.0.0.1:0", "--public-url", "chat.example.com"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("wss://chat.example.com"));
}
