//! The internal port over real sockets: which requests get in, what tokens allow there, what OPTIONS and the description say, and health.

mod support;

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::Server;
use support::internal::{self, File, Internal, error};
use support::tokens::{now, secret_file, token, token_of};
use support::wire::BINARY;

const KEY: &str = "correct-horse-battery-staple";

#[test]
fn with_a_key_only_health_and_metrics_are_open() {
    let file = File::new(&format!("{KEY}\n"));
    let (server, internal) = Server::start_with_internal(&["--api-key-file", file.path()]);
    assert!(!server.log().contains(KEY));
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(internal.ask("GET", open, &[], b"").status, 200, "{open}");
    }
    let publish = json!({"room": "tea", "message": "x"}).to_string();
    for (method, path) in [
        ("POST", "/api/publish"),
        ("POST", "/api/broadcast"),
        ("POST", "/pub/data"),
        ("GET", "/api/rooms"),
        ("GET", "/api/rooms/tea"),
        ("POST", "/api/disconnect"),
        ("GET", "/api/openapi.json"),
    ] {
        for headers in [
            &[][..],
            &[("X-API-Key", "correct-horse-battery-stapl")],
            &[("Authorization", "Bearer correct-horse-battery-staplE")],
            &[("Authorization", KEY)],
        ] {
            let answer = internal.ask(method, path, headers, publish.as_bytes());
            assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"), "{answer:?}");
            let (status, code, message, _) = error(internal::json(&answer));
            assert_eq!((status, code.as_str()), (401, "denied"), "{path}");
            assert!(message.contains("X-API-Key") && !message.contains(KEY), "{message}");
        }
    }
    let mut ann = server.join("ann", "tea");
    for header in [("X-API-Key", KEY), ("Authorization", &format!("Bearer {KEY}"))] {
        assert_eq!(internal.ask("POST", "/api/publish", &[header], publish.as_bytes()).status, 200);
        ann.expect_message("api", "x");
    }
    // A page that has the key may ask.
    let headers = [("X-API-Key", KEY), ("Origin", "https://example.org")];
    assert_eq!(internal.ask("POST", "/api/publish", &headers, publish.as_bytes()).status, 200);
}

