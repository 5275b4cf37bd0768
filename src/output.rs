//! What a command prints to standard output, and how it ends if that can't be written; numbers as people read them.

use std::io::{self, Write};
use std::process::ExitCode;

/// Exit code of a command whose output could not be written (`EX_IOERR` of sysexits.h): none of the codes that tell
/// about the answer itself.
pub const EXIT_OUTPUT: u8 = 74;

/// Writes all of `text` to standard output. Returns the command's exit code: `done`, or [`EXIT_OUTPUT`] after a
/// sentence on stderr; see [`finish`].
#[must_use]
pub fn print(text: impl AsRef<[u8]>, done: ExitCode) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_ref());
    finish(written.and_then(|()| stdout.flush()), done)
}

/// The exit code of a command, from the result of writing its output: `done`, also if the reader has left
/// (`hi rooms | head`); [`EXIT_OUTPUT`] after a sentence on stderr if the output is lost, as on a full disk.
#[must_use]
pub fn finish(written: io::Result<()>, done: ExitCode) -> ExitCode {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            // The exit code is the same if this can't be written either.
            let _ = writeln!(
                io::stderr(),
                "can't write to standard output ({error}): the output is incomplete; send it to another file or device."
            );
            ExitCode::from(EXIT_OUTPUT)
        }
        _ => done,
    }
}

/// A number with commas between its thousands: `3,540`.
pub fn thousands(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 3540, 20_000, 1_234_567_u32].map(thousands),
            ["0", "999", "1,000", "3,540", "20,000", "1,234,567"]
        );
    }
}
