//! Tokens and rights over real sockets: where a token may be, what it allows, what a client without one is told, and the end of
//! its time.

mod support;

use ring::hmac;
use serde_json::{Value, json};
use support::internal::{File, Internal};
use support::listener::Listener;
use support::tokens::{SECRET, now, secret_file, signed, token, token_of};
use support::wire::{Answer, FIN, TEXT, Wire, frame, handshake_but};
use support::{Client, Server};
use tungstenite::http::Uri;

/// A server that asks for tokens of this file, and its internal port.
fn server(key: &File, args: &[&str]) -> (Server, Internal) {
    Server::start_with_internal(&[&["--auth", "required", "--jwt-key", key.path()], args].concat())
}

/// A request for a WebSocket with further header lines.
fn ask(server: &Server, path: &str, headers: &[&str]) -> Answer {
    server.ask(handshake_but(path, &[], headers))
}

/// A client with a token, in which subprotocol it offers beside that.
fn connect(server: &Server, path: &str, protocol: &str, token: &str) -> Client {
    let address: Uri = format!("ws://{}{path}", server.address()).parse().unwrap();
    let request = tungstenite::ClientRequestBuilder::new(address)
        .with_sub_protocol(protocol)
        .with_sub_protocol(format!("hi.bearer.{token}"));
    let (socket, answer) = tungstenite::client(request, server.connect()).expect("the handshake succeeds");
    // The token is never sent back, and a browser wants one of those that it offers.
    assert_eq!(answer.headers()["sec-websocket-protocol"], protocol);
    Client { socket }
}

/// A client of v1 with a token, after its hello.
fn v1(server: &Server, query: &str, token: &str) -> (Client, Value) {
    let mut client = connect(server, &format!("/ws?{query}"), "hi.v1", token);
    let hello = client.json();
    assert_eq!(hello["Op"], "hello", "{hello}");
    (client, hello)
}

fn err(client: &mut Client, request: Value) -> (String, String) {
    let answer = client.ask(&request);
    assert_eq!(answer["Op"], "err", "{answer}");
    (answer["Code"].as_str().unwrap().to_owned(), answer["Message"].as_str().unwrap().to_owned())
}

/// Whether a token was for an hour a moment ago.
fn is_an_hour(seconds: &Value) -> bool {
    seconds.as_u64().is_some_and(|seconds| (3500..=3600).contains(&seconds))
}

/// Joins a room, and reads the own welcome.
fn join(client: &mut Client, user: &str, room: &str) {
    client.join_room(room, None);
    client.expect_message(&format!("#{room}"), &format!("Welcome to {room}, {user}!"));
}

#[test]
fn without_a_token_nobody_gets_in_and_everybody_is_told_how() {
    let key = secret_file();
    let (server, internal) = server(&key, &[]);
    server.wait_for_log("tokens are checked with HS256 and relatives; without one, nobody gets in");
    for path in ["/ws?username=ada", "/raw/tea"] {
        let answer = ask(&server, path, &[]);
        assert_eq!((answer.status, answer.header("WWW-Authenticate")), (401, Some("Bearer")), "{path}");
        assert!(
            answer.body.contains("Authorization: Bearer TOKEN") && answer.body.contains("hi.bearer.TOKEN"),
            "{}",
            answer.body
        );
    }
    let answer = server.ask("GET /stream/tea HTTP/1.1\r\nHost: hi\r\nAccept: application/json\r\n\r\n");
    let told: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, &told["reason"]), (401, &json!("token_missing")));
    assert_eq!(server.ask("GET / HTTP/1.1\r\nHost: hi\r\n\r\n").status, 200, "the page is there to ask for a token");
    internal.wait_for_metric("hi_handshake_failures_total{reason=\"token_missing\",hop=\"direct\"}", 3.0);
    server.wait_for_log("token_missing; This server asks for a token");
}