#[test]
fn without_a_key_no_web_page_gets_in() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut member = server.upgraded("/raw/data");
    for header in [("Origin", "https://example.org"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-site")]
    {
        let answer = internal.ask("POST", "/pub/data", &[header], b"x");
        let (status, code, message, _) = error(internal::json(&answer));
        assert_eq!((status, code.as_str()), (403, "denied"), "{header:?}");
        assert!(message.contains("--api-key-file"), "{message}");
    }
    // An address typed by a person, or a request of a program.
    assert_eq!(internal.ask("POST", "/pub/data", &[("Sec-Fetch-Site", "none")], b"typed").status, 200);
    member.expect_frame(BINARY, "typed");
}

#[test]
fn the_rights_of_a_token_decide_on_the_internal_port() {
    let (key, api_key) = (secret_file(), File::new(KEY));
    let args = ["--auth", "required", "--jwt-key", key.path(), "--auth-query", "on", "--api-key-file", api_key.path()];
    let (server, internal) = Server::start_with_internal(&args);
    let (mut boss, _) = server.v1(&format!("token={}", token_of("boss", &json!({"*": ["join", "pub"]}))));
    for room in ["tea", "team-a", "news"] {
        boss.join_room(room, None);
        boss.expect_message(&format!("#{room}"), &format!("Welcome to {room}, boss!"));
    }
    let rooms = json!({"team-*": ["join", "pub"], "news": ["listen"], "raw:in": ["pub"]});
    let ask_with = |credential: &str, method: &str, path: &str, body: &Value| {
        let bearer = format!("Bearer {credential}");
        let answer = internal.ask(
            method,
            path,
            &[("Authorization", &bearer), ("Idempotency-Key", path)],
            body.to_string().as_bytes(),
        );
        internal::json(&answer)
    };
    let ada = token_of("ada", &rooms);
    let publish = |credential: &str, room: &str, message: &str| {
        ask_with(credential, "POST", "/api/publish", &json!({"room": room, "message": message}))
    };
    // As its own name, and only there.
    assert_eq!(publish(&ada, "team-a", "a plan").0, 200);
    boss.expect_message("ada", "a plan");
    for (path, body, says) in [
        (
            "/api/publish",
            json!({"room": "tea", "message": "x"}),
            "You may not publish in tea: the token's rooms allow ",
        ),
        ("/api/publish", json!({"room": "news", "message": "x"}), "You may not publish in news: "),
        (
            "/api/publish",
            json!({"room": "team-a", "message": "x", "from": "boss"}),
            "from: the token is for the user ada",
        ),
        ("/api/broadcast", json!({"rooms": ["team-a", "tea"], "message": "x"}), "You may not publish in tea: "),
        ("/pub/scores", json!({}), "You may not publish in the raw room scores: "),
        ("/api/disconnect", json!({"user": "boss"}), "/api/disconnect is for the operator"),
    ] {
        let (status, code, message, _) = error(ask_with(&ada, "POST", path, &body));
        assert_eq!((status, code.as_str()), (403, "denied"), "{path}: {message}");
        assert!(message.starts_with(says), "{message}");
    }
    assert_eq!(ask_with(&ada, "POST", "/pub/in", &json!({})).0, 202);
    let (status, listed) = ask_with(&ada, "GET", "/api/rooms", &json!({}));
    let names: Vec<_> = listed["rooms"].as_array().unwrap().iter().map(|room| room["room"].as_str().unwrap()).collect();
    assert_eq!((status, names, &listed["count"]), (200, vec!["news", "team-a"], &json!(2)));
    assert_eq!(ask_with(&ada, "GET", "/api/rooms/news", &json!({})).1["users"], json!(["boss"]));
    assert_eq!(ask_with(&ada, "GET", "/api/rooms/tea", &json!({})).0, 403);
    assert_eq!(ask_with(&ada, "GET", "/api/rooms/nowhere", &json!({})).0, 403, "nor is it said whether it exists");
    // A key keeps all rights, and its Idempotency-Key is not that of a user.
    assert_eq!(publish(KEY, "team-a", "a plan").0, 200);
    boss.expect_message("api", "a plan");
    assert_eq!(ask_with(KEY, "GET", "/api/rooms", &json!({})).1["count"], 3);
    // What is wrong is told to both sides.
    let expired = token(&json!({"sub": "ada", "exp": now() - 100}));
    let (status, told) = publish(&expired, "team-a", "x");
    assert_eq!((status, &told["reason"], &told["error"]["code"]), (401, &json!("token_expired"), &json!("denied")));
    assert!(told["error"]["message"].as_str().unwrap().starts_with("The token expired "), "{told}");
    server.wait_for_log("token on the internal port refused: token_expired; The token expired");
    internal.wait_for_metric("hi_handshake_failures_total{reason=\"token_expired\",hop=\"internal\"}", 1.0);
    let (status, told) = publish("correct-horse-battery-stapler", "team-a", "x");
    assert!(status == 401 && told["error"]["message"].as_str().unwrap().contains("API key"), "{told}");
    assert!(!server.log().contains(&expired));
}

#[test]
fn without_a_key_a_request_with_a_token_has_the_rights_of_the_token() {
    let key = secret_file();
    let (_server, internal) = Server::start_with_internal(&["--auth", "required", "--jwt-key", key.path()]);
    let body = json!({"room": "tea", "message": "x"}).to_string();
    let publish = |headers: &[(&str, &str)]| internal.ask("POST", "/api/publish", headers, body.as_bytes());
    let (ada, tea) = (
        format!("Bearer {}", token_of("ada", &json!({}))),
        format!("Bearer {}", token_of("ada", &json!({"tea": ["pub"]}))),
    );
    assert_eq!(publish(&[]).status, 202, "the operator's own programs need no key");
    assert_eq!(publish(&[("Authorization", &ada)]).status, 403);
    assert_eq!(publish(&[("Authorization", "Bearer x")]).status, 401);
    // No page has a token by accident.
    let page = ("Origin", "https://example.org");
    assert_eq!(publish(&[page]).status, 403);
    assert_eq!(publish(&[page, ("Authorization", &tea)]).status, 202);
}

#[test]
fn without_a_key_the_port_is_asked_by_address_so_that_no_name_can_be_rebound_to_it() {
    let key = File::new(KEY);
    let (_server, open) = Server::start_with_internal(&[]);
    let (_other, guarded) = Server::start_with_internal(&["--api-key-file", key.path()]);
    let ask = |internal: Internal, line: &str, host: &str, more: &str| {
        let mut wire = internal.wire();
        wire.send(format!("{line}\r\n{host}{more}\r\n"));
        wire.answer()
    };
    let port = open.address.port();
    for host in ["127.0.0.1".to_owned(), format!("127.0.0.1:{port}"), "[::1]:1".into(), format!("LOCALHOST:{port}")] {
        assert_eq!(ask(open, "GET /api/rooms HTTP/1.1", &format!("Host: {host}\r\n"), "").status, 200, "{host}");
    }
    for host in ["evil.example", &format!("evil.example:{port}"), "localhost.evil.example", "127.0.0.1.evil.example"] {
        let (line, more) = ("POST /pub/data HTTP/1.1", "Content-Length: 0\r\n");
        let answer = ask(open, line, &format!("Host: {host}\r\n"), more);
        let (status, code, message, _) = error(internal::json(&answer));
        assert_eq!((status, code.as_str()), (403, "denied"), "{host}");
        assert!(message.contains("localhost") && message.contains("--api-key-file"), "{message}");
        // A client with the key may use any name of the server, and so may health checks.
        let more = format!("X-API-Key: {KEY}\r\n");
        assert_eq!(ask(guarded, "GET /api/rooms HTTP/1.1", &format!("Host: {host}\r\n"), &more).status, 200);
        assert_eq!(ask(open, "GET /metrics HTTP/1.1", &format!("Host: {host}\r\n"), "").status, 200);
    }
    assert_eq!(ask(open, "GET /api/rooms HTTP/1.0", "", "").status, 200, "HTTP/1.0 knows no Host");
}

#[test]
fn options_says_what_works_where_also_to_http_1_0() {
    let key = File::new(KEY);
    let (_server, internal) = Server::start_with_internal(&["--api-key-file", key.path()]);
    for (path, allow) in [
        ("/", "GET, HEAD, OPTIONS, POST"),
        ("*", "GET, HEAD, OPTIONS, POST"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/metrics", "GET, HEAD, OPTIONS"),
        ("/api/publish", "OPTIONS, POST"),
        ("/api/rooms/tea", "GET, HEAD, OPTIONS"),
        ("/pub/tea", "OPTIONS, POST"),
    ] {
        // HAProxy's default health check, and one of HTTP/1.1.
        for request in
            [format!("OPTIONS {path} HTTP/1.0\r\n\r\n"), format!("OPTIONS {path} HTTP/1.1\r\nHost: x\r\n\r\n")]
        {
            let mut wire = internal.wire();
            wire.send(&request);
            let answer = wire.answer_to("OPTIONS");
            assert_eq!((answer.status, answer.header("Allow")), (204, Some(allow)), "{request:?}");
            if request.contains("1.0") {
                wire.expect_end();
            }
        }
    }
    for (method, path) in [("OPTIONS", "/nowhere"), ("GET", "/")] {
        assert_eq!(internal.ask(method, path, &[], b"").status, 404, "{method} {path}");
    }
}

#[test]
fn a_server_that_stops_is_alive_and_not_ready() {
    let (server, internal) = Server::start_with_internal(&[]);
    let ready = internal.get("/readyz");
    assert_eq!((ready.0, &ready.1["ready"], &ready.1["checks"][0]["ok"]), (200, &json!(true), &json!(true)));
    // It answers no Close, so the server has to wait for it.
    let _silent = server.join("silent", "tea");
    server.signal(Signal::TERM);
    server.wait_for_log("stopping");
    // The order reaches the shards after that line.
    let (status, body) = loop {
        let answer = internal.get("/readyz");
        if answer.0 == 503 {
            break answer;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!((status, &body["ready"]), (503, &json!(false)));
    assert_eq!((&body["checks"][0]["name"], &body["checks"][0]["ok"]), (&json!("accepting"), &json!(false)));
    assert!(body["checks"][0]["detail"].as_str().unwrap().contains("stops"), "{body}");
    assert_eq!(internal.ask("GET", "/healthz", &[], b"").body, "ok");
}

#[test]
fn the_description_is_served_and_every_address_in_it_answers() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let (status, description) = internal.get("/api/openapi.json");
    assert_eq!((status, &description["openapi"]), (200, &json!("3.1.0")));
    let paths = description["paths"].as_object().expect("paths");
    assert!(paths.len() >= 10);
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            let answer = internal.ask(&method.to_uppercase(), &path.replace("{room}", "tea"), &[], b"x");
            let described = operation["responses"].as_object().unwrap();
            assert!(described.contains_key(&answer.status.to_string()), "{method} {path}: {answer:?}");
            assert!(answer.status != 404 || answer.body.contains("room_not_found"), "{method} {path}: {answer:?}");
            assert!(answer.status != 405, "{method} {path}: {answer:?}");
        }
    }
}
