//! One server with its members, in a separate process: a process may have 20,000 files, and four servers with 9,000
//! members each need more. It takes orders from standard input, one per line, and sleeps in between.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::bare::TIMED;
use crate::case::Case;
use crate::connect;
use crate::members::Members;
use crate::servers::{Server, Subject};
use crate::statistics::percentile;

/// Warm-up messages before a slice. After a pause the kernel acknowledges up to 16 segments immediately
/// (TCP_MAX_QUICKACKS), which costs the sender more than at a steady rate, and caches hold other servers' data.
const WARM_UP_MESSAGES: u32 = 18;
/// Readers sleep for this time after a message, longer than its fan-out takes.
const ASLEEP: Duration = Duration::from_millis(60);
/// Minimum of messages in a closed-loop slice.
const ALONE_MIN: u32 = 3;

/// An order to a driver.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Publish at the steady rate for this time.
    Steady(Duration),
    /// Publish each message once every member has the last one, for this time.
    Alone(Duration),
    /// Publish one message after this pause.
    Last(Duration),
    /// The same, with readers that sleep meanwhile.
    Received(Duration),
}

/// The outcome of an order.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// All members are connected.
    Ready,
    Steady {
        deliveries: u32,
        /// CPU time of the server.
        cpu: Duration,
        /// Latencies in milliseconds, from the time that a message was due until a member had it.
        p50: f64,
        p99: f64,
        /// The server's CPU time since the slice before, and the time since then.
        rest: (Duration, Duration),
    },
    Alone {
        deliveries: u32,
        wall: Duration,
    },
    Last {
        /// From the publisher's write until the last member had the whole message.
        latency: Duration,
        /// Time that the bare servers took for their sends.
        sends: Duration,
    },
    /// From the publisher's write until the kernel had received the last member's message.
    Received(Duration),
}

/// Starts the server, connects its members, and follows orders until standard input ends.
pub(crate) fn drive(subject: &Subject, case: Case, other_hi: Option<&Path>) {
    let server = Server::start(subject, case, other_hi);
    let members = Members::connect(server.address, case.members, case.frames);
    let publisher = connect::open(server.address, "/raw/figures?echo=0");
    let slept = (Duration::ZERO, Instant::now());
    let mut driver = Driver { is_whole: subject.is_whole(), case, members, publisher, sent: 0, slept, server };
    driver.publish();
    driver.members.read_until(driver.sent);
    driver.slept = (driver.server.cpu_time(), Instant::now());
    println!("{}", serde_json::to_string(&Outcome::Ready).unwrap());
    for line in std::io::stdin().lines() {
        let order = serde_json::from_str(&line.expect("standard input is text")).expect("an order");
        println!("{}", serde_json::to_string(&driver.obey(order)).unwrap());
    }
}

struct Driver {
    is_whole: bool,
    case: Case,
    members: Members,
    publisher: TcpStream,
    /// Messages so far.
    sent: u32,
    /// The server's CPU time when its last turn ended, and when that was.
    slept: (Duration, Instant),
    // Dropped last, after its members.
    server: Server,
}

impl Driver {
    fn obey(&mut self, order: Order) -> Outcome {
        let outcome = match order {
            Order::Steady(time) => self.steady(time),
            Order::Alone(time) => self.alone(time),
            Order::Last(rest) => self.last(rest),
            Order::Received(rest) => self.received(rest),
        };
        self.slept = (self.server.cpu_time(), Instant::now());
        outcome
    }

    fn publish(&mut self) {
        let bytes = match self.is_whole {
            true => self.case.frames.masked(self.sent),
            false => self.sent.to_be_bytes().to_vec(),
        };
        self.publisher.write_all(&bytes).expect("the server reads the message");
        self.sent += 1;
        if self.is_whole {
            self.ignore_answers();
        }
    }

    /// Some servers answer publishers (nchan does); what nobody reads would fill up.
    fn ignore_answers(&mut self) {
        let mut answers = [0; 16 * 1024];
        match rustix::net::recv(&self.publisher, &mut answers, rustix::net::RecvFlags::DONTWAIT) {
            Ok((0, _)) => panic!("the server closed the publisher's connection"),
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => panic!("the publisher: {error}"),
        }
    }

    fn steady(&mut self, time: Duration) -> Outcome {
        let rest = (self.server.cpu_time().saturating_sub(self.slept.0), self.slept.1.elapsed());
        for _ in 0..WARM_UP_MESSAGES {
            self.publish();
            self.members.read_until(self.sent);
        }
        let before = self.server.cpu_time();
        let began = Instant::now();
        let rate = self.case.rate as u32;
        let messages = (rate * time.as_millis() as u32 / 1000).max(1);
        let due: Vec<_> = (1..=messages).map(|message| began + Duration::from_secs(1) * message / rate).collect();
        self.members.time(self.sent, due.clone());
        for due in due {
            self.members.read_while(due);
            self.publish();
        }
        self.members.read_until(self.sent);
        let cpu = self.server.cpu_time().saturating_sub(before);
        let latencies = self.members.latencies();
        let (p50, p99) = (percentile(&latencies, 50), percentile(&latencies, 99));
        Outcome::Steady { deliveries: messages * self.case.members as u32, cpu, p50, p99, rest }
    }

    fn alone(&mut self, time: Duration) -> Outcome {
        let mut messages = 0;
        let began = Instant::now();
        while messages < ALONE_MIN || began.elapsed() < time {
            self.publish();
            self.members.read_until(self.sent);
            messages += 1;
        }
        Outcome::Alone { deliveries: messages * self.case.members as u32, wall: began.elapsed() }
    }

    fn last(&mut self, rest: Duration) -> Outcome {
        std::thread::sleep(rest);
        let mut sends = [0; 8];
        let began = Instant::now();
        if self.is_whole {
            self.publish();
        } else {
            self.publisher.write_all(&(self.sent | TIMED).to_be_bytes()).expect("the server reads the message");
            self.sent += 1;
        }
        self.members.read_until(self.sent);
        let latency = began.elapsed();
        if !self.is_whole {
            self.publisher.read_exact(&mut sends).expect("the server reports how long its sends took");
        }
        Outcome::Last { latency, sends: Duration::from_nanos(u64::from_be_bytes(sends)) }
    }

    fn received(&mut self, rest: Duration) -> Outcome {
        self.members.stamp();
        std::thread::sleep(rest);
        let began = SystemTime::now();
        self.publish();
        std::thread::sleep(ASLEEP);
        let latency = self.members.last_received_at().duration_since(began).expect("the clock isn't set meanwhile");
        self.members.read_until(self.sent);
        Outcome::Received(latency)
    }
}
