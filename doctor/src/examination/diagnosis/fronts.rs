//! What products answer with, as their manuals and error pages have it, and the verdict that each answer has to lead to;
//! and healthy ones, of which nothing may be said.

use super::super::facts::Changed;
use super::super::facts::{Echo, OtherOrigin, Step};
use super::super::verdict::Kind;
use super::diagnose;
use crate::proxy::Proxy;

mod row;

use row::{Headers, Hi, Page, Same, Through, row};
const HTML: &str = "<html><head><title>Sorry</title></head><body>Sorry</body></html>";
const NGINX: Headers = &[("Server", "nginx/1.24.0"), ("Content-Type", "text/html")];
const APACHE: Headers = &[("Server", "Apache/2.4.57 (Debian)"), ("Content-Type", "text/html; charset=iso-8859-1")];
/// HAProxy signs nothing.
const HAPROXY: Headers = &[("Cache-Control", "no-cache"), ("Connection", "close"), ("Content-Type", "text/html")];
const CADDY: Headers = &[("Server", "Caddy")];
/// Traefik signs nothing.
const TRAEFIK: Headers = &[("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")];
const ENVOY: Headers = &[("content-length", "0"), ("Server", "envoy")];
const ENVOY_TEXT: Headers = &[("content-type", "text/plain"), ("Server", "envoy")];
const VARNISH: Headers =
    &[("Server", "Varnish"), ("X-Varnish", "32770"), ("Content-Type", "text/html"), ("Via", "1.1 v (Varnish/7.1)")];
const SQUID: Headers =
    &[("Server", "squid/5.7"), ("Content-Type", "text/html"), ("X-Squid-Error", "ERR_CONNECT_FAIL 111")];
const CLOUDFLARE: Headers = &[("Server", "cloudflare"), ("CF-RAY", "8c1-FRA"), ("Content-Type", "text/html")];
const CLOUDFLARE_CODE: Headers = &[("Server", "cloudflare"), ("CF-RAY", "8c1-FRA"), ("Content-Type", "text/plain")];
const AWS: Headers = &[("Server", "awselb/2.0"), ("Content-Type", "text/html")];
const IIS: Headers = &[("Server", "Microsoft-IIS/10.0"), ("Content-Type", "text/html")];
const HTTPAPI: Headers = &[("Server", "Microsoft-HTTPAPI/2.0"), ("Content-Type", "text/html; charset=us-ascii")];
const TEXT: Headers = &[("Content-Type", "text/plain; charset=utf-8")];
const NOTHING: &str = "There is nothing at this address.";

#[test]
fn healthy_fronts_are_healthy() {
    const OPEN: Headers = &[("Upgrade", "websocket")];
    let healthy = |front, plain, headers| row((front, "/ws"), plain, (101, headers, ""), (Kind::Sound, "works", ""));
    for row in [
        healthy("hi", Hi, OPEN),
        healthy("nginx", Through("Server: nginx/1.24.0", Some(Proxy::Nginx)), &[("Server", "nginx/1.24.0")]),
        healthy("HAProxy", Through("X-Forwarded-For: 192.0.2.1", None), OPEN),
        healthy("Apache", Through("X-Forwarded-Server: www", None), &[("Server", "Apache/2.4.57")]),
        healthy("Caddy", Through("Via: 1.1 Caddy", Some(Proxy::Caddy)), &[("Server", "Caddy"), ("Via", "1.1 Caddy")]),
        healthy("Envoy", Through("Server: envoy", Some(Proxy::Envoy)), &[("Server", "envoy")]),
        healthy("Traefik", Through("X-Forwarded-Server: traefik-0", None), OPEN),
        healthy("Varnish", Through("Via: 1.1 v (Varnish/7.1)", Some(Proxy::Varnish)), OPEN),
        healthy("Squid", Through("Via: 1.1 s (squid/5.7)", Some(Proxy::Squid)), OPEN),
        healthy("Cloudflare", Through("CF-Ray", Some(Proxy::Cloudflare)), &[("Server", "cloudflare")]),
        healthy("AWS", Through("X-Amzn-Trace-Id", Some(Proxy::Aws)), OPEN),
        healthy("IIS", Through("X-ARR-LOG-ID", Some(Proxy::Iis)), &[("Server", "Microsoft-IIS/10.0")]),
        // Not hi, or with its echo switched off or kept back: what can be seen is healthy.
        row(("a server", "/ws"), Page(404), (101, OPEN, ""), (Kind::NotHi, "OK as far as can be seen", "")),
        row(("nginx", "/ws"), Page(403), (101, NGINX, ""), (Kind::NotHi, "OK as far as can be seen", "")),
        row(("Cloudflare", "/chat"), Page(200), (101, CLOUDFLARE, ""), (Kind::NotHi, "OK as far", "")),
    ] {
        row.check();
    }
}

