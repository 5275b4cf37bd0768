//! What the user types, or what is piped in: lines, read by a thread of their own, because nothing else can wait for a terminal.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, ExternalPrinter, Helper};
use tokio::sync::mpsc;

use crate::show::{Style, color, paint};

/// Lines that have been read and not been taken.
const LINES_READ_MAX: usize = 16;
/// The same for lines that are typed, or pasted: while the channel is full, nothing can be printed above the prompt.
const LINES_TYPED_MAX: usize = 1 << 16;
/// Bytes of the longest line; a longer one is cut into several.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Ends the bracketed paste that the editor asks for (xterm).
const END_BRACKETED_PASTE: &str = "\u{1b}[?2004l";
/// Clears the line with the prompt.
const CLEAR_LINE: &str = "\r\u{1b}[K";

/// What can be typed at the beginning of a line.
pub(crate) const COMMANDS: [&str; 3] = ["/help", "/quit", "/who"];

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
    printer: Box<dyn ExternalPrinter + Send>,
    before: Option<Termios>,
}

impl Prompt {
    /// Shows the prompt. Returns the lines that are typed, and what prints above it; `None` if this terminal can't do that. The
    /// channel ends with Ctrl-D or Ctrl-C.
    pub(crate) fn open(name: &str, style: Style, names: Names) -> Option<(mpsc::Receiver<String>, Self)> {
        let before = tcgetattr(io::stdin()).ok();
        let mut editor: Editor<Typing, MemHistory> = Editor::with_history(Config::default(), MemHistory::new()).ok()?;
        let printer = editor.create_external_printer().ok()?;
        editor.set_helper(Some(Typing { names, color: color(name), style }));
        let (sender, lines) = mpsc::channel(LINES_TYPED_MAX);
        let prompt = format!("{name}: ");
        thread::spawn(move || {
            while let Ok(line) = editor.readline(&prompt) {
                let _ = editor.add_history_entry(line.as_str());
                // A paste may be several lines.
                for line in line.lines() {
                    if sender.blocking_send(line.to_owned()).is_err() {
                        return;
                    }
                }
            }
        });
        Some((lines, Self { printer: Box::new(printer), before }))
    }

    /// Prints lines above it.
    pub(crate) fn print(&mut self, lines: String) -> io::Result<()> {
        self.printer.print(lines).map_err(io::Error::other)
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let is_raw = tcgetattr(io::stdin()).is_ok_and(|now| now.local_modes != before.local_modes);
            if is_raw && tcsetattr(io::stdin(), OptionalActions::Drain, before).is_ok() {
                print!("{END_BRACKETED_PASTE}{CLEAR_LINE}");
            }
        }
    }
}

/// What the editor asks while a line is typed.
struct Typing {
    names: Names,
    /// Of the user's own name.
    color: u8,
    style: Style,
}

/// Where the word before the cursor begins, and what it may become. Names at the beginning of a line get a colon.
fn completions(line: &str, cursor: usize, names: &BTreeSet<String>) -> (usize, Vec<String>) {
    let start = line[..cursor].rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let word = line[start..cursor].to_lowercase();
    let (word, end) = (word.trim_start_matches('@'), if start == 0 { ": " } else { " " });
    let start = if line[start..].starts_with('@') { start + 1 } else { start };
    if start == 0 && word.starts_with('/') {
        return (0, COMMANDS.iter().filter(|command| command.starts_with(word)).map(ToString::to_string).collect());
    }
    let fits = |name: &&String| name.to_lowercase().starts_with(word);
    (start, names.iter().filter(fits).map(|name| format!("{name}{end}")).collect())
}

impl Completer for Typing {
    type Candidate = String;

    fn complete(&self, line: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(completions(line, cursor, &names))
    }
}

impl Highlighter for Typing {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        match prompt.strip_suffix(": ") {
            Some(name) => Cow::Owned(format!("{}: ", paint(name, self.color, self.style))),
            None => Cow::Borrowed(prompt),
        }
    }
}

impl Hinter for Typing {
    type Hint = String;
}

impl Validator for Typing {}

impl Helper for Typing {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_commands_are_completed() {
        let names: BTreeSet<_> = ["Ada", "adam", "bob"].map(str::to_owned).into();
        let complete = |line: &str| completions(line, line.len(), &names);
        assert_eq!(complete("ad"), (0, vec!["Ada: ".to_owned(), "adam: ".to_owned()]));
        assert_eq!(complete("hi b"), (3, vec!["bob ".to_owned()]));
        assert_eq!(complete("grüß @b"), (8, vec!["bob ".to_owned()]));
        assert_eq!(complete("/w"), (0, vec!["/who".to_owned()]));
        assert_eq!(complete("see /w").1, [""; 0]);
    }
}
