//! Who says who a user is, beside files: keys from the network, which change, vanish and lie; and a proxy that signs users in.

#[path = "support/node.rs"]
#[allow(dead_code, reason = "only the packages are needed")]
mod node;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::internal::{File, Internal};
use support::tokens::{IssuerKey, SECRET, now, secret_file, token_of};
use support::wire::{Answer, handshake_but};
use support::{Server, hi, run, wait_while};

/// A server of keys. It answers as it is told, or not at all.
struct Issuer {
    address: SocketAddr,
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = Self { address: listener.local_addr().unwrap(), answer: Arc::default(), asked: Arc::default() };
        let (answer, asked) = (Arc::clone(&issuer.answer), Arc::clone(&issuer.asked));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                asked.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = &*answer.lock().unwrap() {
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        issuer
    }

    fn url(&self) -> String {
        format!("http://{}/.well-known/jwks.json", self.address)
    }

    fn answers(&self, status: &str, body: &str) {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        *self.answer.lock().unwrap() = Some(answer);
    }

    fn has(&self, keys: &[&IssuerKey]) {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        self.answers("200 OK", &json!({"keys": keys}).to_string());
    }

    fn dies(&self) {
        *self.answer.lock().unwrap() = None;
    }
}

fn token(key: &IssuerKey) -> String {
    key.token(&json!({"sub": "ada", "exp": now() + 600}))
}

/// A handshake with a token.
fn ask(server: &Server, token: &str) -> Answer {
    server.ask(handshake_but("/ws", &[], &[&format!("Authorization: Bearer {token}"), "Accept: application/json"]))
}

fn reason(answer: &Answer) -> String {
    let told: Value = serde_json::from_str(&answer.body).unwrap();
    told["reason"].as_str().unwrap().to_owned()
}

#[test]
fn keys_from_the_network_change_vanish_and_lie() {
    let (issuer, key) = (Issuer::start(), secret_file());
    let (old, new, unknown) = (IssuerKey::new("old"), IssuerKey::new("new"), IssuerKey::new("unknown"));
    let url = issuer.url();
    let args = ["--auth", "required", "--jwks", &url, "--jwt-key", key.path(), "--jwt-audience", "hi"];
    let (server, internal): (_, Internal) = Server::start_with_internal(&args[..6]);
    server.wait_for_log("set --jwt-audience");
    // Not there yet: tokens wait, and those of the file's key need not.
    server.wait_for_log("no keys for tokens from http://127.0.0.1");
    assert_eq!(ask(&server, &token_of("bob", &json!({}))).status, 101);
    assert_eq!(reason(&ask(&server, &token(&old))), "keys_unavailable");
    // There.
    issuer.has(&[&old]);
    server.wait_for_log("ES256 (kid \"old\")");
    wait_while(|| ask(&server, &token(&old)).status != 101, || "the old key opens".to_owned());
    internal.wait_for_metric("hi_jwks_keys", 2.0);
    // Changed: the first token of the new key has it fetched, and both are good for as long as both are there.
    issuer.has(&[&new, &old]);
    wait_while(|| ask(&server, &token(&new)).status != 101, || "the new key opens".to_owned());
    assert_eq!(ask(&server, &token(&old)).status, 101);
    // Tokens that anybody makes up don't have it fetched again and again.
    let before = issuer.asked.load(Ordering::SeqCst);
    for _ in 0..20 {
        let refused = ask(&server, &token(&unknown));
        assert_eq!(reason(&refused), "token_unknown_key", "{}", refused.body);
    }
    assert!(issuer.asked.load(Ordering::SeqCst) <= before + 1);
    issuer.dies();
    assert_eq!(ask(&server, &token(&old)).status, 101);
}

