//! Where clients come from, behind real proxies: which address hi takes them to have, and who can change that.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use serde_json::Value;
use support::proxies::{Kind, Proxy, Setup, free_port};
use support::{Client, PATIENCE, Server, wait_while};
use tungstenite::http::Uri;
use tungstenite::{Error, HandshakeError};

/// The client's own address: another one than that of the proxies.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// What a client claims to be.
const FORGED: &str = "198.51.100.66";
const ECHO: &str = "/-/doctor/echo";

/// A connection from an address of this machine.
fn connect_from(ip: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&to.into()).expect("somebody accepts");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// The whole answer to a GET with these header lines.
fn get_over(mut stream: impl Read + Write, path: &str, headers: &[&str]) -> String {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: hi\r\nConnection: close\r\n{lines}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What hi says of a request: the client's address, and what tells it.
fn located(stream: impl Read + Write, headers: &[&str]) -> (String, String) {
    let answer = get_over(stream, ECHO, headers);
    let start = answer.find('{').unwrap_or_else(|| panic!("no JSON: {answer}"));
    let end = answer.rfind('}').unwrap();
    let echo: Value = serde_json::from_str(&answer[start..=end]).unwrap_or_else(|_| panic!("not JSON: {answer}"));
    let text = |key: &str| echo[key].as_str().unwrap_or_else(|| panic!("no {key}: {echo}")).to_owned();
    (text("client"), text("client_from"))
}

fn is(address: impl Into<IpAddr>, from: &str) -> (String, String) {
    (address.into().to_string(), from.to_owned())
}

#[test]
fn an_untrusted_header_changes_nothing_and_is_counted_and_told_once() {
    let (server, internal) = Server::start_with_internal(&[]);
    let forged = format!("X-Forwarded-For: {FORGED}");
    for _ in 0..3 {
        assert_eq!(located(connect_from(CLIENT, server.address()), &[&forged]), is(CLIENT, "peer"));
    }
    // Another header than the chosen one is not looked at.
    assert_eq!(located(server.connect(), &["X-Real-IP: 198.51.100.66"]), is(Ipv4Addr::LOCALHOST, "peer"));
    internal.wait_for_metric("hi_untrusted_headers_total{header=\"x-forwarded-for\"}", 3.0);
    internal.wait_for_metric("hi_untrusted_headers_total{header=\"x-real-ip\"}", 0.0);
    let line = server.wait_for_log("x-forwarded-for, which is ignored");
    assert!(line.contains("add 127.0.0.9 to --trusted-proxies"), "{line}");
    assert_eq!(server.log().matches("which is ignored").count(), 1, "{}", server.log());
}

#[test]
fn a_trusted_header_is_the_address_in_the_log_and_in_the_echo() {
    let server = Server::start(&["--trusted-proxies", "loopback,10.0.0.0/8"]);
    let list = "X-Forwarded-For: 198.51.100.66, 203.0.113.7";
    assert_eq!(located(server.connect(), &[list, "x-forwarded-for: 10.1.1.1"]), is([203, 0, 113, 7], "header"));
    assert_eq!(located(server.connect(), &["X-Forwarded-For: unknown"]), is(Ipv4Addr::LOCALHOST, "peer"));
    let refused = get_over(server.connect(), "/ws", &[list]);
    assert!(refused.starts_with("HTTP/1.1 426 "), "{refused}");
    let line = server.wait_for_log("handshake from");
    assert!(line.contains("handshake from 203.0.113.7 (through 127.0.0.1:"), "{line}");
}

#[test]
fn the_header_is_the_one_that_was_chosen() {
    for (name, value) in
        [("Forwarded", "for=198.51.100.66, for=\"203.0.113.7:80\";proto=https"), ("CF-Connecting-IP", "203.0.113.7")]
    {
        let server = Server::start(&["--trusted-proxies=127.0.0.1", "--client-ip-header", name]);
        let forged = "X-Forwarded-For: 198.51.100.66";
        assert_eq!(located(server.connect(), &[forged, &format!("{name}: {value}")]), is([203, 0, 113, 7], "header"));
        assert_eq!(located(connect_from(CLIENT, server.address()), &[&format!("{name}: {value}")]), is(CLIENT, "peer"));
    }
}

/// A proxy in front of hi that passes the client's address on.
fn proxy(kind: Kind, upstream: SocketAddr) -> Setup {
    let site = match kind {
        Kind::Nginx => vec![
            format!("proxy_pass http://{upstream};"),
            "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;".to_owned(),
        ],
        Kind::Haproxy => vec!["option forwardfor".to_owned(), format!("server hi {upstream}")],
        Kind::Apache => vec![format!("ProxyPass / http://{upstream}/")],
        Kind::Caddy => vec![format!("reverse_proxy {upstream}")],
    };
    Setup::new(kind, &site.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn each_proxy_tells_the_client_s_own_address_whatever_the_client_claims() {
    let server = Server::start(&["--trusted-proxies", "127.0.0.1"]);
    let forged = format!("X-Forwarded-For: {FORGED}");
    for kind in [Kind::Nginx, Kind::Haproxy, Kind::Apache, Kind::Caddy] {
        let proxy = proxy(kind, server.address()).start();
        for headers in [&[][..], &[forged.as_str()]] {
            let stream = connect_from(CLIENT, proxy.address());
            assert_eq!(located(stream, headers), is(CLIENT, "header"), "{kind:?} {headers:?}");
        }
    }
    // Through two of them; and not through the proxy at all.
    let inner = proxy(Kind::Haproxy, server.address()).start();
    let outer = proxy(Kind::Nginx, inner.address()).start();
    assert_eq!(located(connect_from(CLIENT, outer.address()), &[&forged]), is(CLIENT, "header"));
    assert_eq!(located(connect_from(CLIENT, server.address()), &[&forged]), is(CLIENT, "peer"));
}

/// A proxy that names the user, whatever the client says: by a fixed name, or by that of another server that signs users in.
fn proxy_that_signs_in(kind: Kind, upstream: SocketAddr) -> Setup {
    let lines = match kind {
        Kind::Nginx => vec![
            format!("proxy_pass http://{upstream};"),
            "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
                .to_owned(),
            "auth_request /-/sign-in; auth_request_set $user $upstream_http_x_user;".to_owned(),
            "proxy_set_header X-Forwarded-User $user;".to_owned(),
        ],
        Kind::Caddy => {
            vec![format!("reverse_proxy {upstream} {{"), "header_up X-Forwarded-User ada".to_owned(), "}".to_owned()]
        }
        kind => panic!("{kind:?} signs nobody in here"),
    };
    Setup::new(kind, &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn the_user_is_who_a_trusted_proxy_says_whatever_the_client_claims() {
    let args = ["--auth", "required", "--user-header", "X-Forwarded-User", "--trusted-proxies", "127.0.0.1"];
    let (server, internal) = Server::start_with_internal(&args);
    let signs_in = free_port();
    let site = format!("server {{ listen 127.0.0.1:{signs_in}; location / {{ add_header X-User ada; return 204; }} }}");
    let _accounts = Proxy::nginx(signs_in, &site);
    let mut nginx = proxy_that_signs_in(Kind::Nginx, server.address());
    // The address of the check ends the location that the lines stand in, and begins another.
    nginx.site.push(format!("}} location = /-/sign-in {{ internal; proxy_pass http://127.0.0.1:{signs_in};"));
    let handshake = |stream: TcpStream, to: SocketAddr, query: &str, user: Option<&str>| {
        let address: Uri = format!("ws://{to}/ws?{query}").parse().unwrap();
        let mut request = tungstenite::ClientRequestBuilder::new(address).with_sub_protocol("hi.v1");
        if let Some(user) = user {
            request = request.with_header("X-Forwarded-User", user);
        }
        tungstenite::client(request, stream).map_err(Box::new)
    };
    for setup in [nginx, proxy_that_signs_in(Kind::Caddy, server.address())] {
        let proxy = setup.start();
        for forged in [None, Some("root"), Some("")] {
            let stream = connect_from(CLIENT, proxy.address());
            let (socket, _) = handshake(stream, proxy.address(), "", forged).expect("the proxy signs in");
            let hello = Client { socket }.json();
            assert_eq!(hello["User"], "ada", "{:?} {forged:?}: {hello}", setup.kind);
        }
    }
    let sample = "hi_untrusted_headers_total{header=\"user-header\"}";
    internal.wait_for_metric(sample, 0.0);
    // Around the proxy, the header is no proof: it is refused, or counts as nothing where guests are let in.
    let direct = connect_from(CLIENT, server.address());
    let refused = handshake(direct, server.address(), "", Some("root")).map(drop).expect_err("it is believed");
    let HandshakeError::Failure(Error::Http(answer)) = *refused else { panic!("{refused}") };
    assert_eq!(answer.status(), 401);
    server.wait_for_log("user_header_untrusted");
    internal.wait_for_metric(sample, 1.0);
    let args = ["--auth", "optional", "--user-header", "X-Forwarded-User", "--trusted-proxies", "10.0.0.5"];
    let (server, internal) = Server::start_with_internal(&args);
    let stream = connect_from(CLIENT, server.address());
    let (socket, _) = handshake(stream, server.address(), "username=eve", Some("root")).expect("guests are let in");
    assert_eq!(Client { socket }.json()["User"], "~eve");
    internal.wait_for_metric(sample, 1.0);
}

#[test]
fn a_proxy_behind_a_unix_socket_is_trusted_by_that_word() {
    let path = std::env::temp_dir().join(format!("hi-addresses-{}-{:x}.sock", std::process::id(), fastrand::u64(..)));
    let listen = format!("unix:{}", path.display());
    let _server = Server::start(&["--listen", &listen, "--trusted-proxies", "unix"]);
    let port = free_port();
    let site = format!(
        "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{listen}; \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}"
    );
    let nginx = Proxy::nginx(port, &site);
    assert_eq!(located(connect_from(CLIENT, nginx.address()), &[]), is(CLIENT, "header"));
}

#[test]
fn the_proxy_protocol_is_spoken_with_haproxy() {
    let server = Server::start(&["--proxy-protocol", "127.0.0.1"]);
    let hi = server.address();
    let of_haproxy =
        |options: &str| Setup::new(Kind::Haproxy, &["mode tcp", &format!("server hi {hi} {options}")]).start();
    for (name, proxy) in [
        ("HAProxy, version 1", of_haproxy("send-proxy")),
        ("HAProxy, version 2", of_haproxy("send-proxy-v2")),
        ("HAProxy, version 2 with TLVs", of_haproxy("send-proxy-v2 proxy-v2-options crc32c,unique-id")),
    ] {
        assert_eq!(located(connect_from(CLIENT, proxy.address()), &[]), is(CLIENT, "proxy_protocol"), "{name}");
        // A whole chat, too.
        let url = format!("ws://{}/ws?username=ada&room=tea", proxy.address());
        let (socket, _) = tungstenite::client(url, connect_from(CLIENT, proxy.address())).expect(name);
        Client { socket }.expect_message("#tea", "Welcome to tea, ada!");
    }
    assert!(!server.log().contains("refused"), "{}", server.log());
}

#[test]
fn health_checks_of_a_proxy_are_its_own_and_no_failures() {
    let (server, internal) = Server::start_with_internal(&["--proxy-protocol", "loopback"]);
    let line = format!("server hi {} send-proxy-v2 check inter 50ms", server.address());
    let _proxy = Setup::new(Kind::Haproxy, &["mode tcp", &line]).start();
    // HAProxy checks by a LOCAL header and the end of the connection.
    wait_while(|| internal.metric("hi_accepts_total") < 3.0, || server.log());
    let mut wire = server.wire();
    wire.send(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
    wire.send("GET /-/doctor/echo HTTP/1.1\r\nHost: hi\r\n\r\n");
    let echo: Value = serde_json::from_str(&wire.answer().body).unwrap();
    assert_eq!((&echo["client"], &echo["client_from"]), (&"127.0.0.1".into(), &"peer".into()));
    assert!(!server.log().contains("refused"), "{}", server.log());
}

#[test]
fn a_header_may_come_byte_by_byte_and_counts_for_all_requests_of_its_connection() {
    let server = Server::start(&["--proxy-protocol", "loopback", "--trusted-proxies", "10.0.0.0/8"]);
    let mut wire = server.wire();
    let request = "GET /-/doctor/echo HTTP/1.1\r\nHost: hi\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
    for byte in format!("PROXY TCP4 10.0.0.9 10.0.0.5 4711 80\r\n{request}").bytes() {
        wire.send([byte]);
    }
    for _ in 0..2 {
        // A trusted proxy behind the one that speaks PROXY.
        let echo: Value = serde_json::from_str(&wire.answer().body).unwrap();
        assert_eq!((&echo["client"], &echo["client_from"]), (&"203.0.113.7".into(), &"header".into()));
        wire.send(request);
    }
}

#[test]
fn a_header_that_is_missing_unexpected_or_broken_is_refused_with_its_reason() {
    const V2: &str = "\r\n\r\n\0\r\nQUIT\n";
    let request = "GET /ws HTTP/1.1\r\nHost: hi\r\nAccept: application/json\r\n\r\n";
    for (demanded, sent, reason, said) in [
        ("loopback", request.to_owned(), "proxy_header_missing", "take it out of --proxy-protocol"),
        (
            "none",
            format!("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n{request}"),
            "proxy_header_unexpected",
            "add it to --proxy-pro",
        ),
        ("none", format!("{V2}\u{20}\0\0\0{request}"), "proxy_header_unexpected", "if 127.0.0.1 is your proxy"),
        ("loopback", format!("PROXY TCP4 1.2.3.400 1.2.3.4 1 2\r\n{request}"), "proxy_header_bad", "version 1 or 2"),
        ("loopback", format!("{V2}\u{20}\0\u{7f}\u{7f}{request}"), "proxy_header_bad", "it is too long"),
    ] {
        let (server, internal) = Server::start_with_internal(&["--proxy-protocol", demanded]);
        let answer = server.ask(&sent);
        assert_eq!(answer.status, 400, "{reason}: {answer:?}");
        assert!(answer.body.contains("PROXY protocol header"), "{answer:?}");
        let line = server.wait_for_log("refused");
        assert!(line.contains(reason) && line.contains(said), "{said}: {line}");
        let sample = format!("hi_handshake_failures_total{{reason=\"{reason}\"");
        wait_while(|| !internal.metrics().contains(&sample), || internal.metrics());
    }
    // What stands behind a unix socket is named so.
    let answer = Server::start(&["--proxy-protocol", "unix,127.0.0.1"]).ask(request);
    let told: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(told["reason"], "proxy_header_missing");
}
