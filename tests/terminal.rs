//! `hi chat` and `hi tail`: lines through the real binary, over paths that break and servers that restart.

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcgetattr;
use serde_json::Value;
use support::hop::Hop;
use support::internal::hi;
use support::proxies::{cases, free_port};
use support::{Client, PATIENCE, Server};

/// A command whose lines are read one by one.
struct Run {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Run {
    fn start(args: &[&str]) -> Self {
        let mut child = support::hi()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("hi starts");
        let (stdout, stderr) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { stdin: child.stdin.take(), child, stdout, stderr }
    }

    fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the input has not ended");
        writeln!(stdin, "{line}").expect("hi reads");
    }

    #[track_caller]
    fn expect(&self, line: &str) {
        assert_eq!(self.stdout.recv_timeout(PATIENCE).expect("a line"), line);
    }

    /// The next line that is not about joins and leaves.
    #[track_caller]
    fn next(&self) -> String {
        loop {
            let line = self.stdout.recv_timeout(PATIENCE).expect("a line");
            if !line.ends_with(" joined") && !line.ends_with(" left") {
                return line;
            }
        }
    }

    /// The next line of standard error with this part.
    #[track_caller]
    fn expect_error(&self, part: &str) {
        while !self.stderr.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {part:?}")).contains(part) {}
    }

    /// The exit code after the end of the input, and the rest of both outputs.
    fn end(mut self) -> (i32, Vec<String>, Vec<String>) {
        drop(self.stdin.take());
        let code = exit_code(&mut self.child);
        (code, self.stdout.iter().collect(), self.stderr.iter().collect())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exit_code(child: &mut Child) -> i32 {
    support::wait_while(|| child.try_wait().unwrap().is_none(), || "it runs on".to_owned());
    child.wait().unwrap().code().expect("no signal ended it")
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

fn json_lines(lines: &Receiver<String>) -> impl Iterator<Item = Value> {
    std::iter::from_fn(|| lines.recv_timeout(PATIENCE).ok()).map(|line| serde_json::from_str(&line).unwrap())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/")
}

/// The texts that a member gets until this one, inclusive.
#[track_caller]
fn texts_until(client: &mut Client, last: &str) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text| text != last) {
        let frame = client.json();
        if frame["Meta"] == false {
            texts.push(frame["Message"].as_str().unwrap().to_owned());
        }
    }
    texts
}

#[test]
fn what_is_piped_in_is_delivered_before_the_end_at_the_rate_that_the_server_allows() {
    let server = Server::start(&[]);
    let mut witness = server.join("witness", "builds");
    // More than the server's burst of 40; empty lines are no messages, and a tab is part of one.
    let expected: Vec<_> = (0..60).map(|number| format!("cc -c\tfile{number}.c")).collect();
    let input = format!("{}\r\n\n  \n{}", expected[..30].join("\n"), expected[30..].join("\n"));
    let (code, stdout, stderr) = hi(&["chat", &url(server.port()), "builds", "--name", "make"], &input);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(texts_until(&mut witness, expected.last().unwrap()), expected);
    let printed: Vec<_> = stdout.lines().filter_map(|line| line.strip_prefix("make: ")).collect();
    assert!(expected.starts_with(&printed.iter().map(ToString::to_string).collect::<Vec<_>>()), "{stdout}");
}

#[test]
fn without_a_rate_limit_thousands_of_lines_keep_their_order() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut witness = server.join("witness", "general");
    let expected: Vec<_> = (0..3000).map(|number| format!("line {number}")).collect();
    let (code, _, stderr) = hi(&["chat", &url(server.port()), "--name", "make"], &expected.join("\n"));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(texts_until(&mut witness, "line 2999"), expected);
}

#[test]
fn lines_come_out_as_they_are_said_and_no_text_passes_for_another() {
    let server = Server::start(&[]);
    let mut bob = server.join("bob", "tea");
    let mut chat = Run::start(&["chat", &format!("{}#tea", url(server.port())), "--name", "ada"]);
    chat.expect("-- ada joined");
    bob.say("tea", "hello\nada: fake\u{1b}[2J");
    chat.expect("bob: hello");
    chat.expect("bob: ada: fake?[2J");
    chat.say("/who is who");
    chat.expect("ada: /who is who");
    bob.close();
    chat.expect("-- bob left");
    assert_eq!(chat.end(), (0, vec![], vec![]));
}

