//! A socket in the file system instead of a port (`--listen unix:PATH`), as a proxy on the same machine uses it.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use support::proxies::{Proxy, free_port};
use support::{Client, PATIENCE, Server, hi, run};

/// A folder of its own, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("hi-unix-{}-{:x}", std::process::id(), fastrand::u64(..)));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("hi.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn listening(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A server on a path and on a port.
fn start(path: &Path) -> Server {
    let mut command = hi();
    command.args(["--listen", &listening(path), "--listen", "127.0.0.1:0", "--shards", "2"]);
    Server::spawn(command)
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A chat client through the path.
fn join(path: &Path, user: &str) -> Client {
    // The client doesn't ask for the family of its socket.
    let stream = TcpStream::from(OwnedFd::from(connect(path)));
    let url = format!("ws://hi/ws?username={user}&room=tea");
    let mut client = Client { socket: tungstenite::client(url, stream).expect("the handshake succeeds").0 };
    while client.json()["Message"] != format!("Welcome to tea, {user}!") {}
    client
}

fn get(path: &Path, target: &str) -> String {
    let mut stream = connect(path);
    write!(stream, "GET {target} HTTP/1.1\r\nHost: hi\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn clients_of_the_path_and_of_the_port_are_in_the_same_rooms() {
    let folder = Folder::new();
    let path = folder.socket();
    let mut server = start(&path);
    assert!(server.wait_for_log("hi is open").contains(&listening(&path)));
    let mut all = vec![server.join_quietly("port", "tea")];
    all.extend((0..20).map(|number| join(&path, &format!("path{number}"))));
    all[7].say("tea", "hello from the path");
    for client in &mut all {
        while client.json()["Message"] != "hello from the path" {}
    }
    assert!(get(&path, "/healthz").ends_with("ok"));
    assert!(get(&path, "/-/doctor/echo").contains(r#""peer":"a unix socket""#));
    assert!(get(&path, "/ws").starts_with("HTTP/1.1 426"));
    server.wait_for_log("handshake from a unix socket refused");
    // A head in parts, and two requests on one connection.
    let mut stream = connect(&path);
    for part in ["GET /heal", "thz HTTP/1.1\r\nHost: hi\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: hi\r\n"] {
        stream.write_all(part.as_bytes()).unwrap();
    }
    stream.write_all(b"Connection: close\r\n\r\n").unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    drop(all);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(!path.exists(), "the socket is removed with its server");
}

#[test]
fn what_an_ended_server_left_is_replaced_and_nothing_else() {
    let folder = Folder::new();
    let path = folder.socket();
    drop(UnixListener::bind(&path).unwrap());
    let mut server = start(&path);
    assert!(get(&path, "/healthz").ends_with("ok"));
    let refused = |path: &Path| {
        let mut command = hi();
        command.args(["--listen", &listening(path)]);
        let output = run(command);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&path);
    assert!(said.contains("listens there already"), "{said}");
    assert!(get(&path, "/healthz").ends_with("ok"), "the first one is not disturbed");
    // One that takes the place of another one, and isn't removed by it.
    fs::remove_file(&path).unwrap();
    let _second = start(&path);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(get(&path, "/healthz").ends_with("ok"));

    let file = folder.0.join("notes.txt");
    fs::write(&file, "keep me").unwrap();
    let said = refused(&file);
    assert!(said.contains("it is no socket"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "keep me");
    let said = refused(&folder.0.join("no/such/folder/hi.sock"));
    assert!(said.contains("its folder doesn't exist"), "{said}");
    let said = refused(Path::new("relative.sock"));
    assert!(said.contains("give an absolute path"), "{said}");
}

#[test]
fn nginx_serves_the_chat_from_the_path() {
    let folder = Folder::new();
    let path = folder.socket();
    let server = start(&path);
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    let page = include_str!("../docs/deploy.md");
    let site = page.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the nginx block");
    let port = free_port();
    let site = site
        .replace("listen 80;", &format!("listen 127.0.0.1:{port};"))
        .replace("server 127.0.0.1:8080;", &format!("server {};", listening(&path)));
    assert!(site.contains("server unix:/"), "{site}");
    let nginx = Proxy::nginx(port, &site);
    let socket = tungstenite::client("ws://chat.example.com/ws?username=ann&room=tea", nginx.connect());
    let mut ann = Client { socket: socket.expect("the upgrade passes through nginx").0 };
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let mut bob = server.join_quietly("bob", "tea");
    bob.say("tea", "hello through nginx");
    while ann.json()["Message"] != "hello through nginx" {}
}
