//! The line that is being typed: keys in, an edited line out. Pure.

use std::collections::{BTreeSet, VecDeque};

/// Lines that the arrow keys bring back.
const HISTORY_MAX: usize = 100;
/// What can be typed at the beginning of a line.
pub(crate) const COMMANDS: [&str; 3] = ["/help", "/quit", "/who"];

/// A key, or what a terminal sends for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Letter(char),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Home,
    End,
    Up,
    Down,
    /// Ctrl-U: everything before the cursor goes.
    ClearBefore,
    /// Ctrl-K: everything behind it.
    ClearBehind,
    /// Ctrl-W: the word before it.
    ClearWord,
    /// Ctrl-C, or Ctrl-D on an empty line.
    Quit,
    Interrupt,
    Unknown,
}

/// What a key led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Line(String),
    /// Several names fit.
    Choices(Vec<String>),
    Quit,
}

/// A line with a cursor, and the lines before it.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Before the cursor.
    pub(crate) before: String,
    /// Behind it.
    pub(crate) behind: String,
    /// Bytes that are no whole key yet.
    begun: Vec<u8>,
    history: VecDeque<String>,
    /// Lines back from the one that is being typed.
    back: usize,
}

impl Line {
    /// Takes what a terminal sent; returns what came of it, in order.
    pub(crate) fn take(&mut self, bytes: &[u8], names: &BTreeSet<String>) -> Vec<Typed> {
        self.begun.extend_from_slice(bytes);
        let mut typed = Vec::new();
        while let Some((key, length)) = key(&self.begun) {
            self.begun.drain(..length);
            typed.extend(self.press(key, names));
        }
        typed
    }

    fn press(&mut self, key: Key, names: &BTreeSet<String>) -> Option<Typed> {
        match key {
            Key::Letter(letter) => self.before.push(letter),
            Key::Backspace => drop(self.before.pop()),
            Key::Delete => drop(take_first(&mut self.behind)),
            Key::Left => self.before.pop().into_iter().for_each(|letter| self.behind.insert(0, letter)),
            Key::Right => self.before.extend(take_first(&mut self.behind)),
            Key::Home => self.behind.insert_str(0, &std::mem::take(&mut self.before)),
            Key::End => self.before.push_str(&std::mem::take(&mut self.behind)),
            Key::ClearBefore => self.before.clear(),
            Key::ClearBehind => self.behind.clear(),
            Key::ClearWord => {
                let word = self.before.trim_end().rfind(char::is_whitespace).map_or(0, |at| at + 1);
                self.before.truncate(word);
            }
            Key::Up => self.recall(self.back + 1),
            Key::Down => self.recall(self.back.saturating_sub(1)),
            Key::Tab => return self.complete(names),
            Key::Enter => return Some(Typed::Line(self.enter())),
            Key::Interrupt => return Some(Typed::Quit),
            Key::Quit if self.before.is_empty() && self.behind.is_empty() => return Some(Typed::Quit),
            Key::Quit | Key::Unknown => {}
        }
        None
    }

    fn enter(&mut self) -> String {
        let line = std::mem::take(&mut self.before) + &std::mem::take(&mut self.behind);
        self.back = 0;
        if !line.is_empty() && self.history.front() != Some(&line) {
            self.history.push_front(line.clone());
            self.history.truncate(HISTORY_MAX);
        }
        line
    }

    fn recall(&mut self, back: usize) {
        let Some(line) = (if back == 0 { Some(String::new()) } else { self.history.get(back - 1).cloned() }) else {
            return;
        };
        (self.back, self.before, self.behind) = (back, line, String::new());
    }

    /// Completes the word before the cursor, as far as it is clear.
    fn complete(&mut self, names: &BTreeSet<String>) -> Option<Typed> {
        let (start, fitting) = completions(&self.before, names);
        let common = common_beginning(&fitting)?;
        if common.len() > self.before.len() - start {
            self.before.replace_range(start.., common);
            return None;
        }
        (fitting.len() > 1).then_some(Typed::Choices(fitting))
    }
}

fn take_first(text: &mut String) -> Option<char> {
    if text.is_empty() { None } else { Some(text.remove(0)) }
}

/// Where the word at the end begins, and what it may become. Names at the beginning of a line get a colon.
fn completions(line: &str, names: &BTreeSet<String>) -> (usize, Vec<String>) {
    let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    if start == 0 && line.starts_with('/') {
        return (0, COMMANDS.iter().filter(|command| command.starts_with(line)).map(ToString::to_string).collect());
    }
    let end = if start == 0 { ": " } else { " " };
    let start = if line[start..].starts_with('@') { start + 1 } else { start };
    let word = line[start..].to_lowercase();
    let fits = |name: &&String| name.to_lowercase().starts_with(&word);
    (start, names.iter().filter(fits).map(|name| format!("{name}{end}")).collect())
}

/// What all of these begin with.
fn common_beginning(texts: &[String]) -> Option<&str> {
    let (first, rest) = texts.split_first()?;
    let length = |text: &String| {
        let same = first.char_indices().zip(text.chars()).find(|((_, a), b)| a != b);
        same.map_or(first.len().min(text.len()), |((at, _), _)| at)
    };
    Some(&first[..rest.iter().map(length).min().unwrap_or(first.len())])
}

