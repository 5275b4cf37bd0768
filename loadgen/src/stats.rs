//! What one thread counted: histograms are its own, and merged at the end; percentiles are never averaged.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::audit::Auditor;
use crate::os;
use crate::payload::Stamp;
use crate::worker::Step;

/// Faults that are named; the others are counted.
pub const NAMED_MAX: usize = 10;

/// The counters of one thread since the last [`Stats::begin`]. Handshakes are counted from the very begin.
#[derive(Debug)]
pub struct Stats {
    /// Messages that arrived in the measured time.
    pub deliveries: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Slow clients that the server closed as too slow: it said so.
    pub slow_closed: u64,
    /// Latencies of the seconds that are over.
    latency: Histogram<u64>,
    /// Latencies of the second under way: a message is recorded once, here.
    second: Histogram<u64>,
    /// Which second that is.
    second_number: usize,
    /// Those of them that fell due while their client still waited for an earlier message.
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
    faults: Faults,
    never_sent: u64,
    publisher_told: Option<String>,
}

/// Messages that did not come once and in order, and connections that ended.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Never arrived.
    pub lost: u64,
    /// Arrived more than once.
    pub doubled: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Arrived in another room.
    pub astray: u64,
    /// The server said that they are lost.
    pub announced: u64,
    /// Connections that ended.
    pub closed: u64,
    /// The first ones, in words.
    pub first: Vec<String>,
}

impl Faults {
    fn name(&mut self, sentence: impl FnOnce() -> String) {
        if self.first.len() < NAMED_MAX {
            self.first.push(sentence());
        }
    }

    /// Those that no load excuses.
    pub fn inexcusable(&self) -> Self {
        let Self { doubled, reordered, astray, .. } = *self;
        let first = if doubled + reordered + astray > 0 { self.first.clone() } else { Vec::new() };
        Self { doubled, reordered, astray, first, ..Self::default() }
    }

    /// Takes those of a whole run instead of its own.
    pub fn replace_inexcusable(&mut self, of_all: Self) {
        let Self { doubled, reordered, astray, first, .. } = of_all;
        (self.doubled, self.reordered, self.astray) = (doubled, reordered, astray);
        if !first.is_empty() {
            self.first = first;
        }
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.astray += other.astray;
        self.announced += other.announced;
        self.closed += other.closed;
        self.first.extend(other.first);
        self.first.truncate(NAMED_MAX);
    }
}

/// What a thread hands over.
#[derive(Debug)]
pub struct Collected {
    /// Latency from the intended send time, in microseconds.
    pub latency: Histogram<u64>,
    /// As a tool would see it that waits for its answers.
    pub uncorrected: Histogram<u64>,
    /// From connect to 101.
    pub handshake: Histogram<u64>,
    /// The same, after a storm.
    pub storm: Histogram<u64>,
    /// How late messages were sent.
    pub send_late: Histogram<u64>,
    /// How late messages were read, at most.
    pub read_late: Histogram<u64>,
    /// Latencies of each second of the measured time.
    pub timeline: Vec<Histogram<u64>>,
    /// Messages that arrived.
    pub deliveries: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// CPU time in the measured time, as a share of it.
    pub cpu_share: f64,
    /// When the last measured message arrived (run's clock).
    pub last_arrival_us: u64,
    /// What went wrong.
    pub faults: Faults,
    /// Messages that were due and had not been sent when the step ended.
    pub never_sent: u64,
    /// Slow clients that were closed as too slow.
    pub slow_closed: u64,
    /// What the server told a publisher, the first time that it did.
    pub publisher_told: Option<String>,
}

/// Three digits: a value is off by a thousandth at most.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

impl Default for Stats {
    fn default() -> Self {
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
            never_sent: 0,
            publisher_told: None,
        }
    }
}

impl Stats {
    /// A step begins.
    pub fn begin(&mut self, step: &Step, publishers: usize) {
        self.measured = step.first_measured()..step.end();
        self.window_us = step.measured_from_us(publishers)..step.end_us(publishers);
    }

    /// Whether a message is in the measured time.
    pub fn is_measured(&self, sequence: u32) -> bool {
        self.measured.contains(&sequence)
    }

    /// A measured message arrived. It `waited` if it fell due while its client still waited for an earlier one.
    pub fn delivered(&mut self, now_us: u64, latency_us: u64, waited: bool) {
        self.deliveries += 1;
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

    /// Messages were passed over.
    pub fn ahead(&mut self, client: usize, stamp: &Stamp, count: u32) {
        self.faults.lost += u64::from(count);
        let Stamp { publisher, sequence, .. } = stamp;
        self.faults.name(|| {
            format!("client {client} got message {sequence} of publisher {publisher}, but not the {count} before it")
        });
    }

    /// A message came after a later one.
    pub fn reordered(&mut self, client: usize, stamp: &Stamp) {
        self.faults.lost = self.faults.lost.saturating_sub(1);
        self.faults.reordered += 1;
        let Stamp { publisher, sequence, .. } = stamp;
        self.faults
            .name(|| format!("client {client} got message {sequence} of publisher {publisher} after a later one"));
    }

    /// A message came again.
    pub fn doubled(&mut self, client: usize, stamp: &Stamp) {
        self.faults.doubled += 1;
        let Stamp { publisher, sequence, .. } = stamp;
        self.faults.name(|| format!("client {client} got message {sequence} of publisher {publisher} again"));
    }

    /// A message came from a room that the client is not in.
    pub fn astray(&mut self, client: usize, stamp: &Stamp) {
        self.faults.astray += 1;
        let Stamp { room, publisher, sequence, .. } = stamp;
        self.faults.name(|| {
            format!(
                "client {client} got message {sequence} of publisher {publisher} of room {room}, which it is not in"
            )
        });
    }

    /// At the end, messages had not come.
    pub fn missing_at_end(&mut self, client: usize, count: u32, end: u32) {
        if count > 0 {
            self.faults.lost += u64::from(count);
            self.faults.name(|| format!("client {client} never got the last {count} messages before number {end}"));
        }
    }

    /// A connection ended.
    pub fn closed(&mut self, sentence: String) {
        self.faults.closed += 1;
        self.faults.name(|| sentence);
    }

    /// A message without a stamp: the server announces a loss to a member, or tells a publisher something.
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
            self.publisher_told.get_or_insert_with(|| value["Message"].as_str().unwrap_or_default().to_owned());
        }
    }

    /// At the end, so much of one client's loss was announced to it.
    pub fn announced(&mut self, count: u64) {
        self.faults.announced += count;
    }

    /// At the end, messages were due that had not been sent.
    pub fn never_sent(&mut self, count: u64) {
        self.never_sent += count;
    }

    /// A handshake is done.
    pub fn connected(&mut self, took_us: u64, in_storm: bool) {
        record(if in_storm { &mut self.storm } else { &mut self.handshake }, took_us);
    }

    /// A message left, so late.
    pub fn sent(&mut self, late_us: u64, sequence: u32) {
        if self.is_measured(sequence) {
            record(&mut self.send_late, late_us);
        }
    }

    /// Measured messages were read, at most so late.
    pub fn read_late(&mut self, late_us: u64, messages: u64) {
        self.read_late.record_n(late_us, messages).expect("the histogram resizes itself");
    }

    /// At the begin of the measured time, begins to count what its end will ask for: CPU time of the thread, and bytes.
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
            never_sent: self.never_sent,
            slow_closed: self.slow_closed,
            publisher_told: self.publisher_told,
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
