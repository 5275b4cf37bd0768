//! The log: a bounded queue of lines, and a thread that writes them to stderr.
//!
//! No thread that serves clients waits for stderr: when the queue is full, lines are dropped and counted, and a line in their
//! place says how many. There is one queue for the process, as there is one stderr.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::Writer as Text;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::writer::MakeWriterExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use crate::limits::{LOG_FLUSH_TIME_MAX, LOG_QUEUE_BYTES_MAX};

static LOG: Log = Log::new();
/// What changes the level.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// From now on, everything of this `level` and above is written to stderr, in color if `ansi`.
pub fn start(level: LevelFilter, ansi: bool) {
    let (level, handle) = reload::Layer::new(level);
    let lines = tracing_subscriber::fmt::layer()
        // The client of NATS tells of each connection what hi tells in its own words.
        .with_writer((|| Stderr).with_filter(|line| !line.target().starts_with("async_nats")))
        .with_ansi(ansi)
        .with_target(false)
        .log_internal_errors(false);
    tracing_subscriber::registry().with(level).with(lines).init();
    let _ = LEVEL.set(handle);
}

/// From now on, everything of this level and above is written.
pub(crate) fn set_level(level: LevelFilter) {
    // Only a log that has ended takes no level any more.
    let _ = LEVEL.get().map(|handle| handle.reload(level));
}

/// Writes text to stderr after the lines that wait, whatever the level.
pub fn say(text: impl fmt::Display) {
    LOG.push(format!("{text}\n").as_bytes());
}

/// Ends the process once the log is written, or after `time_max` (at most half a second) if stderr is stuck.
pub fn exit(code: i32, time_max: Duration) -> ! {
    LOG.flush(time_max.min(LOG_FLUSH_TIME_MAX));
    std::process::exit(code)
}

/// Number of lines that never reached stderr.
pub(crate) fn dropped_lines() -> u64 {
    LOG.dropped.load(Ordering::Relaxed)
}

/// The queue, as a writer of whole lines.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Log {
    queue: Mutex<Queue>,
    /// Notified when there are lines to write.
    filled: Condvar,
    /// Notified when all of them are written.
    emptied: Condvar,
    dropped: AtomicU64,
}

struct Queue {
    lines: Vec<u8>,
    /// Number of lines dropped since `lines` became full; their place is after it.
    dropped: u64,
    /// Whether the writing thread exists,
    has_writer: bool,
    /// and whether it is writing lines just now.
    writes: bool,
}

