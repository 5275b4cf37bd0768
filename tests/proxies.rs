//! What hi reports about handshakes broken by real proxies, and that its suggested lines fix those proxies.

mod support;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::proxies::{Kind, Proxy, Setup, cases, free_port};
use support::wire::{Answer, Wire, handshake};
use support::{PATIENCE, Server, wait_while};

const PATH: &str = "/raw/proxies";

/// A handshake through the proxy, with this extra header.
fn ask_with(proxy: &Proxy, header: &str) -> Answer {
    let mut wire = Wire::new(proxy.connect());
    wire.send(handshake(PATH).replace("Host: hi\r\n", &format!("Host: hi\r\n{header}\r\n")));
    wire.answer()
}

/// The diagnosis of a handshake through this proxy, which hi has to refuse.
#[track_caller]
fn verdict(setup: &Setup) -> Value {
    let proxy = setup.start();
    let answer = ask_with(&proxy, "Accept: application/json");
    assert_eq!(answer.status, 426, "{}{}", answer.head, answer.body);
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    serde_json::from_str(&answer.body).expect("JSON")
}

#[track_caller]
fn expect_a_way_through(setup: &Setup) {
    let proxy = setup.start();
    let mut wire = Wire::new(proxy.connect());
    wire.send(handshake(PATH));
    wire.expect_101();
    wire.expect_echo("through");
}

/// The lines that hi suggests for this kind of proxy.
#[track_caller]
fn fix_for(verdict: &Value, kind: Kind) -> Value {
    let fixes = verdict["mend"].as_array().expect("fixes");
    fixes
        .iter()
        .find(|fix| fix["proxy"] == kind.name())
        .unwrap_or_else(|| panic!("none for {kind:?}: {verdict}"))
        .clone()
}

/// A proxy that strips headers: checks hi's report, once in the log, and that the suggested lines fix it.
#[track_caller]
fn expect_diagnosed(server: &Server, setup: &Setup, reason: &str, likely: Option<&str>) -> Value {
    let said = verdict(setup);
    assert_eq!((said["reason"].as_str(), said["status"].as_u64()), (Some(reason), Some(426)), "{said}");
    assert_eq!((&said["hop"]["address"], said["hop"]["proxy"].as_str()), (&"127.0.0.1".into(), likely), "{said}");
    assert_eq!(said["survived"], serde_json::json!(["Sec-WebSocket-Key", "Sec-WebSocket-Version"]));
    let line = server.wait_for_log("refused: ");
    for part in ["handshake from 127.0.0.1:", reason, said["sentence"].as_str().expect("a sentence"), "Fix: in "] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    let fix = fix_for(&said, setup.kind);
    for part in fix["lines"].as_array().expect("lines") {
        assert!(line.contains(part.as_str().unwrap()), "no {part} in {line}");
    }
    expect_a_way_through(&setup.fixed(&fix));
    said
}

#[test]
fn default_nginx_is_an_http_1_0_hop() {
    let server = Server::start(&[]);
    let setup = cases::http10(server.address());
    let said = expect_diagnosed(&server, &setup, "http10_hop", Some("nginx"));
    assert!(
        said["sentence"].as_str().unwrap().contains("127.0.0.1 (most likely nginx), passes requests on as HTTP/1.0")
    );
    assert_eq!(said["mend"][0]["proxy"], "nginx", "the likely one first");
}

#[test]
fn nginx_that_strips_headers_is_named_and_fixed() {
    for (setup, reason) in [
        (cases::strips_both as fn(_) -> _, "upgrade_stripped"),
        (cases::drops_connection, "connection_stripped"),
        (cases::drops_upgrade, "upgrade_stripped"),
    ] {
        let server = Server::start(&[]);
        expect_diagnosed(&server, &setup(server.address()), reason, None);
    }
}

#[test]
fn haproxy_that_strips_is_fixed_by_removing_lines() {
    for (setup, reason) in [
        (cases::haproxy_strips_both as fn(_) -> _, "upgrade_stripped"),
        (cases::haproxy_drops_upgrade, "upgrade_stripped"),
        (cases::haproxy_drops_connection, "connection_stripped"),
    ] {
        let server = Server::start(&[]);
        expect_diagnosed(&server, &setup(server.address()), reason, None);
    }
}

#[test]
fn apache_is_certain_with_via_and_likely_without() {
    let server = Server::start(&[]);
    let signs = expect_diagnosed(
        &server,
        &cases::apache_strips(server.address(), true),
        "upgrade_stripped",
        Some("Apache httpd"),
    );
    assert_eq!((&signs["hop"]["certain"], signs["mend"].as_array().unwrap().len()), (&true.into(), 1), "{signs}");
    let server = Server::start(&[]);
    let silent = expect_diagnosed(
        &server,
        &cases::apache_strips(server.address(), false),
        "upgrade_stripped",
        Some("Apache httpd"),
    );
    assert_eq!((&silent["hop"]["certain"], silent["mend"].as_array().unwrap().len()), (&false.into(), 4), "{silent}");
}