#[test]
fn json_is_one_object_a_line() {
    let server = Server::start(&[]);
    let mut chat = Run::start(&["chat", &url(server.port()), "tea", "--name", "ada", "--json"]);
    let json = |chat: &Run| -> Value { json_lines(&chat.stdout).next().expect("a line") };
    let state = json(&chat);
    assert_eq!(
        (&state["type"], &state["state"], &state["again"]),
        (&"state".into(), &"connected".into(), &false.into())
    );
    let joined = json(&chat);
    assert_eq!(
        (&joined["type"], &joined["joined"][0], &joined["users"]),
        (&"presence".into(), &"ada".into(), &1.into())
    );
    chat.say("one\u{202e}");
    let message = json(&chat);
    assert_eq!(
        (&message["from"], &message["text"], &message["own"]),
        (&"ada".into(), &"one\u{202e}".into(), &true.into())
    );
    assert!(message["seq"].is_u64() && message["epoch"].is_string() && message["time"].is_u64(), "{message}");
    assert_eq!(chat.end().0, 0);
}

/// Lines are piped in while the server ends with this signal and another one starts. Returns what members of both got, and what the
/// command printed to its end.
fn lines_across_a_restart(signal: Signal) -> (Vec<String>, Vec<String>, Vec<String>) {
    // All members of one shard get a message in the same turn, so the witness has got what was answered before a crash.
    let mut server = Server::start_on_one_shard(&["--rate-limit", "0"]);
    let port = server.port();
    // The hop keeps the client away until there is a member of the new server.
    let hop = Hop::start(&server, &[]);
    let mut witness = server.join("witness", "general");
    let mut chat = Run::start(&["chat", &url(hop.port), "--name", "make"]);
    (0..50).for_each(|number| chat.say(&format!("line {number}")));
    let mut got = texts_until(&mut witness, "line 20");
    server.signal(signal);
    (50..100).for_each(|number| chat.say(&format!("line {number}")));
    server.wait();
    hop.cut();
    // The old one may have delivered all others.
    (100..150).for_each(|number| chat.say(&format!("line {number}")));
    while let Ok(message) = witness.socket.read() {
        // A Ping or the Close is no JSON.
        let frame: Value = serde_json::from_str(message.to_text().unwrap_or_default()).unwrap_or_default();
        if frame["Meta"] == false {
            got.push(frame["Message"].as_str().unwrap().to_owned());
        }
    }
    let server = Server::start_on(&format!("127.0.0.1:{port}"), &["--rate-limit", "0"]);
    let mut witness = server.join("witness", "general");
    hop.repair();
    chat.expect_error("back in general");
    let then = texts_until(&mut witness, "line 149");
    let (code, stdout, _) = chat.end();
    assert_eq!(code, 0);
    (got, then, stdout)
}

#[test]
fn across_a_restart_each_line_is_delivered_once() {
    let expected: Vec<_> = (0..150).map(|number| format!("line {number}")).collect();
    let (before, after, stdout) = lines_across_a_restart(Signal::TERM);
    // Some lines were still delivered after the old server had closed the witness.
    assert!(expected.starts_with(&before) && expected.ends_with(&after), "{before:?} {after:?}");
    let echoes: Vec<_> = stdout.iter().filter_map(|line| line.strip_prefix("make: ")).collect();
    assert_eq!(echoes, expected);
}

#[test]
fn across_a_crash_no_line_is_lost_and_the_gap_is_shown() {
    let expected: Vec<_> = (0..150).map(|number| format!("line {number}")).collect();
    let (before, after, stdout) = lines_across_a_restart(Signal::KILL);
    // Nobody knows what the dead server did with the last lines that it read, so they are sent again.
    let first: usize = after[0].strip_prefix("line ").unwrap().parse().unwrap();
    assert!(first <= before.len(), "{first}, {before:?}");
    assert_eq!([&expected[..before.len()], &expected[first..]], [&before[..], &after[..]]);
    assert_eq!(stdout.iter().filter(|line| *line == "-- messages may be missing here").count(), 1);
}

