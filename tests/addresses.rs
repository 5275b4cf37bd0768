//! Where clients come from, behind real proxies: which address hi takes them to have, and who can change that.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use serde_json::Value;
use support::proxies::{Kind, Proxy, Setup, free_port};
use support::{PATIENCE, Server};

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