/// Straight at hi, it is the path.
#[test]
fn a_path_that_hi_has_no_websocket_at() {
    let used = "use ws://chat.example.com/ws";
    let missing = |path, fix| row((("hi"), path), Hi, (404, TEXT, NOTHING), (Kind::NotFound, "hi answers there", fix));
    let ok = Kind::Ok200InsteadOf101;
    for row in [
        missing("/nothing", used),
        missing("/ws/", used),
        missing("/WS", used),
        missing("/socket.io/", used),
        missing("/chat/ws/", "use ws://chat.example.com/chat/ws"),
        missing("/-/doctor/echoes", used),
        row(("hi", "/healthz"), Hi, (200, TEXT, "ok"), (ok, "its health check", used)),
        row(("hi", "/"), Hi, (200, &[("Content-Type", "text/html")], HTML), (ok, "its page", used)),
        row(("hi", "/app.js"), Hi, (200, &[("Content-Type", "text/javascript")], ""), (ok, "its page", used)),
        row(("hi", "/-/doctor/echo"), Hi, (200, &[], "{}"), (ok, "the echo", used)),
        row(
            ("hi", "/stream/tea"),
            Hi,
            (200, &[("Content-Type", "text/event-stream")], ""),
            (ok, "server-sent events", "ws://chat.example.com/ws?room=ROOM"),
        ),
        row(
            ("hi", "/stream/ws"),
            Hi,
            (200, &[("Content-Type", "text/event-stream")], ""),
            (ok, "server-sent events", "use ws://chat.example.com/ws?room=ROOM"),
        ),
        row(
            ("hi", "/raw/a%20b"),
            Hi,
            (400, &[], r#"{"reason":"name_invalid","sentence":"A room's name has no spaces."}"#),
            (Kind::UnexpectedStatus, "hi refuses the handshake (400): A room's name", "correct the address"),
        ),
        row(
            ("hi", "/raw/tea"),
            Hi,
            (403, &[], r#"{"reason":"raw_rooms_off","sentence":"Raw rooms are switched off (--raw off)."}"#),
            (Kind::Forbidden, "Raw rooms are switched off", "--raw open"),
        ),
        row(
            ("hi", "/ws"),
            Hi,
            (
                401,
                &[("WWW-Authenticate", "Bearer")],
                r#"{"reason":"token_missing","sentence":"This server asks for a token."}"#,
            ),
            (Kind::TokenMissing, "(401, token_missing): This server asks for a token", "the way to hi works"),
        ),
        row(
            ("hi", "/raw/tea"),
            Hi,
            (
                401,
                &[("WWW-Authenticate", "Bearer")],
                r#"{"reason":"clock_skew","sentence":"The token comes from the future."}"#,
            ),
            (Kind::ClockSkew, "(401, clock_skew)", "compare the clocks"),
        ),
        row(
            ("hi", "/raw/tea"),
            Hi,
            (401, &[], r#"{"reason":"user_header_untrusted","sentence":"The header is not believed."}"#),
            (Kind::UserHeaderUntrusted, "(401, user_header_untrusted)", "--trusted-proxies"),
        ),
        // Through a front, too, the path is not hi's.
        row(
            ("nginx", "/nothing"),
            Through("Server: nginx/1.24.0", Some(Proxy::Nginx)),
            (404, &[("Server", "nginx/1.24.0")], NOTHING),
            (Kind::NotFound, "has nothing at /nothing (404)", used),
        ),
        // hi has a chat there, so something before it answered.
        row(
            ("nginx", "/ws"),
            Through("Server: nginx/1.24.0", Some(Proxy::Nginx)),
            (404, NGINX, HTML),
            (Kind::NotFound, "nginx/1.24.0 answers there and has nothing at /ws", "let the proxy pass /ws on"),
        ),
    ] {
        row.check();
    }
}

#[test]
fn fronts_without_a_server_behind_them() {
    let dead = |front, plain, answer, says, fix| row((front, "/ws"), plain, answer, (Kind::BadGateway, says, fix));
    for row in [
        dead("nginx", Same, (502, NGINX, HTML), "nginx/1.24.0 is up", "nginx: proxy_pass"),
        dead("nginx", Same, (503, NGINX, HTML), "(503)", "nginx: proxy_pass"),
        dead("nginx", Same, (504, NGINX, HTML), "(504)", "nginx: proxy_pass"),
        dead("HAProxy", Same, (503, HAPROXY, HTML), "a proxy that does not name itself is up", "HAProxy: server"),
        dead("HAProxy", Same, (502, HAPROXY, HTML), "(502)", "start hi"),
        dead("HAProxy", Same, (504, HAPROXY, HTML), "(504)", "start hi"),
        dead("Apache", Same, (503, APACHE, HTML), "Apache/2.4.57 (Debian) is up", "ProxyPass"),
        dead("Apache", Same, (502, APACHE, HTML), "(502)", "ProxyPass"),
        dead("Caddy", Same, (502, CADDY, ""), "Caddy is up", "reverse_proxy"),
        dead("Traefik", Same, (502, TRAEFIK, "Bad Gateway"), "(502): \"Bad Gateway\"", "start hi"),
        dead("Traefik", Same, (503, TRAEFIK, "no available server\n"), "no available server", "start hi"),
        dead("Traefik", Same, (504, TRAEFIK, "Gateway Timeout"), "(504)", "start hi"),
        dead("Envoy", Same, (503, ENVOY_TEXT, "no healthy upstream"), "no healthy upstream", "health checks"),
        dead("Envoy", Same, (503, ENVOY_TEXT, "upstream connect error or disconnect"), "(503)", "cluster"),
        dead("Envoy", Same, (504, ENVOY_TEXT, "upstream request timeout"), "(504)", "cluster"),
        dead("Varnish", Same, (503, VARNISH, HTML), "Varnish is up", "backend"),
        dead("Squid", Same, (503, SQUID, HTML), "squid/5.7 is up", "cache_peer"),
        dead("Squid", Same, (502, SQUID, HTML), "(502)", "cache_peer"),
        dead("Cloudflare", Same, (502, CLOUDFLARE, HTML), "cloudflare is up", "DNS record of the zone"),
        dead("Cloudflare", Same, (520, CLOUDFLARE, HTML), "Cloudflare answers", "log of hi"),
        dead("Cloudflare", Same, (521, CLOUDFLARE, HTML), "refuses its connections (521)", "start hi"),
        dead("Cloudflare", Same, (522, CLOUDFLARE, HTML), "in time (522)", "firewall"),
        dead("Cloudflare", Same, (523, CLOUDFLARE, HTML), "can't be reached (523)", "DNS record"),
        dead("Cloudflare", Same, (524, CLOUDFLARE, HTML), "(524)", "alive"),
        dead("Cloudflare", Same, (525, CLOUDFLARE, HTML), "TLS (525)", "TLS mode"),
        dead("Cloudflare", Same, (526, CLOUDFLARE, HTML), "certificate that it refuses (526)", "renew"),
        dead("Cloudflare", Same, (530, CLOUDFLARE_CODE, "error code: 1033"), "(530): \"error code: 1033\"", "tunnel"),
        dead("AWS", Same, (503, AWS, HTML), "awselb/2.0 is up", "GET /healthz"),
        dead("AWS", Same, (502, AWS, HTML), "(502)", "target group"),
        dead("AWS", Same, (504, AWS, HTML), "(504)", "target group"),
        dead("IIS", Same, (502, IIS, HTML), "Microsoft-IIS/10.0 is up", "rewrite rule"),
        dead("IIS", Same, (503, HTTPAPI, HTML), "Microsoft-HTTPAPI/2.0 is up", "start hi"),
        // hi lives: it is this path that leads elsewhere.
        dead(
            "nginx",
            Through("Server: nginx/1.24.0", Some(Proxy::Nginx)),
            (502, NGINX, HTML),
            "what it passes /ws on to does not answer (502), while /-/doctor/echo reaches hi",
            "nginx: proxy_pass",
        ),
    ] {
        row.check();
    }
}

#[test]
fn fronts_that_refuse() {
    const LOGIN: Headers = &[("Server", "nginx/1.24.0"), ("WWW-Authenticate", "Basic realm=\"staff\"")];
    const TRAEFIK_LOGIN: Headers = &[("WWW-Authenticate", "Basic realm=\"traefik\"")];
    const BY_SERVICE: Headers = &[("Server", "envoy"), ("x-envoy-upstream-service-time", "3")];
    const CHALLENGE: Headers =
        &[("Server", "cloudflare"), ("cf-mitigated", "challenge"), ("Content-Type", "text/html")];
    const SQUID_LOGIN: Headers = &[("Server", "squid/5.7"), ("Proxy-Authenticate", "Basic realm=\"Squid\"")];
    let refused = |front, plain, answer, says| row((front, "/ws"), plain, answer, (Kind::Forbidden, says, ""));
    for row in [
        // Without `upgrade_configs`; and what looks like it.
        row(
            ("Envoy", "/ws"),
            Page(200),
            (403, ENVOY, ""),
            (Kind::UpgradeRefused, "envoy refuses every upgrade (403", "let Envoy pass upgrades on"),
        ),
        row(("Envoy", "/ws"), Page(404), (403, ENVOY, ""), (Kind::UpgradeRefused, "lets plain requests pass", "Envoy")),
        refused("Envoy", Same, (403, ENVOY, ""), "envoy refuses the handshake (403)"),
        refused("Envoy", Same, (403, ENVOY_TEXT, "RBAC: access denied"), "RBAC: access denied"),
        refused("Envoy", Page(200), (403, ENVOY_TEXT, "RBAC: access denied"), "RBAC: access denied"),
        refused("Envoy", Page(200), (403, BY_SERVICE, ""), "refuses the handshake (403)"),
        refused("Envoy", Same, (401, ENVOY_TEXT, "Jwt is missing"), "Jwt is missing"),
        refused("nginx", Page(200), (403, NGINX, HTML), "nginx/1.24.0 refuses the handshake (403)"),
        refused("nginx", Same, (401, LOGIN, HTML), "asks for a login (401, Basic realm=\"staff\")"),
        refused("HAProxy", Same, (403, HAPROXY, HTML), "refuses the handshake (403)"),
        refused("Apache", Same, (403, APACHE, HTML), "Apache/2.4.57 (Debian) refuses"),
        refused("Traefik", Same, (401, TRAEFIK_LOGIN, "401 Unauthorized"), "asks for a login"),
        refused("Traefik", Same, (403, TRAEFIK, "Forbidden"), "\"Forbidden\""),
        refused("Squid", Same, (407, SQUID_LOGIN, HTML), "asks for a login (407"),
        refused("Squid", Same, (403, SQUID, HTML), "squid/5.7 refuses"),
        refused("Cloudflare", Page(200), (403, CHALLENGE, HTML), "with a challenge (403)"),
        refused("Cloudflare", Same, (403, CLOUDFLARE_CODE, "error code: 1020"), "error code: 1020"),
        refused("AWS", Same, (403, AWS, HTML), "awselb/2.0 refuses"),
        refused("AWS", Same, (561, AWS, HTML), "identity provider fails (561)"),
        refused("IIS", Same, (403, IIS, HTML), "Microsoft-IIS/10.0 refuses"),
    ] {
        row.check();
    }
}

#[test]
fn fronts_that_drop_what_a_handshake_needs() {
    const UPGRADE: Headers = &[("Upgrade", "websocket")];
    const TLS: Headers = &[("Upgrade", "TLS/1.2, HTTP/1.1")];
    const OLD_VERSION: Headers = &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "8")];
    const GORILLA: &str = "Bad Request\nwebsocket: the client is not using the websocket protocol: 'upgrade' token not found in 'Connection'";
    const SPRING: &str = "Can \"Upgrade\" only to \"WebSocket\".";
    let (upgrade, connection) = (Kind::UpgradeStripped, Kind::ConnectionStripped);
    let http10 = Kind::Http10Hop;
    for row in [
        row(("nginx", "/ws"), Same, (426, NGINX, "Upgrade Required"), (upgrade, "nginx/1.24.0", "let nginx pass")),
        row(("nginx", "/ws"), Page(404), (400, &NGINX[..1], GORILLA), (connection, "drops Connection", "let nginx")),
        row(("Apache", "/ws"), Page(404), (400, &APACHE[..1], SPRING), (upgrade, "drops Upgrade", "let Apache httpd")),
        row(("AWS", "/ws"), Page(404), (426, UPGRADE, ""), (upgrade, "a proxy that does not name itself", "")),
        // What hi itself says decides.
        row(
            ("nginx", "/ws"),
            Page(404),
            (426, &NGINX[..1], r#"{"reason":"connection_stripped","sentence":"Upgrade header"}"#),
            (connection, "drops Connection", "let nginx"),
        ),
        row(
            ("nginx", "/ws"),
            Page(404),
            (426, &NGINX[..1], r#"{"reason":"version_unsupported","sentence":"Only version 13 is spoken here."}"#),
            (Kind::UnexpectedStatus, "hi refuses the handshake (426): Only version 13", "the hop that changes"),
        ),
        // A hop of HTTP/1.0 before Envoy, which takes none.
        row(("Envoy", "/ws"), Same, (426, ENVOY_TEXT, "Upgrade Required"), (http10, "by a hop before it", "the proxy")),
        // What wants something else than a WebSocket.
        row(("a server", "/ws"), Same, (426, TLS, ""), (Kind::UnexpectedStatus, "with 426", "log")),
        row(("a server", "/ws"), Page(404), (426, OLD_VERSION, ""), (Kind::UnexpectedStatus, "with 426", "log")),
        row(
            ("a server", "/ws"),
            Same,
            (400, TEXT, "Please upgrade your plan"),
            (Kind::UnexpectedStatus, "with 400: \"Please upgrade", "log"),
        ),
        row(("nginx", "/ws"), Page(404), (400, NGINX, HTML), (Kind::UnexpectedStatus, "with 400", "log")),
        // A port for TLS that got plain HTTP.
        row(
            ("nginx", "/ws"),
            Same,
            (400, &NGINX[..1], "<html><center>The plain HTTP request was sent to HTTPS port</center></html>"),
            (Kind::TlsExpected, "nginx/1.24.0 answers that port 80 is for TLS", "use wss://chat.example.com:80/ws"),
        ),
        row(
            ("Go", "/ws"),
            Same,
            (400, TEXT, "Client sent an HTTP request to an HTTPS server.\n"),
            (Kind::TlsExpected, "answers that port 80 is for TLS", "use wss://"),
        ),
        row(
            ("Apache", "/ws"),
            Page(404),
            (400, APACHE, "<p>Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />"),
            (Kind::TlsExpected, "port 80 is for TLS", "proxy_pass https://"),
        ),
        row(("IIS", "/ws"), Same, (400, HTTPAPI, HTML), (Kind::UnexpectedStatus, "Microsoft-HTTPAPI/2.0", "log")),
        row(("HAProxy", "/ws"), Same, (400, HAPROXY, HTML), (Kind::UnexpectedStatus, "with 400", "log")),
    ] {
        row.check();
    }
}

#[test]
fn fronts_that_redirect() {
    fn to(location: &'static str) -> Headers {
        Box::leak(Box::new([("Location", location)]))
    }
    let redirect = |front, (status, location), says, fix| {
        row((front, "/ws"), Page(200), (status, to(location), ""), (Kind::Redirect, says, fix))
    };
    let pass = "don't redirect /ws";
    let login = "let /ws pass without that login";
    for row in [
        redirect("nginx", (301, "https://chat.example.com/ws?username=x"), "", "use wss://chat.example.com/ws"),
        redirect("Caddy", (308, "https://chat.example.com/ws"), "(308)", "use wss://chat.example.com/ws"),
        redirect("Traefik", (302, "https://chat.example.com:8443/ws"), "", "use wss://chat.example.com:8443/ws"),
        redirect("nginx", (301, "http://www.example.com/ws"), "", "use ws://www.example.com/ws"),
        redirect("AWS", (301, "https://chat.example.com:443/"), "", "use wss://chat.example.com/ws"),
        redirect("nginx", (301, "/ws/"), "http://chat.example.com/ws/", pass),
        redirect("nginx", (301, "http://chat.example.com/ws"), "", pass),
        redirect("nginx", (302, "https://elsewhere.example.org/"), "elsewhere", pass),
        redirect("a portal", (302, "https://login.example.org/?next=%2Fws"), "a login page, https://login", login),
        redirect(
            "Cloudflare",
            (302, "https://t.cloudflareaccess.com/cdn-cgi/access/login/c?m=1"),
            "a login page",
            login,
        ),
        redirect("AWS", (302, "https://x.auth.eu-central-1.amazoncognito.com/oauth2/authorize?a=b"), "a login", login),
        redirect("a portal", (302, "/oauth2/sign_in?rd=%2Fws"), "a login page, http://chat.example.com/oauth2", login),
        redirect("a portal", (302, "/users/sign-in"), "a login page", login),
        redirect("a portal", (303, "/auth/realms/x/protocol/openid-connect/auth"), "a login page", login),
        redirect("a portal", (302, "https://chat.example.com/wp-login.php"), "a login page", login),
    ] {
        row.check();
        let verdict = diagnose(&row.facts()).verdict.to_string();
        assert!(!verdict.contains("wss://login") && !verdict.contains('?'), "{verdict}");
    }
}

#[test]
fn fronts_that_answer_with_something_else() {
    let unexpected = |front, answer, says, fix| row((front, "/ws"), Same, answer, (Kind::UnexpectedStatus, says, fix));
    let (ok, html) = (Kind::Ok200InsteadOf101, Kind::HtmlInsteadOfJson);
    let nothing = "check the path";
    for row in [
        row(("nginx", "/ws"), Same, (404, NGINX, HTML), (Kind::NotFound, "nginx/1.24.0", nothing)),
        row(("Apache", "/ws"), Same, (404, APACHE, HTML), (Kind::NotFound, "Apache/2.4.57", nothing)),
        row(("Traefik", "/ws"), Same, (404, TRAEFIK, "404 page not found"), (Kind::NotFound, "(404)", nothing)),
        row(("Envoy", "/ws"), Same, (404, ENVOY, ""), (Kind::NotFound, "envoy", nothing)),
        row(("IIS", "/ws"), Same, (404, IIS, HTML), (Kind::NotFound, "Microsoft-IIS", nothing)),
        row(
            ("nginx", "/ws"),
            Same,
            (200, NGINX, HTML),
            (html, "a web page answers there (status 200", "pass this host"),
        ),
        // No site of that name: Caddy answers 200 and nothing.
        row(("Caddy", "/ws"), Same, (200, CADDY, ""), (ok, "Caddy answers the handshake", "pass this path on")),
        row(("AWS", "/ws"), Same, (464, AWS, ""), (Kind::Http2Only, "target group takes only HTTP/2", "HTTP1")),
        row(("AWS", "/ws"), Page(200), (464, &[], ""), (Kind::Http2Only, "(464)", "target group")),
        unexpected("AWS", (463, AWS, HTML), "more than 30 addresses", "circle"),
        unexpected("AWS", (460, AWS, ""), "left too early", "time limit"),
        unexpected("nginx", (429, NGINX, HTML), "too many requests (429)", "wait"),
        unexpected("Envoy", (429, ENVOY_TEXT, "local_rate_limited"), "local_rate_limited", "wait"),
        unexpected("HAProxy", (408, &[], ""), "with 408", "log"),
        unexpected("Varnish", (405, &VARNISH[..2], ""), "Varnish answers the handshake with 405", "log"),
        unexpected("Apache", (421, &APACHE[..1], ""), "with 421", "log"),
        // These statuses are Cloudflare's only where it signs.
        unexpected("a server", (521, TEXT, "oops"), "with 521: \"oops\"", "log"),
        unexpected("a server", (304, &[], ""), "with 304", "log"),
        unexpected("a server", (500, TEXT, "oops"), "with 500: \"oops\"", "log"),
    ] {
        row.check();
    }
}

/// The page's own origin is refused where a proxy puts another `Host` in place of the one that was asked for.
#[test]
fn a_front_that_changes_the_host_keeps_pages_out() {
    let through = Through("Server: nginx/1.24.0", Some(Proxy::Nginx));
    let row = row(("nginx", "/ws"), through, (101, NGINX, ""), (Kind::Sound, "", ""));
    let facts = |host_origin: Option<u16>| {
        let mut facts = row.facts();
        let address = &mut facts.addresses[0];
        if let Step::Done(Echo { diff: Some(diff), .. }) = &mut address.echo {
            let (sent, arrived) = ("chat.example.com".into(), "127.0.0.1:8080".into());
            diff.changed.push(Changed { name: "Host".into(), sent, arrived });
        }
        if let Step::Done(handshake) = &mut address.handshake {
            let own = Some("http://chat.example.com".to_owned());
            handshake.other_origin = Some(OtherOrigin { origin: own, status: 403 });
            handshake.host_origin = host_origin.map(|status| OtherOrigin { origin: None, status });
        }
        facts
    };
    let verdict = diagnose(&facts(Some(101))).verdict;
    assert_eq!((verdict.kind, verdict.broken), (Kind::ForbiddenOrigin, true));
    let said = verdict.to_string();
    for part in
        ["pages of http://chat.example.com", "from chat.example.com to 127.0.0.1:8080", "let nginx pass Host on"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(verdict.fix.unwrap().lines[0].lines, ["proxy_set_header Host $http_host;"]);
    // The changed Host is not the reason: the operator has chosen other origins.
    for other in [Some(403), None] {
        let found = diagnose(&facts(other));
        assert_eq!((found.verdict.kind, found.others[0].kind), (Kind::Sound, Kind::ForbiddenOrigin));
    }
}
