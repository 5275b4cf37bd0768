//! The chat page in a real browser.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::{Driver, Page};
use fantoccini::key::Key;
use serde_json::json;
use support::Server;
use support::hop::Hop;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_windows_chat_join_a_room_and_reconnect_after_a_restart() {
    let driver = Driver::start();
    let mut server = Server::start(&[]);
    let ann = Page::open(&driver, &server, (1200, 800)).await;
    let bob = Page::open(&driver, &server, (390, 844)).await;
    for page in [&ann, &bob] {
        let watch = "window.complaints = []; \
             addEventListener('securitypolicyviolation', (e) => complaints.push(e.violatedDirective)); \
             addEventListener('error', (e) => complaints.push(e.message))";
        page.script(watch, vec![]).await;
    }
    ann.join("ann").await;
    ann.wait_text("#messages .notice", "ann joined").await;

    // A taken name is explained before the chat opens.
    bob.join("ann").await;
    bob.wait_text("#join-error", "ann").await;
    bob.wait("the chat stays closed", "return document.querySelector('#chat').checkVisibility() === false").await;
    bob.join("bob").await;
    ann.wait_text("#messages .notice", "bob joined").await;

    // Text can't become markup.
    let markup = "<img src=x onerror=\"document.title='broken'\"> & <b>bold</b>";
    ann.say(markup).await;
    for page in [&ann, &bob] {
        page.wait_text("#messages .message .text", markup).await;
        let elements =
            page.script("return document.querySelectorAll('#messages img, #messages b').length", vec![]).await;
        assert_eq!(elements, json!(0));
    }
    // On the phone nothing is wider than the screen.
    let overflow = "return document.documentElement.scrollWidth <= window.innerWidth";
    assert_eq!(bob.script(overflow, vec![]).await, json!(true));

    // A room is joined, and unread messages elsewhere are counted.
    ann.say("/join tea").await;
    ann.wait_text("#messages .notice", "ann joined").await;
    bob.say("are you there?").await;
    ann.wait_text("#rooms [data-room='general'] .unread", "1").await;
    ann.say("/list").await;
    ann.wait_text("#messages", "ann").await;
    ann.say("/channels").await;
    ann.wait_text("#messages", "general, tea").await;

    // The server restarts on the same port, and the page reconnects to all its rooms.
    let address = server.address().to_string();
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait().success());
    for page in [&ann, &bob] {
        page.wait(
            "the page sees that it is alone",
            "return ['waiting', 'connecting', 'offline'].includes(document.querySelector('#status').dataset.state)",
        )
        .await;
    }
    let server = Server::start_on(&address, &[]);
    for page in [&ann, &bob] {
        page.wait_state("connected").await;
    }
    let mut witness = server.join_quietly("witness", "tea");
    witness.say("tea", "welcome back");
    ann.wait_text("#messages .message .text", "welcome back").await;
    bob.say("back in general").await;
    ann.wait_text("#rooms [data-room='general'] .unread", "").await;
    ann.script("document.querySelector('#rooms [data-room=\"general\"] .room').click()", vec![]).await;
    ann.wait_text("#messages .message .text", "back in general").await;
    ann.say("/leave tea").await;
    ann.wait("tea is gone from the list", "return !document.querySelector('#rooms [data-room=\"tea\"]')").await;
    for page in [ann, bob] {
        page.assert_no_complaints().await;
        page.client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_browser_and_the_server_compress_for_each_other() {
    let driver = Driver::start();
    let (server, internal) = Server::start_with_internal(&["--compression", "on"]);
    let page = Page::open(&driver, &server, (1200, 800)).await;
    page.join("ann").await;
    page.wait_text("#messages .notice", "ann joined").await;
    assert_eq!(internal.metric("hi_deflate_offers_total{outcome=\"agreed\"}"), 1.0);
    let mut plain = server.join_quietly("plain", "general");
    let long = "a long message, which has to be compressed ".repeat(30);
    plain.say("general", long.trim());
    plain.expect_message("plain", long.trim());
    page.wait_text("#messages .message .text", long.trim()).await;
    page.say(long.trim()).await;
    plain.expect_message("ann", long.trim());
    for direction in ["in", "out"] {
        let bytes = |name: &str| internal.metric(&format!("{name}_bytes_total{{dir={direction:?}}}"));
        let (deflated, plain) = (bytes("hi_deflate"), bytes("hi_deflate_plain"));
        assert!(plain > long.len() as f64 && deflated < plain / 3.0, "{direction}: {deflated} of {plain}");
    }
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_explained_before_anything_is_sent() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (360, 640)).await;
    for (name, part) in [("#hash", "#"), (&"x".repeat(80), "80")] {
        page.join(name).await;
        page.wait_text("#join-error", part).await;
    }
    assert!(!server.log().contains("refused"), "the page asks the server only with a name that can be good");
    // With the keyboard only: Tab leads from the name to the room, and Enter joins.
    page.type_into("#join-name", "ann").await;
    page.client
        .active_element()
        .await
        .unwrap()
        .send_keys(&format!("{}{}", char::from(Key::Tab), char::from(Key::Enter)))
        .await
        .unwrap();
    page.wait_text("#messages .notice", "ann joined").await;
    page.wait("the cursor is in the message field", "return document.activeElement.id === 'message-input'").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_join_form_shows_the_actual_reason_of_a_refusal() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (1000, 700)).await;
    let error = "return document.querySelector('#join-error').textContent";
    for (name, part) in [("hi", "The user name reads as \"hi\""), ("a\u{200b}b", "the invisible character U+200B")] {
        page.join(name).await;
        page.wait_text("#join-error", part).await;
        let said = page.script(error, vec![]).await;
        assert!(!said.as_str().unwrap().contains("80 characters"), "{said}");
    }
    page.type_into("#join-room", "a\u{200b}b").await;
    page.join("ann").await;
    page.wait_text("#join-error", "The room name contains the invisible character U+200B").await;
    assert_eq!(page.script("return document.activeElement.id", vec![]).await, "join-room");
    page.type_into("#join-room", "general").await;
    page.enter("ann").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v0_opens_a_room_under_any_spelling_of_its_name() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let _witnesses = [server.join_quietly("one", "general"), server.join_quietly("two", "casey")];
    let hop = Hop::start(&server, &["sec-websocket-protocol"]);
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    page.type_into("#join-room", "General").await;
    page.enter("ann").await;
    page.say("/join Casey").await;
    page.wait("the room", "return document.querySelector('#title').textContent === 'casey'").await;
    page.say("hello").await;
    page.wait_text("#messages .own:not(.pending)", "hello").await;
    let rooms = "return [...document.querySelectorAll('#rooms li')].map((room) => room.dataset.room)";
    assert_eq!(page.script(rooms, vec![]).await, json!(["general", "casey"]));
    page.client.close().await.unwrap();
}

