//! Tests of `head.rs`, beside it.

use super::*;
use proptest::prelude::*;

const HANDSHAKE: &[u8] = b"GET /ws?username=a HTTP/1.1\r\nHost: x\r\nupgrade:websocket\r\n\
    Connection: keep-alive ,\t Upgrade,,\r\nX-Empty:\r\n\r\n";

fn whole(bytes: &[u8]) -> Head<'_> {
    let (head, used) = parse(bytes).expect("well-formed").expect("whole");
    assert_eq!(used, bytes.len());
    head
}

fn with(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n").into_bytes()
}

fn refused(bytes: &[u8]) -> (u16, String) {
    let error = parse(bytes).expect_err("refused");
    (error.reason().status(), error.to_string())
}

#[test]
fn a_handshake_is_taken_apart() {
    let head = whole(HANDSHAKE);
    assert_eq!((head.method, head.target, head.version), ("GET", "/ws?username=a", Version::Http11));
    assert_eq!(head.headers[1], ("upgrade", &b"websocket"[..]));
    assert_eq!(head.header("HOST").collect::<Vec<_>>(), [b"x"]);
    assert_eq!(head.header("x-empty").collect::<Vec<_>>(), [b""]);
    assert!(head.has_token("connection", "upgrade") && head.has_token("Upgrade", "WebSocket"));
    assert!(!head.has_token("connection", "up") && !head.has_token("x-empty", ""));
    assert!(head.keep_alive() && !head.body_declared());
}

#[test]
fn a_list_may_be_spread_over_headers() {
    let bytes = with("Connection: close\r\nCONNECTION: foo, UPGRADE\r\n");
    let head = whole(&bytes);
    assert!(head.has_token("Connection", "Upgrade") && head.has_token("Connection", "close"));
    assert_eq!(head.tokens("connection").count(), 3);
    assert!(!head.keep_alive());
}

#[test]
fn what_follows_the_head_is_left_alone() {
    let bytes = [HANDSHAKE, b"\x81\x80\0\0\0\0\r\n\r\n"].concat();
    let (head, used) = parse(&bytes).expect("well-formed").expect("whole");
    assert_eq!((head, used), (whole(HANDSHAKE), HANDSHAKE.len()));
    let bytes = [b"\r\n\r\n", HANDSHAKE].concat();
    assert_eq!(whole(&bytes), whole(HANDSHAKE));
}

#[test]
fn keep_alive_follows_the_version() {
    assert!(!whole(b"GET / HTTP/1.0\r\n\r\n").keep_alive());
    assert!(whole(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive());
    assert!(!whole(&with("Connection: close\r\n")).keep_alive());
}

#[test]
fn bodies_are_seen_and_ambiguous_ones_refused() {
    assert!(whole(&with("Content-Length: 5\r\n")).body_declared());
    assert!(whole(&with("Transfer-Encoding: gzip, chunked\r\n")).body_declared());
    assert!(!whole(&with("Content-Length: 0\r\n")).body_declared());
    for lines in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        assert_eq!(refused(&with(lines)).0, 400, "{lines:?}");
    }
    assert_eq!(refused(b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").0, 400);
}

#[test]
fn exactly_one_host_in_http11() {
    assert!(refused(b"GET / HTTP/1.1\r\n\r\n").1.contains("Host header is missing"));
    assert!(refused(&with("host: y\r\n")).1.contains("more than one Host"));
}

#[test]
fn a_bad_line_is_named() {
    for (lines, what) in [
        ("A: b\r\n folded\r\n", "line 4: it starts with white space"),
        ("A : b\r\n", "line 3: there is white space between"),
        ("A\r\n", "line 3: a header has no colon"),
        (": b\r\n", "line 3: a header's name"),
        ("A\u{e9}: b\r\n", "line 3: a header's name"),
        ("A: b\0c\r\n", "line 3: a header's value has a control character"),
        ("A: b\rc\r\n", "line 3: a header's value has a control character"),
        ("\rA: b\r\n", "line 3: a header's name"),
        ("A: b\nC: d\r\n", "line 3 ends with LF alone"),
    ] {
        let (status, sentence) = refused(&with(lines));
        assert_eq!(status, 400, "{lines:?}");
        assert!(sentence.contains(what), "{lines:?}: {sentence}");
    }
}

#[test]
fn request_lines_that_are_none() {
    for line in [
        "GET /\r\n",
        "GET  / HTTP/1.1\r\n",
        "GET / HTTP/1.1 \r\n",
        "GET / HTP/1.1\r\n",
        "G(T / HTTP/1.1\r\n",
        "GET /\x7f HTTP/1.1\r\n",
        "GET / HTTP/1.1x\r\n",
        "\r\n\r\n\r\n\r\n\r\n",
    ] {
        assert_eq!(refused(format!("{line}Host: x\r\n\r\n").as_bytes()).0, 400, "{line:?}");
    }
    assert_eq!(refused(b"GET / HTTP/3.0\r\n\r\n"), (505, "HTTP/3.0 is not spoken here: use HTTP/1.1.".to_owned()));
}

#[test]
fn other_protocols_are_told_by_their_first_bytes() {
    assert_eq!(parse(b"\x16\x03\x01"), Err(HeadError::Tls));
    assert_eq!(parse(b"PRI * HTTP/2.0\r\n"), Err(HeadError::Http2));
    assert_eq!(parse(b"PRI * HTTP/2.0\r"), Ok(None));
    assert!(refused(b"\0").1.contains("does not start with a method"));
}

#[test]
fn the_limits_are_exact() {
    let padded = |bytes: usize| {
        let rest = b"GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n".len();
        with(&format!("A: {}\r\n", "a".repeat(bytes - rest)))
    };
    assert!(parse(&padded(HEAD_BYTES_MAX)).is_ok_and(|head| head.is_some()));
    assert_eq!(parse(&padded(HEAD_BYTES_MAX + 1)), Err(HeadError::TooLarge));
    assert_eq!(parse(&padded(HEAD_BYTES_MAX)[..HEAD_BYTES_MAX - 1]), Ok(None));
    assert!(parse(&with(&"A: b\r\n".repeat(HEADERS_MAX - 1))).is_ok());
    assert_eq!(parse(&with(&"A: b\r\n".repeat(HEADERS_MAX))), Err(HeadError::TooManyHeaders));
}

/// What the twin says of whole bytes: nothing yet, a head (method, target, minor version, headers, length), a status.
type Twin = Result<Option<(String, String, u8, Vec<(String, Vec<u8>)>, usize)>, u16>;

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| is_token_byte(*b))
}

