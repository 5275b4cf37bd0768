//! What the user types, or what is piped in: lines, read by a thread of their own, because nothing else can wait for a terminal.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use crate::line::{Line, Typed};
use crate::show::{Style, color, paint};

/// Lines that have been read and not been taken.
const LINES_READ_MAX: usize = 16;
/// Bytes of the longest line; a longer one is cut into several.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Moves to the beginning of the line, and clears it (ECMA-48).
const CLEAR_LINE: &str = "\r\u{1b}[K";
/// Keeps the cursor (xterm).
const KEEP_CURSOR: &str = "\u{1b}7";
/// Brings it back.
const RESTORE_CURSOR: &str = "\u{1b}8";
/// The width of a terminal that doesn't know it.
const COLUMNS_DEFAULT: u16 = 80;

/// Names for completion.
pub(crate) type Names = Arc<Mutex<BTreeSet<String>>>;

/// Reads standard input to its end, line by line. The channel ends with it.
pub(crate) fn read_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(LINES_READ_MAX);
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut line = Vec::new();
        while matches!(stdin.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            line.clear();
            if sender.blocking_send(text).is_err() {
                return;
            }
        }
    });
    lines
}

/// A line at the bottom of a terminal that can be edited while others are printed above it. The terminal is as it was before once
/// this is dropped.
pub(crate) struct Prompt {
    shown: Arc<Mutex<Shown>>,
    before: Termios,
}

/// The line as it stands on the screen.
struct Shown {
    name: String,
    style: Style,
    line: Line,
}

impl Prompt {
    /// Shows the prompt. Returns the lines that are typed, and what prints above it; `None` if this is no terminal that can do that. The
    /// channel ends with Ctrl-D or Ctrl-C.
    pub(crate) fn open(name: &str, style: Style, names: Names) -> Option<(mpsc::Receiver<String>, Self)> {
        let before =
            tcgetattr(io::stdin()).ok().filter(|_| std::env::var_os("TERM").is_none_or(|term| term != "dumb"))?;
        let mut raw = before.clone();
        // Keys come one by one, and what they do is done here.
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN);
        raw.input_modes.remove(InputModes::ICRNL | InputModes::IXON);
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        let shown = Arc::new(Mutex::new(Shown { name: name.to_owned(), style, line: Line::default() }));
        let prompt = Self { shown: Arc::clone(&shown), before };
        lock(&shown).draw("").ok()?;
        let (sender, lines) = mpsc::channel(LINES_READ_MAX);
        thread::spawn(move || read_keys(&shown, &names, &sender));
        Some((lines, prompt))
    }

    /// Prints lines above it.
    pub(crate) fn print(&mut self, lines: &str) -> io::Result<()> {
        lock(&self.shown).draw(lines)
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
        let _ = write!(io::stdout(), "{CLEAR_LINE}").and_then(|()| io::stdout().flush());
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads keys until the user quits. The lock is not held while a line waits to be taken: others can be printed.
fn read_keys(shown: &Mutex<Shown>, names: &Names, lines: &mpsc::Sender<String>) {
    let (mut stdin, mut bytes) = (io::stdin(), [0; 1024]);
    while let Ok(count @ 1..) = stdin.read(&mut bytes) {
        let typed = lock(shown).line.take(&bytes[..count], &lock(names));
        for each in typed {
            let drawn = match &each {
                Typed::Line(line) => lock(shown).finish(line),
                Typed::Choices(names) => lock(shown).draw(&format!("{}\n", names.join(" "))),
                Typed::Quit => return,
            };
            if drawn.is_err() {
                return;
            }
            if let Typed::Line(line) = each
                && lines.blocking_send(line).is_err()
            {
                return;
            }
        }
        if lock(shown).draw("").is_err() {
            return;
        }
    }
}

impl Shown {
    /// Draws the line, with others above it. What doesn't fit is left out on the left.
    fn draw(&self, above: &str) -> io::Result<()> {
        let prompt = format!("{}: ", paint(&self.name, color(&self.name), self.style));
        let columns = tcgetwinsize(io::stdout()).map_or(COLUMNS_DEFAULT, |size| size.ws_col);
        let columns = usize::from(if columns == 0 { COLUMNS_DEFAULT } else { columns });
        let room = columns.saturating_sub(width(&self.name) + 3).max(8);
        let before = tail(&self.line.before, room);
        let behind = head(&self.line.behind, room.saturating_sub(width(before)));
        let mut stdout = io::stdout().lock();
        write!(stdout, "{CLEAR_LINE}{above}{prompt}{before}{KEEP_CURSOR}{behind}{RESTORE_CURSOR}")?;
        stdout.flush()
    }

    /// Leaves a whole line where it was typed, and begins the next one.
    fn finish(&self, line: &str) -> io::Result<()> {
        self.draw(&format!("{}: {line}\n", paint(&self.name, color(&self.name), self.style)))
    }
}

/// Columns of a text, roughly: the letters of East Asia and emoji take two.
fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn columns(letter: char) -> usize {
    if letter < '\u{1100}' { 1 } else { 2 }
}

/// The end of a text that fits into these columns.
fn tail(text: &str, room: usize) -> &str {
    let mut used = 0;
    let fits = |(_, letter): &(usize, char)| {
        used += columns(*letter);
        used <= room
    };
    text.char_indices().rev().take_while(fits).last().map_or("", |(at, _)| &text[at..])
}

/// The beginning of a text that fits into these columns.
fn head(text: &str, room: usize) -> &str {
    let mut used = 0;
    let fits = |(_, letter): &(usize, char)| {
        used += columns(*letter);
        used <= room
    };
    text.char_indices().take_while(fits).last().map_or("", |(at, letter)| &text[..at + letter.len_utf8()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_shown_around_its_cursor() {
        assert_eq!([tail("abcdef", 3), tail("ab", 3), tail("a日本", 3), tail("x", 0)], ["def", "ab", "本", ""]);
        assert_eq!([head("abcdef", 3), head("ab", 3), head("日本a", 3), head("x", 0)], ["abc", "ab", "日", ""]);
    }
}
