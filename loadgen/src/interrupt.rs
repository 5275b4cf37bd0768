//! Ctrl-C and SIGTERM: the first one ends the run early and reports what was measured so far; the second one quits.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::progress::say;
use crate::{os, outputs};

/// The first signal received; 0: none.
static FIRST: AtomicI32 = AtomicI32::new(0);
/// Whether there is a run that can end early.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Starts watching, in a separate thread. Has to be called before any other thread is started: each inherits the
/// blocked signals.
///
/// # Errors
/// One sentence: the thread can't be started.
pub fn watch() -> Result<(), String> {
    let Some(signals) = os::EndingSignals::block() else { return Ok(()) };
    let thread = std::thread::Builder::new().spawn(move || {
        loop {
            let signal = signals.wait();
            let is_first = FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            if is_first && RUNNING.load(Ordering::SeqCst) {
                say("ending the run; the report follows (a second signal quits without it)");
                continue;
            }
            say(if is_first { "interrupted: nothing was measured yet." } else { "interrupted: there is no report." });
            outputs::remove_unwritten();
            std::process::exit(exit_code().into());
        }
    });
    thread.map(drop).map_err(|error| format!("can't start a thread: {error}."))
}

/// A run has begun: the first signal ends the run, not the process.
pub fn run_begins() {
    RUNNING.store(true, Ordering::SeqCst);
}

/// Whether a signal was received.
pub fn has_come() -> bool {
    FIRST.load(Ordering::SeqCst) != 0
}

/// The exit status that a shell shows for a process ended by this signal: 130 for Ctrl-C, 143 for SIGTERM.
pub fn exit_code() -> u8 {
    128 + u8::try_from(FIRST.load(Ordering::SeqCst)).unwrap_or(0)
}
