//! A configuration for each way in which a proxy carries a WebSocket, or doesn't. `upstream` is the server's address.

use std::net::SocketAddr;

use super::{Kind, Setup};

const KEEPS_UPGRADE: &str = "proxy_set_header Upgrade $http_upgrade;";
const KEEPS_CONNECTION: &str = "proxy_set_header Connection \"upgrade\";";
/// Pages may open WebSockets to their own host.
const KEEPS_HOST: &str = "proxy_set_header Host $http_host;";
const FORWARDED: &str = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";

fn nginx(upstream: SocketAddr, lines: &[&str]) -> Setup {
    let pass = format!("proxy_pass http://{upstream};");
    Setup::new(Kind::Nginx, &[&[&*pass], lines].concat())
}

/// Carries WebSockets.
pub fn correct(upstream: SocketAddr) -> Setup {
    nginx(upstream, &["proxy_http_version 1.1;", KEEPS_UPGRADE, KEEPS_CONNECTION, KEEPS_HOST, FORWARDED])
}

/// nginx without further lines: HTTP/1.0, and both headers removed. The forgotten proxy at the old address.
pub fn http10(upstream: SocketAddr) -> Setup {
    // Newer versions speak HTTP/1.1 unless told otherwise.
    nginx(upstream, &["proxy_http_version 1.0;"])
}

/// HTTP/1.1, and both headers removed.
pub fn strips_both(upstream: SocketAddr) -> Setup {
    nginx(upstream, &["proxy_http_version 1.1;", FORWARDED])
}

/// `Upgrade` kept, `Connection` dropped.
pub fn drops_connection(upstream: SocketAddr) -> Setup {
    nginx(upstream, &["proxy_http_version 1.1;", KEEPS_UPGRADE, "proxy_set_header Connection \"\";"])
}

/// `Connection` kept, `Upgrade` dropped.
pub fn drops_upgrade(upstream: SocketAddr) -> Setup {
    nginx(upstream, &["proxy_http_version 1.1;", KEEPS_CONNECTION])
}

/// Redirects everything elsewhere.
pub fn redirects(to: &str) -> Setup {
    Setup::new(Kind::Nginx, &[&format!("return 301 {to};")])
}

/// Answers everything with an HTML page and this status, 200 or 403.
pub fn html(status: u16) -> Setup {
    let page = format!("return {status} '<!doctype html><title>Not here</title><h1>Not here</h1>';");
    Setup::new(Kind::Nginx, &["default_type text/html;", &page])
}

/// Cuts connections that are idle for 2 s.
pub fn idle_after_2s(upstream: SocketAddr) -> Setup {
    let mut setup = correct(upstream);
    setup.site.push("proxy_read_timeout 2s;".to_owned());
    setup
}

/// Carries WebSockets, and buffers other responses completely.
pub fn buffers(upstream: SocketAddr) -> Setup {
    let mut setup = correct(upstream);
    let lines = ["proxy_buffering on;", "proxy_buffers 8 1m;", "proxy_buffer_size 1m;", "proxy_busy_buffers_size 2m;"];
    setup.site.extend(lines.map(str::to_owned));
    setup
}

/// In front of a server that is gone: 502.
pub fn dead_upstream() -> Setup {
    correct(([127, 0, 0, 1], super::free_port()).into())
}

/// Speaks TLS to a server that doesn't.
pub fn speaks_tls(upstream: SocketAddr) -> Setup {
    let pass = format!("proxy_pass https://{upstream};");
    Setup::new(Kind::Nginx, &[&pass, "proxy_http_version 1.1;", KEEPS_UPGRADE, KEEPS_CONNECTION])
}

/// Two hops, the one nearest the server strips. The first of the two is where clients connect.
pub fn inner_strips(upstream: SocketAddr) -> [Setup; 2] {
    let mut inner = http10(upstream);
    inner.site.push(FORWARDED.to_owned());
    [correct(inner.address()), inner]
}

