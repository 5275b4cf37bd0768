//! The internal port, used as an operator's program would.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::wire::{Answer, Wire};
use super::{PATIENCE, Server, bounded};

/// The internal port of a server.
#[derive(Clone, Copy, Debug)]
pub struct Internal {
    pub address: SocketAddr,
}

impl Server {
    /// Starts `hi` with an internal port on a free port, two shards, and these further arguments.
    pub fn start_with_internal(args: &[&str]) -> (Self, Internal) {
        let server = Self::start(&[&["--internal", "127.0.0.1:0"], args].concat());
        let internal = server.internal();
        (server, internal)
    }

    /// Its internal port.
    pub fn internal(&self) -> Internal {
        Internal { address: self.internal.expect("it has an internal port") }
    }
}

impl Internal {
    /// A connection to it.
    pub fn wire(self) -> Wire {
        Wire::new(bounded(TcpStream::connect(self.address).expect("it accepts")))
    }

    /// One request, and its answer.
    #[track_caller]
    pub fn ask(self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut wire = self.wire();
        wire.send([request(method, path, headers, body.len()).as_bytes(), body].concat());
        wire.answer_to(method)
    }

    /// The status and the JSON of an answer to GET.
    #[track_caller]
    pub fn get(self, path: &str) -> (u16, Value) {
        json(&self.ask("GET", path, &[], b""))
    }

    /// The status and the JSON of an answer to POST.
    #[track_caller]
    pub fn post(self, path: &str, body: &Value) -> (u16, Value) {
        json(&self.ask("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes()))
    }

    /// All metrics.
    #[track_caller]
    pub fn metrics(self) -> String {
        let answer = self.ask("GET", "/metrics", &[], b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// The value of one sample, given its name with labels.
    #[track_caller]
    pub fn metric(self, sample: &str) -> f64 {
        let text = self.metrics();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok());
        let value = lines.next().unwrap_or_else(|| panic!("no {sample} in {text}"));
        assert_eq!(lines.next(), None, "{sample} twice");
        value
    }

    /// Waits until a sample has this value.
    #[track_caller]
    pub fn wait_for_metric(self, sample: &str, value: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.metric(sample);
            if found == value {
                return;
            }
            assert!(Instant::now() < deadline, "{sample} is {found} instead of {value}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The head of a request with a body of `body_bytes`.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body_bytes: usize) -> String {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {body_bytes}\r\n");
    headers.iter().for_each(|(name, value)| write!(request, "{name}: {value}\r\n").unwrap());
    request + "\r\n"
}

/// The status and the JSON body of an answer.
#[track_caller]
pub fn json(answer: &Answer) -> (u16, Value) {
    assert_eq!(answer.header("Content-Type"), Some("application/json"), "{answer:?}");
    (answer.status, serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("no JSON: {answer:?}")))
}

/// The error of an answer.
#[track_caller]
pub fn error((status, body): (u16, Value)) -> (u16, String, String, bool) {
    let error = &body["error"];
    assert_eq!(error.as_object().map(|error| error.len()), Some(3), "{body}");
    let text = |key: &str| error[key].as_str().unwrap_or_else(|| panic!("no {key} in {body}")).to_owned();
    (status, text("code"), text("message"), error["temporary"].as_bool().expect("true or false"))
}

/// A file that is removed with the test.
pub struct File(PathBuf);

impl File {
    pub fn new(content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hi-test-{}-{:x}", std::process::id(), fastrand::u64(..)));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs `hi` with these arguments and this input. Returns exit code, stdout and stderr.
pub fn hi(args: &[&str], stdin: &str) -> (i32, String, String) {
    let input = File::new(stdin);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hi"));
    command.env_remove("HI_INTERNAL").env_remove("HI_API_KEY_FILE");
    command.args(args).stdin(std::fs::File::open(input.path()).unwrap());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}
