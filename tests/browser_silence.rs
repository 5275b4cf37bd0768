//! The chat page on a connection that goes silent: nothing gets through, and neither end is told.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::{Driver, Page};
use serde_json::Value;
use support::Server;
use support::hop::Hop;

const TOLD: &str = "dispatchEvent(new Event('online'))";
const SEEN: &str = "document.dispatchEvent(new Event('visibilitychange'))";

/// Without the ping timer, only an event can make the page check.
const NO_PING_TIMER: &str =
    "const real = setTimeout; window.setTimeout = (act, ms, ...all) => ms === 20000 ? 0 : real(act, ms, ...all)";

/// A page that only reads, on a connection that goes silent while ten messages are sent. One script runs before it
/// joins, the other one after that.
async fn read_through_a_silence(drops: &'static [&'static str], before: &str, after: &str) -> Vec<String> {
    let driver = Driver::start();
    // v0 can't take its name over: the server has to notice the dead connection first.
    let quick: &[_] = if drops.is_empty() { &[] } else { &["--ping-interval", "3s", "--ping-timeout", "2s"] };
    let server = Server::start(quick);
    let hop = Hop::start(&server, drops);
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    page.script(before, vec![]).await;
    page.enter("ann").await;
    let mut witness = server.join_quietly("witness", "general");
    // Everything in flight has arrived before the silence begins.
    page.wait_text("#messages .notice", "witness joined").await;
    hop.silence();
    for number in 0..10 {
        witness.say("general", &format!("m{number}"));
    }
    while witness.json()["Message"] != "m9" {}
    // From now on, its connection is not read.
    witness.close();
    page.script(after, vec![]).await;
    page.wait("it reconnects", "return document.querySelector('#messages').innerText.includes('reconnected')").await;
    server.join_quietly("another", "general").say("general", "live");
    page.wait_text("#messages .message", "live").await;
    let lines = page.lines().await;
    page.client.close().await.unwrap();
    lines.into_iter().filter(|line| !line.ends_with(" joined") && !line.ends_with(" left")).collect()
}

fn everything() -> Vec<String> {
    let missed = (0..10).map(|number| format!("m{number}"));
    ["reconnected".to_owned()].into_iter().chain(missed).chain(["live".to_owned()]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_only_reads_notices_and_misses_nothing() {
    assert_eq!(read_through_a_silence(&[], "", "").await, everything());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_becomes_visible_or_online_notices_at_once() {
    for event in [TOLD, SEEN] {
        assert_eq!(read_through_a_silence(&[], NO_PING_TIMER, event).await, everything(), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_v0_the_page_notices_too_and_marks_uncertain_messages() {
    let lines = read_through_a_silence(&["sec-websocket-protocol"], "", "").await;
    let [returned, missed, live] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!([returned, live], ["reconnected; messages may be missing here", "live"]);
    assert!(missed.starts_with("You missed 1"), "v0 has no replay, but its messages are numbered: {missed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_on_a_good_connection_are_invisible() {
    let driver = Driver::start();
    for drops in [&[][..], &["sec-websocket-protocol"]] {
        let server = Server::start(&[]);
        let hop = Hop::start(&server, drops);
        let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
        let count = "window.heard = 0; const Native = WebSocket; \
             window.WebSocket = class extends Native { constructor(...all) { super(...all); \
             this.addEventListener('message', ({ data }) => { heard += /pong|does not exist/.test(data); }); } }";
        page.script(count, vec![]).await;
        page.enter("ann").await;
        page.script(TOLD, vec![]).await;
        page.wait("the answer", "return heard === 1").await;
        page.script(SEEN, vec![]).await;
        page.wait("the answer", "return heard === 2").await;
        assert_eq!(page.lines().await, ["ann joined"], "answers are not shown");
        assert_eq!(
            page.script("return document.querySelector('#status').dataset.state", vec![]).await,
            Value::from("connected")
        );
        page.client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_websockets_fail_scripts_read_rooms_as_events() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let hop = Hop::start(&server, &["upgrade", "connection"]);
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    let listen = "window.heard = []; import('/hi.js').then(({ connect }) => { \
         window.chat = connect(location.href, { name: 'ann' }); window.room = chat.join('tea'); \
         room.on('message', ({ text }) => heard.push(text)); })";
    page.script(listen, vec![]).await;
    page.wait("the room is read", "return window.chat?.state === 'reading' && room.state === 'joined'").await;
    let mut witness = server.join("witness", "tea");
    witness.say("tea", "m0");
    page.wait("the first", "return heard.length === 1").await;
    hop.cut();
    page.wait("it is lost", "return chat.state !== 'reading'").await;
    witness.say("tea", "m1");
    hop.repair();
    page.wait("the second", "return heard.join() === 'm0,m1'").await;
    page.client.close().await.unwrap();
}