#[test]
fn a_token_may_be_in_a_header_a_subprotocol_a_cookie_or_the_address() {
    let key = secret_file();
    let (server, _) = server(&key, &["--auth-cookie", "session", "--auth-query", "on"]);
    let token = token_of("ada", &json!({"*": ["join", "pub"], "raw:*": ["listen", "pub"]}));
    let header = format!("Authorization: Bearer {token}");
    let protocol = format!("Sec-WebSocket-Protocol: hi.raw, hi.bearer.{token}");
    let cookie = format!("Cookie: a=b; session={token}; c=d");
    for (path, line) in [
        ("/ws?username=ada", header.as_str()),
        ("/ws", &header),
        ("/ws", &protocol),
        ("/raw/tea", &protocol),
        ("/ws?room=tea", &cookie),
        (&format!("/ws?token={token}"), "X-Nothing: 1"),
        (&format!("/raw/tea?token={token}"), "X-Nothing: 1"),
    ] {
        let mut wire = server.wire();
        wire.send(handshake_but(path, &[], &[line]));
        let head = wire.expect_101().head;
        assert!(!head.contains(&token), "{head}");
        assert_eq!(head.contains("Protocol: hi.raw"), path.starts_with("/raw") && line.starts_with("Sec-"), "{head}");
    }
    let request = format!("GET /stream/tea?token={token} HTTP/1.1\r\nHost: hi\r\n\r\n");
    Listener::ask(server.connect(), &request).opened();
    assert!(!server.log().contains(&token));
    // Without the options, both places don't count.
    let (server, _) = self::server(&key, &[]);
    for (path, line) in [("/ws", cookie.as_str()), (&format!("/ws?token={token}"), "X-Nothing: 1")] {
        assert_eq!(ask(&server, path, &[line]).status, 401);
    }
}

#[test]
fn what_is_wrong_with_a_token_is_told_to_both_sides() {
    let key = secret_file();
    let args = ["--jwt-issuer", "app", "--jwt-audience", "hi"];
    let (server, internal) = server(&key, &args);
    let claims = |change: Value| {
        let mut claims = json!({"sub": "ada", "iss": "app", "aud": "hi", "exp": now() + 60});
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        claims
    };
    let by_another = |message: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"x"), message).as_ref().to_vec();
    let good = token(&claims(json!({})));
    for (reason, status, token, says, logged) in [
        ("token_expired", 401, token(&claims(json!({"exp": now() - 100}))), "expired 10", "this server's clock says"),
        ("clock_skew", 401, token(&claims(json!({"nbf": now() + 100}))), "from the future", "NTP"),
        ("token_not_yet_valid", 401, token(&claims(json!({"nbf": now() + 9999}))), "valid in 2 h only", "nbf"),
        ("token_issuer", 401, token(&claims(json!({"iss": "x"}))), "its iss is \"x\"", "--jwt-issuer app"),
        ("token_audience", 401, token(&claims(json!({"aud": ["x"]}))), "its aud is \"x\"", "--jwt-audience hi"),
        ("token_claims", 401, token(&claims(json!({"sub": 3}))), "sub has to be a string", ""),
        (
            "token_algorithm",
            401,
            signed(&json!({"alg": "none"}), &claims(json!({})), |_| Vec::new()),
            "not signed",
            "keys here: HS256",
        ),
        (
            "token_algorithm",
            401,
            signed(&json!({"alg": "RS256"}), &claims(json!({})), by_another),
            "RS256",
            "keys here: HS256",
        ),
        (
            "token_bad_signature",
            401,
            signed(&json!({"alg": "HS256"}), &claims(json!({})), by_another),
            "not by a key",
            "keys here: HS256",
        ),
        ("token_malformed", 401, "abc".to_owned(), "three parts", ""),
        ("token_malformed", 401, "x".repeat(5000), "5000 bytes", ""),
        ("token_other_user", 403, token(&claims(json!({"sub": "bob"}))), "the user bob", ""),
    ] {
        let answer =
            ask(&server, "/ws?username=ada", &[&format!("Authorization: Bearer {token}"), "Accept: application/json"]);
        let told: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, told["reason"].as_str()), (status, Some(reason)), "{told}");
        let sentence = told["sentence"].as_str().unwrap();
        assert!(sentence.contains(says) && !answer.body.contains(&token[..token.len().min(20)]), "{told}");
        let is_first = !server.log().contains(&format!("refused: {reason}"));
        if is_first {
            let log = server.wait_for_log(&format!("refused: {reason}"));
            assert!(log.contains(logged), "{log}");
        }
        assert!(!server.log().contains(&token[..token.len().min(20)]) || token == "abc");
        if status == 401 {
            assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer error=\"invalid_token\""));
        }
    }
    internal.wait_for_metric("hi_handshake_failures_total{reason=\"token_malformed\",hop=\"direct\"}", 2.0);
    assert_eq!(v1(&server, "username=Ada", &good).1["User"], "ada");
}