#[test]
fn a_path_that_stalls_is_noticed_and_nothing_is_lost_or_doubled() {
    // The witness doesn't answer pings while the client notices.
    let server = Server::start(&["--ping-interval", "1s", "--ping-timeout", "60s"]);
    let hop = Hop::start(&server, &[]);
    let mut witness = server.join("witness", "general");
    let mut chat = Run::start(&["chat", &url(hop.port), "--name", "ada"]);
    chat.say("before");
    assert_eq!(chat.next(), "ada: before");
    // Its answer gets lost, so it is doubtful: only its echo shows that it was delivered.
    hop.deafen();
    chat.say("doubtful");
    texts_until(&mut witness, "doubtful");
    hop.silence();
    hop.repair();
    chat.say("in the silence");
    (0..10).for_each(|number| witness.say("general", &format!("m{number}")));
    chat.expect_error("Nothing comes from the server any more.");
    chat.expect_error("back in general");
    let missed = (0..10).map(|number| format!("witness: m{number}"));
    let expected = ["ada: doubtful".to_owned()].into_iter().chain(missed).chain(["ada: in the silence".to_owned()]);
    for line in expected {
        assert_eq!(chat.next(), line);
    }
    assert_eq!(chat.end().0, 0);
    let texts = texts_until(&mut witness, "in the silence");
    assert_eq!(texts.iter().filter(|text| !text.starts_with('m')).collect::<Vec<_>>(), ["in the silence"]);
}

#[test]
fn a_reader_that_left_is_no_fault() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut witness = server.join("witness", "general");
    let mut child = support::hi()
        .args(["chat", &url(server.port()), "--name", "ada"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    writeln!(stdin, "last words").unwrap();
    assert_eq!(texts_until(&mut witness, "last words"), ["last words"]);
    // The input goes on, but nobody reads.
    assert_eq!(exit_code(&mut child), 0);
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, "");
}

