//! What one thread counted. Each has its own histograms, merged at the end; percentiles are never averaged.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::audit::Auditor;
use crate::faults::Faults;
use crate::os;
use crate::printable::printable;
use crate::schedule::Step;

/// The counters of one thread since the last [`Stats::begin`]. Handshakes are counted from the start of the run.
#[derive(Debug)]
pub struct Stats {
    /// Messages that arrived in the measured time.
    pub deliveries: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Slow clients that the server closed as too slow.
    pub slow_closed: u64,
    /// Latencies of past seconds.
    latency: Histogram<u64>,
    /// Latencies of the current second; each message is recorded here, and only here.
    second: Histogram<u64>,
    /// Number of the current second.
    second_number: usize,
    /// Latencies of messages that fell due while their client still waited for an earlier one.
    waited: Histogram<u64>,
    handshake: Histogram<u64>,
    storm: Histogram<u64>,
    send_late: Histogram<u64>,
    read_late: Histogram<u64>,
    timeline: Vec<Histogram<u64>>,
    measured: std::ops::Range<u32>,
    window_us: std::ops::Range<u64>,
    cpu_at: Option<(u64, Duration)>,
    cpu_share: f64,
    last_arrival_us: u64,
    /// What went wrong.
    pub faults: Faults,
    /// Measured messages that clients at full speed lost.
    pub lost_measured: u64,
    /// Messages that were due and not sent, although their publisher had a connection.
    pub never_sent: u64,
    /// Messages that could not be sent: their publisher had no connection.
    pub unsendable: u64,
    publisher_told: Option<String>,
    /// Clients that reconnected and were to get what they had missed.
    pub recovered: u64,
    /// Messages that they got so.
    pub replayed: u64,
    /// Messages that the server answered it had not taken, or didn't know.
    pub refused: u64,
    /// Messages that the server never answered.
    pub unanswered: u64,
    /// What each server did.
    servers: Vec<ServerCount>,
}

/// What one of several servers did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCount {
    /// Members that connected to it.
    pub connects: u64,
    /// Messages that arrived from it in the measured time.
    pub deliveries: u64,
}

/// What a thread hands over.
#[derive(Debug)]
pub struct Collected {
    /// Latency from the intended send time, in microseconds.
    pub latency: Histogram<u64>,
    /// Latency as a closed-loop tool would see it.
    pub uncorrected: Histogram<u64>,
    /// From connect to 101.
    pub handshake: Histogram<u64>,
    /// The same, after a storm.
    pub storm: Histogram<u64>,
    /// How late messages were sent.
    pub send_late: Histogram<u64>,
    /// Upper bound of how late messages were read.
    pub read_late: Histogram<u64>,
    /// Latencies of each second of the measured time.
    pub timeline: Vec<Histogram<u64>>,
    /// Messages that arrived.
    pub deliveries: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// CPU time as a share of the measured time.
    pub cpu_share: f64,
    /// When the last measured message arrived (run's clock).
    pub last_arrival_us: u64,
    /// What went wrong.
    pub faults: Faults,
    /// Measured messages that clients at full speed lost.
    pub lost_measured: u64,
    /// Messages that were due and not sent, although their publisher had a connection.
    pub never_sent: u64,
    /// Messages that could not be sent: their publisher had no connection.
    pub unsendable: u64,
    /// Slow clients that were closed as too slow.
    pub slow_closed: u64,
    /// The first notice that the server sent to a publisher.
    pub publisher_told: Option<String>,
    /// Clients that reconnected and were to get what they had missed.
    pub recovered: u64,
    /// Messages that they got so.
    pub replayed: u64,
    /// Messages that the server answered it had not taken, or didn't know.
    pub refused: u64,
    /// Messages that the server never answered.
    pub unanswered: u64,
    /// What each server did.
    pub servers: Vec<ServerCount>,
}

