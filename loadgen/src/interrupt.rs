//! Ctrl-C and SIGTERM: the first one ends the run early, and what was measured until then is reported; the second one quits.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::progress::say;
use crate::{os, outputs};

/// The signal that came first; 0: none has.
static FIRST: AtomicI32 = AtomicI32::new(0);
/// Whether there is a run that can end early.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Watches from now on, in a thread of its own. Has to be called before any other thread is started: each inherits that
/// it leaves these signals alone.
///
/// # Errors
/// One sentence: no thread can be had.
pub fn watch() -> Result<(), String> {
    let Some(signals) = os::EndingSignals::block() else { return Ok(()) };
    let thread = std::thread::Builder::new().spawn(move || {
        loop {
            let signal = signals.wait();
            let is_first = FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            if is_first && RUNNING.load(Ordering::SeqCst) {
                say("the run ends here, and the report follows; once more ends loadgen without it");
                continue;
            }
            say(if is_first { "interrupted: nothing was measured yet." } else { "interrupted: there is no report." });
            outputs::remove_unwritten();
            std::process::exit(exit_code().into());
        }
    });
    thread.map(drop).map_err(|error| format!("can't start a thread: {error}."))
}

/// From now on there is a run: the first signal ends it, and does not end the process.
pub fn run_begins() {
    RUNNING.store(true, Ordering::SeqCst);
}

/// Whether a signal has come.
pub fn has_come() -> bool {
    FIRST.load(Ordering::SeqCst) != 0
}

/// What a shell shows for a process that the signal has ended: 130 after Ctrl-C, 143 after SIGTERM.
pub fn exit_code() -> u8 {
    128 + u8::try_from(FIRST.load(Ordering::SeqCst)).unwrap_or(0)
}