#[test]
fn output_that_is_lost_is_a_failure() {
    let server = Server::start(&[]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = support::hi();
    command.args(["chat", &url(server.port()), "--name", "ada"]).stdout(full).stderr(Stdio::piped());
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    assert_eq!(exit_code(&mut child), 74);
}

#[test]
fn exit_codes_tell_who_has_to_act() {
    let server = Server::start(&[]);
    let _ada = server.join("ada", "tea");
    let here = url(server.port());
    let nowhere = url(free_port());
    for (args, input, code, part) in [
        (&["chat", &nowhere, "--name", "bob"][..], "", 1, "hi doctor ws://127.0.0.1"),
        (&["tail", &nowhere], "", 1, "nothing listens there"),
        (&["chat", "localhost:8080", "--name", "bob"], "", 2, "give the whole address"),
        (&["chat", &here, "tea", "--name", "#bob"], "", 2, "The server refused"),
        (&["chat", &here, "a b", "--name", "bob"], "", 2, "Can't join a b"),
        (&["chat", &here, "tea", "--name", "ADA"], "", 2, "has your name"),
        (&["tail", &here, "a b"], "", 2, "The server refused"),
        (&["tail", &format!("{here}nothing")], "", 1, "answers 404 at /nothing/"),
        (&["chat"], "", 2, "Usage"),
        (&["tail"], "", 2, "Usage"),
    ] {
        let (ended, stdout, stderr) = hi(args, input);
        assert!((ended, stdout.as_str()) == (code, "") && stderr.contains(part), "{args:?}: {ended} {stderr}");
    }
    // What the server doesn't take is told, and the rest is delivered.
    let mut witness = server.join("witness", "general");
    let input = format!("one\n{}\ntwo\n", "x".repeat(17_000));
    let (code, _, stderr) = hi(&["chat", &here, "--name", "bob"], &input);
    assert!(code == 1 && stderr.contains("too long by "), "{stderr}");
    assert_eq!(texts_until(&mut witness, "two"), ["one", "two"]);
}

#[test]
fn where_users_have_tokens_a_file_with_one_says_who_speaks_and_listens() {
    let folder = std::env::temp_dir().join(format!("hi-terminal-{}-{:x}", std::process::id(), fastrand::u64(..)));
    std::fs::create_dir(&folder).unwrap();
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (key, token) = (file("key"), file("token"));
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    let server = Server::start(&["--auth", "required", "--jwt-key", &key, "--handshake-timeout", "3s"]);
    let here = url(server.port());
    let (code, made, _) = hi(&["token", "--jwt-key", &key, "--sub", "ada", "--room", "tea=join,pub,listen"], "");
    assert_eq!(code, 0);
    std::fs::write(&token, made).unwrap();
    let tail = Run::start(&["tail", &here, "tea", "--token-file", &token]);
    let mut listening = Run::start(&["chat", &here, "tea", "--name", "ada", "--token-file", &token]);
    listening.say("hello");
    assert_eq!(listening.next(), "ada: hello");
    drop(listening);
    drop(tail);
    for (args, part) in [
        (&["chat", &here, "tea", "--name", "ada"][..], "The server refuses you: "),
        (&["tail", &here, "tea"], "token"),
        (&["chat", &here, "coffee", "--name", "ada", "--token-file", &token], "You may not join coffee"),
        (&["chat", &here, "tea", "--name", "bob", "--token-file", &token], "refused"),
        (&["tail", &here, "tea", "--token-file", &file("nowhere")], "Can't read"),
    ] {
        let (code, _, stderr) = hi(args, "");
        assert!(code == 2 && stderr.contains(part), "{args:?}: {code} {stderr}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn lines_without_a_connection_wait_for_the_next_one() {
    let server = Server::start(&[]);
    let hop = Hop::start(&server, &[]);
    let mut chat = Run::start(&["chat", &url(hop.port), "--name", "ada"]);
    chat.expect("-- ada joined");
    chat.say("hello");
    chat.expect("ada: hello");
    hop.cut();
    chat.expect_error("Trying again in ");
    chat.say("later");
    hop.repair();
    chat.expect_error("back in general");
    assert_eq!(chat.next(), "ada: later");
    assert_eq!(chat.end().0, 0);
}

#[test]
fn a_listener_misses_nothing_while_the_path_is_cut_or_stalls() {
    let server = Server::start(&["--ping-interval", "1s", "--ping-timeout", "60s"]);
    let hop = Hop::start(&server, &[]);
    let mut ann = server.join("ann", "tea");
    let tail = Run::start(&["tail", &url(hop.port), "tea", "--silence", "3s"]);
    let mut number = 0;
    let mut said = |ann: &mut Client| {
        number += 1;
        ann.say("tea", &format!("m{number}"));
        format!("ann: m{number}")
    };
    wait_for_listener(&mut ann, &tail);
    hop.cut();
    tail.expect_error("Trying again in ");
    let missed = [said(&mut ann), said(&mut ann)];
    hop.repair();
    assert_eq!([tail.next(), tail.next()], missed);
    hop.deafen();
    let missed = said(&mut ann);
    tail.expect_error("Nothing comes from the server any more.");
    hop.repair();
    assert_eq!(tail.next(), missed);
}

/// Talks until the listener shows it: listeners are invisible.
fn wait_for_listener(ann: &mut Client, tail: &Run) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        ann.say("tea", "are you there?");
        if tail.stdout.recv_timeout(Duration::from_millis(200)).is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "it doesn't listen");
    }
    ann.say("tea", "good");
    while tail.next() != "ann: good" {}
}

#[test]
fn a_listener_is_told_of_the_gap_that_a_restart_leaves() {
    let mut server = Server::start(&[]);
    let port = server.port();
    let mut ann = server.join("ann", "tea");
    let tail = Run::start(&["tail", &format!("{}stream/tea", url(port)), "--json"]);
    let json = || -> Value {
        let mut told = json_lines(&tail.stdout);
        told.find(|told| told["type"] != "presence").expect("a line")
    };
    assert_eq!(json()["state"], "connected");
    ann.say("tea", "before");
    assert_eq!(json()["text"], "before");
    server.signal(Signal::TERM);
    let lost = json();
    assert!(lost["state"] == "waiting" && lost["retryMs"].is_u64(), "{lost}");
    server.wait();
    let server = Server::start_on(&format!("127.0.0.1:{port}"), &[]);
    let mut ann = server.join("ann", "tea");
    // It may have tried in vain before.
    while json()["again"] != true {}
    let gap = json();
    assert_eq!((&gap["type"], &gap["missed"]), (&"gap".into(), &Value::Null), "{gap}");
    ann.say("tea", "after");
    assert_eq!(json()["text"], "after");
}

