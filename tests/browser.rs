//! The chat page in a real browser: headless Chromium, driven through ChromeDriver.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use support::{PATIENCE, Server};

/// A ChromeDriver on a port that it chose.
struct Driver {
    child: Child,
    url: String,
}

impl Driver {
    fn start() -> Self {
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("chromedriver is installed: ./check installs it");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let started = "started successfully on port ";
        let line = lines.into_iter().find(|line| line.contains(started)).expect("chromedriver starts");
        let port = line.split(started).nth(1).unwrap().trim_end_matches('.').to_owned();
        Self { child, url: format!("http://localhost:{port}") }
    }

    /// A window of a browser of its own: no storage is shared.
    async fn window(&self, width: u32, height: u32) -> Client {
        let options = json!({
            "binary": "/usr/bin/chromium",
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", format!("--window-size={width},{height}"),
            ],
        });
        let mut capabilities = serde_json::Map::new();
        capabilities.insert("goog:chromeOptions".to_owned(), options);
        capabilities.insert("goog:loggingPrefs".to_owned(), json!({"browser": "ALL"}));
        ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&self.url)
            .await
            .expect("chromium starts")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Asked to shut down, it ends its browsers too; killed, it would leave them behind.
        let address = self.url.trim_start_matches("http://");
        if let Ok(mut stream) = std::net::TcpStream::connect(address) {
            let _ = write!(stream, "GET /shutdown HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A hop between the page and the server, which can fail, or know too little of WebSockets.
struct Hop {
    port: u16,
    state: Arc<HopState>,
}

#[derive(Default)]
struct HopState {
    is_down: AtomicBool,
    /// What the server says gets lost.
    is_deaf: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Hop {
    /// Leads to the server; drops `Sec-WebSocket-Protocol` if it is told to.
    fn start(server: &Server, drops_protocol: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hop = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let (state, server) = (Arc::clone(&hop.state), server.address());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(server) else { continue };
                if state.is_down.load(Ordering::SeqCst) {
                    continue;
                }
                let both = || [near.try_clone().unwrap(), far.try_clone().unwrap()];
                state.sockets.lock().unwrap().extend(both());
                let [near, far] = both();
                let loses = move |line: &[u8]| {
                    drops_protocol && line.to_ascii_lowercase().starts_with(b"sec-websocket-protocol")
                };
                std::thread::spawn(move || pass_on(near, far, loses));
                let ([near, far], state) = (both(), Arc::clone(&state));
                std::thread::spawn(move || pass_on(far, near, move |_| state.is_deaf.load(Ordering::SeqCst)));
            }
        });
        hop
    }

    /// From now on the page hears nothing, and the server hears the page.
    fn deafen(&self) {
        self.state.is_deaf.store(true, Ordering::SeqCst);
    }

    /// Every connection breaks, and no new one gets through.
    fn cut(&self) {
        self.state.is_down.store(true, Ordering::SeqCst);
        for socket in self.state.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.state.is_deaf.store(false, Ordering::SeqCst);
        self.state.is_down.store(false, Ordering::SeqCst);
    }
}

