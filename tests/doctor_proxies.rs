//! `hi doctor` through real proxies: its verdict, the hop, the lines of the fix and its exit code; and the server's own log.
//! The last test is the whole story, with nginx as the forgotten proxy at the old address.

#[path = "support/dns.rs"]
mod dns;
#[path = "support/doctor.rs"]
mod run;
mod support;

use dns::Dns;
use run::{doctor, doctor_text};
use support::Server;
use support::proxies::{Kind, Setup, cases};

/// A user of Caddy, with an unknown password.
const BASIC: &str = "staff $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG";

/// The address of a proxy, as its users have it.
fn url(setup: &Setup) -> String {
    format!("ws://{}/ws", setup.address())
}

/// What the doctor has to find through a proxy.
struct Expected {
    /// The verdict, and the exit code that goes with it.
    verdict: (&'static str, i32),
    /// In the text of the verdict or of its fix.
    says: &'static [&'static str],
    /// In the lines of the fix.
    lines: &'static [&'static str],
    /// The reason in the server's own log, if the handshake reaches it.
    logged: Option<&'static str>,
}

#[track_caller]
fn expect(server: &Server, setup: &Setup, args: &[&str], expected: &Expected) {
    let _proxy = setup.start();
    let before = server.log().len();
    let run = doctor(&[&[&*url(setup)], args].concat());
    let said = run.expect(expected.verdict.0, expected.verdict.1);
    for part in expected.says {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let lines = run.json["diagnosis"]["verdict"]["mend"]["lines"].to_string();
    for line in expected.lines {
        assert!(lines.contains(line), "no {line:?} in {lines}");
    }
    match expected.logged {
        Some(reason) => assert!(server.wait_for_log("refused").contains(reason), "{}", server.log()),
        None => assert!(!server.log()[before..].contains("refused"), "{}", server.log()),
    }
}

#[test]
fn proxies_that_pass_websockets_are_healthy() {
    let server = Server::start(&[]);
    let sound = Expected { verdict: ("sound", 0), says: &["works"], lines: &[], logged: None };
    let upstream = server.address();
    for setup in [
        cases::correct(upstream),
        cases::buffers(upstream),
        cases::haproxy_correct(upstream),
        cases::apache_correct(upstream),
        cases::caddy_correct(upstream),
    ] {
        expect(&server, &setup, &[], &sound);
    }
}

#[test]
fn apache_and_caddy_that_strip_are_named_with_their_lines() {
    for (setup, name, line) in [
        (cases::apache_strips as fn(_, _) -> Setup, "Apache", "upgrade=websocket"),
        (|upstream, _| cases::caddy_strips(upstream), "Caddy", "reverse_proxy"),
    ] {
        let server = Server::start(&[]);
        let says: &'static [&'static str] = Box::leak(Box::new([name, "drops Upgrade"]));
        let lines: &'static [&'static str] = Box::leak(Box::new([line]));
        let expected = Expected { verdict: ("upgrade_stripped", 1), says, lines, logged: Some("upgrade_stripped") };
        expect(&server, &setup(server.address(), true), &[], &expected);
    }
}

/// The page of another site, and only hi's chat below it: that is not a fault.
#[test]
fn a_proxy_that_passes_only_the_chat_is_healthy() {
    let server = Server::start(&[]);
    let pass = format!("reverse_proxy {}", server.address());
    let page = ["handle {", "header Content-Type text/html", "respond \"<html>Elsewhere</html>\"", "}"];
    let setup = Setup::new(Kind::Caddy, &[&["handle /ws* {", &pass, "}"][..], &page].concat());
    expect(
        &server,
        &setup,
        &[],
        &Expected { verdict: ("sound", 0), says: &["works", "not passed on"], lines: &[], logged: None },
    );
}

/// Everything works but for the pages of the site: nginx and Apache put the server's address in place of `Host`.
#[test]
fn proxies_that_change_host_are_named_with_the_line_that_keeps_it() {
    let server = Server::start(&[]);
    for (mut setup, line, name) in [
        (cases::correct(server.address()), "proxy_set_header Host $http_host;", "nginx"),
        (cases::apache_correct(server.address()), "ProxyPreserveHost On", "Apache httpd"),
    ] {
        setup.site.retain(|there| there != line);
        let says: &'static [&'static str] =
            Box::leak(Box::new([name, "changes Host on the way", "pages of http://127.0.0.1:"]));
        let lines: &'static [&'static str] = Box::leak(Box::new([line]));
        let expected = Expected { verdict: ("forbidden_origin", 1), says, lines, logged: Some("origin_refused") };
        expect(&server, &setup, &[], &expected);
        setup.port = support::proxies::free_port();
        setup.site.insert(0, line.to_owned());
        expect(&server, &setup, &[], &Expected { verdict: ("sound", 0), says: &["works"], lines: &[], logged: None });
    }
}

