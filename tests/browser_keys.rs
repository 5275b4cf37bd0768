//! The keyboard on the chat page: completing names, earlier texts, scrolling, rooms; and changing one's name.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::{Driver, Page};
use fantoccini::key::Key;
use serde_json::json;
use support::Server;

const FIELD: &str = "return document.querySelector('#message-input').value";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tab_completes_names_and_otherwise_moves_the_focus() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let _others = ["barbara", "bob", "Boris"].map(|name| server.join_quietly(name, "general"));
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    page.wait_text("#people", "4 here").await;
    page.type_into("#message-input", "BA").await;
    page.press(&[Key::Tab]).await;
    page.wait("a name at the beginning is an address", &format!("{FIELD} === 'barbara: '")).await;
    page.type_into("#message-input", "ask bo").await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        page.press(&[Key::Tab]).await;
        seen.push(page.script(FIELD, vec![]).await);
    }
    assert_eq!(seen[0], seen[2]);
    let mut both = [seen[0].as_str().unwrap(), seen[1].as_str().unwrap()];
    both.sort_unstable();
    assert_eq!(both, ["ask Boris ", "ask bob "]);
    page.type_into("#message-input", "@ba").await;
    page.press(&[Key::Tab]).await;
    assert_eq!(page.script(FIELD, vec![]).await, "@barbara: ");
    page.type_into("#message-input", "nobody").await;
    page.press(&[Key::Tab]).await;
    page.wait("Tab moves on", "return document.activeElement.textContent === 'Send'").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrows_bring_earlier_texts_back_into_an_empty_field() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    for said in ["one", "two", "/list"] {
        page.say(said).await;
    }
    for (key, expected) in [
        (Key::Up, "/list"),
        (Key::Up, "two"),
        (Key::Up, "one"),
        (Key::Up, "one"),
        (Key::Down, "two"),
        (Key::Down, "/list"),
        (Key::Down, ""),
    ] {
        page.press(&[key]).await;
        assert_eq!(page.script(FIELD, vec![]).await, expected);
    }
    page.type_into("#message-input", "a draft").await;
    page.press(&[Key::Up]).await;
    assert_eq!(page.script(FIELD, vec![]).await, "a draft");
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_scroll_the_log_find_unread_rooms_and_lead_to_the_field() {
    let driver = Driver::start();
    let server = Server::start(&["--rate-limit", "0"]);
    let mut witness = server.join("witness", "general");
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    for number in 0..80 {
        witness.say("general", &format!("m{number}"));
    }
    page.wait_text("#messages .text", "m79").await;
    page.wait_end().await;
    page.press(&[Key::PageUp]).await;
    let is_up = "const log = document.querySelector('#messages'); \
                 return log.scrollHeight - log.scrollTop - log.clientHeight > 300";
    page.wait("it is scrolled up", is_up).await;
    page.press(&[Key::PageDown]).await;
    page.wait_end().await;
    for room in ["r1", "r2", "r3"] {
        page.say(&format!("/join {room}")).await;
        page.wait_text("#title", room).await;
    }
    let mut other = server.join_quietly("other", "r1");
    other.say("r1", "news");
    page.wait_text("#rooms [data-room='r1'] .unread", "1").await;
    page.press(&[Key::Alt, Key::Shift, Key::Down]).await;
    page.wait_text("#title", "r1").await;
    page.press(&[Key::Alt, Key::Shift, Key::Down]).await;
    page.press(&[Key::Alt, Key::Down]).await;
    page.wait_text("#title", "r2").await;
    page.script("document.querySelector('#messages').focus()", vec![]).await;
    page.client.active_element().await.unwrap().send_keys("typed").await.unwrap();
    assert_eq!(page.script(FIELD, vec![]).await, "typed");
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_changed_in_all_rooms_without_losing_a_message() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let mut witness = server.join("witness", "general");
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    page.say("/join tea").await;
    page.wait_text("#title", "tea").await;
    page.say("before").await;
    page.wait_text("#messages .own:not(.pending)", "before").await;
    let _thief = server.join_quietly("bob", "tea");
    page.say("/nick bob").await;
    page.wait_text("#messages .notice", "Your name is still ann.").await;
    page.say("/nick Ann Smith").await;
    page.wait("the new name", "return document.querySelector('#my-name').textContent === 'Ann Smith'").await;
    page.say("after").await;
    page.wait_text("#messages .own:not(.pending)", "after").await;
    witness.say("general", "still there?");
    page.wait_text("#rooms [data-room='general'] .unread", "1").await;
    page.wait("no room is away", "return !document.querySelector('#rooms .away')").await;
    let who = "return [...document.querySelectorAll('#messages .own .from')].map((e) => e.textContent)";
    assert_eq!(page.script(who, vec![]).await, json!(["ann", "Ann Smith"]));
    let lines = page.lines().await;
    assert!(!lines.iter().any(|line| line.contains("reconnected")), "{lines:?}");
    page.assert_once(&["before", "after"]).await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_touch_keyboard_enter_makes_a_line_and_the_button_sends() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (390, 844)).await;
    let phone = json!({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true});
    page.devtools(&driver, "Emulation.setDeviceMetricsOverride", phone).await;
    page.devtools(&driver, "Emulation.setTouchEmulationEnabled", json!({"enabled": true})).await;
    page.client.refresh().await.unwrap();
    page.wait("it is a phone", "return matchMedia('(hover: none) and (pointer: coarse)').matches").await;
    page.enter("ann").await;
    page.type_into("#message-input", "one").await;
    page.press(&[Key::Enter]).await;
    page.client.active_element().await.unwrap().send_keys("two").await.unwrap();
    assert_eq!(page.script(FIELD, vec![]).await, "one\ntwo");
    page.script("document.querySelector('#message-form .primary').click()", vec![]).await;
    page.wait_text("#messages .own:not(.pending) .text", "one\ntwo").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_of_a_room_is_copied_or_shown() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    page.say("/join tea").await;
    page.wait_text("#title", "tea").await;
    let clipboard = "window.copied = ''; Object.defineProperty(navigator, 'clipboard', { configurable: true, \
         value: arguments[0] ? { writeText: async (text) => { copied = text; } } : undefined })";
    let copy = "document.querySelector('#copy-link').click()";
    page.script(clipboard, vec![json!(true)]).await;
    page.script(copy, vec![]).await;
    page.wait_text("#hint", "Link copied.").await;
    let link = format!("http://127.0.0.1:{}/#tea", server.port());
    assert_eq!(page.script("return copied", vec![]).await, json!(link));
    page.script(clipboard, vec![json!(false)]).await;
    page.script(copy, vec![]).await;
    page.wait_text("#hint", &link).await;
    page.client.close().await.unwrap();
}