#[test]
fn the_rights_of_a_token_decide_in_the_chat() {
    let key = secret_file();
    let (server, internal) = server(&key, &[]);
    let rooms = json!({"team-*": ["join", "pub"], "news": ["join"], "ideas": ["pub"]});
    let (mut boss, _) = v1(&server, "", &token_of("boss", &json!({"*": ["join", "pub"]})));
    for room in ["tea", "news", "ideas"] {
        join(&mut boss, "boss", room);
    }
    // v1
    let (mut ada, hello) = v1(&server, "", &token_of("ada", &rooms));
    assert!(hello["User"] == "ada" && is_an_hour(&hello["Expires"]), "{hello}");
    join(&mut ada, "ada", "team-a");
    join(&mut ada, "ada", "news");
    boss.expect_message("#news", "Welcome to news, ada!");
    let denied = |message: &str| ("denied".to_owned(), message.to_owned());
    let (code, told) = err(&mut ada, json!({"Op": "join", "Room": "tea"}));
    assert_eq!(code, "denied");
    assert!(
        told.starts_with("You may not join tea: the token's rooms allow ") && told.contains("team-*=join,pub"),
        "{told}"
    );
    assert_eq!(
        err(&mut ada, json!({"Op": "pub", "Room": "news", "Message": "x"})),
        denied("You may not publish in news: the token's rooms allow news=join there.")
    );
    assert_eq!(err(&mut ada, json!({"Op": "who", "Room": "tea"})).0, "denied");
    assert_eq!(ada.ask(&json!({"Op": "who", "Room": "news"}))["Count"], 2);
    // A visitor publishes without being a member.
    ada.send_text(&json!({"Op": "pub", "Room": "ideas", "Message": "a plan"}).to_string());
    boss.expect_message("ada", "a plan");
    let listed = ada.ask(&json!({"Op": "rooms"}));
    let names: Vec<_> = listed["Rooms"].as_array().unwrap().iter().map(|room| room["Room"].as_str().unwrap()).collect();
    assert_eq!((names, &listed["Count"]), (vec!["news", "team-a"], &json!(2)));
    assert_eq!(boss.ask(&json!({"Op": "rooms"}))["Count"], 4);
    // v0
    let mut bob = connect(&server, "/ws?username=bob&room=team-a", "hi.v0", &token_of("bob", &rooms));
    bob.expect_message("#team-a", "Welcome to team-a, bob!");
    bob.say("team-a", "/join tea");
    let told = bob.json()["Message"].as_str().unwrap().to_owned();
    assert!(told.starts_with("You may not join tea: "), "{told}");
    bob.say("news", "x");
    bob.expect_system("You may not publish in news: the token's rooms allow news=join there.");
    bob.say("tea", "/list");
    assert!(bob.json()["Message"].as_str().unwrap().starts_with("You may not listen to tea: "));
    bob.say("news", "/channels");
    assert_eq!(bob.json()["Message"], "news, team-a");
    internal.wait_for_metric("hi_refused_requests_total{code=\"denied\"}", 6.0);
    // The room of the address.
    let mut eve = connect(&server, "/ws?room=tea", "hi.v1", &token_of("eve", &rooms));
    assert_eq!(eve.json()["Op"], "hello");
    assert_eq!(eve.json()["Code"], "denied");
    let (code, why) = eve.expect_close();
    assert!(code == 4001 && why.starts_with("You may not join tea: "), "{why}");
}

#[test]
fn the_rights_of_a_token_decide_in_raw_rooms_and_streams() {
    let key = secret_file();
    let (server, _) = server(&key, &[]);
    let rooms = json!({"raw:scores": ["listen"], "raw:in": ["listen", "pub"], "news": ["listen"], "tea": ["join"]});
    let token = token_of("ada", &rooms);
    let header = format!("Authorization: Bearer {token}");
    for (path, says) in [
        ("/raw/other", "You may not listen to the raw room other: the token's rooms allow "),
        ("/raw/news", "You may not listen to the raw room news: "),
    ] {
        let answer = ask(&server, path, &[&header]);
        assert!(answer.status == 403 && answer.body.starts_with(says), "{}", answer.body);
    }
    server.wait_for_log("refused: denied; You may not listen to the raw room other");
    for room in ["news", "tea"] {
        let request = format!("GET /stream/{room} HTTP/1.1\r\nHost: hi\r\n{header}\r\n\r\n");
        Listener::ask(server.connect(), &request).opened();
    }
    let answer = server.ask(format!("GET /stream/scores HTTP/1.1\r\nHost: hi\r\n{header}\r\n\r\n"));
    assert_eq!(answer.status, 403, "{}", answer.body);
    let raw = |room: &str| {
        let mut wire = server.wire();
        wire.send(handshake_but(&format!("/raw/{room}"), &[], &[&header]));
        wire.expect_101();
        wire
    };
    let mut wire: Wire = raw("in");
    wire.send(frame(FIN | TEXT, b"goal"));
    assert_eq!(wire.frame().payload, b"goal");
    let mut wire = raw("scores");
    wire.send(frame(FIN | TEXT, b"goal"));
    let close = wire.frame().payload;
    assert!(close.starts_with(&4001_u16.to_be_bytes()), "{close:?}");
    assert!(
        String::from_utf8_lossy(&close[2..]).starts_with("You may not publish in the raw room scores: "),
        "{close:?}"
    );
}

