//! The answers to a request for server-sent events and to a browser's preflight (the Fetch standard, 3.2). Pure.

use super::head::Head;
use super::origin::Allowed;
use super::response::Response;
use super::target::{TargetError, last_event_id};
use crate::protocol::position::Since;
use crate::protocol::sse;

/// The methods of `/stream/ROOM`.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// The head of a stream. The stream ends with the connection, so that it passes HTTP/1.0 hops; no cache may store it, and
/// nginx may not buffer it. To be sent with [`Response::encode_open`].
pub(crate) fn opened(head: &Head<'_>, allowed: &[Allowed]) -> Response {
    let response = Response::new(200, "text/event-stream", "").header("Cache-Control", "no-store");
    sharing(response.header("X-Accel-Buffering", "no"), head, allowed)
}

/// The answer to a preflight, which `fetch` sends before a request with `Last-Event-ID` to another origin.
pub(crate) fn preflight(head: &Head<'_>, allowed: &[Allowed]) -> Response {
    let response = Response::text(204, "")
        .header("Allow", METHODS)
        .header("Access-Control-Allow-Methods", METHODS)
        .header("Access-Control-Allow-Headers", "Authorization, Last-Event-ID, Cache-Control");
    sharing(response, head, allowed)
}

/// The answer to any other method.
pub(crate) fn method_not_allowed() -> Response {
    Response::text(405, "Events are there to be read: use GET. Messages go through /ws.").header("Allow", METHODS)
}

/// The listener's position in the room, if it sends one: in `Last-Event-ID`, or in the query if it is a polyfill that can't set
/// that header. A browser that reconnects to such an address sends both, and the header is newer.
///
/// # Errors
/// The query gives it twice, or not in UTF-8.
pub(crate) fn since(head: &Head<'_>, query: &str) -> Result<Option<Since>, TargetError> {
    let header = head.header("last-event-id").next().filter(|value| !value.is_empty());
    if let Some(value) = header {
        return Ok(Some(sse::parse_last_event_id(value)));
    }
    let id = last_event_id(query)?.filter(|id| !id.is_empty());
    Ok(id.map(|id| sse::parse_last_event_id(id.as_bytes())))
}

/// Lets the requesting page read the answer. Its origin has been checked.
fn sharing(response: Response, head: &Head<'_>, allowed: &[Allowed]) -> Response {
    if allowed.contains(&Allowed::Any) {
        return response.header("Access-Control-Allow-Origin", "*");
    }
    let response = response.header("Vary", "Origin");
    match head.header("origin").next().and_then(|origin| std::str::from_utf8(origin).ok()) {
        Some(origin) => response.header("Access-Control-Allow-Origin", origin),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::parse;
    use super::super::reason::Reason;
    use super::*;

    fn lines(headers: &str, allowed: &[&str]) -> String {
        let allowed: Vec<Allowed> = allowed.iter().map(|text| text.parse().expect("an origin")).collect();
        let text = format!("GET /stream/tea HTTP/1.0\r\n{headers}\r\n");
        let (head, _) = parse(text.as_bytes()).expect("well-formed").expect("whole");
        String::from_utf8(opened(&head, &allowed).encode_open().to_vec()).unwrap()
    }

    #[test]
    fn the_head_announces_no_length_and_no_chunks() {
        let head = lines("", &["same-host"]);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"), "{head}");
        assert!(head.contains("\r\nConnection: close\r\n") && head.contains("\r\nX-Accel-Buffering: no\r\n"), "{head}");
        assert!(head.ends_with("\r\n\r\n") && !head.contains("Content-Length") && !head.contains("Transfer"), "{head}");
    }

    #[test]
    fn the_query_says_what_the_header_says_unless_that_is_there() {
        let asked = |headers: &str, query: &str| {
            let text = format!("GET / HTTP/1.0\r\n{headers}\r\n");
            let (head, _) = parse(text.as_bytes()).expect("well-formed").expect("whole");
            since(&head, query)
        };
        let in_header = |id: &str| asked(&format!("Last-Event-ID: {id}\r\n"), "").expect("a header");
        let id = "000000000000000a:7";
        assert!(in_header(id).is_some() && in_header(id) != in_header("000000000000000a:8"));
        for query in ["lastEventId=000000000000000a:7", "x=y&lastEventID=000000000000000a%3A7&x=z"] {
            assert_eq!(asked("", query).expect("a query"), in_header(id), "{query}");
            let newer = asked("Last-Event-ID: 000000000000000a:8\r\n", query).expect("a header");
            assert_eq!(newer, in_header("000000000000000a:8"), "{query}");
        }
        for query in ["", "lastEventId=", "lasteventid=000000000000000a:7"] {
            assert_eq!(asked("", query).expect("nothing"), None, "{query}");
        }
        for query in ["lastEventId=1&lastEventId=2", "lastEventId=1&lastEventID=2", "lastEventId=%zz"] {
            assert_eq!(asked("", query).unwrap_err().reason, Reason::QueryInvalid, "{query}");
        }
    }

    #[test]
    fn pages_that_may_open_websockets_may_read_events() {
        let any = lines("Origin: https://a.example\r\n", &["any"]);
        assert!(any.contains("\r\nAccess-Control-Allow-Origin: *\r\n"), "{any}");
        let listed = lines("Origin: https://a.example\r\n", &["https://a.example"]);
        assert!(listed.contains("\r\nAccess-Control-Allow-Origin: https://a.example\r\n"), "{listed}");
        assert!(listed.contains("\r\nVary: Origin\r\n"), "{listed}");
        let same_origin = lines("", &["https://a.example"]);
        assert!(
            !same_origin.contains("Access-Control") && same_origin.contains("\r\nVary: Origin\r\n"),
            "{same_origin}"
        );
    }
}