/// Copies until either end is gone, but for lines that get lost. A browser's request head arrives in one piece here.
fn pass_on(mut from: TcpStream, mut to: TcpStream, loses: impl Fn(&[u8]) -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let lines = buffer[..count].split_inclusive(|byte| *byte == b'\n').filter(|line| !loses(line));
        if to.write_all(&lines.collect::<Vec<_>>().concat()).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// What the tests do on the page.
struct Page {
    client: Client,
}

impl Page {
    async fn open(driver: &Driver, server: &Server, size: (u32, u32)) -> Self {
        Self::open_at(driver, server.port(), size).await
    }

    async fn open_at(driver: &Driver, port: u16, (width, height): (u32, u32)) -> Self {
        let client = driver.window(width, height).await;
        client.goto(&format!("http://127.0.0.1:{port}/")).await.unwrap();
        Self { client }
    }

    async fn type_into(&self, selector: &str, text: &str) {
        let element = self.client.find(Locator::Css(selector)).await.unwrap();
        element.clear().await.unwrap();
        element.send_keys(text).await.unwrap();
    }

    async fn join(&self, name: &str) {
        self.type_into("#join-name", &format!("{name}{}", char::from(Key::Enter))).await;
    }

    async fn say(&self, text: &str) {
        self.type_into("#message-input", &format!("{text}{}", char::from(Key::Enter))).await;
    }

    async fn script(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.client.execute(script, arguments).await.unwrap()
    }

    /// Waits until the script gives true.
    #[track_caller]
    fn wait<'a>(&'a self, what: &'a str, script: &'a str) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let deadline = tokio::time::Instant::now() + 3 * PATIENCE;
            while self.script(script, vec![]).await != Value::Bool(true) {
                if tokio::time::Instant::now() >= deadline {
                    let body = self.script("return document.body.innerText", vec![]).await;
                    panic!("{place}: {what}; the page shows: {body}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn wait_text(&self, selector: &str, text: &str) {
        let script = format!(
            "return [...document.querySelectorAll({})].some((e) => e.textContent.includes({}))",
            json!(selector),
            json!(text)
        );
        self.wait(&format!("{text:?} in {selector}"), &script).await;
    }

    async fn wait_state(&self, state: &str) {
        let script = format!("return document.querySelector('#status').dataset.state === {}", json!(state));
        self.wait(&format!("state {state}"), &script).await;
    }

    /// The texts of all messages and notices on the screen, in order.
    async fn lines(&self) -> Vec<String> {
        let script = "return [...document.querySelectorAll('#messages .text')].map((line) => line.textContent)";
        serde_json::from_value(self.script(script, vec![]).await).unwrap()
    }

    /// Nothing that the browser complained about: a violated Content-Security-Policy would be here.
    async fn assert_no_complaints(&self) {
        let complaints = self.script("return window.complaints || []", vec![]).await;
        assert_eq!(complaints, json!([]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_windows_chat_join_a_room_and_come_back_after_a_restart() {
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
    ann.wait_text("#messages .notice", "Welcome to general, ann!").await;

    // A taken name is explained before the chat opens.
    bob.join("ann").await;
    bob.wait_text("#join-error", "ann").await;
    bob.wait("the chat stays shut", "return document.querySelector('#chat').checkVisibility() === false").await;
    bob.join("bob").await;
    ann.wait_text("#messages .notice", "Welcome to general, bob!").await;

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

    // A room is joined, and what is said elsewhere is counted.
    ann.say("/join tea").await;
    ann.wait_text("#messages .notice", "Welcome to tea, ann!").await;
    bob.say("are you there?").await;
    ann.wait_text("#rooms [data-room='general'] .unread", "1").await;
    ann.say("/list").await;
    ann.wait_text("#messages", "ann").await;
    ann.say("/channels").await;
    ann.wait_text("#messages", "general, tea").await;

    // The server goes away and comes back on the same port: the page does too, in all its rooms.
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
async fn names_are_explained_before_anything_is_sent() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let page = Page::open(&driver, &server, (360, 640)).await;
    for (name, part) in [("#hash", "#"), (&"x".repeat(80), "80")] {
        page.join(name).await;
        page.wait_text("#join-error", part).await;
    }
    assert!(!server.log().contains("refused"), "the page asks the server only with a name that can be good");
    // By keyboard alone: from the name, Tab leads to the room, and Enter joins.
    page.type_into("#join-name", "ann").await;
    page.client
        .active_element()
        .await
        .unwrap()
        .send_keys(&format!("{}{}", char::from(Key::Tab), char::from(Key::Enter)))
        .await
        .unwrap();
    page.wait_text("#messages .notice", "Welcome to general, ann!").await;
    page.wait("the cursor is where one writes", "return document.activeElement.id === 'message-input'").await;
    page.client.close().await.unwrap();
}

/// Says some messages, which the page misses while its connection is cut; then it has come back.
async fn miss(hop: &Hop, page: &Page, witness: &mut support::Client, texts: std::ops::Range<u32>) {
    hop.cut();
    page.wait("it is lost", "return document.querySelector('#status').dataset.state === 'waiting'").await;
    for number in texts {
        witness.say("general", &format!("m{number}"));
    }
    hop.mend();
    page.wait_state("connected").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reconnect_nothing_is_lost_or_doubled_and_a_gap_is_shown() {
    let driver = Driver::start();
    let server = Server::start(&["--replay-frames", "12", "--rate-limit", "0"]);
    let hop = Hop::start(&server, false);
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
    let said: Vec<_> = lines.iter().filter(|line| !line.contains("ann!") && !line.contains("ann left")).collect();
    assert_eq!(said, ["before", "reconnected", "m0", "m1", "m2", "m3", "m4", "after"], "{lines:?}");

    // What the page can't know of, it says; when it knows, it takes it back.
    hop.deafen();
    page.say("doubted").await;
    while witness.json()["Message"] != "doubted" {}
    hop.cut();
    page.wait_text("#messages .notice", "Perhaps not delivered: doubted").await;
    hop.mend();
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
async fn where_the_subprotocol_does_not_get_through_the_page_speaks_v0() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    let hop = Hop::start(&server, true);
    let page = Page::open_at(&driver, hop.port, (1000, 700)).await;
    page.join("ann").await;
    page.wait_text("#messages .notice", "Welcome to general, ann!").await;
    page.say("/join tea").await;
    page.wait_text("#messages .notice", "Welcome to tea, ann!").await;
    page.say("/channels").await;
    page.wait_text("#messages .notice", "general, tea").await;
    let mut witness = server.join_quietly("witness", "tea");
    hop.cut();
    page.wait("it is lost", "return document.querySelector('#status').dataset.state === 'waiting'").await;
    hop.mend();
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
async fn an_event_source_comes_back_by_itself_and_misses_nothing() {
    let driver = Driver::start();
    let server = Server::start(&["--replay-frames", "20"]);
    let hop = Hop::start(&server, false);
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
    hop.mend();
    page.wait("what was missed is there", "return heard.at(-1) === 'm5'").await;
    hop.cut();
    page.wait("the stream is lost again", "return events.readyState === EventSource.CONNECTING").await;
    // More than the server keeps.
    say(6..36);
    hop.mend();
    page.wait("the gap is told", "return heard.at(-1).startsWith('gap')").await;
    say(36..37);
    page.wait("it goes on", "return heard.at(-1) === 'm36'").await;
    let heard = page.script("return heard", vec![]).await;
    let expected = ["Welcome to tea, ann!", "m0", "m1", "m2", "m3", "m4", "m5", "gap of 8", "m36"];
    assert_eq!(heard, json!(expected));
    page.client.close().await.unwrap();
}
