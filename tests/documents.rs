//! What a newcomer pastes: each command and each snippet of README.md, docs/use.md, docs/cluster.md and examples/README.md, read from the
//! file itself and run as it is written, but for the ports. A block without a way to run it fails.

#[path = "support/broker.rs"]
mod broker;
#[path = "support/node.rs"]
#[allow(dead_code, reason = "only the folder and the tools are needed")]
mod node;
mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use broker::Broker;
use node::{Folder, tool};
use support::internal::Internal;
use support::wire::BINARY;
use support::{PATIENCE, Server};

/// The blocks of a document between fences: the language, and the text.
fn blocks(document: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let (mut blocks, mut open) = (Vec::new(), None::<(String, String)>);
    for line in text.lines() {
        open = match (open, line.strip_prefix("```")) {
            (None, Some(language)) => Some((language.to_owned(), String::new())),
            (Some(block), Some(_)) => {
                blocks.push(block);
                None
            }
            (Some((language, block)), None) => Some((language, format!("{block}{line}\n"))),
            (None, None) => None,
        };
    }
    assert!(open.is_none(), "{document}: a block has no end");
    blocks
}

/// Where the blocks run: a server, and a folder with what they mention.
struct Place {
    server: Server,
    internal: Internal,
    folder: Folder,
}

impl Place {
    fn new() -> Self {
        let (server, internal) = Server::start_with_internal(&[]);
        let folder = Folder::new();
        folder.write("frame.bin", "any bytes");
        folder.write("jwt.key", &"0123456789abcdef".repeat(4));
        folder.write("Makefile", "all:\n\t@echo one\n\t@echo two >&2\n");
        Self { server, internal, folder }
    }

    /// The text with the ports and the folder of this place.
    fn here(&self, text: &str) -> String {
        let public = format!("127.0.0.1:{}", self.server.port());
        text.replace("localhost:8080", &public)
            .replace("localhost:8081", &self.internal.address.to_string())
            .replace("/etc/hi/", "")
    }

    /// A line for the shell, in the folder, with hi in the path.
    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        let hi = Path::new(env!("CARGO_BIN_EXE_hi")).parent().unwrap();
        let path = format!("{}:{}", hi.display(), std::env::var("PATH").unwrap_or_default());
        command.args(["-c", &self.here(line)]).current_dir(self.folder.path(""));
        command.env("PATH", path).env("HI_INTERNAL", self.internal.address.to_string()).env_remove("HI_API_KEY_FILE");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a line to its end, with this input; returns what it prints.
    fn run(&self, line: &str, input: &str) -> String {
        let mut child = self.shell(line).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A line that runs until it is ended.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        // In a group of its own, which may be more than one process.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let other = sender.clone();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| other.send(line)));
        Self { child, lines }
    }

    /// Waits for a line with this part, and meanwhile does something again and again.
    fn expect(&self, part: &str, mut meanwhile: impl FnMut()) {
        let mut seen = Vec::new();
        let deadline = std::time::Instant::now() + PATIENCE;
        while !seen.iter().any(|line: &String| line.contains(part)) {
            assert!(std::time::Instant::now() < deadline, "no {part:?} in {seen:#?}");
            meanwhile();
            seen.extend(self.lines.recv_timeout(std::time::Duration::from_millis(100)));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::KILL,
        );
        let _ = self.child.wait();
    }
}

