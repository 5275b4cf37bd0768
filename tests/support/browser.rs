//! A real browser (headless Chromium or Firefox, through its WebDriver), and the chat page in it.

#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(unreachable_pub, reason = "a test has no outside")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Server};

/// A ChromeDriver, or a geckodriver, on a port of its choice.
pub struct Driver {
    child: Child,
    url: String,
    browser: Browser,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Browser {
    Chromium,
    Firefox,
}

impl Driver {
    pub fn start() -> Self {
        // It takes a free port of IPv4 and then the same of IPv6, which another test may have taken in between.
        let chromedriver = || {
            let mut command = Command::new("chromedriver");
            command.arg("--port=0");
            Self::try_start(command, "started successfully on port ", Browser::Chromium)
        };
        (0..5).find_map(|_| chromedriver()).expect("chromedriver starts: ./check installs it")
    }

    /// Firefox instead of Chromium.
    pub fn firefox() -> Self {
        let built = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin/geckodriver");
        let mut command = Command::new(std::env::var("GECKODRIVER").unwrap_or_else(|_| built.to_owned()));
        command.args(["--port", "0", "--log", "info"]).process_group(0);
        Self::try_start(command, "Listening on 127.0.0.1:", Browser::Firefox)
            .expect("geckodriver starts: ./check builds it")
    }

    fn try_start(mut command: Command, started: &str, browser: Browser) -> Option<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let Some(line) = lines.find(|line| line.contains(started)) else {
            let _ = child.wait();
            return None;
        };
        std::thread::spawn(move || lines.for_each(drop));
        let port = line.split(started).nth(1).unwrap().trim_end_matches('.').to_owned();
        let host = if browser == Browser::Firefox { "127.0.0.1" } else { "localhost" };
        Some(Self { child, url: format!("http://{host}:{port}"), browser })
    }

    /// A window of a separate browser, without shared storage.
    pub async fn window(&self, width: u32, height: u32) -> Client {
        let mut capabilities = serde_json::Map::new();
        if self.browser == Browser::Firefox {
            let size = [format!("--width={width}"), format!("--height={height}")];
            let options = json!({"binary": "/usr/bin/firefox-esr", "args": ["-headless", size[0], size[1]]});
            capabilities.insert("moz:firefoxOptions".to_owned(), options);
        } else {
            let options = json!({
                "binary": "/usr/bin/chromium",
                "args": [
                    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                    "--disable-background-networking", "--disable-component-update", "--disable-sync",
                    "--disable-dev-shm-usage", format!("--window-size={width},{height}"),
                ],
            });
            capabilities.insert("goog:chromeOptions".to_owned(), options);
            capabilities.insert("goog:loggingPrefs".to_owned(), json!({"browser": "ALL"}));
        }
        ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&self.url)
            .await
            .expect("the browser starts")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.browser == Browser::Firefox {
            // Its browsers are in its process group.
            let group = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = self.child.wait();
            return;
        }
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
        self.devtools(driver, "Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// A command of the DevTools protocol (Chromium only), and its result.
    pub async fn devtools(&self, driver: &Driver, command: &str, parameters: Value) -> Value {
        let session = self.client.session_id().await.unwrap().expect("a session");
        let body = json!({"cmd": command, "params": parameters}).to_string();
        let address = driver.url.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(
            stream,
            "POST /session/{session}/goog/cdp/execute HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length =
            head.to_ascii_lowercase().split("content-length:").nth(1).unwrap().lines().next().unwrap().trim().parse();
        let mut body = vec![0; length.unwrap()];
        reader.read_exact(&mut body).unwrap();
        serde_json::from_slice::<Value>(&body).unwrap()["value"].clone()
    }

    /// Makes the page believe that it is hidden, or shown.
    pub async fn hide(&self, is_hidden: bool) {
        let script = "Object.defineProperty(document, 'hidden', { value: arguments[0], configurable: true }); \
             document.dispatchEvent(new Event('visibilitychange'))";
        self.script(script, vec![json!(is_hidden)]).await;
    }

    /// Presses keys in whatever has the focus; a modifier is released by pressing it again.
    pub async fn press(&self, keys: &[Key]) {
        let keys: String = keys.iter().copied().map(char::from).collect();
        self.client.active_element().await.unwrap().send_keys(&keys).await.unwrap();
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

    /// Waits until the page has been told of what was scrolled.
    pub async fn wait_frames(&self) {
        let script =
            "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))";
        self.wait("two frames are drawn", script).await;
    }

    /// Waits until the log is scrolled to its end.
    pub async fn wait_end(&self) {
        let script = "const log = document.querySelector('#messages'); \
                      return log.scrollHeight - log.scrollTop - log.clientHeight < 2";
        self.wait("the end is in sight", script).await;
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
