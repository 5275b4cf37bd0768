//! `hi health`: asks the internal port of a running server whether it is ready.
//!
//! It needs neither a runtime nor a shell around it: a health check is a process of its own every few seconds, in an image
//! that has nothing but hi.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::Value;

use crate::limits::{HEALTH_ANSWER_BYTES_MAX, HEALTH_TIME_MAX};

/// Asks for `/readyz`. Returns what to print if the server is ready; an address that means all addresses is asked on
/// loopback.
///
/// # Errors
/// The reasons why it is not ready, or why it can't be asked.
pub fn ask_whether_ready(address: SocketAddr) -> Result<String, String> {
    let address = SocketAddr::new(reachable(address.ip()), address.port());
    let answer = exchange(address).map_err(|error| {
        format!("The internal port at {address} can't be asked ({error}): is hi running, and is this its address?")
    })?;
    verdict(&answer)
        .unwrap_or_else(|| Err(format!("What answers at {address} is not the internal port of hi: check HI_INTERNAL.")))
}

fn reachable(listening: IpAddr) -> IpAddr {
    match listening {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// The whole answer to `GET /readyz`, head and body.
fn exchange(address: SocketAddr) -> io::Result<Vec<u8>> {
    let late = || io::Error::other(format!("no whole answer within {HEALTH_TIME_MAX:?}"));
    let deadline = Instant::now() + HEALTH_TIME_MAX;
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIME_MAX)?;
    write!(stream, "GET /readyz HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() > HEALTH_ANSWER_BYTES_MAX {
            return Err(late());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
    }
}

/// What the server says of itself, if the answer is one of hi's.
fn verdict(answer: &[u8]) -> Option<Result<String, String>> {
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let value: Value = serde_json::from_slice(&answer[body..]).ok()?;
    let is_ready = value["ready"].as_bool()?;
    let failed = value["checks"].as_array()?.iter().filter(|check| check["ok"] == false);
    let details: Vec<_> = failed.filter_map(|check| check["detail"].as_str()).collect();
    // A check that fails without deciding is worth a line, too.
    let told = [&[if is_ready { "ready" } else { "not ready" }], &details[..]].concat();
    Some(if is_ready { Ok(told.join("\n") + "\n") } else { Err(told.join(": ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checks_that_failed_are_shown_with_the_verdict() {
        let verdict = |body: &str| verdict(format!("HTTP/1.1 200 OK\r\n\r\n{body}").as_bytes());
        let checks = r#"[{"ok":true,"detail":"Fine."},{"ok":false,"detail":"The path is broken."}]"#;
        let ready = verdict(&format!(r#"{{"ready":true,"checks":{checks}}}"#));
        assert_eq!(ready, Some(Ok("ready\nThe path is broken.\n".to_owned())));
        let not_ready = verdict(&format!(r#"{{"ready":false,"checks":{checks}}}"#));
        assert_eq!(not_ready, Some(Err("not ready: The path is broken.".to_owned())));
        for foreign in ["ok", "{}", "[]", r#"{"ready":1,"checks":[]}"#, r#"{"ready":true}"#] {
            assert_eq!(verdict(foreign), None, "{foreign}");
        }
    }
}