/// The same rules written for reading only: line by line, copying everything, from the start each time.
fn twin(bytes: &[u8]) -> Twin {
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") && start < 8 {
        start += 2;
    }
    match bytes[start..] {
        [] | [b'\r'] if start < 8 => return Ok(None),
        [] => return Ok(None),
        [first, ..] if !is_token(&[first]) => return Err(400),
        _ if bytes[start..].starts_with(b"PRI * HTTP/2.0\r\n") => return Err(505),
        _ => {}
    }
    let mut lines = Vec::new();
    let mut used = start;
    for line in bytes[start..bytes.len().min(HEAD_BYTES_MAX)].split_inclusive(|b| *b == b'\n') {
        used += line.len();
        lines.push(line);
        if line == b"\n" || line == b"\r\n" {
            break;
        }
    }
    if !matches!(lines.last(), Some(&b"\n") | Some(&b"\r\n")) {
        return if bytes.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(431) };
    }
    if lines.iter().any(|line| !line.ends_with(b"\r\n")) {
        return Err(400);
    }
    let mut lines = lines.into_iter().map(|line| &line[..line.len() - 2]);
    let words: Vec<&[u8]> = lines.next().unwrap_or_default().split(|b| *b == b' ').collect();
    let [method, target, version] = words[..] else {
        return Err(400);
    };
    let target = String::from_utf8(target.to_vec()).map_err(|_| 400u16)?;
    if !is_token(method) || target.is_empty() || target.bytes().any(|b| b.is_ascii_control()) {
        return Err(400);
    }
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        [b'H', b'T', b'T', b'P', b'/', a, b'.', b] if (a.is_ascii_digit() && b.is_ascii_digit()) => {
            return Err(505);
        }
        _ => return Err(400),
    };
    let headers = twin_headers(lines)?;
    twin_checks(minor, &headers)?;
    Ok(Some((String::from_utf8_lossy(method).into(), target, minor, headers, used)))
}

fn twin_headers<'b>(lines: impl Iterator<Item = &'b [u8]>) -> Result<Vec<(String, Vec<u8>)>, u16> {
    let mut headers = Vec::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let colon = line.iter().position(|b| *b == b':').ok_or(400u16)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !is_token(name) || value.iter().any(|b| (*b < 32 && *b != b'\t') || *b == 127) {
            return Err(400);
        }
        if headers.len() == HEADERS_MAX {
            return Err(431);
        }
        let value = value.iter().copied().skip_while(|b| b" \t".contains(b));
        let mut value: Vec<u8> = value.collect();
        while value.last().is_some_and(|b| b" \t".contains(b)) {
            value.pop();
        }
        headers.push((String::from_utf8_lossy(name).into(), value));
    }
    Ok(headers)
}