#[test]
fn guests_are_marked_and_have_their_own_rules() {
    let key = secret_file();
    let args =
        ["--auth", "optional", "--jwt-key", key.path(), "--guest-rooms", "*=join lobby=join,pub", "--auth-rooms", "*"];
    let server = Server::start(&args);
    server.wait_for_log("without one, guests (~) may lobby=join,pub *=join");
    let mut guest = server.websocket("/ws?username=ada&room=lobby");
    guest.expect_message("#lobby", "Welcome to lobby, ~ada!");
    guest.say("lobby", "hey");
    guest.expect_message("~ada", "hey");
    // A user of the same name is another one.
    let (mut user, hello) = v1(&server, "", &token(&json!({"sub": "ada"})));
    assert_eq!((&hello["User"], &hello["Expires"]), (&json!("ada"), &Value::Null));
    join(&mut user, "ada", "lobby");
    guest.expect_message("#lobby", "Welcome to lobby, ada!");
    guest.say("news", "x");
    guest.expect_system("room does not exist.");
    join(&mut user, "ada", "news");
    guest.say("news", "x");
    guest.expect_system("You may not publish in news: without a token, --guest-rooms allows *=join there.");
    let (mut second, hello) = server.v1("username=~eve");
    assert_eq!(hello["User"], "~eve");
    // A guest stays one for as long as its connection lives.
    second.send_text(&json!({"Op": "auth", "Token": token(&json!({"sub": "eve"}))}).to_string());
    assert_eq!(second.json()["Code"], "denied");
    assert_eq!(second.expect_close().0, 4001);
    assert_eq!(ask(&server, "/raw/x", &[]).status, 403);
    // A wrong token is not the same as none.
    assert_eq!(ask(&server, "/ws?username=ada", &["Authorization: Bearer x"]).status, 401);
    assert_eq!(ask(&server, &format!("/ws?username={}", "a".repeat(79)), &[]).status, 400);
}

#[test]
fn a_client_of_v1_may_bring_its_token_with_its_first_message() {
    let key = secret_file();
    let (server, internal) = server(&key, &["--handshake-timeout", "3s"]);
    let open = |query: &str| {
        let address: Uri = format!("ws://{}/ws?{query}", server.address()).parse().unwrap();
        let request = tungstenite::ClientRequestBuilder::new(address).with_sub_protocol("hi.v1");
        let (socket, _) = tungstenite::client(request, server.connect()).expect("the handshake succeeds");
        let mut client = Client { socket };
        assert_eq!(client.json()["Op"], "auth", "the server asks for a token");
        client
    };
    let mut ada = open("room=tea");
    assert_eq!(err(&mut ada, json!({"Op": "join", "Room": "tea"})).0, "denied");
    let hello = ada.ask(&json!({"Op": "auth", "Ref": 1, "Token": token_of("ada", &json!({"tea": ["join"]}))}));
    assert_eq!((&hello["Op"], &hello["User"]), (&json!("hello"), &json!("ada")));
    let ok = ada.json();
    assert_eq!((&ok["Op"], &ok["Ref"], ok["Expires"].is_u64()), (&json!("ok"), &json!(1), true), "{ok}");
    ada.expect_message("#tea", "Welcome to tea, ada!");
    // Not as somebody else than the address says.
    let mut bob = open("username=bob");
    let answer = bob.ask(&json!({"Op": "auth", "Token": token_of("eve", &json!({}))}));
    assert_eq!(answer["Code"], "denied", "{answer}");
    assert_eq!(bob.expect_close().0, 4001);
    let mut eve = open("");
    let answer = eve.ask(&json!({"Op": "auth", "Token": "x.y.z"}));
    assert!(answer["Code"] == "denied" && answer["Message"].as_str().unwrap().contains("JWT"), "{answer}");
    assert_eq!(eve.expect_close().0, 4001);
    internal.wait_for_metric("hi_handshake_failures_total{reason=\"token_malformed\",hop=\"connection\"}", 1.0);
    server.wait_for_log("token on an open connection refused: token_malformed");
    // Nor without one.
    let (code, why) = open("username=zoe").expect_close();
    assert!(code == 4001 && why.contains("no token came in time"), "{why}");
}