impl Collected {
    /// Adds what another thread handed over.
    pub fn merge(&mut self, other: Self) {
        add(&mut self.latency, &other.latency);
        add(&mut self.uncorrected, &other.uncorrected);
        add(&mut self.handshake, &other.handshake);
        add(&mut self.storm, &other.storm);
        add(&mut self.send_late, &other.send_late);
        add(&mut self.read_late, &other.read_late);
        for (index, histogram) in other.timeline.into_iter().enumerate() {
            match self.timeline.get_mut(index) {
                Some(of_all) => add(of_all, &histogram),
                None => self.timeline.push(histogram),
            }
        }
        self.deliveries += other.deliveries;
        self.bytes += other.bytes;
        self.slow_closed += other.slow_closed;
        self.last_arrival_us = self.last_arrival_us.max(other.last_arrival_us);
        self.faults.add(other.faults);
        self.lost_measured += other.lost_measured;
        self.never_sent += other.never_sent;
        self.unsendable += other.unsendable;
        self.publisher_told = self.publisher_told.take().or(other.publisher_told);
        self.recovered += other.recovered;
        self.replayed += other.replayed;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        for (server, of_other) in self.servers.iter_mut().zip(other.servers) {
            server.connects += of_other.connects;
            server.deliveries += of_other.deliveries;
        }
    }
}

/// Three digits: values are accurate to a thousandth.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

impl Stats {
    /// Nothing counted yet, of this many servers.
    pub fn new(servers: usize) -> Self {
        Self {
            deliveries: 0,
            bytes: 0,
            slow_closed: 0,
            latency: histogram(),
            second: histogram(),
            second_number: 0,
            waited: histogram(),
            handshake: histogram(),
            storm: histogram(),
            send_late: histogram(),
            read_late: histogram(),
            timeline: Vec::new(),
            measured: 0..0,
            window_us: 0..0,
            cpu_at: None,
            cpu_share: 0.0,
            last_arrival_us: 0,
            faults: Faults::default(),
            lost_measured: 0,
            never_sent: 0,
            unsendable: 0,
            publisher_told: None,
            recovered: 0,
            replayed: 0,
            refused: 0,
            unanswered: 0,
            servers: vec![ServerCount::default(); servers],
        }
    }

    /// A step begins.
    pub fn begin(&mut self, step: &Step, publishers: usize) {
        self.measured = step.first_measured()..step.end();
        self.window_us = step.measured_from_us(publishers)..step.end_us(publishers);
    }

    /// Whether a message is in the measured time.
    pub fn is_measured(&self, sequence: u32) -> bool {
        self.measured.contains(&sequence)
    }

    /// A client at full speed hasn't got these so far.
    pub fn passed_over(&mut self, sequences: std::ops::Range<u32>) {
        let (from, to) = (sequences.start.max(self.measured.start), sequences.end.min(self.measured.end));
        self.lost_measured += u64::from(to.saturating_sub(from));
    }

    /// One of them arrived after all.
    pub fn came_late(&mut self, sequence: u32) {
        if self.is_measured(sequence) {
            self.lost_measured = self.lost_measured.saturating_sub(1);
        }
    }

    /// A measured message arrived. `waited`: it fell due while its client still waited for an earlier one.
    pub fn delivered(&mut self, now_us: u64, latency_us: u64, waited: bool, server: usize) {
        self.deliveries += 1;
        self.servers[server].deliveries += 1;
        self.last_arrival_us = now_us;
        let second = (now_us.saturating_sub(self.window_us.start) / 1_000_000) as usize;
        if second != self.second_number {
            self.end_second();
            self.second_number = second;
        }
        record(&mut self.second, latency_us);
        if waited {
            record(&mut self.waited, latency_us);
        }
    }

    fn end_second(&mut self) {
        while self.timeline.len() <= self.second_number {
            // Two digits are enough for a line in a chart.
            self.timeline.push(Histogram::new(2).expect("two digits are allowed"));
        }
        add(&mut self.timeline[self.second_number], &self.second);
        add(&mut self.latency, &self.second);
        self.second.reset();
    }

