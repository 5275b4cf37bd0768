//! The chat page after a reload, with Back, and with addresses that name a room.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::{Driver, Page};
use serde_json::json;
use support::Server;
use support::hop::Hop;

const TITLE: &str = "return location.hash + ' ' + document.querySelector('#title').textContent";

async fn wait_room(page: &Page, room: &str) {
    let script = format!(
        "return location.hash + document.querySelector('#title').textContent === {}",
        json!(format!("#{room}{room}"))
    );
    page.wait(&format!("the room {room}"), &script).await;
}

/// A page in `general` and then in `tea`.
async fn page_in_two_rooms(driver: &Driver, port: u16, size: (u32, u32)) -> Page {
    let page = Page::open_at(driver, port, size).await;
    page.enter("ann").await;
    page.say("/join tea").await;
    wait_room(&page, "tea").await;
    page
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_keeps_rooms_lines_draft_and_misses_nothing() {
    let driver = Driver::start();
    for drops in [&[][..], &["sec-websocket-protocol"]] {
        let server = Server::start(&[]);
        let hop = Hop::start(&server, drops);
        let page = page_in_two_rooms(&driver, hop.port, (1000, 700)).await;
        let mut witness = server.join_quietly("witness", "tea");
        page.say("before").await;
        while witness.json()["Message"] != "before" {}
        page.wait("the echo", "return !document.querySelector('#messages .pending')").await;
        page.type_into("#message-input", "a draft").await;
        // Half open: only with its secret does the page get its name back at once.
        if drops.is_empty() {
            hop.silence();
        }
        for number in 0..3 {
            witness.say("tea", &format!("m{number}"));
        }
        while witness.json()["Message"] != "m2" {}
        page.client.refresh().await.unwrap();
        page.wait_state("connected").await;
        page.wait("both rooms are back", "return document.querySelectorAll('#rooms li:not(.away)').length === 2").await;
        assert_eq!(page.script(TITLE, vec![]).await, "#tea tea");
        assert_eq!(page.script("return document.querySelector('#message-input').value", vec![]).await, "a draft");
        witness.say("tea", "live");
        page.wait_text("#messages .message", "live").await;
        let mut lines = page.lines().await;
        lines.retain(|line| !line.ends_with(" joined") && !line.ends_with(" left"));
        if drops.is_empty() {
            assert_eq!(lines, ["before", "m0", "m1", "m2", "live"]);
        } else {
            // v0 can't bring back what was missed.
            lines.retain(|line| !line.starts_with('m') && !line.starts_with("You missed"));
            assert_eq!(lines, ["before", "reconnected; messages may be missing here", "live"]);
        }
        page.client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_keeps_unconfirmed_messages() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let hop = Hop::start(&server, &[]);
    let mut witness = server.join("witness", "general");
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    page.enter("ann").await;
    hop.deafen();
    page.say("delivered").await;
    while witness.json()["Message"] != "delivered" {}
    hop.silence();
    page.say("lost").await;
    hop.repair();
    page.client.refresh().await.unwrap();
    page.wait_state("connected").await;
    page.wait("one is in doubt", "return document.querySelectorAll('#messages .failure').length === 1").await;
    page.wait_text("#messages .own:has(.failure)", "lost").await;
    page.assert_once(&["delivered", "lost"]).await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_and_links_lead_from_room_to_room() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = page_in_two_rooms(&driver, server.port(), (1000, 700)).await;
    page.client.back().await.unwrap();
    wait_room(&page, "general").await;
    page.client.forward().await.unwrap();
    wait_room(&page, "tea").await;
    // A link joins the room it names.
    page.client.goto(&format!("http://127.0.0.1:{}/#lobby", server.port())).await.unwrap();
    wait_room(&page, "lobby").await;
    page.wait_text("#messages .notice", "ann joined").await;
    // One without a room changes nothing.
    page.script("location.hash = '#a b'", vec![]).await;
    page.wait_text("#hint", "A room name can't contain spaces.").await;
    wait_room(&page, "lobby").await;
    // Back doesn't rejoin a room that was left.
    page.say("/leave tea").await;
    page.wait("tea is gone", "return !document.querySelector('#rooms [data-room=\"tea\"]')").await;
    page.script("history.back()", vec![]).await;
    page.script("history.back()", vec![]).await;
    page.wait("two rooms", "return document.querySelectorAll('#rooms li').length === 2").await;
    // To another site and back: the chat is still there.
    page.client.goto("about:blank").await.unwrap();
    page.client.back().await.unwrap();
    page.wait_state("connected").await;
    page.wait("both rooms", "return document.querySelectorAll('#rooms li:not(.away)').length === 2").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_closes_the_drawer_of_a_phone() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = page_in_two_rooms(&driver, server.port(), (390, 844)).await;
    let open = "return document.querySelector('#sidebar').matches(':popover-open')";
    page.script("document.querySelector('#rooms-toggle').click()", vec![]).await;
    page.wait("the drawer is open", open).await;
    page.wait("it has a history entry", "return history.state.drawer === true").await;
    page.client.back().await.unwrap();
    page.wait("the drawer is closed", &format!("return !(() => {{ {open} }})()")).await;
    wait_room(&page, "tea").await;
    page.wait_state("connected").await;
    // Choosing a room in it replaces its history entry.
    page.script("document.querySelector('#rooms-toggle').click()", vec![]).await;
    page.wait("it has a history entry", "return history.state.drawer === true").await;
    page.script("document.querySelector('#rooms [data-room=\"general\"] .room').click()", vec![]).await;
    wait_room(&page, "general").await;
    page.client.back().await.unwrap();
    wait_room(&page, "tea").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_joined_from_the_drawer_stays_on_the_screen() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = page_in_two_rooms(&driver, server.port(), (390, 844)).await;
    // The browser leaves the drawer's entry slowly: the server's answer is faster.
    let slow = "const back = history.back.bind(history); \
         history.back = () => document.querySelector('#title').textContent === 'new' ? back() : setTimeout(history.back, 10)";
    page.script(slow, vec![]).await;
    page.script("document.querySelector('#rooms-toggle').click()", vec![]).await;
    page.wait("it has a history entry", "return history.state.drawer === true").await;
    let join =
        "document.querySelector('#room-input').value = 'new'; document.querySelector('#room-form').requestSubmit()";
    page.script(join, vec![]).await;
    let is_left = "return !history.state.drawer && location.hash === '#new'";
    page.wait("the drawer's entry is left", is_left).await;
    wait_room(&page, "new").await;
    page.say("hello").await;
    page.wait_text("#messages .own:not(.pending)", "hello").await;
    wait_room(&page, "new").await;
    page.client.back().await.unwrap();
    wait_room(&page, "tea").await;
    page.client.forward().await.unwrap();
    wait_room(&page, "new").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_whose_rejoin_is_refused_says_so_once() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let hop = Hop::start(&server, &[]);
    let page = page_in_two_rooms(&driver, hop.port, (1000, 700)).await;
    let mut witness = server.join_quietly("witness", "tea");
    hop.cut();
    while witness.json()["Message"] != "User ann left channel." {}
    let thief = server.join_quietly("ann", "tea");
    hop.repair();
    page.wait_text("#messages .notice", "Can't join tea").await;
    for _ in 0..2 {
        page.say("hello").await;
        page.wait_text("#hint", "Not sent: you couldn't rejoin this room. Somebody in the room tea has your name.")
            .await;
        page.type_into("#message-input", "").await;
    }
    // The answer to this follows the refusals.
    page.say("/list general").await;
    page.wait_text("#messages .notice", "1 here").await;
    let lines = page.lines().await;
    assert_eq!(lines.iter().filter(|line| line.starts_with("Can't join")).count(), 1, "{lines:?}");
    // Once the name is free, the next try succeeds.
    drop(thief);
    while witness.json()["Message"] != "User ann left channel." {}
    page.say("hello").await;
    page.wait("the room is back", "return !document.querySelector('#rooms .away')").await;
    page.wait("the hint is gone", "return document.querySelector('#hint').textContent === ''").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_survives_a_reload() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = page_in_two_rooms(&driver, server.port(), (1000, 700)).await;
    page.script("document.querySelector('#sign-out').click()", vec![]).await;
    let out = "return document.querySelector('#join-form').checkVisibility() && !document.querySelector('#chat').checkVisibility()";
    page.wait("the join form", out).await;
    page.client.refresh().await.unwrap();
    page.wait("the join form", out).await;
    assert_eq!(page.script("return document.querySelector('#join-room').value", vec![]).await, "tea");
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicated_tab_does_not_take_the_name_away() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = page_in_two_rooms(&driver, server.port(), (1000, 700)).await;
    page.client.refresh().await.unwrap();
    page.wait_state("connected").await;
    // A window opened by a page gets a copy of its storage, like a duplicated tab.
    let copy = "const key = Object.keys(sessionStorage)[0]; window.open(location.href); return key !== undefined";
    assert_eq!(page.script(copy, vec![]).await, true);
    let first = page.client.window().await.unwrap();
    let other =
        page.client.windows().await.unwrap().into_iter().find(|window| *window != first).expect("a second window");
    page.client.switch_to_window(other).await.unwrap();
    page.wait("it asks for a name", "return document.querySelector('#join-form')?.checkVisibility() === true && !document.querySelector('#unloaded')").await;
    page.client.switch_to_window(first).await.unwrap();
    page.wait_state("connected").await;
    page.say("still here").await;
    page.wait_text("#messages .own", "still here").await;
    page.client.close().await.unwrap();
}