/// Two hops, the one nearest the client strips. The first of the two is where clients connect.
pub fn outer_strips(upstream: SocketAddr) -> [Setup; 2] {
    let inner = correct(upstream);
    let mut outer = http10(inner.address());
    outer.site.push(FORWARDED.to_owned());
    [outer, inner]
}

fn haproxy(upstream: SocketAddr, lines: &[&str]) -> Setup {
    let server = format!("server hi {upstream}");
    Setup::new(Kind::Haproxy, &[lines, &[&*server]].concat())
}

/// HAProxy that carries WebSockets, which it does by default.
pub fn haproxy_correct(upstream: SocketAddr) -> Setup {
    haproxy(upstream, &["option forwardfor"])
}

/// HAProxy that drops both headers.
pub fn haproxy_strips_both(upstream: SocketAddr) -> Setup {
    haproxy(upstream, &["http-request del-header Upgrade", "http-request del-header Connection"])
}

/// HAProxy that drops `Upgrade`.
pub fn haproxy_drops_upgrade(upstream: SocketAddr) -> Setup {
    haproxy(upstream, &["option forwardfor", "http-request del-header Upgrade"])
}

/// HAProxy that drops `Connection`.
pub fn haproxy_drops_connection(upstream: SocketAddr) -> Setup {
    haproxy(upstream, &["option forwardfor", "http-request del-header Connection"])
}

/// HAProxy that closes every connection after one answer.
pub fn haproxy_httpclose(upstream: SocketAddr) -> Setup {
    haproxy(upstream, &["option httpclose"])
}

/// HAProxy that cuts WebSockets that are idle for 2 s.
pub fn haproxy_idle_after_2s(upstream: SocketAddr) -> Setup {
    haproxy(upstream, &["timeout tunnel 2s"])
}

/// HAProxy in front of a server that is gone: 503.
pub fn haproxy_dead_upstream() -> Setup {
    haproxy(([127, 0, 0, 1], super::free_port()).into(), &["retries 0"])
}

/// HAProxy that speaks HTTP/2 to a server that doesn't.
pub fn haproxy_speaks_http2(upstream: SocketAddr) -> Setup {
    Setup::new(Kind::Haproxy, &[&format!("server hi {upstream} proto h2")])
}

/// Apache httpd that carries WebSockets.
pub fn apache_correct(upstream: SocketAddr) -> Setup {
    let pass = format!("ProxyPass \"/\" \"http://{upstream}/\" upgrade=websocket");
    Setup::new(Kind::Apache, &["ProxyPreserveHost On", &*pass])
}

/// Apache httpd without further lines: both headers removed. `via`: whether it adds that header.
pub fn apache_strips(upstream: SocketAddr, via: bool) -> Setup {
    let via = if via { "ProxyVia Full" } else { "ProxyVia Off" };
    Setup::new(Kind::Apache, &[via, &format!("ProxyPass \"/\" \"http://{upstream}/\"")])
}

/// Apache httpd as in old instructions: HTTP/1.0, and both headers removed.
pub fn apache_http10(upstream: SocketAddr) -> Setup {
    let pass = format!("ProxyPass \"/\" \"http://{upstream}/\"");
    let lines = ["SetEnv force-proxy-request-1.0 1", "SetEnv proxy-nokeepalive 1", &*pass];
    Setup::new(Kind::Apache, &lines)
}

/// Apache httpd that would carry WebSockets, except for a line that drops `Upgrade`.
pub fn apache_drops_upgrade(upstream: SocketAddr) -> Setup {
    let mut setup = apache_correct(upstream);
    setup.site.push("RequestHeader unset Upgrade".to_owned());
    setup
}

/// Caddy that carries WebSockets, which it does by default.
pub fn caddy_correct(upstream: SocketAddr) -> Setup {
    Setup::new(Kind::Caddy, &[&format!("reverse_proxy {upstream}")])
}

/// Caddy that drops both headers.
pub fn caddy_strips(upstream: SocketAddr) -> Setup {
    let pass = format!("reverse_proxy {upstream} {{");
    Setup::new(Kind::Caddy, &[&pass, "header_up -Upgrade", "header_up -Connection", "}"])
}