#[test]
fn a_connection_ends_with_its_token_unless_a_new_one_comes() {
    let key = secret_file();
    let (server, internal) = server(&key, &["--jwt-leeway", "0"]);
    let brief = |user: &str, rooms: Value| token(&json!({"sub": user, "exp": now() + 3, "rooms": rooms}));
    let all = json!({"*": ["join", "pub"], "raw:*": ["listen"]});
    let (mut ada, hello) = v1(&server, "", &brief("ada", all.clone()));
    assert!(hello["Expires"].as_u64().unwrap() <= 3, "{hello}");
    for room in ["tea", "cake"] {
        join(&mut ada, "ada", room);
    }
    // Refreshed in time, with fewer rights.
    let answer = ada.ask(&json!({"Op": "auth", "Ref": "again", "Token": token_of("ada", &json!({"tea": ["join"]}))}));
    assert!(answer["Op"] == "ok" && is_an_hour(&answer["Expires"]), "{answer}");
    let left = ada.json();
    assert_eq!((&left["Op"], &left["Room"]), (&json!("ok"), &json!("cake")), "{left}");
    assert!(ada.json()["Message"].as_str().unwrap().starts_with("You may not join cake: "));
    let mut bob = connect(&server, "/ws?room=tea", "hi.v0", &brief("bob", all.clone()));
    bob.expect_message("#tea", "Welcome to tea, bob!");
    let mut raw = server.wire();
    raw.send(handshake_but("/raw/x", &[], &[&format!("Authorization: Bearer {}", brief("raw", all.clone()))]));
    raw.expect_101();
    let request =
        format!("GET /stream/tea HTTP/1.1\r\nHost: hi\r\nAuthorization: Bearer {}\r\n\r\n", brief("sse", all));
    let mut listener = Listener::ask(server.connect(), &request).opened();
    assert_eq!(bob.expect_close(), (4004, "your token has expired; get a new one and come back".to_owned()));
    assert!(raw.frame().payload.starts_with(&4004_u16.to_be_bytes()));
    while listener.next().is_some() {}
    assert!(listener.comments.iter().any(|comment| comment.contains("has expired")), "{:?}", listener.comments);
    internal.wait_for_metric("hi_disconnects_total{code=\"4004\"}", 3.0);
    // She is still there.
    ada.expect_message("#tea", "Welcome to tea, bob!");
    ada.expect_message("#tea", "User bob left channel.");
    // Another user's token ends it.
    let answer = ada.ask(&json!({"Op": "auth", "Token": token_of("bob", &json!({}))}));
    assert_eq!(answer["Code"], "denied", "{answer}");
    assert_eq!(ada.expect_close().0, 4001);
}

#[test]
fn no_token_is_shown_in_the_echo() {
    let server = Server::start(&[]);
    let token = token(&json!({"sub": "ada"}));
    let request = format!(
        "GET /-/doctor/echo?token={token} HTTP/1.1\r\nHost: hi\r\nSec-WebSocket-Protocol: hi.v1, hi.bearer.{token}\r\n\
         Authorization: Bearer {token}\r\nCookie: session={token}\r\n\r\n"
    );
    let answer = server.ask(request);
    assert!(answer.status == 200 && !answer.body.contains(&token), "{}", answer.body);
    assert!(answer.body.contains("hi.v1, hi.bearer.(masked, "), "{}", answer.body);
}

#[test]
fn what_keeps_a_server_from_starting_is_one_sentence() {
    let (key, short) = (secret_file(), File::new("short"));
    for (args, part) in [
        (&["--jwt-key", key.path()][..], "add --auth required"),
        (&["--auth", "required"], "nobody says it"),
        (&["--auth", "required", "--jwt-key", short.path()], "5 bytes"),
        (&["--auth", "required", "--jwks", key.path()], "is not JSON"),
        (
            &["--auth", "required", "--jwt-key", key.path(), "--auth-cookie", "s", "--origins", "any"],
            "name the origins",
        ),
    ] {
        let (code, stdout, stderr) =
            support::internal::hi(&[&["--listen", "127.0.0.1:0", "--shards", "1"], args].concat(), "");
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
        assert!(stderr.contains(part) && !stderr.contains(SECRET), "{stderr}");
    }
}
