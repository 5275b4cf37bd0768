//! A process of its own for members of one room: the number of connections of one is bounded.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::members::Members;
use crate::messages::Dialect;
use crate::options::Options;
use crate::statistics::percentile;

/// The room of all.
pub(crate) const ROOM: &str = "many";
/// Time between two looks at standard input.
const LOOK: Duration = Duration::from_millis(50);

/// What its members got.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Got {
    pub(crate) order: Vec<u64>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// Joins and says so; reads; once it is told how many messages there are, waits until all members have them, and reports.
pub(crate) fn obey(address: SocketAddr, options: &Options) {
    let mut members = Members::new();
    let numbers = options.first..options.first + options.members;
    members.join(address, options.dialect, numbers, |_| ROOM.to_owned());
    println!("joined");
    let (sender, orders) = std::sync::mpsc::channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let messages = loop {
        members.read_until(Instant::now() + LOOK);
        match orders.try_recv() {
            Ok(line) => break line.parse().expect("a number of messages"),
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
        }
    };
    members.read_all(messages);
    let latencies = members.latencies_ms();
    let [p50_ms, p99_ms, max_ms] = [50, 99, 100].map(|percent| percentile(&latencies, percent));
    println!("{}", serde_json::to_string(&Got { order: members.order().to_vec(), p50_ms, p99_ms, max_ms }).unwrap());
}

/// Such a process, seen from the one that started it.
pub(crate) struct Reader {
    process: Child,
    /// `None`: it has to end.
    orders: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Reader {
    /// Starts to join `members` members, the first of which has this number.
    pub(crate) fn start(address: SocketAddr, dialect: Dialect, first: usize, members: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
        let dialect = if dialect == Dialect::Chat { "chat" } else { "raw" };
        command.args(["--read", &address.to_string(), "--dialect", dialect]);
        command.args(["--first", &first.to_string(), "--members", &members.to_string()]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts again");
        let (orders, lines) = (process.stdin.take(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, orders, lines }
    }

    /// Waits until all members have joined.
    pub(crate) fn joined(&mut self) {
        assert_eq!(self.line(), "joined\n");
    }

    /// Tells it how many messages there are, and waits until all members have them.
    pub(crate) fn got(&mut self, messages: usize) -> Got {
        writeln!(self.orders.as_mut().expect("it is not the end"), "{messages}").expect("the reader lives");
        serde_json::from_str(&self.line()).expect("a report")
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the reader talks");
        assert!(!line.is_empty(), "a reader failed; see its reason above");
        line
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.process.wait();
    }
}