impl Log {
    const fn new() -> Self {
        let queue = Queue { lines: Vec::new(), dropped: 0, has_writer: false, writes: false };
        Self { queue: Mutex::new(queue), filled: Condvar::new(), emptied: Condvar::new(), dropped: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends `line` as a whole, or drops it. The first line starts the thread.
    fn push(&'static self, line: &[u8]) {
        let mut queue = self.lock();
        if !queue.has_writer {
            let writer = thread::Builder::new().name("hi-log".to_owned()).spawn(|| self.write());
            queue.has_writer = writer.is_ok();
        }
        self.append(&mut queue, line);
    }

    fn append(&self, queue: &mut Queue, line: &[u8]) {
        if queue.dropped > 0 || queue.lines.len() + line.len() > LOG_QUEUE_BYTES_MAX {
            let lines = count_lines(line);
            queue.dropped += lines;
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        } else {
            queue.lines.extend_from_slice(line);
        }
        self.filled.notify_one();
    }

    /// Waits for lines and moves them into `batch`. Returns how many were dropped after them.
    fn take(&self, batch: &mut Vec<u8>) -> u64 {
        batch.clear();
        let mut queue = self.lock();
        queue.writes = false;
        self.emptied.notify_all();
        let is_empty = |queue: &mut Queue| queue.lines.is_empty() && queue.dropped == 0;
        let mut queue = self.filled.wait_while(queue, is_empty).unwrap_or_else(PoisonError::into_inner);
        queue.writes = true;
        std::mem::swap(&mut queue.lines, batch);
        std::mem::take(&mut queue.dropped)
    }

    /// Writes lines for as long as the process lives.
    fn write(&self) {
        let mut batch = Vec::new();
        // Dropped lines that were not reported, because stderr failed at that moment.
        let mut lost = 0;
        loop {
            let dropped = self.take(&mut batch);
            if lost > 0 && write_stderr(notice(lost).as_bytes()) == 0 {
                lost = 0;
            }
            let failed = write_stderr(&batch);
            self.dropped.fetch_add(failed, Ordering::Relaxed);
            lost += failed;
            if dropped > 0 && write_stderr(notice(dropped).as_bytes()) > 0 {
                lost += dropped;
            }
        }
    }

    /// Waits until everything is written, but not longer than `time_max`.
    fn flush(&self, time_max: Duration) {
        let mut queue = self.lock();
        if !queue.has_writer {
            // The writing thread could not be started, so this one writes: it is about to end.
            write_stderr(&std::mem::take(&mut queue.lines));
            return;
        }
        let is_busy = |queue: &mut Queue| !queue.lines.is_empty() || queue.dropped > 0 || queue.writes;
        drop(self.emptied.wait_timeout_while(queue, time_max, is_busy));
    }
}

fn count_lines(text: &[u8]) -> u64 {
    text.split_inclusive(|byte| *byte == b'\n').count() as u64
}

/// The line in the place of dropped ones. It is written whatever the level.
fn notice(dropped: u64) -> String {
    let mut line = String::new();
    // An error leaves out the time only.
    let _ = SystemTime.format_time(&mut Text::new(&mut line));
    let plural = if dropped == 1 { "" } else { "s" };
    line + &format!("  WARN {dropped} log line{plural} dropped: stderr was not read fast enough\n")
}

/// Writes to stderr, waiting if necessary. Returns the number of lines that could not be written.
fn write_stderr(mut text: &[u8]) -> u64 {
    let stderr = io::stderr();
    while !text.is_empty() {
        // Not `Stderr::write`, which would hold its lock while it waits.
        match rustix::io::write(&stderr, text) {
            Ok(0) => break,
            Ok(count) => text = &text[count..],
            Err(rustix::io::Errno::INTR) => {}
            // Another process that shares the terminal or the pipe has made it non-blocking.
            Err(rustix::io::Errno::AGAIN) => drop(poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)),
            Err(_) => break,
        }
    }
    count_lines(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_until_there_is_room() {
        let log = Log::new();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let append = |line: &[u8]| log.append(&mut log.lock(), line);
        (0..LOG_QUEUE_BYTES_MAX / 1024).for_each(|_| append(&line));
        append(b"one\n");
        // Smaller lines are dropped too: they must not overtake the one that was dropped.
        append(b"two\nthree\n");
        assert_eq!(log.dropped.load(Ordering::Relaxed), 3);
        let mut batch = Vec::new();
        assert_eq!(log.take(&mut batch), 3);
        assert_eq!(batch.len(), LOG_QUEUE_BYTES_MAX);
        append(b"four\n");
        assert_eq!((log.take(&mut batch), batch.as_slice()), (0, &b"four\n"[..]));
    }

    #[test]
    fn the_end_does_not_wait_for_long() {
        let log = Log::new();
        log.lock().has_writer = true;
        log.append(&mut log.lock(), b"nobody writes this\n");
        log.flush(Duration::from_millis(1));
        assert_eq!(log.lock().lines, b"nobody writes this\n");
    }

    #[test]
    fn lines_are_counted_by_their_ends() {
        assert_eq!([&b""[..], b"a\n", b"a\nb\n", b"a\nb"].map(count_lines), [0, 1, 2, 2]);
        assert!(notice(1).ends_with("Z  WARN 1 log line dropped: stderr was not read fast enough\n"), "{}", notice(1));
        assert!(notice(2).contains("2 log lines"));
    }
}
