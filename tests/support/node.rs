//! Programs of the JavaScript world, and a folder to run them in.

#![allow(unreachable_pub, reason = "a test has no outside")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::PATIENCE;

/// The folder of hi.js.
pub fn client() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/js")
}

/// A program that `npm ci` has installed for the tests of hi.js: ./check runs that.
pub fn tool(name: &str) -> Command {
    let path = client().join("node_modules/.bin").join(name);
    assert!(path.exists(), "{name} is not installed: run `npm ci` in {}", client().display());
    let mut command = Command::new(path);
    command.current_dir(client());
    command
}

/// A temporary folder.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("hi-node-{:x}", fastrand::u64(..)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a program until it prints this line, and ends it. Panics if it doesn't.
pub fn wait_for_line(command: &mut Command, expected: &str) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is installed");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.into_iter().try_for_each(|line| sender.send(line)));
    let mut seen = Vec::new();
    while let Ok(line) = receiver.recv_timeout(PATIENCE) {
        seen.push(line);
        if seen.last().is_some_and(|line| line == expected) {
            break;
        }
    }
    let _ = child.kill();
    let mut stderr = String::new();
    let _ = child.stderr.take().unwrap().read_to_string(&mut stderr);
    let _ = child.wait();
    assert!(seen.last().is_some_and(|line| line == expected), "no {expected:?} in {seen:?}: {stderr}");
}
