//! What happened, line by line: hashed always, printed when somebody wants to read it.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Write};
use std::hash::Hasher;

/// The trace of one simulation.
#[derive(Debug)]
pub struct Trace {
    prints: bool,
    hasher: RefCell<DefaultHasher>,
    line: RefCell<String>,
    lines: Cell<u64>,
}

impl Trace {
    /// An empty trace.
    pub fn new(prints: bool) -> Self {
        Self { prints, hasher: RefCell::new(DefaultHasher::new()), line: RefCell::default(), lines: Cell::new(0) }
    }

    /// Adds a line.
    pub fn note(&self, line: fmt::Arguments<'_>) {
        let mut text = self.line.borrow_mut();
        text.clear();
        text.write_fmt(line).expect("writing to memory");
        self.hasher.borrow_mut().write(text.as_bytes());
        self.lines.set(self.lines.get() + 1);
        if self.prints {
            println!("{:6} {text}", self.lines.get());
        }
    }

    /// What all lines come to: the same for the same seed.
    pub fn hash(&self) -> u64 {
        self.hasher.borrow().finish()
    }

    /// How many lines there are.
    pub fn lines(&self) -> u64 {
        self.lines.get()
    }
}

/// The hash of some bytes, for a line that stands for them.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
