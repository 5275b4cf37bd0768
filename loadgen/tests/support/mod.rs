//! What every test needs: the real `loadgen` binary, and a server that misbehaves on command.

#![allow(dead_code, reason = "each test file uses a different part of it")]
#![allow(unreachable_pub, reason = "a test has no users")]

pub mod cluster;
pub mod fault;
pub mod server;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use loadgen::results::{Run, Verdict};

#[allow(unused_imports, reason = "each test file uses a different part of it")]
pub use fault::{Fault, Manner, PAUSE};
#[allow(unused_imports, reason = "each test file uses a different part of it")]
pub use server::{Server, close_frame, frame};

/// A run that takes longer hangs, and is killed.
const RUN_TIME_MAX: Duration = Duration::from_secs(60);
/// How often a run is repeated if it is `INVALID` because this machine was busy.
const TRIES: usize = 3;

/// A folder for one test's files; dropping it removes it.
pub struct Folder(PathBuf);

impl Folder {
    /// A new one.
    pub fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The outcome of a run of loadgen.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The result.
    pub stdout: String,
    /// Progress and complaints.
    pub stderr: String,
    /// What it wrote with `--json`.
    pub run: Option<Run>,
}

impl Outcome {
    /// The result; panics if there is none.
    pub fn run(&self) -> &Run {
        self.run.as_ref().unwrap_or_else(|| panic!("no result: {self:?}"))
    }

    /// The result of a run that must pass, or be `INVALID` if this machine was too busy in every try; that isn't the
    /// server's fault either.
    pub fn sound(&self) -> &Run {
        let run = self.run();
        if let Verdict::Invalid(reasons) = &run.verdict {
            println!("this machine is too busy: {reasons:?}");
        } else {
            assert_eq!(run.verdict, Verdict::Sound, "{:?}\n{}", run.audit, self.stderr);
        }
        assert_eq!(self.code, Some(run.verdict.exit_code().into()));
        let audit = &run.audit;
        assert_eq!((audit.doubled, audit.reordered, audit.closed), (0, 0, 0), "{audit:?}");
        assert_eq!(audit.lost, audit.announced);
        run
    }

    /// The result of a run that must find a fault of the server.
    pub fn failed(&self) -> &Run {
        let run = self.run();
        assert!(matches!(run.verdict, Verdict::Failed(_)), "{:?} {:?}\n{}", run.verdict, run.audit, self.stderr);
        assert_eq!(self.code, Some(1));
        assert!(!run.audit.first.is_empty(), "faults are named");
        run
    }

    /// The complaint of a run that could not begin, with exit code 2.
    pub fn refused(&self) -> &str {
        assert_eq!(self.code, Some(2), "{self:?}");
        assert!(self.run.is_none() && self.stdout.is_empty(), "{self:?}");
        self.stderr.trim_end()
    }
}

/// A process that ends with the test, whatever its outcome.
pub struct Ending(pub Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The binary, without arguments yet.
pub fn command() -> Command {
    // In the background of a shell, tests inherit an ignored SIGINT.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_loadgen")]);
    command
}

/// Starts a prepared command with piped output.
pub fn spawn(mut command: Command) -> Ending {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    Ending(spawned.expect("loadgen starts"))
}

/// Waits for a process of [`spawn`] to end. `json` is the file that it writes the result to.
pub fn finish(child: Ending, json: Option<&Path>) -> Outcome {
    finish_within(child, json, RUN_TIME_MAX)
}

/// The same, with another time limit.
pub fn finish_within(mut child: Ending, json: Option<&Path>, time_max: Duration) -> Outcome {
    let stdout = drain(child.0.stdout.take().unwrap());
    let stderr = drain(child.0.stderr.take().unwrap());
    let deadline = Instant::now() + time_max;
    let status = loop {
        if let Some(status) = child.0.try_wait().expect("a child") {
            break status;
        }
        if Instant::now() > deadline {
            child.0.kill().unwrap();
            panic!("loadgen hangs\n{}\n{}", stdout.join().unwrap(), stderr.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = json.and_then(|path| std::fs::read(path).ok()).filter(|text| !text.is_empty());
    Outcome {
        code: status.code(),
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
        run: text.map(|text| serde_json::from_slice(&text).expect("--json writes a run")),
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8(bytes).expect("loadgen writes text")
    })
}

/// Runs loadgen with these arguments, and reads its result.
pub fn loadgen(args: &[&str]) -> Outcome {
    let folder = Folder::new();
    let json = folder.file("run.json");
    let mut command = command();
    command.args(args).arg("--json").arg(&json);
    finish(spawn(command), Some(&json))
}

/// The same for a server started by `start`. If this machine was too busy, the run says so and is repeated with a new
/// server: such a run says nothing about the server.
pub fn measure(start: impl Fn() -> Server, args: &[&str]) -> Outcome {
    let mut tries = 0;
    loop {
        let server = start();
        let url = server.room_url();
        let outcome = loadgen(&[&["--url", &url], args].concat());
        tries += 1;
        if outcome.code != Some(3) || tries == TRIES {
            assert_eq!(server.misunderstood(), [""; 0]);
            return outcome;
        }
    }
}

/// Number of messages in such a run.
pub const MESSAGES: u64 = 120;
/// Number of measured ones.
pub const MEASURED: u64 = 100;

/// Checks cases in parallel: a run spends most of its time waiting.
pub fn beside_each_other<Case: Sync>(cases: &[Case], check: impl Fn(&Case) + Sync) {
    let check = &check;
    std::thread::scope(|scope| cases.iter().for_each(|case| drop(scope.spawn(move || check(case)))));
}

/// The arguments of a short run: ten clients, 100 messages per second, 20 of them warm-up and 100 measured, unless
/// `more` overrides them. It uses the template dialect, because the server speaks neither hi's chat nor raw rooms.
pub fn short<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut args = [&["--quiet"], more].concat();
    let usual = [("--warmup", "200ms"), ("--clients", "10"), ("--rate", "100"), ("--duration", "1s")];
    for (option, value) in usual.into_iter().chain([("--publish", "{payload}")]) {
        if !more.contains(&option) {
            args.extend([option, value]);
        }
    }
    args
}