fn twin_checks(minor: u8, headers: &[(String, Vec<u8>)]) -> Result<(), u16> {
    let all = |name: &str| -> Vec<String> {
        let of = headers.iter().filter(|(n, _)| n.to_lowercase() == name);
        of.map(|(_, value)| String::from_utf8_lossy(value).to_lowercase()).collect()
    };
    let (hosts, lengths, codings) = (all("host"), all("content-length"), all("transfer-encoding"));
    let coding = codings.join(",");
    let last = coding.split(',').map(|c| c.trim_matches([' ', '\t'])).rfind(|c| !c.is_empty());
    let number = |text: &String| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let valid = (hosts.len() == 1 || (hosts.is_empty() && minor == 0))
        && (lengths.is_empty() || (lengths.len() == 1 && number(&lengths[0])))
        && (codings.is_empty() || (lengths.is_empty() && minor == 1 && last == Some("chunked")));
    if valid { Ok(()) } else { Err(400) }
}

fn as_twin(result: Result<Option<(Head<'_>, usize)>, HeadError>) -> Twin {
    let found = result.map_err(|error| error.reason().status())?;
    Ok(found.map(|(head, used)| {
        let headers = head.headers.iter().map(|(n, v)| ((*n).to_owned(), v.to_vec())).collect();
        let minor = u8::from(head.version == Version::Http11);
        (head.method.to_owned(), head.target.to_owned(), minor, headers, used)
    }))
}

/// Heads that are nearly right: whole lines put together, then bytes replaced, removed and put in.
fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![8 => Just("GET /ws?username=a HTTP/1.1\r\n"), 1 => Just("PUT / HTTP/1.0\r\n"),
        1 => Just("\r\nGET http://h/ws HTTP/1.1\r\n"), 1 => Just("PRI * HTTP/2.0\r\n"), 1 => Just("G / HTTP/1.2\r\n")];
    let line = prop_oneof![
        Just("Upgrade: websocket\r\n".to_owned()),
        Just("Connection: keep-alive, Upgrade\r\n".to_owned()),
        Just("Content-Length: 12\r\n".to_owned()),
        Just("Transfer-Encoding:chunked , \r\n".to_owned()),
        Just("A:\r\n".to_owned()),
        Just(" folded\r\n".to_owned()),
        Just("X-Y: b\t\n".to_owned()),
        "[a-zA-Z!#~-]{1,9}:[ \t]{0,2}[ -~\u{e9}]{0,30}\r\n"
    ];
    let change = (any::<prop::sample::Index>(), 0..3u8, prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b' ')]);
    let repeat = prop_oneof![6 => Just(1usize), 1 => Just(30), 1 => Just(400)];
    (start, prop::collection::vec(line, 0..5), repeat, prop::collection::vec(change, 0..3)).prop_map(
        |(start, lines, repeat, changes)| {
            let lines = lines.concat().repeat(repeat);
            let mut bytes = format!("{start}Host: x\r\n{lines}\r\nbehind\r\n\r\n").into_bytes();
            for (at, what, b) in changes {
                let at = at.index(bytes.len());
                match what {
                    0 => bytes[at] = b,
                    1 => bytes.insert(at, b),
                    _ => drop(bytes.remove(at)),
                }
            }
            bytes
        },
    )
}

/// The twin is quadratic when it is asked at every byte: beyond this length, a stride of a few bytes.
fn stride(bytes: &[u8]) -> usize {
    1 + bytes.len() / 500
}

proptest! {
    #[test]
    fn agrees_with_the_twin_at_every_split(bytes in nearly_a_head()) {
        let mut searched = 0;
        let mut done = None;
        for len in (0..bytes.len()).step_by(stride(&bytes)).chain([bytes.len()]) {
            let now = as_twin(parse_more(&bytes[..len], searched));
            prop_assert_eq!(&now, &as_twin(parse(&bytes[..len])));
            prop_assert_eq!(&now, &twin(&bytes[..len]));
            match &done {
                Some(before) => prop_assert_eq!(before, &now, "a verdict is final"),
                None if now != Ok(None) => done = Some(now),
                None => searched = len,
            }
        }
    }

    #[test]
    fn any_bytes_are_survived_and_judged_like_the_twin(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(as_twin(parse(&bytes)), twin(&bytes));
        let text: Vec<u8> = bytes.iter().map(|b| b"GET / HTTP/1.1\r\n: \t\0a\xe9"[usize::from(b % 22)]).collect();
        prop_assert_eq!(as_twin(parse(&text)), twin(&text));
    }

    #[test]
    fn the_end_is_found_wherever_the_search_was_broken_off(bytes in "[\r\na]{0,40}", at in 0..40usize) {
        let bytes = bytes.as_bytes();
        let at = at.min(bytes.len());
        if find_end(&bytes[..at], 0).is_none() {
            prop_assert_eq!(find_end(bytes, at), find_end(bytes, 0));
        }
    }
}
