//! What a command prints to standard output, and how it ends where that can't be written.

use std::io::{self, Write};
use std::process::ExitCode;

/// Exit code of a command whose output could not be written (`EX_IOERR` of sysexits.h): none of the codes that tell
/// about the answer itself.
pub(crate) const EXIT_OUTPUT: u8 = 74;

/// Writes all of `text` to standard output. Returns the command's exit code: `done`, or [`EXIT_OUTPUT`] after a
/// sentence on stderr; see [`finish`].
#[must_use]
pub fn print(text: impl AsRef<[u8]>, done: ExitCode) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_ref());
    finish(written.and_then(|()| stdout.flush()), done)
}

/// The exit code of a command that has written, or not, what it had to: `done`, also where the reader has left
/// (`hi rooms | head`); [`EXIT_OUTPUT`] after a sentence on stderr where the output is lost, as on a full disk.
#[must_use]
pub fn finish(written: io::Result<()>, done: ExitCode) -> ExitCode {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            // The exit code is the same if nobody reads this either.
            let _ = writeln!(
                io::stderr(),
                "can't write to standard output ({error}): the output is incomplete; send it to another file or device."
            );
            ExitCode::from(EXIT_OUTPUT)
        }
        _ => done,
    }
}