#[test]
fn apache_with_an_extra_line_is_fixed_by_removing_it() {
    for (setup, reason) in
        [(cases::apache_http10 as fn(_) -> _, "http10_hop"), (cases::apache_drops_upgrade, "upgrade_stripped")]
    {
        let server = Server::start(&[]);
        expect_diagnosed(&server, &setup(server.address()), reason, Some("Apache httpd"));
    }
}

#[test]
fn caddy_that_strips_is_fixed() {
    let server = Server::start(&[]);
    expect_diagnosed(&server, &cases::caddy_strips(server.address()), "upgrade_stripped", None);
}

#[test]
fn with_two_hops_the_last_is_named_and_the_other_mentioned() {
    let server = Server::start(&[]);
    let [outer, inner] = cases::inner_strips(server.address());
    let inside = inner.start();
    let said = verdict(&outer);
    assert_eq!((&said["reason"], &said["hop"]["proxy"]), (&"http10_hop".into(), &"nginx".into()), "{said}");
    assert_eq!(said["hop"]["earlier"], serde_json::json!(["127.0.0.1"]));
    assert!(said["sentence"].as_str().unwrap().contains("the last of several hops"), "{said}");
    drop(inside);
    let fixed = inner.fixed(&fix_for(&said, Kind::Nginx)).start();
    expect_a_way_through(&outer);
    drop(fixed);

    // The inner one is fine, which the header that it writes shows: the outer one strips.
    let server = Server::start(&[]);
    let [outer, inner] = cases::outer_strips(server.address());
    let _inside = inner.start();
    let said = verdict(&outer);
    let sentence = said["sentence"].as_str().unwrap();
    assert!(said["reason"] == "upgrade_stripped" && sentence.contains("from a hop before it"), "{said}");
    expect_a_way_through(&outer.fixed(&fix_for(&said, Kind::Nginx)));
}

#[test]
fn correct_proxies_carry_websockets() {
    let server = Server::start(&[]);
    let upstream = server.address();
    for setup in [
        cases::correct(upstream),
        cases::buffers(upstream),
        cases::haproxy_correct(upstream),
        cases::haproxy_httpclose(upstream),
        cases::apache_correct(upstream),
        cases::caddy_correct(upstream),
    ] {
        expect_a_way_through(&setup);
    }
    assert!(!server.log().contains("refused"));
}

