//! Reports are pasted into tickets: the secrets of an address are in none of them, nor in those of the checklist, nor in the
//! log, nor in an error about the address.

#[path = "support/doctor.rs"]
mod run;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::process::Command;
use std::sync::{Arc, Mutex};

use run::{Proxy, Reply, doctor_text, odd_server, response};
use support::Server;
use tls::{self_signed, terminate};

const SECRETS: [&str; 4] = ["s3cr3t-T0ken", "r3sume-me", "k3y+1", "k3y%2B1"];
const QUERY: &str = "username=ann&token=s3cr3t-T0ken&resume=r3sume-me&access_token=s3cr3t-T0ken&key=k3y%2B1";

/// A server that repeats every request in its answer; and the requests that it got.
fn parrot() -> (u16, Arc<Mutex<String>>) {
    let asked = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&asked);
    let port = odd_server(move |head| {
        let target = head.split_whitespace().nth(1).unwrap_or_default();
        heard.lock().unwrap().push_str(target);
        let headers = format!(
            "Location: https://login.example.com/?next={}\r\nX-Asked: {target}\r\n",
            target.replace('=', "%3D")
        );
        Reply::Answer(response("404 Not Found", &headers, &format!("Cannot GET {target}: no key k3y+1")))
    });
    (port, asked)
}

#[track_caller]
fn expect_no_secret(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

fn hi(args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hi")).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn reports_do_not_repeat_the_secrets_of_the_address() {
    let (port, asked) = parrot();
    let url = format!("ws://127.0.0.1:{port}/ws?{QUERY}");
    for args in [&[&*url][..], &[&*url, "--json"]] {
        let (code, text) = doctor_text(args);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("token=***"), "{text}");
        expect_no_secret(&text);
    }
    let asked = asked.lock().unwrap().clone();
    assert!(asked.contains("token=s3cr3t-T0ken"), "the server itself is told: {asked}");
    assert!(!asked.contains("resume"), "no user's name is taken over: {asked}");
    let folder = std::env::temp_dir().join(format!("hi-secrets-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["list.md", "list.json"] {
        let file = folder.join(name);
        let (_, list) = hi(&["checklist", "before", &url, "--elsewhere", "--save", file.to_str().unwrap()]);
        expect_no_secret(&(list + &std::fs::read_to_string(file).unwrap()));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn reports_do_not_repeat_the_secrets_of_the_path() {
    let (port, asked) = parrot();
    // hi mounted below a path with a parameter: its echo and its raw rooms are there too.
    let server = Server::start(&[]);
    let mounted = Proxy { rewrite: |head| head.replacen("/x;jsessionid=s3cr3t-T0ken", "", 1), ..Proxy::default() };
    let behind = mounted.start("127.0.0.1:0".parse().unwrap(), server.address());
    let below = odd_server(move |head| match head.starts_with("GET /x;jsessionid=s3cr3t-T0ken/") {
        true => Reply::Pass(behind),
        false => Reply::Answer(response("404 Not Found", "", "Nothing here.")),
    });
    for (port, code) in [(port, 1), (below, 0)] {
        for path in ["/x;jsessionid=s3cr3t-T0ken/ws", "/x;jsessionid=s3cr3t-T0ken/ws?username=ann"] {
            let url = format!("ws://127.0.0.1:{port}{path}");
            for args in [&[&*url][..], &[&*url, "--json"]] {
                let (ended, text) = doctor_text(args);
                assert_eq!(ended, code, "{text}");
                assert!(text.contains("/x;jsessionid=***/ws"), "{text}");
                assert!(!text.contains(SECRETS[0]), "{text}");
            }
        }
    }
    assert!(asked.lock().unwrap().contains("/x;jsessionid=s3cr3t-T0ken/ws"), "the server itself is told");
}

#[test]
fn the_canary_logs_and_reports_no_secrets() {
    let (port, _) = parrot();
    let url = format!("ws://127.0.0.1:{port}/ws?{QUERY}");
    let args = ["--public-url", &url, "--public-interval", "100ms"];
    let (server, internal) = Server::start_with_internal(&args);
    assert!(server.wait_for_log("public path").contains("token=***"), "{}", server.log());
    expect_no_secret(&(server.log() + &internal.ask("GET", "/readyz", &[], b"").body));
}

#[test]
fn an_address_that_is_refused_is_not_repeated_either() {
    for url in
        ["ws://ann:s3cr3t-T0ken@h/ws", "h/ws?token=s3cr3t-T0ken", "ws://h/ws?key=k3y%2B1#top", "h/x;sid=s3cr3t-T0ken"]
    {
        for args in
            [&["doctor", url][..], &["checklist", "before", url], &["--listen", "127.0.0.1:0", "--public-url", url]]
        {
            let (code, text) = hi(args);
            assert_eq!(code, 2, "{args:?}: {text}");
            assert!(text.contains("***"), "{args:?}: {text}");
            expect_no_secret(&text);
        }
    }
}

#[test]
fn a_server_whose_certificate_is_refused_gets_no_secret() {
    let (port, asked) = parrot();
    let upstream = ([127, 0, 0, 1], port).into();
    let port = terminate("127.0.0.1", self_signed(&["127.0.0.1"]), upstream);
    let url = format!("wss://127.0.0.1:{port}/ws?{QUERY}");
    let (code, text) = doctor_text(&[&url]);
    assert!(code == 1 && text.contains("verdict: tls_") && text.contains("not tried: the certificate"), "{text}");
    let asked = asked.lock().unwrap();
    assert!(asked.contains("/-/doctor/echo"), "what lies behind is still looked at: {asked}");
    expect_no_secret(&asked);
}