/// How lines that begin like this are run, and what they have to do.
type Way = (&'static str, fn(&Place, &str));

const COMMANDS: [Way; 18] = [
    // These build: what can be checked is that they are there, and that they lead to this binary.
    ("cargo run --release ", |_, _| assert!(file("Cargo.toml").contains("\ndefault-run = \"hi\"\n"))),
    ("./check ", |_, _| assert!(file("check").starts_with("#!"))),
    ("docker build -t hi . && docker run -p 8080:8080 hi", |_, _| assert!(file("Dockerfile").contains("EXPOSE 8080"))),
    ("hi chat http://localhost:8080/ tea --name ada ", |place, line| {
        let mut bob = place.server.join("bob", "tea");
        assert!(place.run(line, "hello\n").contains("ada: hello\n"));
        bob.expect_message("#tea", "Welcome to tea, ada!");
        bob.expect_message("ada", "hello");
    }),
    ("make 2>&1 | hi chat http://localhost:8080/ builds --name make ", |place, line| {
        let mut witness = place.server.join("witness", "builds");
        place.run(line, "");
        witness.expect_message("#builds", "Welcome to builds, make!");
        let mut texts = [witness.expect_any_from("make"), witness.expect_any_from("make")];
        texts.sort();
        assert_eq!(texts, ["one", "two"]);
    }),
    ("hi tail http://localhost:8080/ builds ", |place, line| {
        let mut bob = place.server.join("bob", "builds");
        let tail = Running::start(place.shell(line));
        tail.expect("an error", || bob.say("builds", "an error"));
    }),
    ("hi pub general \"Lunch is ready.\"", lunch),
    ("curl -d '{\"room\":\"general\",\"message\":\"Lunch is ready.\"}' localhost:8081/api/publish", lunch),
    ("curl --data-binary @frame.bin localhost:8081/pub/scores ", |place, line| {
        let mut member = place.server.upgraded("/raw/scores");
        place.run(line, "");
        member.expect_frame(BINARY, "any bytes");
    }),
    ("hi rooms ", |place, line| {
        let _bob = place.server.join("bob", "tea");
        assert!(place.run(line, "").contains("1 member  chat tea"));
    }),
    ("openssl rand -hex 32 > /etc/hi/jwt.key", |place, line| {
        place.run(line, "");
        assert_eq!(std::fs::read(place.folder.path("jwt.key")).unwrap().len(), 65);
    }),
    ("hi token check ", |place, line| {
        let token = place.run("hi token --jwt-key jwt.key --sub ada --ttl 1h", "");
        assert!(place.run(&line.replace("TOKEN", token.trim()), "").contains("ada"));
    }),
    ("hi token --jwt-key ", |place, line| assert_eq!(place.run(line, "").trim().split('.').count(), 3)),
    ("nats-server -js", |place, line| {
        // On any port, and not in the folder of this machine's own.
        let path = broker::binary(broker::VERSION);
        let line = line.replace("nats-server", &format!("{} -a 127.0.0.1 -p -1 -sd .", path.display()));
        Running::start(place.shell(&line)).expect("Server is ready", || ());
    }),
    ("hi --cluster nats://10.0.0.5:4222 ", |place, line| {
        let broker = Broker::start();
        let mut command = place.shell(&line.replace("nats://10.0.0.5:4222", &broker.url()));
        command.env("HI_LISTEN", "127.0.0.1:0").env("HI_INTERNAL", "off");
        Running::start(command).expect("hi is open at", || ());
    }),
    ("hi --", |place, line| {
        // An option of a server: it starts with it.
        let mut command = place.shell(line.trim_end_matches('&'));
        command.env("HI_LISTEN", "127.0.0.1:0").env("HI_INTERNAL", "off");
        Running::start(command).expect("hi is open at", || ());
    }),
    ("hi doctor wss://chat.example.com/ws ", |place, line| {
        assert!(place.run(&line.replace("wss://chat.example.com", "ws://localhost:8080"), "").contains("verdict: "));
    }),
    ("python3 -m http.server 8000 --directory examples", |place, line| {
        let port = support::proxies::free_port();
        let line = format!("cd '{}' && {}", env!("CARGO_MANIFEST_DIR"), line.replace("8000", &port.to_string()));
        let mut command = place.shell(&line);
        command.env("PYTHONUNBUFFERED", "1");
        let _serving = Running::start(command);
        support::wait_while(
            || std::net::TcpStream::connect(("127.0.0.1", port)).is_err(),
            || "the examples are not served".to_owned(),
        );
    }),
];

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn lunch(place: &Place, line: &str) {
    let mut bob = place.server.join("bob", "general");
    place.run(line, "");
    bob.expect_message("api", "Lunch is ready.");
}

impl support::Client {
    /// The text of the next message, which has to be from this user.
    fn expect_any_from(&mut self, user: &str) -> String {
        let message = self.json();
        assert_eq!(message["From"], user, "{message}");
        message["Message"].as_str().unwrap().to_owned()
    }
}

/// How snippets of JavaScript with this part are run: what stands before them, and what they have to print while that is done.
type Snippet = (&'static str, &'static str, &'static str, fn(&Place));

const SNIPPETS: [Snippet; 5] = [
    ("/hi.js", "", "ada: Hello!", |_| ()),
    ("ws://localhost:8080/raw/scores", "", "1:0", |_| ()),
    ("[\"hi.v1\"]", "const last = undefined; addEventListener('unhandledrejection', console.error);", "joined", |_| ()),
    ("new EventSource(", "", "Message: \"milk\"", |place| {
        place.internal.post("/api/publish", &serde_json::json!({"room": "tea", "message": "milk"}));
    }),
    ("?latest=1", "const show = ({ key, price }) => console.log(key, price);", "BTC 61234.5", |place| {
        place.internal.ask(
            "POST",
            "/pub/prices",
            &[("Content-Type", "text/plain")],
            br#"{"key":"BTC","price":61234.5}"#,
        );
    }),
];

fn run_snippet(place: &Place, code: &str) {
    let found = SNIPPETS.iter().find(|(part, ..)| code.contains(part));
    let (part, before, expected, meanwhile) =
        found.unwrap_or_else(|| panic!("there is no way to run this: add one\n{code}"));
    // A chat of hi.v1 prints nothing by itself.
    let after = if *part == "[\"hi.v1\"]" {
        "chat.onmessage = ({ data }) => JSON.parse(data).Event === 'join' && console.log('joined');"
    } else {
        ""
    };
    place.folder.write("snippet.js", &format!("{before}\n{}\n{after}\n", place.here(code)));
    let mut deno = tool("deno");
    deno.args(["run", "--allow-net", "--allow-import", "--no-lock", "--no-config"])
        .arg(place.folder.path("snippet.js"));
    deno.env("DENO_DIR", place.folder.path("cache")).env("NO_COLOR", "1").current_dir(place.folder.path(""));
    deno.stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(deno).expect(expected, || meanwhile(place));
}

fn run_block(language: &str, text: &str) {
    match language {
        "sh" => {
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let found = COMMANDS.iter().find(|(beginning, _)| line.starts_with(beginning));
                let (_, run) = found.unwrap_or_else(|| panic!("there is no way to run this: add one\n{line}"));
                run(&Place::new(), line);
            }
        }
        "js" => run_snippet(&Place::new(), text),
        "json" => assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}"),
        // The output of a command.
        "" => {}
        other => panic!("there is no way to run {other}: add one\n{text}"),
    }
}

