//! `hi doctor` and TLS: certificates that are good, expired, for other names, self-signed; TLS where none should be, and the
//! reverse. The doctor examines what is behind a bad certificate too.

#[path = "support/dns.rs"]
mod dns;
#[path = "support/doctor.rs"]
mod run;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::net::SocketAddr;

use dns::Dns;
use run::{Proxy, Run, doctor};
use rustls::ServerConfig;
use support::Server;
use tls::{Authority, argument, self_signed, terminate};

const NAME: &str = "chat.example.com";

/// Examines what is behind this port, under its name.
fn named(port: u16, authority: &Authority) -> Run {
    let dns = Dns::with_addresses(&[("chat", 60, "127.0.0.1")]);
    let url = format!("wss://{NAME}:{port}/ws");
    doctor(&[&url, "--ca", argument(&authority.file()), "--resolver", &dns.address()])
}

/// Examines hi behind TLS with this certificate.
fn behind(config: ServerConfig, authority: &Authority, server: &Server) -> Run {
    named(terminate("127.0.0.1", config, server.address()), authority)
}

#[test]
fn a_good_certificate() {
    let (server, authority) = (Server::start(&[]), Authority::new());
    let run = behind(authority.certificate(&[NAME, "127.0.0.1"], 90), &authority, &server);
    run.expect("sound", 0);
    assert_eq!(run.others(), Vec::<&str>::new());
    let tls = &run.address("127.0.0.1")["tls"]["done"];
    assert_eq!(tls["chain"][0]["names"], serde_json::json!([NAME, "127.0.0.1"]));
    assert_eq!((tls["chain"][0]["days_left"].as_i64(), tls["version"].as_str()), (Some(90), Some("TLSv1.3")));
    assert!(tls["chain"][0]["issuer"].as_str().unwrap().contains("The test's authority"), "{tls}");
}

#[test]
fn a_certificate_that_expires_soon_is_a_note() {
    let (server, authority) = (Server::start(&[]), Authority::new());
    let run = behind(authority.certificate(&[NAME], 5), &authority, &server);
    run.expect("sound", 0);
    assert_eq!(run.others(), ["tls_expires_soon"]);
}

#[test]
fn certificates_that_browsers_refuse() {
    let (server, authority, stranger) = (Server::start(&[]), Authority::new(), Authority::new());
    for (config, kind, part) in [
        (authority.certificate(&[NAME], -3), "tls_expired", "3 days ago"),
        (
            authority.certificate(&["other.example.com"], 90),
            "tls_wrong_name",
            "for other.example.com, not for chat.example.com",
        ),
        (self_signed(&[NAME]), "tls_self_signed", "self-signed"),
        (stranger.certificate(&[NAME], 90), "tls_unknown_issuer", "--ca"),
    ] {
        let run = behind(config, &authority, &server);
        let said = run.expect(kind, 1);
        assert!(said.contains(part), "{part:?} in {said}");
        let address = run.address("127.0.0.1");
        assert_eq!(address["handshake"]["done"]["answer"]["status"], 101, "what lies behind is examined all the same");
    }
}

#[test]
fn an_ip_address_needs_a_certificate_for_it() {
    let (server, authority) = (Server::start(&[]), Authority::new());
    for (names, kind, code) in [(&["127.0.0.1"], "sound", 0), (&[NAME], "tls_wrong_name", 1)] {
        let port = terminate("127.0.0.1", authority.certificate(names, 90), server.address());
        let url = format!("wss://127.0.0.1:{port}/ws");
        doctor(&[&url, "--ca", argument(&authority.file())]).expect(kind, code);
    }
}

#[test]
fn both_faults_are_reported_and_the_certificate_first() {
    let (server, authority) = (Server::start(&[]), Authority::new());
    let rewrite = |head: &str| head.replace("Upgrade: websocket\r\n", "");
    let proxy = Proxy { rewrite, ..Proxy::default() };
    let port = proxy.start("127.0.0.1:0".parse().unwrap(), server.address());
    let relay = terminate("127.0.0.1", authority.certificate(&[NAME], -1), SocketAddr::from(([127, 0, 0, 1], port)));
    let run = named(relay, &authority);
    run.expect("tls_expired", 1);
    assert_eq!(run.others(), ["upgrade_stripped"]);
}

#[test]
fn tls_is_missing_or_in_the_way() {
    let (server, authority) = (Server::start(&[]), Authority::new());
    let ca = authority.file();
    let plain = doctor(&[&format!("wss://127.0.0.1:{}/ws", server.port()), "--ca", argument(&ca)]);
    let said = plain.expect("tls_not_spoken", 1);
    assert!(said.contains("ws://"), "{said}");

    let port = terminate("127.0.0.1", authority.certificate(&[NAME], 90), server.address());
    let said = doctor(&[&format!("ws://127.0.0.1:{port}/ws")]).expect("tls_expected", 1);
    assert!(said.contains(&format!("wss://127.0.0.1:{port}/ws")), "{said}");
}

#[test]
fn a_server_that_offers_only_http2() {
    let (server, authority) = (Server::start(&[]), Authority::new());
    let mut config = authority.certificate(&[NAME], 90);
    config.alpn_protocols = vec![b"h2".to_vec()];
    behind(config, &authority, &server).expect("http2_only", 1);
}
