//! Server-sent events through real proxies, including those that block WebSockets.

mod support;

use support::Server;
use support::listener::Listener;
use support::proxies::{Setup, cases};
use support::wire::{Wire, handshake};

/// An event arrives through the proxy while the stream is open, the listener reconnects without a loss, and its end is
/// noticed.
#[track_caller]
fn expect_events(setup: impl Fn(std::net::SocketAddr) -> Setup, websocket_status: u16) {
    let (server, internal) = Server::start_with_internal(&["--ping-interval", "1s"]);
    let proxy = setup(server.address()).start();
    let mut wire = Wire::new(proxy.connect());
    wire.send(handshake("/ws?username=bob&room=tea"));
    assert_eq!(wire.answer().status, websocket_status);
    drop(wire);

    let mut ann = server.join_quietly("ann", "tea");
    let mut listener = Listener::open(proxy.connect(), "tea", None).opened();
    for text in ["one", "two"] {
        // The next one is sent only after this one has arrived: nothing holds it back.
        ann.say("tea", text);
        while listener.message()["Message"] != text {}
    }
    let position = listener.last_event_id.clone();
    drop(listener);
    internal.wait_for_metric("hi_connections{dialect=\"sse\"}", 0.0);
    ann.say("tea", "three");
    while ann.json()["Message"] != "three" {}
    let mut listener = Listener::open(proxy.connect(), "tea", Some(&position)).opened();
    while listener.message()["Message"] != "three" {}
    listener.wait_for_comments(1);
}

#[test]
fn default_nginx_and_nginx_that_strips_carry_events() {
    expect_events(cases::http10, 426);
    expect_events(cases::strips_both, 426);
}

#[test]
fn nginx_that_buffers_does_not_hold_events_back() {
    expect_events(cases::buffers, 101);
}

#[test]
fn haproxy_and_caddy_that_strip_carry_events() {
    expect_events(cases::haproxy_strips_both, 426);
    expect_events(cases::caddy_strips, 426);
}

#[test]
fn apache_of_http_1_0_carries_events() {
    expect_events(cases::apache_http10, 426);
}
