//! The chat page on a path that goes silent: nothing gets through any more, and neither end is told.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::{Driver, Hop, Page};
use serde_json::Value;
use support::Server;

const TOLD: &str = "dispatchEvent(new Event('online'))";
const SEEN: &str = "document.dispatchEvent(new Event('visibilitychange'))";

/// Without the timer that asks now and then, only an event can make the page ask.
const NO_PING_TIMER: &str =
    "const real = setTimeout; window.setTimeout = (act, ms, ...all) => ms === 20000 ? 0 : real(act, ms, ...all)";

/// A page that only reads, on a path that goes silent while ten messages are said. One script runs before it joins, the
/// other after that.
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
    // All that was on its way has come: the silence begins in order.
    page.wait_text("#messages .notice", "witness joined").await;
    hop.silence();
    for number in 0..10 {
        witness.say("general", &format!("m{number}"));
    }
    while witness.json()["Message"] != "m9" {}
    // Nobody reads for it from now on.
    witness.close();
    page.script(after, vec![]).await;
    page.wait("it comes back", "return document.querySelector('#messages').innerText.includes('reconnected')").await;
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
async fn a_page_that_is_looked_at_again_or_online_again_notices_at_once() {
    for event in [TOLD, SEEN] {
        assert_eq!(read_through_a_silence(&[], NO_PING_TIMER, event).await, everything(), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_v0_the_page_notices_too_and_says_what_it_cannot_know() {
    let lines = read_through_a_silence(&["sec-websocket-protocol"], "", "").await;
    assert_eq!(lines, ["reconnected; messages may be missing here", "live"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_path_is_asked_in_silence() {
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
