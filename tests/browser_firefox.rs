//! The chat page in Firefox: what differs between browsers, from joining to a reload.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::{Driver, Page};
use fantoccini::key::Key;
use serde_json::json;
use support::Server;
use support::hop::Hop;

const WATCH: &str = "window.complaints = []; \
     addEventListener('securitypolicyviolation', (e) => complaints.push(e.violatedDirective)); \
     addEventListener('error', (e) => complaints.push(e.message))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firefox_chats_reconnects_and_misses_nothing() {
    let driver = Driver::firefox();
    let server = Server::start(&[]);
    let hop = Hop::start(&server, &[]);
    let mut witness = server.join("witness", "general");
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    page.script(WATCH, vec![]).await;
    page.enter("ann").await;
    page.wait_text("#people", "2 here").await;
    page.say("hello, `code` and https://example.com/").await;
    page.wait_text("#messages .own:not(.pending) a", "https://example.com/").await;
    while witness.json()["Message"] != "hello, `code` and https://example.com/" {}
    // The field grows with its lines, also without `field-sizing`.
    let height = "return document.querySelector('#message-input').clientHeight";
    let one = page.script(height, vec![]).await.as_f64().unwrap();
    page.type_into("#message-input", "wit").await;
    page.press(&[Key::Tab]).await;
    assert_eq!(page.script("return document.querySelector('#message-input').value", vec![]).await, "witness: ");
    page.press(&[Key::Shift, Key::Enter, Key::Shift]).await;
    page.press(&[Key::Shift, Key::Enter, Key::Shift]).await;
    assert!(page.script(height, vec![]).await.as_f64().unwrap() > 2.0 * one, "three lines");
    page.press(&[Key::Enter]).await;
    page.wait_text("#messages .own:not(.pending) .text", "witness:").await;
    // Through a cut and a silence.
    hop.cut();
    page.wait("it is lost", "return document.querySelector('#status').dataset.state === 'waiting'").await;
    witness.say("general", "m0");
    hop.repair();
    page.wait_text("#messages .text", "m0").await;
    page.wait_state("connected").await;
    hop.silence();
    witness.say("general", "m1");
    page.script("dispatchEvent(new Event('online'))", vec![]).await;
    page.wait_text("#messages .text", "m1").await;
    page.say("/join tea").await;
    page.wait_text("#title", "tea").await;
    page.client.back().await.unwrap();
    page.wait_text("#title", "general").await;
    page.type_into("#message-input", "a draft").await;
    page.assert_no_complaints().await;
    // A reload.
    witness.say("general", "m2");
    page.client.refresh().await.unwrap();
    page.wait_state("connected").await;
    page.wait_text("#messages .text", "m2").await;
    page.wait("both rooms", "return document.querySelectorAll('#rooms li:not(.away)').length === 2").await;
    assert_eq!(page.script("return document.querySelector('#message-input').value", vec![]).await, "a draft");
    page.assert_once(&["m0", "m1", "m2"]).await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_firefox_the_log_stays_at_its_end_and_the_drawer_opens() {
    let driver = Driver::firefox();
    let server = Server::start(&["--rate-limit", "0"]);
    let mut witness = server.join("witness", "general");
    let page = Page::open(&driver, &server, (500, 800)).await;
    page.enter("ann").await;
    for number in 0..60 {
        witness.say("general", &format!("m{number}"));
    }
    page.wait_text("#messages .text", "m59").await;
    page.wait_end().await;
    page.script("document.querySelector('#messages').scrollTop = 100", vec![]).await;
    page.wait_frames().await;
    witness.say("general", "news");
    page.wait_text("#to-end", "1 new").await;
    assert_eq!(page.script("return document.querySelector('#messages').scrollTop", vec![]).await, json!(100));
    page.script("document.querySelector('#rooms-toggle').click()", vec![]).await;
    page.wait("the drawer is open", "return document.querySelector('#sidebar').matches(':popover-open')").await;
    page.wait("it has a history entry", "return history.state.drawer === true").await;
    page.client.back().await.unwrap();
    page.wait("the drawer is closed", "return !document.querySelector('#sidebar').matches(':popover-open')").await;
    page.client.close().await.unwrap();
}
