//! The hi that is started when there is no `--url`: found or built, on a free port, stopped after the run.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::os;
use crate::progress::say;

/// What to do if there is no hi.
const FIX: &str = "install hi, or give one with --hi or a server with --url";
/// hi's default for the longest message, in bytes.
const HI_MESSAGE_BYTES: usize = 16 * 1024;
/// Bytes that the JSON around a text adds at most.
const ENVELOPE_BYTES: usize = 1024;
/// A build that takes longer than this is announced.
const QUIET_BUILD_TIME: Duration = Duration::from_secs(1);
/// hi logs its address within this time.
const START_TIME_MAX: Duration = Duration::from_secs(20);

/// A private hi. Dropping it ends the process.
pub struct PrivateServer {
    child: Child,
    /// `ws://` and its address.
    pub url: String,
    /// How many shards it has.
    pub shards: usize,
}

impl PrivateServer {
    /// Starts hi with this number of shards (by default half the cores), without rate limits, ready for messages of
    /// `message_bytes`.
    ///
    /// # Errors
    /// One sentence: there is no hi, or what it said.
    pub fn start(binary: Option<PathBuf>, shards: Option<usize>, message_bytes: usize) -> Result<Self, String> {
        let binary = match binary {
            Some(binary) => binary,
            None => find()?,
        };
        let shards = shards.unwrap_or_else(|| (os::cores().len() / 2).max(1));
        let mut command = Command::new(&binary);
        if message_bytes + ENVELOPE_BYTES > HI_MESSAGE_BYTES {
            command.args(["--max-message", &(message_bytes + ENVELOPE_BYTES).to_string()]);
        }
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--internal",
            "off",
            "--rate-limit",
            "0",
            "--shards",
            &shards.to_string(),
        ]);
        os::end_with_us(&mut command);
        os::keep_from_terminal(&mut command);
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{} can't be started: {error}.", binary.display()))?;
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Once the address is known no one listens, but the pipe must still be drained.
                let _ = sender.send(line);
            }
        });
        let mut said = "it ended without an error message".to_owned();
        let until = Instant::now() + START_TIME_MAX;
        while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if let Some(address) = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()) {
                return Ok(Self { child, url: format!("ws://{address}"), shards });
            }
            // The error counts, not the advice after it.
            if !line.is_empty() && !said.starts_with("error: ") {
                said = line;
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("{} did not start: {said}", binary.display()))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// hi from this workspace, freshly built if cargo runs us; otherwise the one next to us, or in PATH.
fn find() -> Result<PathBuf, String> {
    let ourselves =
        std::env::current_exe().map_err(|error| format!("the path of loadgen itself can't be found: {error}."))?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join("Cargo.toml");
    if let (Ok(cargo), true) = (std::env::var("CARGO"), workspace.exists()) {
        return build(&cargo, &workspace, &ourselves);
    }
    let beside = ourselves.with_file_name("hi");
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::iter::once(beside).chain(std::env::split_paths(&in_path).map(|folder| folder.join("hi")));
    candidates.into_iter().find(|candidate| candidate.is_file()).map_or_else(
        || {
            if workspace.exists() {
                build("cargo", &workspace, &ourselves)
            } else {
                Err(format!("there is no hi next to loadgen or in PATH: {FIX}."))
            }
        },
        Ok,
    )
}

/// Builds hi in our own profile, so that a run never measures an old or a slow build by mistake.
fn build(cargo: &str, workspace: &Path, ourselves: &Path) -> Result<PathBuf, String> {
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--bin", "hi", "--manifest-path"]).arg(workspace);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // Our own target folder, if it looks like one; an installed program has none.
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let folder = ourselves.ancestors().find(|folder| folder.ends_with(profile));
    let usual =
        || std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.with_file_name("target"), PathBuf::from);
    let target = folder.and_then(Path::parent).map_or_else(usual, Path::to_path_buf);
    command.arg("--target-dir").arg(&target);
    // Variables that `cargo run` sets for us would make build scripts that read them run again, now and after us.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|of_us| name.to_string_lossy().starts_with(of_us)) {
            command.env_remove(name);
        }
    }
    let failed = |error| format!("hi can't be built because {cargo} can't be run: {error}; {FIX}.");
    let mut build = command.spawn().map_err(failed)?;
    let (began, mut announced) = (Instant::now(), false);
    let built = loop {
        if let Some(status) = build.try_wait().map_err(failed)? {
            break status;
        }
        if !announced && began.elapsed() >= QUIET_BUILD_TIME {
            say("building hi, which may take minutes; use --hi for one that exists");
            announced = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if !built.success() {
        return Err(format!("hi can't be built: see cargo's message above, or {FIX}."));
    }
    Ok(target.join(profile).join("hi"))
}