/// Sends some messages while the page's connection is cut; returns once it has reconnected.
async fn miss(hop: &Hop, page: &Page, witness: &mut support::Client, texts: std::ops::Range<u32>) {
    hop.cut();
    page.wait("it is lost", "return document.querySelector('#status').dataset.state === 'waiting'").await;
    for number in texts {
        witness.say("general", &format!("m{number}"));
    }
    hop.repair();
    page.wait_state("connected").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reconnect_nothing_is_lost_or_duplicated_and_a_gap_is_shown() {
    let driver = Driver::start();
    let server = Server::start(&["--replay-frames", "12", "--rate-limit", "0"]);
    let hop = Hop::start(&server, &[]);
    let mut witness = server.join("witness", "general");
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    page.join("ann").await;
    page.say("before").await;
    page.wait_text("#messages .message", "before").await;
    miss(&hop, &page, &mut witness, 0..5).await;
    page.wait_text("#messages .text", "m4").await;
    page.say("after").await;
    page.wait_text("#messages .message", "after").await;
    let lines = page.lines().await;
    let said: Vec<_> = lines.iter().filter(|line| *line != "ann joined" && *line != "ann left").collect();
    assert_eq!(said, ["before", "reconnected", "m0", "m1", "m2", "m3", "m4", "after"], "{lines:?}");

    // The page marks messages whose fate it can't know, and removes the mark once it knows.
    hop.deafen();
    page.say("doubted").await;
    while witness.json()["Message"] != "doubted" {}
    hop.cut();
    page.wait_text("#messages .own .failure", "May not have been delivered").await;
    hop.repair();
    page.wait_text("#messages .own .text", "doubted").await;
    let lines = page.lines().await;
    assert_eq!(lines.iter().filter(|line| line.contains("doubted")).count(), 1, "{lines:?}");

    // More than the server keeps.
    miss(&hop, &page, &mut witness, 5..40).await;
    page.wait_text("#messages .separator", "messages may be missing here").await;
    witness.say("general", "live");
    page.wait_text("#messages .message", "live").await;
    let lines = page.lines().await;
    assert!(
        !lines.iter().any(|line| line == "m39") && lines.iter().filter(|line| *line == "m4").count() == 1,
        "{lines:?}"
    );
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_subprotocol_the_page_speaks_v0() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let hop = Hop::start(&server, &["sec-websocket-protocol"]);
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    page.enter("ann").await;
    page.say("/join tea").await;
    page.wait_text("#messages .notice", "ann joined").await;
    page.say("/channels").await;
    page.wait_text("#messages .notice", "general, tea").await;
    let mut witness = server.join_quietly("witness", "tea");
    hop.cut();
    page.wait("it is lost", "return document.querySelector('#status').dataset.state === 'waiting'").await;
    hop.repair();
    page.wait_state("connected").await;
    page.wait("both rooms are back", "return !document.querySelector('#rooms .away')").await;
    page.wait_text("#messages .separator", "reconnected; messages may be missing here").await;
    witness.say("tea", "hello again");
    page.wait_text("#messages .message", "hello again").await;
    page.say("/leave tea").await;
    page.wait("tea is gone from the list", "return !document.querySelector('#rooms [data-room=\"tea\"]')").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_source_reconnects_and_misses_nothing() {
    let driver = Driver::start();
    let server = Server::start(&["--replay-frames", "20"]);
    let hop = Hop::start(&server, &[]);
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    let listen = "window.heard = []; window.opened = 0; window.events = new EventSource('/stream/tea'); \
         events.onopen = () => opened++; \
         events.onmessage = (event) => heard.push(JSON.parse(event.data).Message); \
         events.addEventListener('gap', (event) => heard.push('gap of ' + JSON.parse(event.data).FromSeq))";
    page.script(listen, vec![]).await;
    page.wait("the stream is open", "return opened === 1").await;
    let mut ann = server.join("ann", "tea");
    let mut say = |texts: std::ops::Range<u32>| {
        for number in texts {
            ann.say("tea", &format!("m{number}"));
            ann.expect_message("ann", &format!("m{number}"));
        }
    };
    say(0..2);
    page.wait("the first are there", "return heard.at(-1) === 'm1'").await;
    hop.cut();
    page.wait("the stream is lost", "return events.readyState === EventSource.CONNECTING").await;
    say(2..6);
    hop.repair();
    page.wait("the missed messages are there", "return heard.at(-1) === 'm5'").await;
    hop.cut();
    page.wait("the stream is lost again", "return events.readyState === EventSource.CONNECTING").await;
    // More than the server keeps.
    say(6..36);
    hop.repair();
    page.wait("the gap is reported", "return heard.at(-1).startsWith('gap')").await;
    say(36..37);
    page.wait("it continues", "return heard.at(-1) === 'm36'").await;
    let heard = page.script("return heard", vec![]).await;
    let expected = ["Welcome to tea, ann!", "m0", "m1", "m2", "m3", "m4", "m5", "gap of 8", "m36"];
    assert_eq!(heard, json!(expected));
    page.client.close().await.unwrap();
}