#[test]
fn a_proxy_s_chunks_are_no_part_of_a_stream() {
    let server = Server::start(&[]);
    let setup = cases::correct(server.address());
    let _proxy = setup.start();
    let mut ann = server.join("ann", "tea");
    let tail = Run::start(&["tail", &url(setup.port), "tea"]);
    wait_for_listener(&mut ann, &tail);
    ann.say("tea", &"x".repeat(9000));
    assert_eq!(tail.next(), format!("ann: {}", "x".repeat(9000)));
}

/// `hi chat` on a terminal.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Receiver<u8>,
    shown: String,
    /// The terminal's own end, for its modes.
    inner: OwnedFd,
}

impl Terminal {
    fn start(args: &[&str]) -> Self {
        let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&outer).unwrap();
        unlockpt(&outer).unwrap();
        let name = ptsname(&outer, Vec::new()).unwrap().into_string().unwrap();
        let inner = File::options().read(true).write(true).open(name).unwrap();
        let end = || Stdio::from(inner.try_clone().unwrap());
        let mut command: Command = support::hi();
        command.args(args).env("TERM", "xterm").env_remove("NO_COLOR").stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("hi starts");
        let keyboard = File::from(outer);
        let mut reader = keyboard.try_clone().unwrap();
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                for byte in &buffer[..count] {
                    let _ = sender.send(*byte);
                }
            }
        });
        Self { child, keyboard, screen, shown: String::new(), inner: inner.into() }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is shown, and forgets what came up to it.
    #[track_caller]
    fn expect(&mut self, part: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(part) {
                self.shown.drain(..at + part.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let byte = self.screen.recv_timeout(left).unwrap_or_else(|_| panic!("no {part:?} in {:?}", self.shown));
            self.shown.push(byte.into());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn on_a_terminal_lines_are_edited_names_are_completed_and_colors_tell_who_speaks() {
    let server = Server::start(&[]);
    let mut bob = server.join("bobby", "tea");
    let mut terminal = Terminal::start(&["chat", &url(server.port()), "tea", "--name", "ada"]);
    let before = tcgetattr(&terminal.inner).unwrap();
    terminal.expect("-- in tea");
    terminal.expect("ada");
    bob.expect_message("#tea", "Welcome to tea, ada!");
    terminal.press("hallo");
    terminal.expect("hallo");
    // While a line is edited, another one comes; then the rest of the line.
    bob.say("tea", "here");
    terminal.expect("\u{1b}[");
    terminal.expect("bobby\u{1b}[0m: here");
    // What is typed so far is still there.
    terminal.expect("hallo");
    terminal.press("\u{7f}\u{7f}\u{7f}\u{7f}ello bo\t\r");
    loop {
        let message = bob.json();
        if message["From"] == "ada" {
            assert_eq!(message["Message"], "hello bobby ");
            break;
        }
    }
    terminal.press("/msg bobby secret\r");
    terminal.expect("There is no command /msg");
    terminal.press("/who\r");
    terminal.expect("2 here: ada, bobby");
    terminal.press("//me waves\r");
    bob.expect_message("ada", "/me waves");
    // The line is as typed: its echo is not shown again.
    bob.say("tea", "bye");
    terminal.expect("bye");
    bob.expect_message("bobby", "bye");
    terminal.press("\u{4}");
    assert_eq!(exit_code(&mut terminal.child), 0);
    assert_eq!(tcgetattr(&terminal.inner).unwrap().local_modes, before.local_modes);
    bob.expect_message("#tea", "User ada left channel.");
}

#[test]
fn a_terminal_is_as_before_when_the_server_ends_the_chat() {
    let server = Server::start(&[]);
    let mut terminal = Terminal::start(&["chat", &url(server.port()), "tea", "--name", "ada"]);
    let before = tcgetattr(&terminal.inner).unwrap();
    terminal.expect("ada");
    terminal.press("x");
    support::wait_while(
        || tcgetattr(&terminal.inner).unwrap().local_modes == before.local_modes,
        || "no prompt".to_owned(),
    );
    drop(server);
    terminal.expect("Trying again in ");
    // There is no connection, so nobody waits for the line.
    terminal.press("\u{15}not sent\r");
    terminal.expect("not sent");
    terminal.expect("ada");
    terminal.press("\u{4}");
    assert_eq!(exit_code(&mut terminal.child), 1);
    terminal.expect("Lines that were not sent: 1.");
    assert_eq!(tcgetattr(&terminal.inner).unwrap().local_modes, before.local_modes);
}
