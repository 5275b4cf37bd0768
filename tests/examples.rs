//! The examples, as written but for the ports, in a browser and as the commands that they name.

#[path = "support/browser.rs"]
mod browser;
#[path = "support/node.rs"]
#[allow(dead_code, reason = "only the folder is needed")]
mod node;
mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use browser::{Driver, Page};
use node::Folder;
use support::internal::Internal;
use support::proxies::free_port;
use support::{PATIENCE, Server};

const LINES_MAX: usize = 40;

/// The examples, copied with the ports of a server of this test, and served as their README says.
struct Examples {
    folder: Folder,
    port: u16,
    web: Child,
    _server: Server,
    internal: u16,
}

impl Examples {
    fn start() -> Self {
        let port = free_port();
        let (server, Internal { address }) =
            Server::start_with_internal(&["--origins", &format!("http://localhost:{port}")]);
        let folder = Folder::new();
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(text.lines().count() < LINES_MAX, "{name} is too long");
            folder.write(name, &Self::with_ports(&text, server.port(), address.port()));
        }
        let web = Command::new("python3")
            .args(["-m", "http.server", &port.to_string(), "--directory", folder.path("").to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 is installed");
        support::wait_while(
            || std::net::TcpStream::connect(("127.0.0.1", port)).is_err(),
            || "the examples are not served".to_owned(),
        );
        Self { folder, port, web, _server: server, internal: address.port() }
    }

    fn with_ports(text: &str, public: u16, internal: u16) -> String {
        let public = format!("localhost:{public}");
        text.replace("localhost:8080", &public).replace("localhost:8081", &format!("localhost:{internal}"))
    }

    async fn page(&self, driver: &Driver, path: &str) -> Page {
        let client = driver.window(800, 600).await;
        client.goto(&format!("http://localhost:{}/{path}", self.port)).await.unwrap();
        Page { client }
    }

    /// Runs a command in the folder of the examples; returns what it prints.
    fn run(&self, command: &str) -> String {
        let command = Self::with_ports(command, 0, self.internal);
        let output = Command::new("sh").args(["-c", &command]).current_dir(self.folder.path("")).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Examples {
    fn drop(&mut self) {
        let _ = self.web.kill();
        let _ = self.web.wait();
    }
}

/// The command in the README that contains this.
fn documented(part: &str) -> String {
    let readme = include_str!("../examples/README.md");
    let found = readme.split('`').find(|text| text.contains(part) && !text.contains('\n'));
    found.unwrap_or_else(|| panic!("no command with {part} in the README")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pages_chat() {
    let (driver, examples) = (Driver::start(), Examples::start());
    let ada = examples.page(&driver, "chat.html#ada").await;
    ada.wait_text("#state", "connected").await;
    let bob = examples.page(&driver, "chat.html#bob").await;
    bob.wait_text("#state", "connected").await;
    let say = "document.querySelector('#text').value = 'Hello!'; document.querySelector('#form').requestSubmit()";
    bob.script(say, vec![]).await;
    for page in [&ada, &bob] {
        page.wait_text("#log li", "bob: Hello!").await;
    }
    bob.wait("the field is empty", "return document.querySelector('#text').value === ''").await;
    let thief = examples.page(&driver, "chat.html#bob").await;
    thief.wait_text("#log li", "Can't join: ").await;
    for page in [ada, bob, thief] {
        page.client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_shows_who_is_here() {
    let (driver, examples) = (Driver::start(), Examples::start());
    let ada = examples.page(&driver, "presence.html#ada").await;
    ada.wait_text("#count", "1 here").await;
    let bob = examples.page(&driver, "presence.html#bob").await;
    ada.wait_text("#count", "2 here").await;
    ada.wait_text("#users", "bob").await;
    bob.client.close().await.unwrap();
    ada.wait_text("#count", "1 here").await;
    ada.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scores_are_published_with_curl() {
    let (driver, examples) = (Driver::start(), Examples::start());
    let page = examples.page(&driver, "scores.html").await;
    page.wait_text("#state", "live").await;
    examples.run(&documented("curl"));
    page.wait_text("#score", "1:0").await;
    page.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_in_python_and_node_notify_a_user() {
    let (driver, examples) = (Driver::start(), Examples::start());
    let page = examples.page(&driver, "notifications.html#ada").await;
    let python = documented("notify.py ada");
    let began = std::time::Instant::now();
    while examples.run(&python).trim() != "1" {
        assert!(began.elapsed() < PATIENCE, "nobody listens");
    }
    page.wait_text("#list li", "shop: Your order has left.").await;
    assert_eq!(examples.run("node notify.mjs ada 'It is here.'").trim(), "1");
    page.wait_text("#list li", "shop: It is here.").await;
    assert_eq!(examples.run("node notify.mjs bob 'Nobody reads this.'").trim(), "0");
    page.client.close().await.unwrap();
}