fn run_document(name: &str, least: usize) {
    let blocks = blocks(name);
    assert!(blocks.len() >= least, "{name} has {} blocks", blocks.len());
    for (language, text) in &blocks {
        println!("{name}: {text}");
        run_block(language, text);
    }
}

#[test]
fn the_readme_works_when_pasted() {
    run_document("README.md", 2);
}

#[test]
fn what_use_md_shows_works_when_pasted() {
    run_document("docs/use.md", 8);
}

#[test]
fn the_cluster_of_cluster_md_works_when_pasted() {
    let blocks = blocks("docs/cluster.md");
    let [(language, commands)] = &blocks[..] else { panic!("one block, or a way to run the others: {blocks:?}") };
    assert_eq!(language, "sh");
    let [log, first, second] = commands.lines().collect::<Vec<_>>()[..] else { panic!("{commands}") };
    let place = Place::new();
    let [nats, port, internal, other_port, other_internal] = [(); 5].map(|()| support::proxies::free_port());
    let here = |line: &str| {
        line.replace("localhost:4222", &format!("localhost:{nats}"))
            .replace("--port 8090", &format!("--port {other_port}"))
            .replace("127.0.0.1:8091", &format!("127.0.0.1:{other_internal}"))
    };
    let start = |line: &str, ready: &str| {
        let mut command = place.shell(line);
        // What a newcomer's environment doesn't have.
        command.env_remove("HI_INTERNAL");
        let running = Running::start(command);
        running.expect(ready, || ());
        running
    };
    let program = format!("{} -a 127.0.0.1 -p {}", broker::binary(broker::VERSION).display(), nats);
    let _log = start(&log.replace("nats-server", &program), "Server is ready");
    // The first one's ports are the usual ones, which may be in use here.
    let usual = format!(" --port {port} --internal 127.0.0.1:{internal}");
    let _first = start(&(here(first.trim_end()) + &usual), "hi is open at");
    let _second = start(&here(second), "hi is open at");
    assert!(place.folder.path("nats").is_dir(), "the folder has the messages");
    let chat = |port, name: &str| format!("hi chat http://localhost:{port}/ tea --name {name}");
    let mut listener = place.shell(&chat(other_port, "bob"));
    listener.stdin(Stdio::piped());
    let listener = Running::start(listener);
    listener.expect("bob", || ());
    place.run(&chat(port, "ada"), "hello\n");
    listener.expect("ada: hello", || ());
}

#[test]
fn the_readme_of_the_examples_works_when_pasted() {
    run_document("examples/README.md", 1);
    // Its other commands are run by `examples`.
    let text = file("examples/README.md");
    let programs = ["curl ", "python3 ", "node "];
    let inline = text.split('`').skip(1).step_by(2).filter(|code| !code.contains('\n'));
    let commands: Vec<_> = inline.filter(|code| programs.iter().any(|program| code.starts_with(program))).collect();
    let tests = file("tests/examples.rs");
    for (command, part) in commands.iter().zip(["curl", "notify.py ada"]) {
        assert!(command.contains(part) && tests.contains(&format!("documented(\"{part}\")")), "{command} is not run");
    }
    assert_eq!(commands.len(), 2, "{commands:?}: run them in tests/examples.rs");
}

#[test]
#[should_panic = "there is no way to run this"]
fn a_command_without_a_way_to_run_it_fails() {
    run_block("sh", "hi unheard-of\n");
}

#[test]
#[should_panic = "there is no way to run this"]
fn a_snippet_without_a_way_to_run_it_fails() {
    run_block("js", "alert(1)\n");
}
