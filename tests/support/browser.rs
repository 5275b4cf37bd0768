//! A real browser (headless Chromium through ChromeDriver), the chat page in it, and a proxy between page and server
//! that can fail.

#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(unreachable_pub, reason = "a test has no outside")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Server};

/// A ChromeDriver on a port of its choice.
pub struct Driver {
    child: Child,
    url: String,
}

impl Driver {
    pub fn start() -> Self {
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

    /// A window of a separate browser, without shared storage.
    pub async fn window(&self, width: u32, height: u32) -> Client {
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
        // A shutdown request ends its browsers, too; killing it would leave them running.
        let address = self.url.trim_start_matches("http://");
        if let Ok(mut stream) = std::net::TcpStream::connect(address) {
            let _ = write!(stream, "GET /shutdown HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy between the page and the server that can fail, or drop the headers of WebSockets.
pub struct Hop {
    pub port: u16,
    state: Arc<HopState>,
}

#[derive(Default)]
struct HopState {
    is_down: AtomicBool,
    /// The server's data gets lost.
    is_deaf: AtomicBool,
    accepted: AtomicUsize,
    /// WebSockets among the first connections, up to this count, carry nothing, but stay open.
    silent: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Hop {
    /// Forwards to the server, and drops these headers (in lower case) from each request.
    pub fn start(server: &Server, drops: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hop = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let (state, server) = (Arc::clone(&hop.state), server.address());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(server) else { continue };
                if state.is_down.load(Ordering::SeqCst) {
                    continue;
                }
                let number = state.accepted.fetch_add(1, Ordering::SeqCst);
                let both = || [near.try_clone().unwrap(), far.try_clone().unwrap()];
                state.sockets.lock().unwrap().extend(both());
                let is_websocket = Arc::new(AtomicBool::new(false));
                let found = Arc::clone(&is_websocket);
                let loses = move |line: &[u8]| {
                    let line = line.to_ascii_lowercase();
                    found.fetch_or(line.starts_with(b"upgrade: websocket"), Ordering::SeqCst);
                    drops.iter().any(|name| line.starts_with(format!("{name}:").as_bytes()))
                };
                let ([near, far], silent) = (both(), Arc::clone(&state));
                let is_silent =
                    move || is_websocket.load(Ordering::SeqCst) && number < silent.silent.load(Ordering::SeqCst);
                std::thread::spawn({
                    let is_silent = is_silent.clone();
                    move || pass_on(near, far, loses, is_silent)
                });
                let ([near, far], state) = (both(), Arc::clone(&state));
                let is_deaf = move |_: &[u8]| state.is_deaf.load(Ordering::SeqCst);
                std::thread::spawn(move || pass_on(far, near, is_deaf, is_silent));
            }
        });
        hop
    }

    /// From now on the page receives nothing, while the server still receives.
    pub fn deafen(&self) {
        self.state.is_deaf.store(true, Ordering::SeqCst);
    }

    /// The WebSockets that are open now go silent: nothing gets through, and neither end is told. New ones work.
    pub fn silence(&self) {
        self.state.silent.store(self.state.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Breaks every connection, and lets no new one through.
    pub fn cut(&self) {
        self.state.is_down.store(true, Ordering::SeqCst);
        for socket in self.state.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Everything gets through again.
    pub fn repair(&self) {
        self.state.is_deaf.store(false, Ordering::SeqCst);
        self.state.is_down.store(false, Ordering::SeqCst);
    }
}

/// Copies until either end is gone, except for lost lines. A browser's request head arrives in one piece here.
fn pass_on(mut from: TcpStream, mut to: TcpStream, loses: impl Fn(&[u8]) -> bool, is_silent: impl Fn() -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if is_silent() {
            continue;
        }
        let lines = buffer[..count].split_inclusive(|byte| *byte == b'\n').filter(|line| !loses(line));
        if to.write_all(&lines.collect::<Vec<_>>().concat()).is_err() {
            break;
        }
    }
    if !is_silent() {
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

/// Actions of the tests on the page.
pub struct Page {
    pub client: Client,
}

impl Page {
    pub async fn open(driver: &Driver, server: &Server, size: (u32, u32)) -> Self {
        Self::open_at(driver, server.port(), size).await
    }

    pub async fn open_at(driver: &Driver, port: u16, (width, height): (u32, u32)) -> Self {
        let client = driver.window(width, height).await;
        client.goto(&format!("http://127.0.0.1:{port}/")).await.unwrap();
        Self { client }
    }

    pub async fn type_into(&self, selector: &str, text: &str) {
        let element = self.client.find(Locator::Css(selector)).await.unwrap();
        element.clear().await.unwrap();
        element.send_keys(text).await.unwrap();
    }

    /// Fills in the form, and sends it.
    pub async fn join(&self, name: &str) {
        self.type_into("#join-name", &format!("{name}{}", char::from(Key::Enter))).await;
    }

    /// Joins, and waits until the room confirms it.
    pub async fn enter(&self, name: &str) {
        self.join(name).await;
        self.wait_text("#messages .notice", &format!("{name} joined")).await;
    }

    pub async fn say(&self, text: &str) {
        self.type_into("#message-input", &format!("{text}{}", char::from(Key::Enter))).await;
    }

    pub async fn script(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.client.execute(script, arguments).await.unwrap()
    }

    /// Emulates user preferences (CSS media features).
    pub async fn emulate(&self, driver: &Driver, features: Value) {
        let session = self.client.session_id().await.unwrap().expect("a session");
        let body = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}).to_string();
        let address = driver.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "POST /session/{session}/goog/cdp/execute HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }

    /// Waits until the script returns true.
    #[track_caller]
    pub fn wait<'a>(&'a self, what: &'a str, script: &'a str) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let deadline = tokio::time::Instant::now() + 3 * PATIENCE;
            while self.script(script, vec![]).await != Value::Bool(true) {
                if tokio::time::Instant::now() >= deadline {
                    let body = self.script("return document.body.innerText.slice(-2000)", vec![]).await;
                    panic!("{place}: {what}; the page shows: {body}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub async fn wait_text(&self, selector: &str, text: &str) {
        let script = format!(
            "return [...document.querySelectorAll({})].some((e) => e.textContent.includes({}))",
            json!(selector),
            json!(text)
        );
        self.wait(&format!("{text:?} in {selector}"), &script).await;
    }

    pub async fn wait_state(&self, state: &str) {
        let script = format!("return document.querySelector('#status').dataset.state === {}", json!(state));
        self.wait(&format!("state {state}"), &script).await;
    }

    /// The texts of all messages and notices on the screen, in order.
    pub async fn lines(&self) -> Vec<String> {
        let script = "return [...document.querySelectorAll('#messages .text')].map((line) => line.textContent)";
        serde_json::from_value(self.script(script, vec![]).await).unwrap()
    }

    /// Each of these texts is on the screen exactly once.
    pub async fn assert_once(&self, texts: &[&str]) {
        let lines = self.lines().await;
        for text in texts {
            assert_eq!(lines.iter().filter(|line| line == text).count(), 1, "{text:?} in {lines:?}");
        }
    }

    /// The browser has logged no errors; it would log a violation of the Content-Security-Policy.
    pub async fn assert_no_complaints(&self) {
        let complaints = self.script("return window.complaints || []", vec![]).await;
        assert_eq!(complaints, json!([]));
    }
}