    /// Latencies so far, in microseconds.
    pub fn latency_so_far(&self) -> Histogram<u64> {
        let mut latency = self.latency.clone();
        add(&mut latency, &self.second);
        latency
    }

    /// A message without a stamp: the server announces a loss to a member, or notifies a publisher.
    pub fn notice(&mut self, begin: &[u8], auditor: &mut Auditor, to_publisher: bool) {
        if !begin.starts_with(b"{") {
            return;
        }
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(begin) else { return };
        if value["Event"] == "gap"
            && let (Some(from), Some(to)) = (value["FromSeq"].as_u64(), value["ToSeq"].as_u64())
        {
            auditor.announced(to.saturating_add(1).saturating_sub(from));
        } else if to_publisher && value["From"] == "hi" {
            self.publisher_told.get_or_insert_with(|| printable(value["Message"].as_str().unwrap_or_default()));
        }
    }

    /// The server has not accepted a publisher's message.
    pub fn not_published(&mut self, why: String) {
        self.publisher_told.get_or_insert(why);
    }

    /// At the end: counts the losses of one client that were announced to it.
    pub fn announced(&mut self, count: u64) {
        self.faults.announced += count;
    }

    /// A connection is open; `server` is that of a member.
    pub fn connected(&mut self, took_us: u64, in_storm: bool, server: Option<usize>) {
        if let Some(server) = server {
            self.servers[server].connects += 1;
        }
        record(if in_storm { &mut self.storm } else { &mut self.handshake }, took_us);
    }

    /// A message was sent, this late.
    pub fn sent(&mut self, late_us: u64, sequence: u32) {
        if self.is_measured(sequence) {
            record(&mut self.send_late, late_us);
        }
    }

    /// Measured messages were read, at most this late.
    pub fn read_late(&mut self, late_us: u64, messages: u64) {
        self.read_late.record_n(late_us, messages).expect("the histogram resizes itself");
    }

    /// At the beginning of the measured time, starts counting the thread's CPU time and bytes.
    pub fn watch_window(&mut self, now_us: u64) {
        match self.cpu_at {
            None if self.window_us.contains(&now_us) => {
                self.cpu_at = Some((now_us, os::thread_cpu_time()));
                self.bytes = 0;
            }
            Some((since_us, spent)) if now_us >= self.window_us.end && self.cpu_share == 0.0 => {
                let elapsed = Duration::from_micros((now_us - since_us).max(1));
                self.cpu_share = (os::thread_cpu_time() - spent).as_secs_f64() / elapsed.as_secs_f64();
            }
            _ => {}
        }
    }

    /// Everything, to be merged.
    pub fn collected(mut self) -> Collected {
        if !self.second.is_empty() {
            self.end_second();
        }
        let mut uncorrected = self.latency.clone();
        uncorrected.subtract(&self.waited).expect("what waited was recorded");
        Collected {
            latency: self.latency,
            uncorrected,
            handshake: self.handshake,
            storm: self.storm,
            send_late: self.send_late,
            read_late: self.read_late,
            timeline: self.timeline,
            deliveries: self.deliveries,
            bytes: self.bytes,
            cpu_share: self.cpu_share,
            last_arrival_us: self.last_arrival_us,
            faults: self.faults,
            lost_measured: self.lost_measured,
            never_sent: self.never_sent,
            unsendable: self.unsendable,
            slow_closed: self.slow_closed,
            publisher_told: self.publisher_told,
            recovered: self.recovered,
            replayed: self.replayed,
            refused: self.refused,
            unanswered: self.unanswered,
            servers: self.servers,
        }
    }
}

/// Adds the values of another histogram.
pub fn add(all: &mut Histogram<u64>, other: &Histogram<u64>) {
    all.add(other).expect("the histogram resizes itself");
}

fn record(histogram: &mut Histogram<u64>, value_us: u64) {
    histogram.record(value_us).expect("the histogram resizes itself");
}