#[test]
fn behind_a_proxy_a_path_that_hi_does_not_have_is_at_fault() {
    let server = Server::start(&[]);
    let setup = cases::correct(server.address());
    let _proxy = setup.start();
    let address = setup.address();
    let run = doctor(&[&format!("ws://{address}/nothing")]);
    let said = run.expect("not_found", 1);
    assert!(
        said.contains("has nothing at /nothing (404)") && said.contains(&format!("use ws://{address}/ws")),
        "{said}"
    );
    assert!(!said.contains("drops"), "{said}");
}

#[test]
fn proxies_that_redirect_and_refuse_are_told_apart() {
    let server = Server::start(&[]);
    let deny = format!("http-request deny deny_status 403 if {{ path_end /ws }}\nserver hi {}", server.address());
    for (setup, verdict, says) in [
        (Setup::new(Kind::Nginx, &["return 301 https://$host$request_uri;"]), "redirect", "use wss://127.0.0.1/ws"),
        (Setup::new(Kind::Nginx, &["return 302 https://sso.example.com/?next=$uri;"]), "redirect", "to a login page"),
        (Setup::new(Kind::Caddy, &["redir https://{host}{uri} permanent"]), "redirect", "use wss://127.0.0.1/ws"),
        (Setup::new(Kind::Haproxy, &[&deny]), "forbidden", "refuses the handshake (403)"),
        (Setup::new(Kind::Caddy, &["basicauth {", BASIC, "}", "respond ok"]), "forbidden", "asks for a login (401"),
    ] {
        let says: &'static [&'static str] = Box::leak(Box::new([says]));
        expect(&server, &setup, &[], &Expected { verdict: (verdict, 1), says, lines: &[], logged: None });
    }
}

#[test]
fn nginx_that_strips_is_named_with_its_lines() {
    const LINES: &[&str] = &["proxy_http_version 1.1;", "proxy_set_header Upgrade $http_upgrade;"];
    for (case, verdict, says) in [
        (cases::http10 as fn(_) -> Setup, "http10_hop", "HTTP/1.0"),
        (cases::strips_both, "upgrade_stripped", "Upgrade"),
        (cases::drops_upgrade, "upgrade_stripped", "Upgrade"),
        (cases::drops_connection, "connection_stripped", "Connection"),
    ] {
        let server = Server::start(&[]);
        let says: &'static [&'static str] = Box::leak(Box::new(["nginx", says]));
        let expected = Expected { verdict: (verdict, 1), says, lines: LINES, logged: Some(verdict) };
        expect(&server, &case(server.address()), &[], &expected);
    }
}

#[test]
fn haproxy_that_strips_is_diagnosed_too() {
    for (case, verdict) in [
        (cases::haproxy_strips_both as fn(_) -> Setup, "upgrade_stripped"),
        (cases::haproxy_drops_upgrade, "upgrade_stripped"),
        (cases::haproxy_drops_connection, "connection_stripped"),
    ] {
        let server = Server::start(&[]);
        // HAProxy does not name itself: the doctor shows the lines of all common products.
        let lines = &["timeout tunnel", "proxy_set_header Upgrade", "upgrade=websocket", "reverse_proxy"];
        let expected = Expected { verdict: (verdict, 1), says: &[], lines, logged: Some(verdict) };
        expect(&server, &case(server.address()), &[], &expected);
    }
}

#[test]
fn the_inner_one_of_two_hops_strips() {
    let server = Server::start(&[]);
    let [outer, mut inner] = cases::inner_strips(server.address());
    inner.site.push("proxy_set_header Via \"1.0 inner-host\";".to_owned());
    let _inner = inner.start();
    let expected = Expected {
        verdict: ("http10_hop", 1),
        says: &["inner-host", "HTTP/1.0"],
        lines: &["proxy_http_version 1.1;"],
        logged: Some("http10_hop"),
    };
    expect(&server, &outer, &[], &expected);
}

#[test]
fn requests_that_never_reach_hi_have_their_own_verdicts() {
    let server = Server::start(&[]);
    for (setup, verdict, says) in [
        (cases::redirects("https://elsewhere.example.com/"), "redirect", "elsewhere.example.com"),
        (cases::html(200), "html_instead_of_json", "nginx"),
        (cases::html(403), "forbidden", "403"),
        (cases::dead_upstream(), "bad_gateway", "502"),
        (cases::haproxy_dead_upstream(), "bad_gateway", "503"),
    ] {
        let says: &'static [&'static str] = Box::leak(Box::new([says]));
        expect(&server, &setup, &[], &Expected { verdict: (verdict, 1), says, lines: &[], logged: None });
    }
}

