//! What every test needs: the real binary on a free port, and clients of two libraries that are not ours.
//!
//! Nothing here sleeps in the hope that something has happened: every wait is for an event, and bounded.

#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(unreachable_pub, reason = "a test has no outside")]

pub mod deflate;
pub mod group;
pub mod healthy;
pub mod hop;
pub mod internal;
pub mod listener;
pub mod proxies;
pub mod tokens;
pub mod wire;

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};
use socket2::SockRef;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

/// No answer takes as long; a test that waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The receive buffer of [`Server::connect_narrow`], in bytes.
const NARROW_BYTES: usize = 4096;

/// How `hi` exits after an assertion of its own has failed.
const EXIT_BUG: i32 = 70;

/// Random numbers from a seed that a failing test prints; `HI_TEST_SEED` repeats them.
pub fn seeded() -> fastrand::Rng {
    let seed =
        std::env::var("HI_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("repeat with HI_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// The command, without what the user of this machine has set for another hi; but with the backend that the tests are run with.
pub fn hi() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hi"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HI_") && name != "HI_BACKEND") {
        command.env_remove(name);
    }
    // Tests run side by side; those of the internal port give it an address.
    command.env("HI_INTERNAL", "off");
    command
}

/// Runs a `hi` that has to end by itself.
pub fn run(mut command: Command) -> Output {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it runs on: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Waits for as long as `condition` holds; `what` says what is wrong if it still does after [`PATIENCE`].
#[track_caller]
pub fn wait_while(mut condition: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while condition() {
        assert!(Instant::now() < deadline, "{}", what());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks until the answer is this one, but not so often that a rate limit is exceeded.
#[track_caller]
pub fn wait_for<T: PartialEq + Debug>(expected: &T, mut ask: impl FnMut() -> T) {
    let began = Instant::now();
    loop {
        let found = ask();
        if found == *expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{found:?} instead of {expected:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A running `hi`. Dropping it ends the process.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    /// Where it says that it is ready, as a service manager has it: sd_notify(3).
    manager: UnixDatagram,
    addresses: Vec<SocketAddr>,
    internal: Option<SocketAddr>,
}

#[derive(Default)]
struct Log {
    text: Mutex<String>,
    /// Also told when the log has ended.
    grown: Condvar,
    ended: AtomicBool,
}

impl Log {
    fn add(&self, line: &str) {
        let mut text = self.text.lock().unwrap();
        text.push_str(line);
        text.push('\n');
        self.grown.notify_all();
    }
}

impl Server {
    /// Starts `hi` on a free port of 127.0.0.1 with two shards and the given further arguments.
    pub fn start(args: &[&str]) -> Self {
        Self::start_on("127.0.0.1:0", args)
    }

    /// Starts `hi` on a single shard: what arrives there first is dealt with first.
    pub fn start_on_one_shard(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hi"));
        command.args(["--listen", "127.0.0.1:0", "--shards", "1"]).args(args);
        Self::spawn(command)
    }

    /// Starts `hi` on an address.
    pub fn start_on(address: &str, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hi"));
        command.args(["--listen", address, "--shards", "2"]).args(args);
        Self::spawn(command)
    }

    /// Starts a prepared command, which has to be a `hi` that listens on 127.0.0.1.
    pub fn spawn(mut command: Command) -> Self {
        let (mut server, stderr) = Self::begin(&mut command);
        let sink = Arc::clone(&server.log);
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| sink.add(&line));
            let _text = sink.text.lock().unwrap();
            sink.ended.store(true, Ordering::SeqCst);
            sink.grown.notify_all();
        });
        server.wait_until_ready();
        server
    }

    /// Starts a prepared command whose log is read up to the line that contains `part` and no further.
    pub fn spawn_unread(mut command: Command, part: &str) -> (Self, BufReader<ChildStderr>) {
        let (mut server, mut stderr) = Self::begin(&mut command);
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            assert!(stderr.read_line(&mut line).expect("a line") > 0, "no {part:?} in:\n{}", server.log());
            server.log.add(line.trim_end());
        }
        server.wait_until_ready();
        server.log.ended.store(true, Ordering::SeqCst);
        (server, stderr)
    }

    fn begin(command: &mut Command) -> (Self, BufReader<ChildStderr>) {
        // Tests run side by side; those of the internal port give it an address on the command line.
        command.env("HI_INTERNAL", "off");
        let name = format!("hi-test-{}-{:x}", std::process::id(), fastrand::u64(..));
        let manager = UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        command.env("NOTIFY_SOCKET", format!("@{name}"));
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().expect("hi starts");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        (Self { child, log: Arc::default(), manager, addresses: Vec::new(), internal: None }, stderr)
    }

    /// Waits until it says that it is ready, and where.
    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let message = loop {
            if let Some(message) = self.notification() {
                break message;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "hi is not ready ({ended:?}):\n{}", self.log());
        };
        let mut lines = message.lines();
        assert_eq!(lines.next(), Some("READY=1"), "{message}");
        for (name, value) in lines.filter_map(|line| line.split_once('=')) {
            if value.starts_with("unix:") {
                continue;
            }
            let address: SocketAddr = value.parse().expect("an address");
            match name {
                "X_HI_LISTEN" => self.addresses.push(address),
                "X_HI_INTERNAL" => self.internal = Some(address),
                _ => panic!("{message}"),
            }
        }
    }

    /// What it tells the service manager next, if it does so soon.
    pub fn notification(&self) -> Option<String> {
        let mut message = [0; 1024];
        let length = self.manager.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its address, or the first of them.
    pub fn address(&self) -> SocketAddr {
        let first = self.addresses[0];
        if first.ip().is_unspecified() { ([127, 0, 0, 1], first.port()).into() } else { first }
    }

    /// All addresses that it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Everything that has arrived of its log so far. A line whose effect is already seen may still be on its way: whoever
    /// expects one waits for it.
    pub fn log(&self) -> String {
        self.log.text.lock().unwrap().clone()
    }

    /// Waits for a log line that contains `part`, and returns it.
    pub fn wait_for_log(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut text = self.log.text.lock().unwrap();
        loop {
            if let Some(line) = text.lines().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The lock must not be poisoned: dropping the server prints the log.
                drop(text);
                panic!("no log line with {part:?} in:\n{}", self.log());
            }
            text = self.log.grown.wait_timeout(text, left).unwrap().0;
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).expect("the process is ours");
        if signal == Signal::STOP {
            // Its threads go on until it has reached all of them.
            let stopped = waitpid(Some(pid), WaitOptions::UNTRACED).expect("the process is ours");
            assert!(stopped.is_some_and(|(_, status)| status.stopped()), "it has ended");
        }
    }

    /// Waits for its end, and for the last line of its log.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "hi did not end; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = self.log.text.lock().unwrap();
        let has_more = |_: &mut String| !self.log.ended.load(Ordering::SeqCst);
        let (text, waited) = self.log.grown.wait_timeout_while(text, PATIENCE, has_more).unwrap();
        drop(text);
        assert!(!waited.timed_out(), "the log does not end");
        status
    }

    /// A plain TCP connection to it, whose reads and writes are bounded by [`PATIENCE`].
    pub fn connect(&self) -> TcpStream {
        bounded(TcpStream::connect(self.address()).expect("hi accepts"))
    }

    /// The same, with a receive buffer as small as it may be without stalls of TCP's own.
    pub fn connect_narrow(&self) -> TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(NARROW_BYTES).unwrap();
        socket.connect(&self.address().into()).expect("hi accepts");
        bounded(socket.into())
    }

    /// Sends a request as it is and reads the answer until hi closes; asks it to close unless the request says more.
    pub fn http(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("hi takes the request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("hi answers and closes");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// GET with `Connection: close`.
    pub fn get(&self, path: &str) -> String {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: hi\r\nConnection: close\r\n\r\n"))
    }

    /// A WebSocket of the tungstenite library to `path`.
    pub fn websocket(&self, path: &str) -> Client {
        self.try_websocket(path).expect("the handshake succeeds")
    }

    /// The same, with a receive buffer so small that the client holds hi up as soon as it stops reading.
    pub fn narrow_websocket(&self, path: &str) -> Client {
        self.websocket_over(self.connect_narrow(), path).expect("the handshake succeeds")
    }

    /// The same, if the handshake succeeds.
    pub fn try_websocket(&self, path: &str) -> Result<Client, Box<tungstenite::Error>> {
        self.websocket_over(self.connect(), path)
    }

    fn websocket_over(&self, stream: TcpStream, path: &str) -> Result<Client, Box<tungstenite::Error>> {
        let url = format!("ws://{}{path}", self.address());
        match tungstenite::client(url, stream) {
            Ok((socket, _)) => Ok(Client { socket }),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(Box::new(error)),
            Err(tungstenite::HandshakeError::Interrupted(_)) => panic!("a blocking socket is not interrupted"),
        }
    }

    /// A client of `hi.v1` that has read its `hello`, which is the second value.
    pub fn v1(&self, query: &str) -> (Client, Value) {
        self.v1_over(self.connect(), query)
    }

    /// The same over a socket of one's own.
    pub fn v1_over(&self, stream: TcpStream, query: &str) -> (Client, Value) {
        let address = format!("ws://{}/ws?{query}", self.address()).parse().expect("a good address");
        let request = tungstenite::ClientRequestBuilder::new(address).with_sub_protocol("hi.v1");
        let (socket, answer) = tungstenite::client(request, stream).expect("the handshake succeeds");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "hi.v1");
        let mut client = Client { socket };
        let hello = client.json();
        assert_eq!(hello["Op"], "hello", "{hello}");
        (client, hello)
    }

    /// A client of `hi.v1` that has joined a room, and the answer to that.
    pub fn join_v1(&self, user: &str, room: &str) -> (Client, Value) {
        let (mut client, _) = self.v1(&format!("username={user}"));
        let answer = client.join_room(room, None);
        (client, answer)
    }

    /// A chat client that has seen its own welcome.
    pub fn join(&self, user: &str, room: &str) -> Client {
        let mut client = self.websocket(&format!("/ws?username={user}&room={room}"));
        client.expect_message(&format!("#{room}"), &format!("Welcome to {room}, {user}!"));
        client
    }

    /// A chat client that is in the room, whatever was announced before.
    pub fn join_quietly(&self, user: &str, room: &str) -> Client {
        let mut client = self.websocket(&format!("/ws?username={user}&room={room}"));
        while client.json()["Message"] != format!("Welcome to {room}, {user}!") {}
        client
    }

    /// Sockets that the process has open: its listeners and its connections, also those that the peer has reset.
    pub fn sockets(&self) -> usize {
        // Signals arrive through a socket of another kind, made some time after the start.
        let unix = std::fs::read_to_string(format!("/proc/{}/net/unix", self.pid())).expect("hi runs");
        let unix: Vec<_> = unix.lines().filter_map(|line| line.split_whitespace().nth(6)).collect();
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("hi runs");
        let targets = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        targets
            .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .filter(|inode| !unix.contains(&&**inode))
            .count()
    }

    /// Waits until `count` sockets are open.
    #[track_caller]
    pub fn wait_for_sockets(&self, count: usize) {
        wait_while(|| self.sockets() != count, || format!("{} sockets instead of {count}", self.sockets()));
    }

    /// Resident memory in bytes (VmRSS).
    pub fn resident_bytes(&self) -> usize {
        self.status("VmRSS") * 1024
    }

    /// Files for which the kernel's table of the process has room (FDSize).
    pub fn file_table_size(&self) -> usize {
        self.status("FDSize")
    }

    /// A number in /proc/PID/status.
    fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait()
            && status.code() == Some(EXIT_BUG)
            && !std::thread::panicking()
        {
            panic!("hi found a bug in itself and ended; its log:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// Closes with a reset, at once.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A client of the tungstenite library.
pub struct Client {
    pub socket: WebSocket<TcpStream>,
}

impl Client {
    /// The users of a room, as a client of hi.v1 is told.
    pub fn users(&mut self, room: &str) -> Vec<String> {
        let answer = self.answer_to(&json!({"Op": "who", "Ref": "who", "Room": room}));
        let users = answer["Users"].as_array().unwrap_or_else(|| panic!("{answer}"));
        users.iter().map(|user| user.as_str().unwrap().to_owned()).collect()
    }

    /// Waits until these are the users of a room: another server may have told one of them before this client's has heard of it.
    #[track_caller]
    pub fn wait_for_users(&mut self, room: &str, users: &[&str]) {
        wait_for(&users.iter().map(ToString::to_string).collect(), || self.users(room));
    }

    /// Publishes a message in `hi.v1`, and returns the answer.
    pub fn publish(&mut self, room: &str, text: &str) -> Value {
        self.answer_to(&json!({"Op": "pub", "Ref": text, "Room": room, "Message": text}))
    }

    /// The next message that isn't a ping or pong.
    pub fn next(&mut self) -> Message {
        loop {
            match self.socket.read().expect("a message, not an error") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    /// The next text message.
    pub fn text(&mut self) -> String {
        match self.next() {
            Message::Text(text) => text.to_string(),
            other => panic!("a text message expected, not {other:?}"),
        }
    }

    /// The next message, as JSON.
    pub fn json(&mut self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
    }

    /// The next message has to be this.
    #[track_caller]
    pub fn expect_message(&mut self, from: &str, message: &str) -> Value {
        let value = self.json();
        assert_eq!((value["From"].as_str(), value["Message"].as_str()), (Some(from), Some(message)), "{value}");
        value
    }

    /// The next message has to be a system message to this connection alone.
    #[track_caller]
    pub fn expect_system(&mut self, message: &str) {
        let value = self.expect_message("hi", message);
        assert!(value["Room"] == "" && value["Meta"] == true && value["Seq"].is_null(), "{value}");
    }

    /// Says something in a room, as the page of 2017 does.
    pub fn say(&mut self, room: &str, message: &str) {
        self.send_text(&json!({"From": "?", "Message": message, "Room": room, "Meta": false}).to_string());
    }

    /// Asks for something in `hi.v1`, and returns what comes next.
    pub fn ask(&mut self, request: &Value) -> Value {
        self.send_text(&request.to_string());
        self.json()
    }

    /// The same, but returns the answer, whatever comes before it.
    pub fn answer_to(&mut self, request: &Value) -> Value {
        self.send_text(&request.to_string());
        loop {
            let frame = self.json();
            if frame["Ref"] == request["Ref"] {
                return frame;
            }
        }
    }

    /// Joins a room, with what is known of it, and returns the answer.
    pub fn join_room(&mut self, room: &str, since: Option<&Value>) -> Value {
        let answer = self.ask(&json!({"Op": "join", "Ref": "join", "Room": room, "Since": since}));
        assert!(answer["Op"] == "ok" && answer["Ref"] == "join" && answer["Room"] == room, "{answer}");
        answer
    }

    /// Sends a text message.
    pub fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("hi takes it");
    }

    /// The code and the reason of the Close that has to come next; answers it, and sees the end of the stream.
    #[track_caller]
    pub fn expect_close(&mut self) -> (u16, String) {
        match self.next() {
            Message::Close(Some(CloseFrame { code, reason })) => {
                let _ = self.socket.flush();
                while self.socket.read().is_ok() {}
                (code.into(), reason.to_string())
            }
            other => panic!("a Close expected, not {other:?}"),
        }
    }

    /// Closes in order: sends a Close and waits for the answer.
    pub fn close(mut self) {
        let _ = self.socket.close(None);
        while self.socket.read().is_ok() {}
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
    }
}
