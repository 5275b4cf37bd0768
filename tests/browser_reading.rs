//! What a reader sees on the chat page: links and code, who is here, who came and went, what is new, and who was named.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::{Driver, Page};
use serde_json::{Value, json};
use support::Server;

async fn text(page: &Page, selector: &str) -> Value {
    page.script("return document.querySelector(arguments[0])?.textContent ?? null", vec![json!(selector)]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_rooms_and_code_are_made_of_text() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let mut witness = server.join("witness", "general");
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    let drawn = "return [...[...document.querySelectorAll('#messages .message .text')].at(-1).querySelectorAll('*')] \
         .map((e) => [e.localName, e.textContent, e.getAttribute('href'), e.rel || null])";
    let rel = "noopener noreferrer nofollow";
    let link = |text: &str| json!(["a", text, text, rel]);
    let cases = [
        ("see https://example.com/a?b=1#c.", json!([link("https://example.com/a?b=1#c")])),
        (
            "(http://example.com/x) and https://en.example.org/A_(b)!",
            json!([link("http://example.com/x"), link("https://en.example.org/A_(b)")]),
        ),
        ("javascript:alert(1) ftp://x.y http:// https://", json!([])),
        ("https://[ is none", json!([])),
        ("<a href=https://e.com>x</a>", json!([link("https://e.com")])),
        ("come to #tea, not a#b, #1 or &#x;", json!([["a", "#tea", "#tea", null]])),
        (
            "`a*b*c` and `#tea https://x.y`",
            json!([["code", "a*b*c", null, null], ["code", "#tea https://x.y", null, null]]),
        ),
        ("look:\n```rust\nfn main() {\n    1\n}\n```", json!([["pre", "fn main() {\n    1\n}", null, null]])),
        ("a ` alone and ``` too", json!([])),
    ];
    for (said, expected) in cases {
        witness.say("general", said);
        while witness.json()["Message"] != said {}
        let last = format!(
            "return [...document.querySelectorAll('#messages .message')].length > 0 && [...document.querySelectorAll('#messages .message .text')].at(-1).textContent.slice(0, 4) === {}",
            json!(said.trim_start_matches('`').chars().take(4).collect::<String>())
        );
        page.wait(said, &last).await;
        assert_eq!(page.script(drawn, vec![]).await, expected, "{said}");
    }
    let font = "return getComputedStyle(document.querySelector('.text pre')).fontFamily";
    assert!(page.script(font, vec![]).await.as_str().unwrap().contains("monospace"));
    page.script("document.querySelector('#messages a[href=\"#tea\"]').click()", vec![]).await;
    page.wait("the room of the link", "return document.querySelector('#title').textContent === 'tea'").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_people_opens_their_list() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    page.wait_text("#people", "1 here").await;
    page.wait("the invitation", "return document.querySelector('#alone').checkVisibility()").await;
    let link = format!("http://127.0.0.1:{}/#general", server.port());
    assert_eq!(text(&page, "#link").await, link);
    let bob = server.join_quietly("bob", "general");
    page.wait_text("#people", "2 here").await;
    page.wait("no invitation", "return !document.querySelector('#alone').checkVisibility()").await;
    page.script("document.querySelector('#people').click()", vec![]).await;
    page.wait_text("#people-list", "bob").await;
    let names = "return [...document.querySelectorAll('#people-list li')].map((e) => e.textContent)";
    assert_eq!(page.script(names, vec![]).await, json!(["ann (you)", "bob"]));
    drop(bob);
    page.wait_text("#people", "1 here").await;
    page.wait("bob is gone from the list", "return document.querySelectorAll('#people-list li').length === 1").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_and_leaves_in_a_row_share_a_line() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    let mut bob = server.join_quietly("bob", "general");
    let cid = server.join_quietly("cid", "general");
    page.wait_text("#messages .notice", "ann, bob, cid joined").await;
    drop(cid);
    page.wait_text("#messages .notice", "ann, bob, cid joined, cid left").await;
    assert_eq!(page.lines().await.len(), 1);
    bob.say("general", "hello");
    page.wait_text("#messages .message", "hello").await;
    drop(bob);
    page.wait_text("#messages .notice", "bob left").await;
    let _bob = server.join_quietly("bob", "general");
    page.wait(
        "a user that came back has not been away",
        "return [...document.querySelectorAll('#messages > *')].at(-1).matches('.message')",
    )
    .await;
    assert_eq!(page.lines().await, ["ann, bob, cid joined, cid left", "hello"]);
    // A crowd is counted.
    let _crowd: Vec<_> = (0..60).map(|number| server.websocket(&format!("/ws?username=u{number}"))).collect();
    page.wait_text("#people", "62 here").await;
    page.wait("all are in the line", "return /^u\\d+.* and \\d\\d more joined$/.test([...document.querySelectorAll('.notice .text')].at(-1).textContent)").await;
    assert_eq!(page.lines().await.len(), 3);
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_scrolls_up_as_the_log_moves_stays_there() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let mut witness = server.join("witness", "general");
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    witness.say("general", &"line\n".repeat(200));
    page.wait_text("#messages .text", "line").await;
    // In the same frame in which the log moves to its end for the first time, before the browser has told it that it did.
    let scroll = "const log = document.querySelector('#messages'); \
         new MutationObserver((_, observer) => { \
             observer.disconnect(); \
             requestAnimationFrame(() => { window.from = log.scrollTop; log.scrollTop = 100; }); \
         }).observe(log, { childList: true })";
    page.script(scroll, vec![]).await;
    witness.say("general", &"more\n".repeat(200));
    page.wait("it has scrolled", "return window.from > 200").await;
    page.wait_frames().await;
    witness.say("general", "news");
    page.wait_text("#to-end", "1 new").await;
    assert_eq!(page.script("return document.querySelector('#messages').scrollTop", vec![]).await, json!(100));
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_while_the_page_was_hidden_is_below_a_line() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let mut witness = server.join("witness", "general");
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    let mut say = |said: &str| {
        witness.say("general", said);
        while witness.json()["Message"] != said {}
    };
    say("before");
    page.wait_text("#messages .message", "before").await;
    let icon = "return document.querySelector('link[rel=icon]').href";
    let plain = page.script(icon, vec![]).await;
    page.hide(true).await;
    for said in ["one", "two"] {
        say(said);
        page.wait_text("#messages .message", said).await;
    }
    assert_eq!(page.client.title().await.unwrap(), "(2) general · hi");
    assert_ne!(page.script(icon, vec![]).await, plain);
    say("Ann: are you there?");
    page.wait_text("#messages .mention", "are you there?").await;
    assert_eq!(page.client.title().await.unwrap(), "(@) general · hi");
    say("annette isn't ann_x, nor is xann");
    page.wait_text("#messages .message", "annette").await;
    assert_eq!(page.script("return document.querySelectorAll('.mention').length", vec![]).await, 1);
    page.hide(false).await;
    assert_eq!(page.client.title().await.unwrap(), "general · hi");
    assert_eq!(page.script(icon, vec![]).await, plain);
    let lines = page.lines().await;
    assert_eq!(lines[1..], ["before", "New", "one", "two", "Ann: are you there?", "annette isn't ann_x, nor is xann"]);
    // In another room, the badge says that somebody was named; there is one line per room.
    page.say("/join tea").await;
    page.wait_text("#title", "tea").await;
    say("@ann");
    page.wait_text("#rooms [data-room='general'].mentioned .unread", "@ 1").await;
    page.script("document.querySelector('#rooms [data-room=\"general\"] .room').click()", vec![]).await;
    let lines = page.lines().await;
    assert_eq!(lines[lines.len() - 2..], ["New", "@ann"]);
    assert_eq!(lines.iter().filter(|line| *line == "New").count(), 1, "{lines:?}");
    assert_eq!(page.script("return document.querySelector('.mentioned')", vec![]).await, Value::Null);
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_are_off_until_wanted_and_only_tell_of_mentions() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let mut witness = server.join("witness", "general");
    let page = Page::open(&driver, &server, (1000, 700)).await;
    let fake = "window.told = []; window.asked = 0; \
         window.Notification = class { static permission = 'default'; \
         static async requestPermission() { asked++; return (this.permission = 'granted'); } \
         constructor(title, { body }) { told.push([title, body]); } }";
    page.script(fake, vec![]).await;
    page.enter("ann").await;
    page.hide(true).await;
    let mut say = |said: &str| {
        witness.say("general", said);
        while witness.json()["Message"] != said {}
    };
    say("ann, one");
    page.wait_text("#messages .message", "ann, one").await;
    assert_eq!(page.script("return [told.length, asked]", vec![]).await, json!([0, 0]));
    page.script("document.querySelector('#notify').click()", vec![]).await;
    page.wait("the question", "return asked === 1 && document.querySelector('#notify').checked").await;
    say("nothing for you");
    say("ann, two");
    page.wait_text("#messages .message", "ann, two").await;
    assert_eq!(page.script("return told", vec![]).await, json!([["witness in general", "ann, two"]]));
    page.client.close().await.unwrap();
}