#[test]
fn an_idle_timeout_is_found_and_the_ping_interval_to_set() {
    let server = Server::start(&[]);
    for (setup, line) in [
        (cases::idle_after_2s(server.address()), "proxy_read_timeout"),
        (cases::haproxy_idle_after_2s(server.address()), "timeout tunnel"),
    ] {
        let _proxy = setup.start();
        let run = doctor(&[&url(&setup), "--idle=5s"]);
        let said = run.expect("idle_timeout", 1);
        assert!(said.contains("2 s"), "{said}");
        let verdict = run.json["diagnosis"]["verdict"].to_string();
        assert!(verdict.contains("--ping-interval") && verdict.contains(line), "{verdict}");
    }
}

#[test]
fn a_proxy_that_hi_does_not_believe_is_reported() {
    for (trusted, said, unsaid) in [
        ("none", "start hi with --trusted-proxies 127.0.0.1", "of the client"),
        ("loopback", "of the client 127.0.0.1", "--trusted-proxies"),
    ] {
        let server = Server::start(&["--trusted-proxies", trusted]);
        // It sends X-Forwarded-For by itself.
        let setup = cases::apache_correct(server.address());
        let _proxy = setup.start();
        let (code, text) = doctor_text(&[&url(&setup)]);
        assert!(code == 0 && text.contains(said) && !text.contains(unsaid), "{trusted}: {text}");
    }
}

#[test]
fn a_proxy_and_hi_that_disagree_about_the_proxy_protocol_are_told_apart() {
    let haproxy = |server: &Server, options: &str| {
        let line = format!("server hi {} {options}", server.address());
        Setup::new(Kind::Haproxy, &["mode tcp", &line])
    };
    for (demanded, options, kind, says) in [
        ("loopback", "", "proxy_header_missing", "No PROXY protocol header came"),
        ("none", "send-proxy", "proxy_header_unexpected", "A PROXY protocol header came"),
        ("none", "send-proxy-v2", "proxy_header_unexpected", "add the address of the proxy to --proxy-protocol"),
        ("loopback", "send-proxy-v2", "sound", "works"),
    ] {
        let server = Server::start(&["--proxy-protocol", demanded]);
        let setup = haproxy(&server, options);
        let _proxy = setup.start();
        let said = doctor(&[&url(&setup)]).expect(kind, i32::from(kind != "sound"));
        assert!(said.contains(says), "{demanded} {options}: {said}");
    }
}

#[test]
fn an_address_that_is_limited_is_named_with_the_options() {
    let server = Server::start(&["--unlimited-addresses=none", "--handshakes-per-address=1"]);
    server.get("/ws");
    let said = doctor(&[&format!("ws://{}/ws", server.address())]).expect("address_limited", 1);
    assert!(said.contains("(127.0.0.1) connects too often") && said.contains("--trusted-proxies"), "{said}");
}

#[test]
fn the_whole_story() {
    // The new server, and at the old address, on the same port, the proxy of the provider.
    let server = Server::start_on("127.0.0.3:0", &[]);
    let mut forgotten = cases::http10(server.address());
    forgotten.port = server.port();
    forgotten.site.push("proxy_set_header Via \"1.0 old-host\";".to_owned());
    assert_eq!(forgotten.kind, Kind::Nginx);
    let proxy = forgotten.start();
    let url = format!("ws://chat.example.com:{}/ws", server.port());
    let args = |dns: &Dns| [url.clone(), "--resolver".into(), dns.address(), "--expect-ip".into(), "127.0.0.3".into()];
    let examine = |dns: &Dns| doctor(&args(dns).each_ref().map(String::as_str));

    // Everything but the chat works there, so it went unnoticed.
    let mut page = support::wire::Wire::new(proxy.connect());
    page.send("GET / HTTP/1.1\r\nHost: chat.example.com\r\nConnection: close\r\n\r\n");
    let page = page.answer();
    assert!(page.status == 200 && page.body.contains("<title>"), "{}", page.head);

    let before = Dns::with_addresses(&[("chat", 3540, "127.0.0.1")]);
    let said = examine(&before).expect("stale_address", 1);
    for part in ["127.0.0.1 is not this server", "old-host", "HTTP/1.0", "TTL 3,540 s", "point the record at 127.0.0.3"]
    {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    // The server knows it as well, from the requests that reached it.
    let line = server.wait_for_log("refused");
    for part in ["http10_hop", "127.0.0.1", "old-host"] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }

    let after = Dns::with_addresses(&[("chat", 60, "127.0.0.3")]);
    examine(&after).expect("sound", 0);
}
