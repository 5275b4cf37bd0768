//! The chat page and a server that asks for tokens: the page asks for one, and keeps it out of the address.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::{Driver, Page};
use serde_json::{Value, json};
use support::Server;
use support::tokens::{now, secret_file, token, token_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_asks_for_a_token_and_keeps_it_out_of_the_address() {
    let (driver, key) = (Driver::start(), secret_file());
    let server = Server::start(&["--auth", "required", "--jwt-key", key.path()]);
    let page = Page::open(&driver, &server, (1000, 700)).await;
    let is_asked = "return document.querySelector('#join-token').checkVisibility()";
    assert_eq!(page.script(is_asked, vec![]).await, Value::Bool(false), "only where there has to be one");
    page.join("ann").await;
    page.wait_text("#join-error", "asks for a token").await;
    page.wait("the field", is_asked).await;
    for (wrong, said) in
        [("nonsense".to_owned(), "not a signed JWT"), (token(&json!({"sub": "ann", "exp": now() - 100})), "expired")]
    {
        page.type_into("#join-token", &wrong).await;
        page.join("").await;
        page.wait_text("#join-error", said).await;
    }
    let rooms = json!({"general": ["join", "pub"]});
    page.type_into("#join-token", &token_of("Ann", &rooms)).await;
    page.join("").await;
    page.wait_state("connected").await;
    page.wait_text("#my-name", "Ann").await;
    page.say("hello").await;
    page.wait_text("#messages", "hello").await;
    // A room that the token does not allow.
    page.say("/join tea").await;
    page.wait_text("#messages", "You may not join tea: the token's rooms allow general=join,pub only.").await;
    // It survives a reload of the tab, and stands in no address.
    let places = "return location.href + document.cookie + JSON.stringify(localStorage) + \
         performance.getEntries().map(({ name }) => name).join()";
    assert!(!page.script(places, vec![]).await.as_str().unwrap().contains("eyJ"));
    page.client.refresh().await.unwrap();
    page.wait_state("connected").await;
    page.wait_text("#my-name", "Ann").await;
    assert!(!page.script(places, vec![]).await.as_str().unwrap().contains("eyJ"));
    assert!(!server.log().contains("eyJ"), "{}", server.log());
    page.client.close().await.unwrap();
}
