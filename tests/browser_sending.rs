//! Messages sent on the chat page: at once on the screen, exactly once in the room, and never silently lost.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::{Driver, Page};
use fantoccini::key::Key;
use serde_json::{Value, json};
use support::Server;
use support::hop::Hop;

const HINT: &str = "return document.querySelector('#hint').textContent";
const FIELD: &str = "return document.querySelector('#message-input').value";

async fn put(page: &Page, text: &str) {
    let put = "document.querySelector('#message-input').value = arguments[0]; \
         document.querySelector('#message-form').requestSubmit()";
    page.script(put, vec![json!(text)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_message_appears_at_once_and_is_confirmed_by_its_echo() {
    let driver = Driver::start();
    for drops in [&[][..], &["sec-websocket-protocol"]] {
        let server = Server::start(&[]);
        let hop = Hop::start(&server, drops);
        let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
        page.enter("ann").await;
        hop.deafen();
        page.say("first").await;
        page.say("second").await;
        let pending =
            "return [...document.querySelectorAll('#messages [aria-busy=true] .text')].map((e) => e.textContent)";
        assert_eq!(page.script(pending, vec![]).await, json!(["first", "second"]));
        // Their fate stays unknown, because their connection ends.
        hop.cut();
        page.wait_text("#messages .own .failure", "May not have been delivered").await;
        assert_eq!(page.script(pending, vec![]).await, json!([]));
        hop.repair();
        page.wait_state("connected").await;
        page.say("third").await;
        page.wait("its echo", "return [...document.querySelectorAll('#messages .own:not([aria-busy])')].at(-1).innerText.includes('third')").await;
        page.assert_once(&["first", "second", "third"]).await;
        page.client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undelivered_messages_can_be_sent_again_with_a_button() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let hop = Hop::start(&server, &[]);
    let mut witness = server.join("witness", "general");
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    page.enter("ann").await;
    hop.silence();
    page.say("into the dark").await;
    hop.cut();
    page.wait_text("#messages .own .failure", "May not have been delivered").await;
    let press = "document.querySelector('#messages .failure button').click()";
    page.script(press, vec![]).await;
    assert_eq!(page.script(HINT, vec![]).await, "Not sent: you're offline. Your text is kept.");
    hop.repair();
    page.wait_state("connected").await;
    page.script(press, vec![]).await;
    page.wait("it is delivered", "return !document.querySelector('#messages :is(.failure, [aria-busy])')").await;
    page.assert_once(&["into the dark"]).await;
    while witness.json()["Message"] != "into the dark" {}
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_commands_stay_in_the_page() {
    let driver = Driver::start();
    for drops in [&[][..], &["sec-websocket-protocol"]] {
        let server = Server::start(&[]);
        let hop = Hop::start(&server, drops);
        let mut witness = server.join("witness", "general");
        let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
        page.enter("ann").await;
        for (typed, hint) in [
            ("/?", "Unknown command /?. Type /help for a list, or start with // to send it as text."),
            ("/topic x", "Unknown command /topic."),
            ("/nick", "Which name?"),
            ("/nick #x", "A name can't start with #."),
            ("/msg bob secret", "Unknown command /msg."),
            ("  /msg bob secret", "Unknown command /msg."),
            ("/msg bob secret\nand more", "Unknown command /msg."),
            ("/", "Unknown command /."),
            ("/join", "Which room?"),
            ("/join a b", "A room name can't contain spaces."),
            ("/list a b", "A room name can't contain spaces."),
            ("/leave nowhere", "You're not in nowhere."),
        ] {
            put(&page, typed).await;
            let found = page.script(HINT, vec![]).await;
            assert!(found.as_str().unwrap().starts_with(hint), "{typed}: {found}");
            assert_eq!(page.script(FIELD, vec![]).await, typed, "the text stays");
        }
        put(&page, "/HELP").await;
        page.wait_text("#messages .notice", "/channels").await;
        put(&page, "//join a b").await;
        page.wait_text("#messages .own .text", "/join a b").await;
        put(&page, "/JOIN Tea").await;
        page.wait("the room", "return document.querySelector('#title').textContent.toLowerCase() === 'tea'").await;
        // Only the text reached the room.
        let mut said = Vec::new();
        while said.last().is_none_or(|last: &String| last.trim() != "/join a b") {
            let value = witness.json();
            if value["Meta"] == false {
                said.push(value["Message"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(said.len(), 1, "{said:?}");
        page.client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_shows_the_users_of_the_requested_room() {
    let driver = Driver::start();
    for drops in [&[][..], &["sec-websocket-protocol"]] {
        let server = Server::start(&[]);
        let _witness = server.join("witness", "tea");
        let hop = Hop::start(&server, drops);
        let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
        page.enter("ann").await;
        page.say("/list tea").await;
        page.wait_text("#messages .notice", "witness").await;
        page.client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_too_long_is_refused_before_it_ends_the_chat() {
    let driver = Driver::start();
    for max in [16_384, 300] {
        let server = Server::start(&["--rate-limit", "0", "--max-message", &max.to_string()]);
        let page = Page::open(&driver, &server, (1000, 700)).await;
        page.enter("ann").await;
        // Around the limit, and with characters that JSON escapes: the page finds the longest text that fits, to the
        // byte.
        let mut refused = Vec::new();
        for len in max - 70..=max {
            put(&page, &"x".repeat(len)).await;
            if page.script(FIELD, vec![]).await != "" {
                refused.push(len);
                assert!(page.script(HINT, vec![]).await.as_str().unwrap().starts_with("Too long by "));
                if refused.len() == 9 {
                    break;
                }
            }
            page.wait("it is delivered", "return !document.querySelector('#messages :is(.pending, .failure)')").await;
        }
        let first = refused[0];
        assert!(
            first > max - 50 && refused == (first..first + 9).collect::<Vec<_>>(),
            "no byte is wasted: {refused:?}"
        );
        let quotes = "\"é\n".repeat(max);
        put(&page, &quotes).await;
        let hint = page.script(HINT, vec![]).await;
        let limit = if max == 300 { "(the limit is 300 bytes)." } else { "KiB (the limit is 16 KiB)." };
        assert!(hint.as_str().unwrap().ends_with(limit), "{hint}");
        assert_eq!(page.script(FIELD, vec![]).await, quotes, "the text stays");
        put(&page, "short").await;
        page.wait_text("#messages .own .text", "short").await;
        page.wait_state("connected").await;
        assert!(!server.log().contains("1009"));
        page.client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unannounced_limit_is_learned_and_the_chat_continues() {
    let driver = Driver::start();
    let server = Server::start(&["--max-message", "300"]);
    let hop = Hop::start(&server, &["sec-websocket-protocol"]);
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    page.enter("ann").await;
    let long = "x".repeat(400);
    put(&page, &long).await;
    page.wait_text("#messages .own .failure", "Not sent: too long for this server.").await;
    page.wait_state("connected").await;
    put(&page, &long).await;
    assert!(page.script(HINT, vec![]).await.as_str().unwrap().starts_with("Too long by "));
    assert_eq!(page.script(FIELD, vec![]).await, long);
    put(&page, "short").await;
    page.wait(
        "its echo",
        "return [...document.querySelectorAll('#messages .own:not(.pending) .text')].at(-1).textContent === 'short'",
    )
    .await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limited_text_need_not_be_retyped() {
    let driver = Driver::start();
    for drops in [&[][..], &["sec-websocket-protocol"]] {
        let server = Server::start(&["--rate-limit", "1", "--rate-burst", "5"]);
        let hop = Hop::start(&server, drops);
        let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
        page.enter("ann").await;
        let send = "const [field, form] = ['message-input', 'message-form'].map((id) => document.getElementById(id)); \
             for (let i = 0; i < 12; i++) { field.value = 'm' + i; form.requestSubmit(); }";
        page.script(send, vec![]).await;
        page.wait("all is settled", "return !document.querySelector('#messages .pending')").await;
        let state = page
            .script(
                "const rows = [...document.querySelectorAll('#messages .own')]; \
                 const text = (row) => row.querySelector('.text').textContent; \
                 const failed = rows.filter((row) => row.querySelector('.failure button')); \
                 return [rows.filter((row) => !failed.includes(row)).map(text), failed.map(text), \
                 document.querySelector('#message-input').value, failed.map((row) => row.querySelector('.failure').innerText)]",
                vec![],
            )
            .await;
        let list = |at: usize| state[at].as_array().unwrap().clone();
        let (sent, failed) = (list(0), list(1));
        assert!(!failed.is_empty() && state[2] != "", "one is back in the field, the others have a button: {state}");
        assert!(list(3).iter().all(|why| why.as_str().unwrap().starts_with("Not sent, too fast")), "{state}");
        let mut all: Vec<_> =
            sent.iter().chain(&failed).chain([&state[2]]).map(|text| text.as_str().unwrap()).collect();
        all.sort_by_key(|text| text[1..].parse::<u32>().unwrap());
        let expected: Vec<_> = (0..12).map(|number| format!("m{number}")).collect();
        assert_eq!(all, expected, "each is somewhere, once");
        page.client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_line_keeps_its_indentation_and_blank_messages_are_not_sent() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let mut witness = server.join("witness", "general");
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    witness.expect_message("#general", "Welcome to general, ann!");
    for nothing in ["", "   ", "\n \n", "\u{200b}\u{2060}"] {
        put(&page, nothing).await;
    }
    put(&page, "\n \n    a\n    b\n\n").await;
    witness.expect_message("ann", "    a\n    b");
    assert_eq!(page.lines().await.last().unwrap(), "    a\n    b");
    // Shift and Enter is a new line.
    page.type_into("#message-input", "one").await;
    let field = page.client.active_element().await.unwrap();
    let keys = [Key::Shift, Key::Enter].map(char::from);
    field.send_keys(&format!("{}{}", keys[0], keys[1])).await.unwrap();
    assert_eq!(page.script(FIELD, vec![]).await, Value::from("one\n"));
    page.client.close().await.unwrap();
}
