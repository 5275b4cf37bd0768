//! What the chat page shows, and how: the scroll position, the keyboard, names, colours, error messages.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::{Driver, Page};
use fantoccini::Locator;
use fantoccini::key::Key;
use serde_json::json;
use support::Server;
use support::hop::Hop;
use support::proxies::{Proxy, free_port};

/// Bytes that a browser loads for the page, in all.
const LOADED_BYTES_MAX: u64 = 45_000;

async fn is_true(page: &Page, script: &str) {
    assert_eq!(page.script(script, vec![]).await, true, "{script}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_at_its_end_whatever_is_sent() {
    let driver = Driver::start();
    for size in [(1200, 800), (390, 844)] {
        let server = Server::start(&["--rate-limit", "0", "--ping-interval", "1h"]);
        let mut witness = server.join("witness", "general");
        let page = Page::open(&driver, &server, size).await;
        page.enter("ann").await;
        for number in 0..60 {
            witness.say("general", &format!("m{number}"));
        }
        page.wait_text("#messages .text", "m59").await;
        for number in 0..12 {
            page.type_into("#message-input", "").await;
            let (shift, enter) = (char::from(Key::Shift), char::from(Key::Enter));
            // Pressing Shift again releases it.
            let lines =
                format!("n{number}{shift}{enter}{shift}two{shift}{enter}{shift}three{shift}{enter}{shift}four{enter}");
            page.client.active_element().await.unwrap().send_keys(&lines).await.unwrap();
            page.wait_text("#messages .own:not(.pending) .text", &format!("n{number}\ntwo\nthree\nfour")).await;
            page.wait_end().await;
        }
        // A reader who has scrolled up stays there, and sees how many messages arrive.
        page.script("document.querySelector('#messages').scrollTop = 100", vec![]).await;
        page.wait_frames().await;
        witness.say("general", "news");
        page.wait_text("#to-end", "1 new").await;
        is_true(&page, "return document.querySelector('#messages').scrollTop === 100").await;
        page.script("document.querySelector('#to-end').click()", vec![]).await;
        page.wait_end().await;
        is_true(&page, "return document.querySelector('#to-end').hidden").await;
        page.client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_on_the_screen_does_not_move_while_scrolled_up() {
    let driver = Driver::start();
    let server = Server::start(&["--rate-limit", "0"]);
    let mut witness = server.join("witness", "general");
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    let mut say = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            witness.say("general", &format!("m{number}"));
            if number % 50 == 49 {
                while witness.json()["Message"] != format!("m{number}") {}
            }
        }
    };
    say(0..500);
    page.wait_text("#messages .text", "m499").await;
    page.script("document.querySelector('#messages').scrollTop -= 3000", vec![]).await;
    page.wait_frames().await;
    let under_the_eye = "return document.elementFromPoint(500, 300).closest('.message').textContent";
    let before = page.script(under_the_eye, vec![]).await;
    say(500..2500);
    page.wait_text("#to-end", "2000 new").await;
    assert_eq!(page.script(under_the_eye, vec![]).await, before);
    is_true(&page, "return document.querySelector('#messages').childElementCount <= 1000").await;
    page.script("document.querySelector('#to-end').click()", vec![]).await;
    page.wait_text("#messages .text", "m2499").await;
    is_true(&page, "return document.querySelector('#messages').childElementCount <= 500").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_isolated_and_nothing_is_cut_off() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let name = "a name of thirty-four characters";
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.join(name).await;
    page.wait_text("#messages .notice", &format!("{name} joined")).await;
    is_true(&page, &format!("return document.querySelector('#messages .notice bdi').textContent === {}", json!(name)))
        .await;
    page.say("/list").await;
    page.wait_text("#messages .notice:last-child bdi", name).await;
    let fits = "const button = document.querySelector('#sign-out'); \
         return button.scrollWidth <= button.clientWidth \
         && button.getBoundingClientRect().right <= document.querySelector('#sidebar').getBoundingClientRect().right";
    is_true(&page, fits).await;
    // A message of 300 lines doesn't push everything else away.
    let mut witness = server.join("witness", "general");
    witness.say("general", &format!("high{}end", "\n".repeat(300)));
    page.wait_text("#messages .text", "high").await;
    is_true(&page, "return [...document.querySelectorAll('.text')].at(-1).clientHeight <= innerHeight * 0.6").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keyboard_keeps_focus_and_labels_match_the_visible_text() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (1000, 700)).await;
    let headings = "return [...document.querySelectorAll('h1, h2, h3')].filter((e) => e.checkVisibility()).map((e) => e.textContent)";
    assert_eq!(page.script(headings, vec![]).await, json!(["hi"]));
    page.enter("ann").await;
    for room in ["tea", "lobby"] {
        page.say(&format!("/join {room}")).await;
        page.wait_text("#title", room).await;
    }
    assert_eq!(page.script(headings, vec![]).await, json!(["lobby"]));
    let mut witness = server.join_quietly("witness", "tea");
    for _ in 0..2 {
        witness.say("tea", "news");
    }
    page.wait_text("#rooms [data-room='tea'] .unread", "2").await;
    let label = "return document.querySelector('#rooms [data-room=\"tea\"] .room').ariaLabel";
    assert_eq!(page.script(label, vec![]).await, "tea 2 unread");
    let cross = page.client.find(Locator::Css("#rooms [data-room='tea'] .leave")).await.unwrap();
    cross.send_keys(&char::from(Key::Enter).to_string()).await.unwrap();
    page.wait("tea is gone", "return !document.querySelector('#rooms [data-room=\"tea\"]')").await;
    is_true(&page, "return document.activeElement.matches('.room, #message-input')").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_stay_visible_with_forced_colours() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    page.say("own").await;
    page.wait_text("#messages .own:not(.pending)", "own").await;
    page.emulate(&driver, json!([{"name": "forced-colors", "value": "active"}])).await;
    is_true(&page, "return matchMedia('(forced-colors: active)').matches").await;
    let marks = "const style = (selector) => getComputedStyle(document.querySelector(selector)); \
         const paper = style('body').backgroundColor; \
         return style('.notice').borderInlineStartColor === paper && style('.own').borderInlineStartColor !== paper \
         && style('#rooms li').outlineStyle === 'solid' && style('#sidebar').borderInlineEndStyle === 'solid' \
         && getComputedStyle(document.querySelector('#status'), '::before').backgroundColor !== paper";
    is_true(&page, marks).await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_drops_upgrades_is_explained_to_users_and_the_fix_is_folded() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let hop = Hop::start(&server, &["upgrade", "connection"]);
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    // Server-sent events don't get through either.
    page.script("fetch = ((real) => (url, ...all) => String(url).includes('/stream/') ? Promise.reject() : real(url, ...all))(fetch)", vec![])
        .await;
    page.join("ann").await;
    page.wait_text(
        "#join-error p",
        "A proxy between you and the server blocks the chat's WebSocket. Tell whoever runs this site.",
    )
    .await;
    is_true(&page, "return document.querySelector('#join-error details').open === false").await;
    let fix = page.script("return document.querySelector('#join-error pre').textContent", vec![]).await;
    let fix = fix.as_str().unwrap();
    assert!(fix.contains("proxy_set_header Upgrade") && !fix.contains("Sec-WebSocket-Key"), "{fix}");
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_that_drops_upgrades_rooms_can_be_read_until_it_is_fixed() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let hop = Hop::start(&server, &["upgrade", "connection"]);
    let mut bob = server.join("bob", "general");
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    page.join("ann").await;
    page.wait_state("reading").await;
    page.wait_text("#status-text", "Read only").await;
    let told = "You can read here, but not write. A proxy between you and the server blocks the chat's WebSocket. \
                Tell whoever runs this site.";
    page.wait_text("#trouble-text p", told).await;
    is_true(&page, "return document.querySelector('#trouble-text details').open === false").await;
    bob.say("general", "one");
    page.wait_text("#messages .message", "one").await;
    is_true(&page, "return document.querySelector('#message-input').readOnly").await;
    // Another room can be read, too, and nothing is sent.
    page.type_into("#room-input", "tea").await;
    page.script("document.querySelector('#room-form').requestSubmit()", vec![]).await;
    page.wait_text("#title", "tea").await;
    server.join("eve", "tea").say("tea", "milk?");
    page.wait_text("#messages .message", "milk?").await;
    page.script("document.querySelector('#message-input').value = '/list'; document.querySelector('#message-form').requestSubmit()", vec![])
        .await;
    page.wait_text("#hint", "Not sent: you can only read here. Your text is kept.").await;
    // A stream that breaks is opened again, and misses nothing.
    hop.cut();
    bob.say("general", "two");
    hop.repair();
    page.script("document.querySelector('[data-room=general] .room').click()", vec![]).await;
    page.wait_text("#messages .message", "two").await;
    hop.keep_headers();
    page.script("document.querySelector('#try-now').click()", vec![]).await;
    page.wait_state("connected").await;
    is_true(
        &page,
        "return document.querySelector('#trouble').hidden && !document.querySelector('#message-input').readOnly",
    )
    .await;
    page.say("three").await;
    while bob.json()["Message"] != "three" {}
    page.assert_once(&["one", "two", "three"]).await;
    page.assert_no_complaints().await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_browser_loads_is_small() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (1000, 700)).await;
    // With the heads of the answers, and as they were compressed.
    let sizes = "return [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]\
        .filter(({ name }) => name.startsWith('http')).map(({ name, transferSize, decodedBodySize }) => [name, transferSize, decodedBodySize])";
    let sizes = page.script(sizes, vec![]).await;
    let files: Vec<(String, u64, u64)> = serde_json::from_value(sizes).unwrap();
    let total = files.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
    assert!(files.len() >= 17 && files.iter().all(|(_, bytes, _)| *bytes > 300), "{files:?}");
    assert!(total < LOADED_BYTES_MAX, "{total} bytes: {files:?}");
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_without_its_slash_is_explained() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let port = free_port();
    // Proxies strip the prefix with or without its slash: both are common.
    let to_hi = format!(
        "proxy_pass http://{}/; proxy_http_version 1.1; proxy_set_header Host $http_host; \
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection Upgrade;",
        server.address()
    );
    let block = format!("server {{ listen 127.0.0.1:{port}; location /chat {{ {to_hi} }} }}");
    let _nginx = Proxy::nginx(port, &block);
    let page = Page::open_at(&driver, port, (1000, 700)).await;
    page.client.goto(&format!("http://127.0.0.1:{port}/chat")).await.unwrap();
    page.wait("it says so", "return document.querySelector('#unloaded').checkVisibility()").await;
    page.wait_text("#unloaded", "does not end in a slash (/), add one").await;
    is_true(&page, "return document.querySelector('#join-button').disabled").await;
    page.client.goto(&format!("http://127.0.0.1:{port}/chat/")).await.unwrap();
    page.enter("ann").await;
    page.client.close().await.unwrap();
}
