//! The nginx block of the README, taken from there, in front of a real hi.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Instant;

use support::{PATIENCE, Server};
use tungstenite::Message;

/// A running nginx with files of its own.
struct Nginx {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Nginx {
    /// Starts nginx with `block` inside its `http`.
    fn start(block: &str, port: u16) -> Self {
        let folder = std::env::temp_dir().join(format!("hi-nginx-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.display();
        // One worker, started by the master, keeps everything in the test's own folder.
        let config = format!(
            "daemon off; worker_processes 1; pid {path}/pid; error_log {path}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n\
             access_log off; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;\n\
             fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
             {block}\n}}\n"
        );
        std::fs::write(folder.join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .args(["-p", &folder.to_string_lossy(), "-e", "stderr", "-c", "nginx.conf"])
            .spawn()
            .expect("nginx is installed: ./check installs it");
        let nginx = Self { child, folder, port };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::yield_now();
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its worker with it on SIGTERM; a SIGKILL would leave the worker behind.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The README's block, with the ports of this test.
fn readme_block(nginx_port: u16, hi_port: u16) -> String {
    let readme = include_str!("../README.md");
    let block = readme.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the nginx block");
    for part in ["listen 80;", "127.0.0.1:8080", "server_name chat.example.com;"] {
        assert!(block.contains(part), "the README's block has {part:?}");
    }
    block
        .replace("listen 80;", &format!("listen 127.0.0.1:{nginx_port};"))
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{hi_port}"))
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn the_block_of_the_readme_carries_the_page_and_the_chat() {
    let server = Server::start(&[]);
    let port = free_port();
    let nginx = Nginx::start(&readme_block(port, server.port()), port);

    let mut page = TcpStream::connect(("127.0.0.1", nginx.port)).unwrap();
    page.write_all(b"GET / HTTP/1.1\r\nHost: chat.example.com\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    page.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.to_lowercase().contains("<!doctype html"), "{answer}");

    let stream = TcpStream::connect(("127.0.0.1", nginx.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut through, _) = tungstenite::client("ws://chat.example.com/ws?username=ann&room=tea", stream)
        .expect("the upgrade passes through nginx");
    let mut direct = server.join_quietly("bob", "tea");
    direct.say("tea", "hello through nginx");
    loop {
        let Message::Text(text) = through.read().unwrap() else { continue };
        if text.contains("hello through nginx") {
            break;
        }
    }
    through.send(Message::text(r#"{"Message":"and back","Room":"tea"}"#)).unwrap();
    while direct.json()["Message"] != "and back" {}
}

#[test]
fn without_the_three_lines_the_answer_and_the_log_name_what_nginx_dropped() {
    let server = Server::start(&[]);
    let port = free_port();
    let broken: String = readme_block(port, server.port())
        .lines()
        .filter(|line| !line.contains("proxy_set_header Upgrade") && !line.contains("proxy_set_header Connection"))
        .map(|line| format!("{line}\n"))
        .collect();
    let nginx = Nginx::start(&broken, port);
    let stream = TcpStream::connect(("127.0.0.1", nginx.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let refused = tungstenite::client("ws://chat.example.com/ws?username=ann", stream);
    let Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) = refused else {
        panic!("nginx can't have passed the upgrade on")
    };
    assert_eq!(answer.status(), 426);
    let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
    assert!(body.contains("Upgrade") && body.contains("proxy_set_header"), "{body}");
    let line = server.wait_for_log("refused:");
    assert!(line.contains("upgrade_stripped"), "{line}");
}
