//! The nginx configuration of docs/deploy.md in front of a real hi.

mod support;

use std::io::{Read, Write};

use support::Server;
use support::proxies::{Proxy, free_port};
use tungstenite::Message;

/// A block of docs/deploy.md, counted from 1.
fn block(number: usize) -> &'static str {
    let page = include_str!("../docs/deploy.md");
    page.split("```nginx\n").nth(number).and_then(|rest| rest.split("```").next()).expect("the nginx block")
}

/// The page's whole configuration, with the ports of this test.
fn whole_site(nginx_port: u16, hi_port: u16) -> String {
    let block = block(1);
    for part in ["listen 80;", "127.0.0.1:8080", "server_name chat.example.com;"] {
        assert!(block.contains(part), "the first block has {part:?}");
    }
    block
        .replace("listen 80;", &format!("listen 127.0.0.1:{nginx_port};"))
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{hi_port}"))
}

/// The answer to a GET through nginx.
fn get(nginx: &Proxy, path: &str) -> String {
    let mut stream = nginx.connect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: chat.example.com\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn page_files_and_chat_work_under_a_path_prefix_and_the_slash_is_added() {
    let server = Server::start(&[]);
    let port = free_port();
    let whole = whole_site(port, server.port());
    let root = "    location / {\n        proxy_pass http://hi;\n    }\n";
    assert!(whole.contains(root), "the location that the second block replaces");
    let nginx = Proxy::nginx(port, &whole.replace(root, block(2)));

    let answer = get(&nginx, "/chat");
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).expect("where to");
    assert!(location.ends_with("/chat/"), "{location}");
    let page = get(&nginx, "/chat/");
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    // Every file that the page refers to is found next to it.
    let files = page.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css"));
    let files: Vec<_> = files.map(|file| file.trim_start_matches("./")).collect();
    assert!(files.len() >= 2, "{page}");
    for file in files {
        let answer = get(&nginx, &format!("/chat/{file}"));
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{file}: {answer}");
    }
    // As the page builds it: its own path, and "ws" behind it.
    let (mut ann, _) = tungstenite::client("ws://chat.example.com/chat/ws?username=ann&room=tea", nginx.connect())
        .expect("the upgrade passes through nginx");
    let Message::Text(welcome) = ann.read().unwrap() else { panic!("a text") };
    assert!(welcome.contains("Welcome to tea, ann!"), "{welcome}");
    assert!(get(&nginx, "/").starts_with("HTTP/1.1 404"), "the rest of the site is not hi's");
}

#[test]
fn the_documented_site_serves_the_page_and_the_chat() {
    let server = Server::start(&[]);
    let port = free_port();
    let nginx = Proxy::nginx(port, &whole_site(port, server.port()));

    let answer = get(&nginx, "/");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.to_lowercase().contains("<!doctype html"), "{answer}");

    let stream = nginx.connect();
    let (mut through, _) = tungstenite::client("ws://chat.example.com/ws?username=ann&room=tea", stream)
        .expect("the upgrade passes through nginx");
    let mut direct = server.join_quietly("bob", "tea");
    direct.say("tea", "hello through nginx");
    loop {
        let Message::Text(text) = through.read().unwrap() else { continue };
        if text.contains("hello through nginx") {
            break;
        }
    }
    through.send(Message::text(r#"{"Message":"and back","Room":"tea"}"#)).unwrap();
    while direct.json()["Message"] != "and back" {}
}

#[test]
fn without_the_upgrade_lines_answer_and_log_say_what_nginx_dropped() {
    let server = Server::start(&[]);
    let port = free_port();
    let broken: String = whole_site(port, server.port())
        .lines()
        .filter(|line| !line.contains("proxy_set_header Upgrade") && !line.contains("proxy_set_header Connection"))
        .map(|line| format!("{line}\n"))
        .collect();
    let nginx = Proxy::nginx(port, &broken);
    let stream = nginx.connect();
    let refused = tungstenite::client("ws://chat.example.com/ws?username=ann", stream);
    let Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) = refused else {
        panic!("nginx can't have passed the upgrade on")
    };
    assert_eq!(answer.status(), 426);
    let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
    assert!(body.contains("Upgrade") && body.contains("proxy_set_header"), "{body}");
    let line = server.wait_for_log("refused:");
    assert!(line.contains("upgrade_stripped"), "{line}");
}
