//! Checks before the first client connects. Each error is one sentence that says how to fix it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::os;
use crate::plan::Plan;
use crate::secrets::without_secrets;
use crate::target::Target;
use crate::wire::{self, Answer};

/// Open files other than connections.
const FILES_BESIDE: u64 = 64;
/// Bytes per client, ours and the kernel's (both ends, if the server is on this machine).
const MEMORY_PER_CLIENT_BYTES: u64 = 16 * 1024;
/// Time limit for the target to accept and answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// How long to wait for the rest of an answer, or for the end of a connection that we close.
const REST_TIME_MAX: Duration = Duration::from_millis(500);
/// Bytes of it that are kept.
const REST_BYTES_MAX: usize = 16 * 1024;

/// Raises the file limit, and checks that files and memory suffice.
///
/// # Errors
/// One sentence: what is missing, and the command that fixes it.
pub fn check_limits(plan: &Plan) -> Result<(), String> {
    let needed = (plan.clients + plan.rooms * plan.publishers) as u64 + FILES_BESIDE;
    let (soft, hard) = os::raise_file_limit();
    if soft < needed {
        return Err(format!(
            "{} clients need {needed} open files and the limit is {soft} (hard: {hard}): run `ulimit -Hn {needed} && ulimit \
             -n {needed}` as root in this shell first, or use fewer clients.",
            plan.clients
        ));
    }
    os::grow_file_table(needed);
    let memory = plan.clients as u64 * MEMORY_PER_CLIENT_BYTES;
    match os::available_memory_bytes() {
        Some(available) if available < memory => Err(format!(
            "{} clients need about {} MiB and {} MiB are available: use fewer clients.",
            plan.clients,
            memory >> 20,
            available >> 20
        )),
        _ => Ok(()),
    }
}