#[test]
fn proxies_that_cut_idle_connections_do_so() {
    let server = Server::start(&[]);
    for setup in [cases::idle_after_2s(server.address()), cases::haproxy_idle_after_2s(server.address())] {
        let proxy = setup.start();
        let mut wire = Wire::new(proxy.connect());
        wire.send(handshake(PATH));
        wire.expect_101();
        wire.expect_echo("awake");
        // hi pings after 25 s: too late for this proxy.
        let end = wire.stream.read(&mut [0; 1]);
        assert!(matches!(&end, Ok(0)) || end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
}

#[test]
fn requests_that_never_reach_hi_are_answered_by_the_proxy() {
    for (setup, status, says) in [
        (cases::redirects("https://chat.example.com/"), 301, "chat.example.com"),
        (cases::html(200), 200, "Not here"),
        (cases::html(403), 403, "Not here"),
        (cases::dead_upstream(), 502, "502"),
        (cases::haproxy_dead_upstream(), 503, "503"),
    ] {
        let proxy = setup.start();
        let mut wire = Wire::new(proxy.connect());
        wire.send(handshake(PATH));
        let mut text = String::new();
        let mut buffer = [0; 4096];
        while !text.contains(says) {
            let count = wire.stream.read(&mut buffer).expect("an answer, in time");
            assert!(count > 0, "no {says:?} in {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        assert_eq!(text.split(' ').nth(1), Some(&*status.to_string()), "{text}");
    }
}

#[test]
fn proxies_that_speak_another_protocol_are_named_with_the_fix() {
    for (setup, reason, kind) in [
        (cases::speaks_tls as fn(_) -> _, "tls_on_plain_port", Kind::Nginx),
        (cases::haproxy_speaks_http2, "http2_on_http1_port", Kind::Haproxy),
    ] {
        let server = Server::start(&[]);
        let setup: Setup = setup(server.address());
        let answer = ask_with(&setup.start(), "X-Test: 1");
        assert!(matches!(answer.status, 502 | 503), "{}", answer.head);
        let line = server.wait_for_log("refused: ");
        let fix = match kind {
            Kind::Nginx => format!("proxy_pass http://{};", server.address()),
            _ => format!("server hi {}", server.address()),
        };
        assert!(line.contains(reason) && line.contains("127.0.0.1") && line.contains(&fix), "{line}");
        let plain = serde_json::json!({"lines": [fix], "without": []});
        expect_a_way_through(&setup.fixed(&plain));
    }
}

#[test]
fn the_same_failure_is_one_line_and_then_a_count() {
    let server = Server::start(&[]);
    let proxy = cases::http10(server.address()).start();
    for _ in 0..6 {
        assert_eq!(ask_with(&proxy, "X-Test: 1").status, 426);
    }
    server.wait_for_log("refused");
    assert_eq!(server.log().matches("refused").count(), 1, "{}", server.log());

    // Together, the lines report every failure.
    let server = Server::start(&["--failure-log-interval", "1s"]);
    let proxy = cases::strips_both(server.address()).start();
    for _ in 0..6 {
        assert_eq!(ask_with(&proxy, "X-Test: 1").status, 426);
    }
    wait_while(|| told(&server.log()) < 6, || server.log());
    assert_eq!(told(&server.log()), 6, "{}", server.log());
    let counts = server.wait_for_log(" more ");
    assert!(counts.contains("upgrade_stripped") && counts.contains("127.0.0.1"), "{counts}");
}

/// Number of failures in the log, one by one or as a count.
fn told(log: &str) -> usize {
    let counted = |line: &str| {
        let words: Vec<_> = line.split([' ', '(']).collect();
        words.windows(2).find(|pair| pair[1] == "more").and_then(|pair| pair[0].parse::<usize>().ok()).unwrap_or(0)
    };
    let one_by_one = log.matches("handshake from 127.0.0.1:").count();
    one_by_one + log.lines().filter(|line| line.contains("refused")).map(counted).sum::<usize>()
}

#[test]
fn origins_are_checked_behind_a_proxy_too() {
    let server = Server::start(&["--origins", "https://chat.example.com"]);
    let proxy = cases::correct(server.address()).start();
    assert_eq!(ask_with(&proxy, "Origin: https://Chat.example.com:443").status, 101);
    let refused = ask_with(&proxy, "Origin: https://evil.example");
    assert_eq!(refused.status, 403);
    assert!(!refused.body.contains("chat.example.com"));
    let line = server.wait_for_log("origin_refused");
    assert!(
        line.contains("https://evil.example") && line.contains("--origins allows https://chat.example.com"),
        "{line}"
    );
}

#[test]
fn a_proxy_that_rewrites_host_is_named_as_the_cause_and_fixed_by_its_line() {
    let server = Server::start(&[]);
    let mut setup = cases::correct(server.address());
    setup.site.retain(|line| !line.contains(" Host "));
    let proxy = setup.start();
    let origin = format!("Origin: http://{}", proxy.address());
    // Browsers send the address of the page as Host.
    let from_page = |proxy: &Proxy| {
        let mut wire = Wire::new(proxy.connect());
        wire.send(handshake(PATH).replace("Host: hi\r\n", &format!("Host: {}\r\n{origin}\r\n", proxy.address())));
        wire.answer()
    };
    let refused = from_page(&proxy);
    let line = "proxy_set_header Host $http_host;";
    assert_eq!(refused.status, 403);
    for part in [line, &proxy.address().to_string(), &server.address().to_string()] {
        assert!(refused.body.contains(part), "no {part} in {}", refused.body);
    }
    drop(proxy);
    setup.site.push(line.to_owned());
    assert_eq!(from_page(&setup.start()).status, 101);
}

#[test]
fn the_bare_health_check_of_haproxy_finds_both_ports_up() {
    let (server, internal) = Server::start_with_internal(&[]);
    for upstream in [server.address(), internal.address] {
        let check = format!("server hi {upstream} check inter 50ms fall 1 rise 1");
        let mut setup = Setup::new(Kind::Haproxy, &["option httpchk", &check]);
        setup.before = format!("listen stats\n bind 127.0.0.1:{}\n stats enable\n stats uri /", free_port());
        let stats: SocketAddr = setup.before.split_whitespace().nth(3).unwrap().parse().unwrap();
        let _proxy = setup.start();
        let deadline = Instant::now() + PATIENCE;
        let (status, code) = loop {
            let mut wire = Wire::new(TcpStream::connect(stats).unwrap());
            wire.send("GET /;csv HTTP/1.0\r\n\r\n");
            let csv = wire.rest();
            let field = |name: &str| {
                let names = csv.lines().find(|line| line.starts_with("# pxname"))?.trim_start_matches("# ");
                let at = names.split(',').position(|column| column == name)?;
                csv.lines().find(|line| line.starts_with("site,hi,"))?.split(',').nth(at)
            };
            // Nothing has been checked yet.
            let checked = field("check_code").filter(|code| !code.is_empty());
            if let (Some(status), Some(code)) = (field("status"), checked) {
                break (status.to_owned(), code.to_owned());
            }
            assert!(Instant::now() < deadline, "no check: {csv}");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!((status.as_str(), code.as_str()), ("UP", "204"), "{upstream}");
    }
}