#[test]
fn an_issuer_that_lies_changes_nothing() {
    let issuer = Issuer::start();
    let key = IssuerKey::new("good");
    let url = issuer.url();
    for (status, body, why) in [
        ("200 OK", "<html>sign in</html>".to_owned(), "not JSON"),
        ("200 OK", json!({"keys": []}).to_string(), "no key in it"),
        ("200 OK", json!({"keys": [{"kty": "oct", "k": "x".repeat(60)}]}).to_string(), "secret"),
        ("500 Internal Server Error", String::new(), "the answer is 500"),
        ("302 Found\r\nLocation: http://evil.example/", String::new(), "the answer is 302"),
        ("200 OK", format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(300_000)), "longer than"),
    ] {
        issuer.answers(status, &body);
        let (server, internal) = Server::start_with_internal(&["--auth", "required", "--jwks", &url]);
        let log = server.wait_for_log("(--jwks): ");
        assert!(log.contains(why), "{log}");
        let refused = ask(&server, &token(&key));
        assert_eq!((refused.status, reason(&refused).as_str()), (503, "keys_unavailable"));
        assert_eq!(refused.header("Retry-After"), Some("1"));
        assert!(internal.metric("hi_jwks_failures_total") >= 1.0);
        // The truth at last.
        issuer.has(&[&key]);
        wait_while(|| ask(&server, &token(&key)).status != 101, || server.log());
    }
}

#[test]
fn keys_come_over_tls_from_a_server_that_the_system_trusts() {
    let (issuer, authority, key) = (Issuer::start(), tls::Authority::new(), IssuerKey::new("a"));
    issuer.has(&[&key]);
    let port = tls::terminate("127.0.0.1", authority.certificate(&["127.0.0.1"], 90), issuer.address);
    let url = format!("https://127.0.0.1:{port}/jwks.json");
    let start = |trusted: &str| {
        let mut command = hi();
        command.args(["--listen", "127.0.0.1:0", "--shards", "1", "--auth", "required", "--jwks", &url]);
        command.env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR");
        Server::spawn(command)
    };
    let server = start(tls::argument(&authority.file()));
    server.wait_for_log("ES256 (kid \"a\")");
    assert_eq!(ask(&server, &token(&key)).status, 101);
    let other = tls::Authority::new();
    let server = start(tls::argument(&other.file()));
    server.wait_for_log("its certificate is refused");
    assert_eq!(ask(&server, &token(&key)).status, 503);
}

#[test]
fn a_proxy_that_is_trusted_says_who_the_user_is_and_nobody_else() {
    const PROXY: [&str; 6] =
        ["--auth", "required", "--user-header", "X-Forwarded-User", "--trusted-proxies", "127.0.0.0/8"];
    let connect = |server: &Server, path: &str, lines: &[&str]| {
        server.ask(handshake_but(path, &[], &[&["Accept: application/json"], lines].concat()))
    };
    let server = Server::start(&PROXY);
    server.wait_for_log("trusted proxies name users in X-Forwarded-User; without one, nobody gets in");
    assert_eq!(connect(&server, "/ws?username=ada", &["X-Forwarded-User: ada"]).status, 101);
    assert_eq!(connect(&server, "/ws", &["x-forwarded-user: ada@example.com"]).status, 101);
    for (path, lines, status, expected) in [
        ("/ws?username=ada", &[][..], 401, "user_header_missing"),
        ("/ws?username=ada", &["X-Forwarded-User: bob"], 403, "token_other_user"),
        ("/ws", &["X-Forwarded-User: ada", "X-Forwarded-User: root"], 403, "user_header_invalid"),
        ("/ws", &["X-Forwarded-User: hi"], 403, "user_header_invalid"),
        ("/ws", &["X-Forwarded-User: ~ada"], 403, "user_header_invalid"),
        // There is no key, so a token says nothing.
        ("/ws?username=ada", &["Authorization: Bearer a.b.c"], 401, "user_header_missing"),
    ] {
        let refused = connect(&server, path, lines);
        assert_eq!((refused.status, reason(&refused).as_str()), (status, expected), "{lines:?}");
    }
    // From anybody else the header means nothing.
    let elsewhere = [&PROXY[..5], &["10.0.0.0/8"]].concat();
    let server = Server::start(&elsewhere);
    let refused = connect(&server, "/ws", &["X-Forwarded-User: ada"]);
    assert_eq!((refused.status, reason(&refused).as_str()), (401, "user_header_untrusted"));
    let log = server.wait_for_log("refused: user_header_untrusted");
    assert!(log.contains("--trusted-proxies"), "{log}");
    let optional = [&["--auth", "optional"], &elsewhere[2..]].concat();
    let server = Server::start(&optional);
    let mut wire = server.wire();
    wire.send(handshake_but("/ws?username=ada", &[], &["X-Forwarded-User: root"]));
    wire.expect_101();
    let hello = String::from_utf8(wire.frame().payload).unwrap();
    assert!(hello.contains("~ada") && !hello.contains("root"), "{hello}");
}

