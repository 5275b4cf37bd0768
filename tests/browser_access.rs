//! The chat page for everybody: what axe-core finds, reduced motion, forced colours, and what a screen reader is told.

#[path = "support/browser.rs"]
mod browser;
#[path = "support/node.rs"]
#[allow(dead_code, reason = "only the folder is needed")]
mod node;
mod support;

use browser::{Driver, Page};
use serde_json::{Value, json};
use support::Server;
use support::hop::Hop;

/// What axe-core complains about on the page as it is: the rule, and the elements.
async fn complaints(page: &Page) -> Vec<String> {
    let axe = std::fs::read_to_string(node::client().join("node_modules/axe-core/axe.min.js"))
        .expect("axe-core is installed: run `npm ci` in clients/js");
    page.script(&axe, vec![]).await;
    let run = "return axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => \
         violations.map(({ id, nodes }) => id + ': ' + nodes.map(({ html, failureSummary }) => html.slice(0, 200) + failureSummary).join(' ')))";
    serde_json::from_value(page.script(run, vec![]).await).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axe_finds_nothing_in_any_state_of_the_page() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let hop = Hop::start(&server, &[]);
    let mut witness = server.join("witness", "general");
    for scheme in ["light", "dark"] {
        for size in [(1200, 800), (390, 844)] {
            let page = Page::open_at(&driver, hop.port, size).await;
            page.emulate(&driver, json!([{"name": "prefers-color-scheme", "value": scheme}])).await;
            let what = |state: &str| format!("{state} ({scheme}, {size:?})");
            assert_eq!(complaints(&page).await, [""; 0], "{}", what("the join form"));
            page.join("#x").await;
            page.wait_text("#join-error", "#").await;
            assert_eq!(complaints(&page).await, [""; 0], "{}", what("an error"));
            page.enter("ann").await;
            page.say("own, with `code`, https://example.com/ and\n```\nmore code\n```").await;
            page.hide(true).await;
            witness.say("general", "ann, look at #tea");
            page.wait_text("#messages .mention", "look at").await;
            page.hide(false).await;
            page.say("/join tea").await;
            page.wait_text("#title", "tea").await;
            witness.say("general", "ann?");
            page.wait_text("#rooms .mentioned .unread", "1").await;
            assert_eq!(complaints(&page).await, [""; 0], "{}", what("a room where one is alone"));
            page.script("document.querySelector('#rooms [data-room=\"general\"] .room').click()", vec![]).await;
            page.wait_text("#messages .new", "New").await;
            page.script("document.querySelector('#people').click()", vec![]).await;
            page.wait_text("#people-list", "witness").await;
            page.say("/nonsense").await;
            assert_eq!(complaints(&page).await, [""; 0], "{}", what("a busy room"));
            if size.0 < 700 {
                page.script("document.querySelector('#people-list').hidePopover()", vec![]).await;
                page.script("document.querySelector('#rooms-toggle').click()", vec![]).await;
                page.wait("the drawer", "return document.querySelector('#sidebar').matches(':popover-open')").await;
                assert_eq!(complaints(&page).await, [""; 0], "{}", what("the drawer"));
            }
            hop.cut();
            page.wait("trouble", "return document.querySelector('#trouble').checkVisibility()").await;
            assert_eq!(complaints(&page).await, [""; 0], "{}", what("trouble"));
            hop.repair();
            page.script("document.body.append(document.createElement('input'))", vec![]).await;
            assert!(complaints(&page).await.concat().contains("label"), "axe looks at the page");
            page.client.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_moves_and_a_screen_reader_is_told_politely() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.emulate(&driver, json!([{"name": "prefers-reduced-motion", "value": "reduce"}])).await;
    page.enter("ann").await;
    let moving = "return document.getAnimations().length + [...document.querySelectorAll('*')].filter((e) => { \
         const style = getComputedStyle(e); \
         return style.scrollBehavior === 'smooth' || style.transitionDuration !== '0s'; }).length";
    assert_eq!(page.script(moving, vec![]).await, json!(0));
    let told = "const log = document.querySelector('#messages'); return [log.role, log.ariaLive, log.ariaLabel]";
    page.wait("the log speaks", "return document.querySelector('#messages').ariaLive === 'polite'").await;
    assert_eq!(page.script(told, vec![]).await, json!(["log", "polite", "Messages in general"]));
    // A change of room isn't read out line by line.
    page.say("/join tea").await;
    page.wait_text("#title", "tea").await;
    let quiet = "const log = document.querySelector('#messages'); \
         document.querySelector('#rooms [data-room=\"general\"] .room').click(); return log.ariaLive";
    assert_eq!(page.script(quiet, vec![]).await, Value::from("off"));
    page.wait("it speaks again", "return document.querySelector('#messages').ariaLive === 'polite'").await;
    page.client.close().await.unwrap();
}
