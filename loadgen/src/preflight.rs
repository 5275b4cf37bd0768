//! What has to be in order before the first client connects; each complaint is one sentence with its mend.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::os;
use crate::plan::{Outputs, Plan};
use crate::wire::{self, Answer};

/// Files that are open beside the connections.
const FILES_BESIDE: u64 = 64;
/// What a client costs, ours and the kernel's (both ends, if the server is on this machine), in bytes.
const MEMORY_PER_CLIENT_BYTES: u64 = 16 * 1024;
/// The target answers within this time.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// The rest of an answer, or the end of a connection that we close, is waited for so long.
const REST_TIME_MAX: Duration = Duration::from_millis(500);
/// Of the rest, so much is kept.
const REST_BYTES_MAX: usize = 16 * 1024;

/// The output files, created.
#[derive(Debug, Default)]
pub struct Files {
    /// `--json`.
    pub json: Option<(PathBuf, File)>,
    /// `--hgrm`.
    pub hgrm: Option<(PathBuf, File)>,
    /// `--html`.
    pub html: Option<(PathBuf, File)>,
    /// `--svg`.
    pub svg: Option<(PathBuf, File)>,
}

impl Files {
    /// Creates every file, so that none turns out to be unwritable after the run. What a file holds stays there until
    /// there is a result.
    ///
    /// # Errors
    /// One sentence: which, and why.
    pub fn create(outputs: &Outputs) -> Result<Self, String> {
        let files = Self {
            json: create(outputs.json.as_ref())?,
            hgrm: create(outputs.hgrm.as_ref())?,
            html: create(outputs.html.as_ref())?,
            svg: create(outputs.svg.as_ref())?,
        };
        let created = [&files.json, &files.hgrm, &files.html, &files.svg];
        each_its_own(&created.into_iter().flatten().map(|(path, _)| path.as_path()).collect::<Vec<_>>())?;
        Ok(files)
    }
}

/// Sees that no two of these paths lead to the same file: one would overwrite the other. Devices and pipes may be named
/// twice.
///
/// # Errors
/// One sentence: which do.
pub fn each_its_own(paths: &[&Path]) -> Result<(), String> {
    let identity = |path: &Path| {
        let metadata = path.metadata().ok().filter(|metadata| metadata.is_file());
        metadata.map(|metadata| (metadata.dev(), metadata.ino()))
    };
    for (index, path) in paths.iter().enumerate() {
        let same =
            |before: &&&Path| identity(path).is_some_and(|identity_of_it| identity(before) == Some(identity_of_it));
        if let Some(before) = paths[..index].iter().find(same) {
            let (before, path) = (before.display(), path.display());
            return Err(format!("{before} and {path} are the same file: name one for each."));
        }
    }
    Ok(())
}

/// Creates one file.
///
/// # Errors
/// One sentence: which, and why.
pub fn create(path: Option<&PathBuf>) -> Result<Option<(PathBuf, File)>, String> {
    let Some(path) = path else { return Ok(None) };
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| format!("{} can't be written: {error}.", path.display()))?;
    Ok(Some((path.clone(), file)))
}

/// Raises the file limit, and sees that files and memory are enough.
///
/// # Errors
/// One sentence: what is short, and the line that mends it.
pub fn check_limits(plan: &Plan) -> Result<(), String> {
    let needed = (plan.clients + plan.rooms * plan.publishers) as u64 + FILES_BESIDE;
    let (soft, hard) = os::raise_file_limit();
    if soft < needed {
        return Err(format!(
            "{} clients need {needed} open files and the limit is {soft} (hard: {hard}): run `ulimit -Hn {needed} && ulimit \
             -n {needed}` as root in this shell first, or take fewer clients.",
            plan.clients
        ));
    }
    os::grow_file_table(needed);
    let memory = plan.clients as u64 * MEMORY_PER_CLIENT_BYTES;
    match os::available_memory_bytes() {
        Some(available) if available < memory => Err(format!(
            "{} clients need about {} MiB and {} MiB are available: take fewer clients.",
            plan.clients,
            memory >> 20,
            available >> 20
        )),
        _ => Ok(()),
    }
}

/// Sees that there are ports enough to connect from.
///
/// # Errors
/// One sentence: how many there are, and the line that mends it.
pub fn check_ports(connections: usize, ports: usize, target: SocketAddr) -> Result<(), String> {
    // Loopback has addresses enough, whatever the range: `os::source_address`.
    if os::has_other_sources(target) || connections <= ports {
        return Ok(());
    }
    Err(format!(
        "{connections} connections to {target} need as many ports of this machine, and it has {ports} (hard limit: 64512): run \
         `sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"` as root, or take fewer clients."
    ))
}

/// One handshake, looked at closely, before ten thousand of them.
///
/// # Errors
/// One sentence: what the target did instead of opening a WebSocket.
pub fn try_target(address: SocketAddr, host: &str, path: &str) -> Result<(), String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIME_MAX)
        .map_err(|error| format!("{host} can't be reached at {address}: {error}."))?;
    let failed = |error| format!("{host} accepts the connection, and then the handshake fails: {error}.");
    stream.set_read_timeout(Some(ANSWER_TIME_MAX)).map_err(failed)?;
    stream.write_all(wire::request(host, path).as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) if answer.is_empty() => {
                return Err(format!("{host} closed the connection without an answer to {path}."));
            }
            Ok(0) => return Err(format!("{host} closed the connection in the middle of its answer to {path}.")),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return Err(format!("{host} gave no answer to {path} within {} s.", ANSWER_TIME_MAX.as_secs()));
            }
            Err(error) => return Err(failed(error)),
        }
        match wire::read_answer(&answer) {
            Answer::Partial => {}
            Answer::Open(_) => {
                let mut close = Vec::new();
                wire::write_frame(&mut close, wire::CLOSE, &1000u16.to_be_bytes());
                // Leaves in order, so that the server has forgotten it when the run begins.
                let _ = stream.write_all(&close);
                read_rest(&mut stream, &mut answer);
                return Ok(());
            }
            Answer::Refused(_) => {
                // The body may come behind its head.
                read_rest(&mut stream, &mut answer);
                let Answer::Refused(why) = wire::read_answer(&answer) else { unreachable!("the head is the same") };
                return Err(format!("{host} doesn't open a WebSocket at {path}: it answers {why}"));
            }
        }
    }
}

/// Reads until the server ends the connection; if it goes on talking or holds it open, not for long.
fn read_rest(stream: &mut TcpStream, answer: &mut Vec<u8>) {
    let until = Instant::now() + REST_TIME_MAX;
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) if answer.len() < REST_BYTES_MAX => answer.extend_from_slice(&buffer[..count]),
            Ok(1..) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_short_only_where_there_is_one_address_to_come_from() {
        let (loopback, other) = (([127, 0, 0, 1], 80).into(), ([10, 0, 0, 1], 80).into());
        assert_eq!(check_ports(100_000, 28_232, loopback), Ok(()));
        assert_eq!(check_ports(28_232, 28_232, other), Ok(()));
        let sentence = check_ports(28_233, 28_232, other).unwrap_err();
        assert!(sentence.contains("ip_local_port_range") && sentence.lines().count() == 1, "{sentence}");
        assert!(check_ports(100_000, 28_232, "[::1]:80".parse().unwrap()).is_err());
    }
}