/// What an application makes with `jose`: tokens for `ada` by algorithm, and the public keys in PEM.
const JOSE: &str = r#"
import { SignJWT, UnsecuredJWT, exportSPKI, generateKeyPair } from "jose";
const bytes = (text) => new TextEncoder().encode(text);
const sign = (alg, key) => new SignJWT({}).setProtectedHeader({ alg }).setSubject("ada").setExpirationTime("10m").sign(key);
const made = { keys: {}, tokens: { HS256: await sign("HS256", bytes(process.argv[1])) }, wrong: {} };
for (const alg of ["RS256", "ES256", "EdDSA"]) {
  const { publicKey, privateKey } = await generateKeyPair(alg);
  made.keys[alg] = await exportSPKI(publicKey);
  made.tokens[alg] = await sign(alg, privateKey);
  // Everybody knows the public key: it must not count as a secret.
  made.wrong[`${alg} as a secret`] = await sign("HS256", bytes(made.keys[alg]));
}
made.wrong["no signature"] = new UnsecuredJWT({}).setSubject("ada").encode();
console.log(JSON.stringify(made));
"#;

#[test]
fn tokens_that_an_application_makes_with_jose_are_accepted_by_the_algorithm_of_the_key() {
    let mut node = Command::new("node");
    node.args(["--input-type=module", "-e", JOSE, SECRET]).current_dir(node::client());
    let output = run(node);
    assert!(output.status.success(), "is jose installed? ./check does: {}", String::from_utf8_lossy(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let entries = |name: &str| made[name].as_object().unwrap().iter();
    let files: Vec<_> = entries("keys").map(|(alg, pem)| (alg.clone(), File::new(&text(pem)))).collect();
    let files: Vec<_> = files.into_iter().chain([("HS256".to_owned(), secret_file())]).collect();
    let options: Vec<_> = files.iter().flat_map(|(_, file)| ["--jwt-key", file.path()]).collect();
    let server = Server::start(&[&["--auth", "required"], &options[..]].concat());
    assert_eq!(entries("tokens").count(), 4);
    for (alg, token) in entries("tokens") {
        assert_eq!(ask(&server, &text(token)).status, 101, "{alg}");
    }
    // Where only one kind of key is known, only its algorithm counts.
    for (alg, file) in &files {
        let server = Server::start(&["--auth", "required", "--jwt-key", file.path()]);
        for (other, token) in entries("tokens") {
            let answer = ask(&server, &text(token));
            let is_own = other == alg;
            assert_eq!(answer.status, if is_own { 101 } else { 401 }, "{other} at {alg}");
            assert!(is_own || reason(&answer) == "token_algorithm", "{other} at {alg}: {}", answer.body);
        }
        for (what, token) in entries("wrong") {
            let answer = ask(&server, &text(token));
            // Where secrets are known, another secret is just a wrong one.
            let is_secret = alg == "HS256" && what != "no signature";
            let expected = if is_secret { "token_bad_signature" } else { "token_algorithm" };
            assert_eq!((answer.status, reason(&answer).as_str()), (401, expected), "{what} at {alg}");
        }
    }
}