/// Checks that there are enough local ports.
///
/// # Errors
/// One sentence: how many there are, and the command that fixes it.
pub fn check_ports(connections: usize, ports: usize, target: SocketAddr) -> Result<(), String> {
    // Loopback has enough addresses, whatever the range: see `os::source_address`.
    if os::has_other_sources(target) || connections <= ports {
        return Ok(());
    }
    Err(format!(
        "{connections} connections to {target} need one local port each, and there are {ports} (hard limit: 64512): run \
         `sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"` as root, or use fewer clients."
    ))
}

/// One handshake, checked closely before thousands of them, at the first address that accepts a connection. Returns
/// that address.
///
/// # Errors
/// One sentence: what the target did instead of opening a WebSocket.
pub fn try_target(addresses: &[SocketAddr], target: &Target, path: &str) -> Result<SocketAddr, String> {
    // One time limit for everything, however slowly it arrives.
    let until = Instant::now() + ANSWER_TIME_MAX;
    let host = &target.host;
    let (mut stream, address) = connect_first(addresses, host, until)?;
    let failed = |error| format!("{host} accepts the connection at {address}, but the handshake fails: {error}.");
    stream.set_write_timeout(left(until)).map_err(failed)?;
    stream.write_all(target.request(path).as_bytes()).map_err(failed)?;
    let path = without_secrets(path);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let late = |what: &str| {
            let seconds = ANSWER_TIME_MAX.as_secs();
            Err(format!("{host} gave {what} answer to {path} within {seconds} s at {address}."))
        };
        let what = if answer.is_empty() { "no" } else { "no complete" };
        let Some(time) = left(until) else { return late(what) };
        stream.set_read_timeout(Some(time)).map_err(failed)?;
        match stream.read(&mut buffer) {
            Ok(0) if answer.is_empty() => {
                return Err(format!("{host} closed the connection without an answer to {path}."));
            }
            Ok(0) => return Err(format!("{host} closed the connection in the middle of its answer to {path}.")),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return late(what),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
        match wire::read_answer(&answer) {
            Answer::Partial => {}
            Answer::Open(head) => {
                if let Some(subprotocol) = target.subprotocol
                    && !chooses(&answer[..head], subprotocol)
                {
                    return Err(format!(
                        "{host} opens a WebSocket at {path}, but without the subprotocol {subprotocol}."
                    ));
                }
                let mut close = Vec::new();
                wire::write_frame(&mut close, wire::CLOSE, &1000u16.to_be_bytes());
                // A clean close, so that the server has released it when the run begins.
                let _ = stream.write_all(&close);
                read_rest(&mut stream, &mut answer);
                return Ok(address);
            }
            Answer::Refused(_) => {
                // The body may arrive after the head.
                read_rest(&mut stream, &mut answer);
                let Answer::Refused(why) = wire::read_answer(&answer) else { unreachable!("the head is the same") };
                return Err(format!("{host} doesn't open a WebSocket at {path}: it answers {why}"));
            }
        }
    }
}

/// Whether the head of an answer has chosen this subprotocol.
fn chooses(head: &[u8], subprotocol: &str) -> bool {
    String::from_utf8_lossy(head)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| name.eq_ignore_ascii_case("sec-websocket-protocol") && value.trim() == subprotocol)
}

/// Connects to the first of these addresses that accepts. Sequentially (RFC 8305 without its head start); each gets its
/// share of the time left, so that an unresponsive one leaves some for the others.
fn connect_first(addresses: &[SocketAddr], host: &str, until: Instant) -> Result<(TcpStream, SocketAddr), String> {
    let tried = &addresses[..addresses.len().min(ADDRESSES_MAX)];
    let mut failures = Vec::new();
    for (index, address) in tried.iter().enumerate() {
        let Some(time) = left(until) else { break };
        match TcpStream::connect_timeout(address, time / (tried.len() - index) as u32) {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => failures.push(format!("at {address}: {error}")),
        }
    }
    Err(format!("{host} can't be reached {}.", failures.join(", nor ")))
}

/// The time left, if any.
fn left(until: Instant) -> Option<Duration> {
    Some(until.saturating_duration_since(Instant::now())).filter(|left| *left >= Duration::from_millis(1))
}

/// Reads until the server ends the connection, for a limited time.
fn read_rest(stream: &mut TcpStream, answer: &mut Vec<u8>) {
    let until = Instant::now() + REST_TIME_MAX;
    let mut buffer = [0; 4096];
    loop {
        let Some(left) = left(until) else { return };
        if stream.set_read_timeout(Some(left)).is_err() {
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
    use std::net::TcpListener;

    use super::*;

    /// A loopback address where nobody listens.
    fn closed() -> SocketAddr {
        TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
    }

    #[test]
    fn all_addresses_of_a_name_are_tried_in_order() {
        let [one, other] = [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let [one, other] = [&one, &other].map(|listener| listener.local_addr().unwrap());
        let soon = || Instant::now() + Duration::from_secs(5);
        let reached = |addresses: &[SocketAddr]| connect_first(addresses, "two", soon()).map(|(_, address)| address);
        assert_eq!(reached(&[closed(), other]), Ok(other));
        assert_eq!(reached(&[one, other]), Ok(one));
        let (first, second) = (closed(), closed());
        let complaint = reached(&[first, second]).unwrap_err();
        assert!(complaint.starts_with("two can't be reached at ") && complaint.lines().count() == 1, "{complaint}");
        assert!(complaint.contains(&first.to_string()) && complaint.contains(&second.to_string()), "{complaint}");
    }

    #[test]
    fn an_unresponsive_address_leaves_time_for_the_next_one() {
        // Its queue is full, so the kernel answers no further SYN.
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        silent.listen(0).unwrap();
        let address = silent.local_addr().unwrap().as_socket().unwrap();
        let fill = || TcpStream::connect_timeout(&address, Duration::from_millis(200));
        let _full: Vec<_> = std::iter::repeat_with(fill).take(64).map_while(Result::ok).collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let other = listener.local_addr().unwrap();
        let until = Instant::now() + Duration::from_secs(2);
        assert_eq!(connect_first(&[address, other], "two", until).map(|(_, address)| address), Ok(other));
    }

    #[test]
    fn ports_run_out_only_with_a_single_source_address() {
        let (loopback, other) = (([127, 0, 0, 1], 80).into(), ([10, 0, 0, 1], 80).into());
        assert_eq!(check_ports(100_000, 28_232, loopback), Ok(()));
        assert_eq!(check_ports(28_232, 28_232, other), Ok(()));
        let sentence = check_ports(28_233, 28_232, other).unwrap_err();
        assert!(sentence.contains("ip_local_port_range") && sentence.lines().count() == 1, "{sentence}");
        assert!(check_ports(100_000, 28_232, "[::1]:80".parse().unwrap()).is_err());
    }
}