/// The first key, and its length in bytes; `None` if more bytes have to come. As xterm sends them.
fn key(bytes: &[u8]) -> Option<(Key, usize)> {
    let control = match *bytes.first()? {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x7f | 0x08 => Key::Backspace,
        0x01 => Key::Home,
        0x03 => Key::Interrupt,
        0x04 => Key::Quit,
        0x05 => Key::End,
        0x0b => Key::ClearBehind,
        0x15 => Key::ClearBefore,
        0x17 => Key::ClearWord,
        0x1b => return escape(bytes),
        0x00..0x20 => Key::Unknown,
        _ => return letter(bytes),
    };
    Some((control, 1))
}

fn letter(bytes: &[u8]) -> Option<(Key, usize)> {
    let first = bytes.utf8_chunks().next()?;
    if let Some(letter) = first.valid().chars().next() {
        return Some((Key::Letter(letter), letter.len_utf8()));
    }
    // The beginning of a letter, or what can't be one.
    let is_begun = first.invalid().len() == bytes.len() && bytes.len() < 4;
    (!is_begun).then_some((Key::Unknown, first.invalid().len().max(1)))
}

fn escape(bytes: &[u8]) -> Option<(Key, usize)> {
    if !matches!(bytes.get(1)?, b'[' | b'O') {
        return Some((Key::Unknown, 2));
    }
    // Parameters, and the byte that ends them (ECMA-48 5.4).
    let end = 2 + bytes[2..].iter().position(|byte| matches!(byte, 0x40..=0x7e))?;
    let key = match &bytes[2..=end] {
        b"A" => Key::Up,
        b"B" => Key::Down,
        b"C" => Key::Right,
        b"D" => Key::Left,
        b"H" | b"1~" => Key::Home,
        b"F" | b"4~" => Key::End,
        b"3~" => Key::Delete,
        _ => Key::Unknown,
    };
    Some((key, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> BTreeSet<String> {
        ["Ada", "adam", "bob", "bobby"].map(str::to_owned).into()
    }

    fn type_all(line: &mut Line, keys: &str) -> Vec<Typed> {
        // One byte at a time: no key depends on what arrives together.
        keys.bytes().flat_map(|byte| line.take(&[byte], &names())).collect()
    }

    #[test]
    fn keys_edit_the_line() {
        let up = "\u{1b}[A";
        for (keys, expected) in [
            ("grün\r", "grün"),
            ("abc\u{7f}\u{7f}d\r", "ad"),
            ("bc\u{1}a\u{5}d\n", "abcd"),
            ("ac\u{1b}[Db\u{1b}[C!\r", "abc!"),
            ("xab\u{1b}OH\u{1b}[3~\u{1b}[F.\r", "ab."),
            ("one two \u{17}three\r", "one three"),
            ("gone\u{15}kept\r", "kept"),
            ("kept gone\u{1b}[D\u{1b}[D\u{1b}[D\u{1b}[D\u{b}\r", "kept "),
            ("a\u{1b}[200~b\u{1b}xc\u{2}\r", "abc"),
        ] {
            let mut line = Line::default();
            assert_eq!(type_all(&mut line, keys), [Typed::Line(expected.to_owned())], "{keys:?}");
            assert_eq!(type_all(&mut line, &format!("{up}\r")), [Typed::Line(expected.to_owned())], "{keys:?} again");
        }
    }

    #[test]
    fn earlier_lines_come_back() {
        let mut line = Line::default();
        type_all(&mut line, "one\rtwo\r\u{1b}[A\u{1b}[A\u{1b}[A");
        assert_eq!(line.before, "one");
        type_all(&mut line, "\u{1b}[B");
        assert_eq!(line.before, "two");
        type_all(&mut line, "\u{1b}[B");
        assert_eq!(line.before, "");
    }

    #[test]
    fn names_and_commands_are_completed() {
        for (keys, expected) in [
            ("ada\tx", "adax"),
            ("adam\t", "adam: "),
            ("hi adam\t", "hi adam "),
            ("@b\t", "@bob"),
            ("/w\t", "/who"),
            ("zz\t", "zz"),
        ] {
            let mut line = Line::default();
            type_all(&mut line, keys);
            assert_eq!(line.before.to_lowercase(), expected.to_lowercase(), "{keys:?}");
        }
        let mut line = Line::default();
        let choices = type_all(&mut line, "grüß bo\t\t");
        assert_eq!(choices, [Typed::Choices(vec!["bob ".to_owned(), "bobby ".to_owned()])]);
        assert_eq!(line.before, "grüß bob");
    }

    #[test]
    fn ctrl_d_ends_an_empty_line_only_and_ctrl_c_any() {
        let mut line = Line::default();
        assert_eq!(type_all(&mut line, "x\u{4}\u{7f}\u{4}"), [Typed::Quit]);
        assert_eq!(type_all(&mut line, "x\u{3}"), [Typed::Quit]);
    }

    #[test]
    fn bytes_that_are_no_text_are_left_out() {
        let mut line = Line::default();
        assert_eq!(line.take(b"a\xff\xc3(\xe2\x82b\r", &names()), [Typed::Line("a(b".to_owned())]);
    }
}
